#!/bin/sh
# Measures what operating costs, for docs/operations.md: leadership handed over, a rolling restart, a member's machine
# replaced, mains lost to the notice at a workstation; then backup, verification and restore of CASES cases (1,000,000).
# One JSON object each. Needs a quiet machine, Debian's nut-server, some 10 GB in TMPDIR and about half an hour.
#   scripts/measure-operations.sh [CASES]
set -eu
cd "$(dirname "$0")/.."
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$HOME/.cache/okno/target}
export CARGO_TARGET_DIR
sh scripts/checkout.sh "$CARGO_TARGET_DIR" >&2
# The whole workspace is selected, as everywhere: another selection would build the dependencies anew.
cargo build --release --locked --workspace --bins >&2
bin=$CARGO_TARGET_DIR/release
for what in transfer rolling replace mains; do
    "$bin/measure" "$what"
done
exec "$bin/measure-backup" "${1:-1000000}"
