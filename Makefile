# make up      sets this machine up and runs the platform with an example app
# make test    passes the tests, real VMs included
#
# Variables of `make up`: DATA=DIR API=ADDR HTTP=ADDR DRIVER=auto|qemu|sim
# and FLAGS='…' for anything else that `miosa up` takes.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
MAKEFLAGS   += --no-builtin-rules --no-print-directory

DATA   ?=
API    ?=
HTTP   ?=
DRIVER ?=
FLAGS  ?=

version := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

# PID 1 ships inside every VM and is unpacked at every boot.
init_limit := 4000000

.DEFAULT_GOAL := help
.PHONY: help up demo setup setup-tests build examples test test-real lint bench clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

up: setup build ## set this machine up and run the platform, with an example app
	@exec bin/miosa up --example $(if $(DATA),--data '$(DATA)') $(if $(API),--api '$(API)') \
		$(if $(HTTP),--http '$(HTTP)') $(if $(DRIVER),--driver '$(DRIVER)') $(FLAGS)

demo: setup build ## show a publish, a VM's death and healing, a new version under load, a rollback
	@scripts/demo.sh

setup: ## install what is missing (by apt, said aloud)
	@scripts/setup.sh

setup-tests:
	@scripts/setup.sh --tests

build: ## bin/miosa, bin/miosa-init, the guest bundle, packed examples
	@mkdir -p bin/examples
	CGO_ENABLED=0 go build -trimpath -ldflags '-X main.version=$(version)' -o bin/miosa ./cmd/miosa
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o bin/miosa-init ./cmd/miosa-init
	size=$$(stat -c %s bin/miosa-init)
	if (( size >= $(init_limit) )); then
		echo "bin/miosa-init is $$size bytes: the limit is $(init_limit)" >&2
		exit 1
	fi
	bin/miosa bundle build --init bin/miosa-init
	for example in hello crasher five-hundred leaky; do
		OUT=bin/examples/$$example.tar.zst examples/$$example/pack
	done
	VERSION=2 OUT=bin/examples/hello-2.tar.zst examples/hello/pack

examples: ## pack all seven examples (fetches Debian's Python and Node.js)
	@for script in examples/*/pack; do
		[[ -f $$script ]] || continue # examples/pack/ is the packer
		name=$$(basename "$$(dirname "$$script")")
		OUT=bin/examples/$$name.tar.zst "$$script"
	done

test: setup-tests build ## every test; what is skipped is listed with its reason
	@scripts/test.sh

test-real: build ## pack real apps from Debian, PyPI, npm, Maven and Go, publish and use each (APPS="nginx php": some)
	@scripts/setup.sh --real
	go run ./examples/real $(APPS)

lint: ## go vet, gofmt, go fix, golangci-lint, the import law
	@scripts/lint.sh

bench: setup build ## every program under bench/: figures beside their targets
	@for program in bench/*/main.go; do
		echo "== $${program%/main.go}"
		go run "./$${program%/main.go}"
	done

clean: ## remove what was built here (not the data directory, not the caches)
	rm -rf bin examples/*/build
