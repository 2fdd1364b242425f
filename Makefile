# The tools are pinned here and nowhere else, and run by module path: go.mod
# stays the list of what the store itself needs. .ci/run reads the versions
# from this file.
GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOFUMPT       := mvdan.cc/gofumpt@v0.12.0
STATICCHECK   := honnef.co/go/tools/cmd/staticcheck@v0.8.2
BENCHSTAT     := golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da

.PHONY: test race invariants lint staticcheck fmt bench peers soak ci

test:
	go test ./...

race:
	go test -race -short ./...

invariants:
	go test -tags saker_invariants ./...

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
