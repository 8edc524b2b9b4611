#!/bin/sh
# Makes sure that what the build needs is there: installs it on Debian and Ubuntu (as root or through sudo),
# elsewhere says what is missing and how it is called. Does nothing where nothing is missing.
set -eu

missing=""
have() { command -v "$1" >/dev/null 2>&1; }
have c++ || missing="$missing g++"
have make || missing="$missing make"
have protoc || missing="$missing protobuf-compiler"
# Tests call a node with clients that are not ours; what of them is missing is put into a virtual environment.
have python3 || missing="$missing python3"
python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || missing="$missing python3-venv"
# The tests of alert rules call promtool, which Debian packs with Prometheus itself.
have promtool || missing="$missing prometheus"
# The tests of power supplies watch a made-up one through Network UPS Tools.
[ -x /lib/nut/upsd ] && [ -x /lib/nut/dummy-ups ] || missing="$missing nut-server"
# bindgen loads libclang at build time to read RocksDB's headers.
# libclang-cpp, which other packages bring with them, is another library.
libclang=""
for folder in /usr/lib/llvm-*/lib /usr/lib/*-linux-gnu* /usr/lib64 /usr/lib "${LIBCLANG_PATH:-/nonexistent}"; do
    for file in "$folder"/libclang.so* "$folder"/libclang-[0-9]*.so*; do
        if [ -e "$file" ]; then libclang="$file"; fi
    done
done
[ -n "$libclang" ] || missing="$missing libclang-dev"
# `setup.sh drills`: what the drills on networks, disks and clocks call. Without it they are reported as skipped.
if [ "${1:-}" = drills ]; then
    PATH="$PATH:/usr/sbin:/sbin"
    have iptables || missing="$missing iptables"
    have ip && have tc || missing="$missing iproute2"
    have strace || missing="$missing strace"
    have mkfs.ext4 && have e2fsck || missing="$missing e2fsprogs"
    have losetup && have mount && have unshare || missing="$missing mount util-linux"
fi

if ! have cargo; then
    echo "setup: cargo is missing. Install Rust 1.95 with rustup (https://rustup.rs), then run make again." >&2
    exit 1
fi
[ -n "$missing" ] || exit 0

if have apt-get; then
    run=""
    if [ "$(id -u)" != 0 ]; then
        have sudo || { echo "setup: as root, run: apt-get install -y$missing" >&2; exit 1; }
        run="sudo"
    fi
    echo "setup: installing$missing"
    $run apt-get update -qq
    # shellcheck disable=SC2086 # a list of packages
    DEBIAN_FRONTEND=noninteractive $run apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "setup: please install (Debian's names):$missing" >&2
    echo "setup: Fedora: gcc-c++ make protobuf-compiler clang-devel python3; Arch: base-devel protobuf clang python" >&2
    exit 1
fi
