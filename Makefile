# The tools are pinned here and nowhere else, and run by module path: go.mod
# stays the list of what the store itself needs. .ci/run reads the versions
# from this file.
GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOFUMPT       := mvdan.cc/gofumpt@v0.12.0
STATICCHECK   := honnef.co/go/tools/cmd/staticcheck@v0.8.2
BENCHSTAT     := golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da

.PHONY: test race invariants suites lint staticcheck fmt bench peers soak ci

test:
	go test ./...

race:
	go test -race -short ./...

invariants:
	go test -tags saker_invariants ./...

# What transactions are promised, COUNT times over, random seeds each time: the
# anomalies, recorded histories, linearizability, the state machine, and the
# contention tests. make suites ARGS=-race takes an hour and more.
COUNT  ?= 100
SUITES := ^Test(Anomalies|RecordsAreLinearizable|Model)$$
suites:
	go test $(ARGS) -count $(COUNT) -timeout 0 -run '$(SUITES)' ./engine
	go test $(ARGS) -count $(COUNT) -timeout 0 ./internal/history ./bench/history ./bench/bank

lint:
	go run $(GOLANGCI_LINT) run ./...

staticcheck:
	go run $(STATICCHECK) ./...

fmt:
	go run $(GOFUMPT) -l -w .

# Compare two of these with: go run $(BENCHSTAT) old.out new.out
bench:
	go test -run '^$$' -bench . -count 6 ./... | tee bench.out

# SQLite is built to use fdatasync, as the others do: its Go driver does not ask
# for it. ARGS are the flags of the program, -h for a list.
peers:
	CGO_CFLAGS='-O2 -g -DHAVE_FDATASYNC=1' go -C bench/peers run . $(ARGS)

soak:
	go run ./bench/soak

ci:
	bash .ci/run
