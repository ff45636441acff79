# Parley's commands. "make run" starts a node, "make test" checks everything.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X github.com/parleyio/parley/internal/node.version=$(VERSION)
BUILD   := CGO_ENABLED=0 go build -trimpath -ldflags "$(LDFLAGS)"
TARGETS := linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64

.PHONY: run cluster build build-all test test-deps test-cluster drivers clusters linear brokers e2e-then-brokers messages lint unit e2e faults faults-short fuzz generate clean

## run: build and start a node
run: build
	./bin/parley serve

## cluster: build and run three nodes on this machine, with a balancer in front
cluster: build
	./bin/parley dev --nodes 3

## build: build bin/parley for this machine
build:
	$(BUILD) -o bin/parley ./cmd/parley

## build-all: build for linux, darwin and windows, amd64 and arm64, into dist/
build-all:
	@set -e; for target in $(TARGETS); do \
		os=$${target%/*}; arch=$${target#*/}; ext=; [ $$os = windows ] && ext=.exe; \
		echo "build dist/parley-$$os-$$arch$$ext"; \
		GOOS=$$os GOARCH=$$arch $(BUILD) -o dist/parley-$$os-$$arch$$ext ./cmd/parley; \
	done

## test: install what the tests need, then lint, drivers and real clients (two at a time, as they
##	mostly wait), unit tests, clusters and faults. Where test-deps installs servers, a test
##	fails that misses one; elsewhere it is skipped.
test: export TEST_REQUIRE_SERVERS := $(shell [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 && echo 1)
test: test-deps build lint
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target e2e-then-brokers drivers linear
	$(MAKE) --no-print-directory unit clusters faults-short

## test-deps: install what the tests need (Debian packages when root, npm packages)
test-deps:
	./scripts/test-deps

## lint: formatting, vet and staticcheck; test/platforms looks at the other systems
lint:
	@unformatted=$$(gofmt -l client cmd internal deploy test); \
		[ -z "$$unformatted" ] || { echo "not formatted, run gofmt -w on:"; echo "$$unformatted"; exit 1; }
	go vet ./...
	go tool staticcheck ./...
	go mod tidy -diff

# Rooms whose tests form clusters: of the engine, inside the test's process, or of brokers.
ENGINES := internal/engine internal/fabric/nats
BROKERS := internal/fabric/redis internal/fabric/rabbitmq
# What of them runs with the race detector as well, alone: it has a server to feed.
RACED   := internal/fabric/nats

## unit: the Go tests that need no cluster, with the race detector; they mostly wait as well, so
##	more packages at a time than there are processors
unit:
	go test -race -short -parallel 4 -p 3 $$(go list ./client/... ./cmd/... ./deploy/... ./internal/... $(foreach room,$(BROKERS) $(RACED),| grep -v '/$(room)$$'))
	go test -race -short -parallel 4 $(RACED:%=./%)

## test-cluster: the Go tests that form clusters, also with real processes, nginx and HAProxy
test-cluster: drivers clusters linear

drivers: $(ENGINES:%=engines/%) $(BROKERS:%=brokers/%)

# Without the race detector, which finds a race of the engine's own in clusters now and then: it looks
# at the map of expected sequence numbers outside its lock (2.15.2, applyStreamMsgOp). With it runs
# what needs one server, in unit. They mostly wait: more of them at a time than there are processors.
engines/%:
	go test -parallel 4 ./$*

brokers/%:
	go test -race ./$*

# Without what does the same with restarts that another test does with kills: see messages.
clusters: test-deps
	go test -count=1 -p 2 -skip 'TestMessagesOverRestarts$$' ./test/servers ./test/cluster ./test/growth

## messages: the tests of messaging on several nodes alone, and all of them
messages: test-deps
	go test -count=1 -v -run 'TestMessages' ./test/cluster

## e2e: the real clients against the real binary
e2e: build
	cd test/e2e && PARLEY_BIN=$(CURDIR)/bin/parley npm test

linear:
	go test -count=1 ./test/linear ./test/platforms

## faults-short: every kind of fault once, in less than 4 minutes
faults-short: build
	PARLEY_BIN=$(CURDIR)/bin/parley go test -count=1 -timeout 6m -skip 'TestBrokers$$' ./test/faults

# One after the other: brokers makes network interfaces, and Chromium breaks off what it loads when the
# machine has another network (ERR_NETWORK_CHANGED).
# Without prerequisites, so that it begins first: it takes longest.
e2e-then-brokers:
	$(MAKE) --no-print-directory e2e
	$(MAKE) --no-print-directory brokers

## brokers: the same faults on nodes that share Redis, Redis Cluster or NATS
brokers: build
	PARLEY_BIN=$(CURDIR)/bin/parley go test -count=1 -timeout 6m -run 'TestBrokers$$' ./test/faults

## faults: faults in random order for FAULTS_TIME (default 10m); FAULTS_SEED repeats an
##	order, FAULTS_RACE=1 builds the nodes with the race detector
faults:
	PARLEY_FAULTS=long PARLEY_FAULTS_TIME=$(FAULTS_TIME) PARLEY_FAULTS_SEED=$(FAULTS_SEED) PARLEY_FAULTS_RACE=$(FAULTS_RACE) \
		go test -count=1 -timeout 0 -v -run 'TestLong$$' ./test/faults

## fuzz: every fuzz target for FUZZTIME (default 30s)
fuzz:
	./scripts/fuzz $(or $(FUZZTIME),30s)

## generate: rewrite the generated references
generate:
	go generate ./...

clean:
	rm -rf bin dist
