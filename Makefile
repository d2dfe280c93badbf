# Each target is one script or one command. Building needs only Go; the rest installs what it needs.
GO ?= go

build:            ## bin/svcproxy, static
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/svcproxy ./cmd/svcproxy

demo: build       ## a small cluster of network namespaces, real requests (needs root)
	hack/setup demo
	bin/svcproxy demo

test:             ## every test there is (needs root)
	hack/setup test
	hack/test

lint:             ## go vet, staticcheck, gofmt, clang-format
	hack/setup lint
	hack/lint

generate:         ## the BPF objects and their Go types, with clang 19
	hack/setup generate
	$(GO) generate ./pkg/bpf

verify: generate  ## what is committed is what the sources make
	git diff --exit-code -- pkg/bpf

image: build      ## container image svcproxy:dev (needs a docker daemon)
	docker build -t svcproxy:dev .

bench: build      ## connections a second through a ClusterIP against the pod address (needs root)
	hack/setup test
	$(GO) test ./test -run '^$$' -bench ClusterIP -benchtime 1x -v

bench-control: build ## programming latency, start, memory, CPU: svcproxy and kube-proxy side by side, ten minutes (needs root)
	hack/setup test
	$(GO) run ./bench/control $(ARGS)

help:             ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:[^#]*##/\t/' | expand -t 16

.PHONY: build demo test lint generate verify image bench bench-control help
