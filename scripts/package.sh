#!/bin/sh
# Makes the Debian package from binaries that are there: package.sh BIN_DIR CARGO_DEB. The package lands in
# $CARGO_TARGET_DIR/debian.
set -eu
bin="$1"
cargo_deb="$2"
paper="$bin/paper"
rm -rf "$paper"
mkdir -p "$paper/man" "$paper/completion"
"$bin/okno" paper "$paper"
"$bin/oknoctl" paper "$paper"
cp ops/packaging/okno-https.1 "$paper/man/"
gzip -9n "$paper"/man/*.1
"$cargo_deb" --no-build --manifest-path node/Cargo.toml
