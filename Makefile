# The only commands that CI runs. `make demo` and `make test` do all the set-up on a fresh machine.
CARGO ?= cargo
export CARGO_TERM_COLOR ?= never

.PHONY: help demo build release test lint deny peers bench mutants check-vectors

help: ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: ## a small fleet on this machine; Ctrl-C stops it (DEMO_FLAGS="--check" walks it and exits)
	$(CARGO) build --bin meshfed -p meshfed-cli
	./target/debug/meshfed demo $(DEMO_FLAGS)

build: ## the debug binaries
	$(CARGO) build --workspace --bins

release: ## the optimised binaries
	$(CARGO) build --release --bin meshfed --bin meshfed-proxy -p meshfed-cli

peers: ## installs the packages that the foreign peers of the tests need
	./e2e/peers.sh

lint: ## formatting and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings

deny: ## licences, sources and banned or doubled crates, by deny.toml
	@$(CARGO) deny --version >/dev/null 2>&1 || { \
	  echo "make deny: cargo-deny is not here; it takes some minutes: $(CARGO) install cargo-deny --locked" >&2; exit 1; }
	$(CARGO) deny check bans licenses sources

test: peers lint ## everything that CI checks
	$(CARGO) build --workspace --bins
	$(CARGO) test --workspace --no-fail-fast

bench: ## measures us and our peers side by side; writes docs/benchmarks.md
	./e2e/bench/run.sh

mutants: ## replays the mutations that tests name, and expects each to be noticed
	./e2e/mutants.sh
