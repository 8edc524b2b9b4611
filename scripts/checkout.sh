#!/bin/sh
# Cargo tells changed sources by their times and takes the same crate of two clones for one. With one target folder for all
# clones, a clone that was not touched since another one built would run the other's binaries, with the other's paths in them.
# So the folder notes who built in it last, and a clone that comes back has its sources built anew.
# For clones that are used one after the other: two that build at once still get into each other's way, and so does who calls
# cargo without this.
# Usage: checkout.sh TARGET_FOLDER, at the root of the clone.
set -eu

note=$1/last-clone
here=$(pwd -P)
if [ -e "$1/release" ] && [ "$(cat "$note" 2>/dev/null || true)" != "$here" ]; then
    echo "setup: $1 was last used by another clone; this one's crates are built anew"
    find . -path ./target -prune -o -path ./.git -prune -o -type f \( -name '*.rs' -o -name '*.proto' -o -name '*.toml' \) -exec touch -c {} +
fi
mkdir -p "$1"
printf '%s\n' "$here" >"$note"
