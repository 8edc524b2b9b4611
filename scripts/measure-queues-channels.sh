#!/bin/sh
# Measures queues, boards, channels and timers, for docs/performance.md: a call among 5,000 waiting; 500 commits a second in
# one office with 1,000 boards and without; messages of one channel end to end; commands and restarts with TIMERS pending
# (1,000,000). A table, then one JSON object each. Needs a quiet machine, some 10 GB in TMPDIR and about 40 minutes.
#   scripts/measure-queues-channels.sh [TIMERS]
set -eu
cd "$(dirname "$0")/.."
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$HOME/.cache/okno/target}
export CARGO_TARGET_DIR
sh scripts/checkout.sh "$CARGO_TARGET_DIR" >&2
# The whole workspace is selected, as everywhere: another selection would build the dependencies anew.
cargo build --release --locked --workspace --bins --examples >&2
bin=$CARGO_TARGET_DIR/release
"$bin/examples/call_next"
"$bin/measure" boards
"$bin/measure-channel"
exec "$bin/measure" timers "${1:-1000000}"
