# Everything a developer or CI does with Okno. `make run`, `make test`, `make lint` and `make bench` do their own
# set-up on Debian and Ubuntu; elsewhere `make setup` says what to install.

# One target folder for all clones, so that RocksDB is compiled once a machine. A set CARGO_TARGET_DIR is honoured.
CACHE ?= $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/okno
export CARGO_TARGET_DIR ?= $(CACHE)/target
export CARGO_TERM_COLOR ?= auto
# Debian's ccache, where it is installed, makes a second compilation of RocksDB a matter of seconds.
export PATH := $(if $(wildcard /usr/lib/ccache/c++),/usr/lib/ccache:)$(PATH)
# One profile for running, linting and testing (see Cargo.toml).
PROFILE := --release --locked
BIN := $(CARGO_TARGET_DIR)/release
TOOLS := $(CACHE)/tools
DENY := $(TOOLS)/bin/cargo-deny
DENY_VERSION := 0.20.2
DEB := $(TOOLS)/bin/cargo-deb
DEB_VERSION := 3.8.0

# The one build with planted faults: what `okno-chaos mutants` runs, and a node for the tests that need a panic.
FAULTY := --workspace --features okno-node/test-faults,okno-chaos/mutants --bin okno-faulty --bin okno-chaos-mutants
# Drills that continuous integration runs: none needs root.
DRILLS_CI := leader-lost kill-all leader-paused

.PHONY: help setup setup-drills build run test prove bench lint fmt deny faulty deb check-deb clean-dev

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

setup: ## install what the build needs (Debian, Ubuntu), or say what is missing
	@sh scripts/setup.sh
	@sh scripts/checkout.sh "$(CARGO_TARGET_DIR)"

build: setup ## build every binary; a part of the workspace would choose other features and build dependencies anew
	cargo build $(PROFILE) --workspace --bins

faulty: setup ## build the binaries with planted faults: okno-faulty, okno-chaos-mutants
	cargo build $(PROFILE) $(FAULTY)

run: build ## three nodes on loopback, and the story of a case whose leader is killed
	$(BIN)/okno dev --once

test: setup ## every test: units, scripts, properties, whole clusters, five minutes of fresh seeds, three drills
	cargo build $(PROFILE) --workspace --all-targets
	cargo build $(PROFILE) $(FAULTY)
	cargo test $(PROFILE) --workspace
	$(BIN)/okno-chaos sim --for 300s --seeds 500
	$(BIN)/okno-chaos drill $(DRILLS_CI)

setup-drills: setup ## install what the drills that need root call
	@sh scripts/setup.sh drills

prove: setup-drills ## the whole proof: every mutant, 20,000 seeds, every drill (as root: some need it)
	cargo build $(PROFILE) --workspace --bins
	cargo build $(PROFILE) $(FAULTY)
	$(BIN)/okno-chaos mutants --drills
	$(BIN)/okno-chaos sim --seeds 20000
	$(BIN)/okno-chaos drill all --wait 10s --report $(CACHE)/report

bench: build ## durable writes and linearizable reads at 1, 16, 64 and 256 clients
	sh scripts/bench.sh $(BIN)

lint: setup deny ## formatting, clippy with warnings as errors, licences, bans and sources
	cargo fmt --all --check
	cargo clippy $(PROFILE) --workspace --all-targets -- -D warnings

deny: $(DENY)
	$(DENY) --all-features check bans licenses sources
	@if timeout 60 $(DENY) fetch db >/dev/null 2>&1; then $(DENY) check --disable-fetch advisories; \
	else echo "lint: the advisory database is out of reach from here; advisories were not checked"; fi

$(DENY):
	CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=$(TOOLS)/target cargo install --debug --locked --root $(TOOLS) cargo-deny@$(DENY_VERSION)
	rm -rf $(TOOLS)/target

deb: build $(DEB) ## the Debian package, in <target>/debian
	sh scripts/package.sh $(BIN) $(DEB)

check-deb: deb ## install the package in a clean Debian root and look at it (as root; needs debootstrap and a mirror)
	sh scripts/check-deb.sh $$(ls -t $(CARGO_TARGET_DIR)/debian/okno_*.deb | head -n 1)

$(DEB):
	CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=$(TOOLS)/target cargo install --debug --locked --no-default-features --root $(TOOLS) cargo-deb@$(DEB_VERSION)
	rm -rf $(TOOLS)/target

fmt: ## format the sources
	cargo fmt --all
