# A static binary on nothing; "make image" builds the binary first.
FROM scratch
COPY bin/svcproxy /svcproxy
ENTRYPOINT ["/svcproxy"]
