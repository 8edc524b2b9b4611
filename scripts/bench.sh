#!/bin/sh
# Starts a development cluster on loopback, measures durable writes and linearizable reads at 1, 16, 64 and 256 clients,
# and prints a table and, with a file name as the second argument, writes the JSON there. Stops what it started.
#   scripts/bench.sh BINARIES [REPORT.json]      SECONDS_PER_RUN and CLIENTS may be set in the environment
set -eu

bin=$1
report=${2:-}
dir=$(mktemp -d "${TMPDIR:-/tmp}/okno-bench.XXXXXX")
"$bin/okno" dev --dir "$dir/cluster" >"$dir/dev.log" 2>&1 &
dev=$!
stop() {
    kill -INT "$dev" 2>/dev/null || true
    wait "$dev" 2>/dev/null || true
    rm -rf "$dir"
}
trap stop EXIT INT TERM

# The cluster tells its story first; its last lines say how to talk to it.
tries=0
until grep -q 'dev.json' "$dir/dev.log" && grep -q 'oknoctl --config' "$dir/dev.log"; do
    kill -0 "$dev" 2>/dev/null || { cat "$dir/dev.log" >&2; exit 1; }
    tries=$((tries + 1))
    [ "$tries" -lt 600 ] || { echo "bench: the cluster did not come up within two minutes" >&2; exit 1; }
    sleep 0.2
done

set -- --config "$dir/cluster/oknoctl.toml" bench \
    --clients "${CLIENTS:-1,16,64,256}" --seconds "${SECONDS_PER_RUN:-10}" --op write,read
if [ -n "$report" ]; then
    "$bin/oknoctl" "$@" -o json >"$report"
    cat "$report"
else
    "$bin/oknoctl" "$@"
fi
