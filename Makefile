# The only commands that CI runs. `make demo` and `make test` do all the set-up on a fresh machine.
CARGO ?= cargo
export CARGO_TERM_COLOR ?= never

.PHONY: help demo build release image test test-kubernetes lint deny peers bench mutants check-vectors

help: ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

demo: ## a small fleet on this machine; Ctrl-C stops it (DEMO_FLAGS="--check" walks it and exits)
	$(CARGO) build --bin meshfed -p meshfed-cli
	./target/debug/meshfed demo $(DEMO_FLAGS)

build: ## the debug binaries
	$(CARGO) build --workspace --bins

release: ## the optimised binaries
	$(CARGO) build --release --bin meshfed --bin meshfed-proxy -p meshfed-cli

# PROFILE=dev packs the debug binary, which the tests do. It is built as `make build` builds it, so that nothing is
# compiled twice.
PROFILE ?= release
image: ## the image archive target/image/meshfed.tar, for `ctr images import` and `docker load` (PROFILE=dev|release)
ifeq ($(PROFILE),dev)
	$(CARGO) build --workspace --bins
	./image/build.sh target/debug/meshfed target/image/meshfed.tar
else
	$(CARGO) build --profile $(PROFILE) --bin meshfed -p meshfed-cli
	./image/build.sh target/$(PROFILE)/meshfed target/image/meshfed.tar
endif

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
	@echo "make test: what says 'ignored, make test-kubernetes' needs whole clusters for longer and runs there"

# Tests whose `ignore` names what they wait for.
NOT_YET :=
test-kubernetes: peers ## every test on real Kubernetes, also those that 'make test' leaves out
	$(CARGO) build --workspace --bins
	$(CARGO) test -p meshfed-e2e --no-fail-fast --test 'kubernetes*' -- --include-ignored $(addprefix --skip ,$(NOT_YET))
	@[ -z "$(NOT_YET)" ] || echo "make test-kubernetes: not run, as they say why themselves: $(NOT_YET)"
	@echo "make test-kubernetes: not run, for want of a cluster that can: several nodes a cluster, IPv6 and dual stack," \
	  "enforcement of NetworkPolicies (renders and network namespaces stand for them)"

bench: ## measures us and our peers side by side; writes docs/benchmarks.md
	./e2e/bench/run.sh

mutants: ## replays the mutations that tests name, and expects each to be noticed
	./e2e/mutants.sh
