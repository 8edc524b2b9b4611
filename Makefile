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

.PHONY: help setup build run test bench lint fmt deny clean-dev

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

setup: ## install what the build needs (Debian, Ubuntu), or say what is missing
	@sh scripts/setup.sh

build: setup ## build the binaries okno and oknoctl
	cargo build $(PROFILE) -p okno-node -p okno-ops

run: build ## three nodes on loopback, and the story of a case whose leader is killed
	$(BIN)/okno dev --once

test: setup ## every test: units, scripts, properties, whole clusters of real processes
	cargo build $(PROFILE) --workspace --all-targets
	cargo test $(PROFILE) --workspace

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

fmt: ## format the sources
	cargo fmt --all
