# A static binary on nothing. The build needs only Go: the BPF objects are committed.
FROM golang:1.26 AS build
WORKDIR /src
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o /svcproxy ./cmd/svcproxy

FROM scratch
COPY --from=build /svcproxy /svcproxy
ENTRYPOINT ["/svcproxy"]
