# Shared by the scripts beside it: where things are built, and what must be installed first.
# shellcheck shell=bash

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# One target directory outside of the checkout for everything, so that RocksDB is compiled once.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/larder/target}"
export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-auto}"

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# What repeats, shortens or redirects a run of the tests switches bounds off: the gate takes none of it.
refuse_overrides() {
    [ "${CI:-}" = true ] || return 0
    local given
    given="$(compgen -e LARDER_ | grep -vx LARDER_ROCKSDB | paste -sd ' ')" || true
    [ -z "$given" ] || die "with CI=true nothing may alter what the tests do: unset $given"
}

# install_packages WHY PACKAGE...: installs the Debian packages that are missing, as root or by
# sudo, and says which and why.
install_packages() {
    local why="$1" package
    shift
    local missing=()
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
    done
    [ "${#missing[@]}" -eq 0 ] && return 0
    command -v apt-get >/dev/null || die "missing: ${missing[*]} ($why), and this is not a Debian system: install them by hand"
    local sudo=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "missing: ${missing[*]} ($why): run as root, or install sudo"
        sudo=(sudo)
    fi
    say "installing ${missing[*]}: $why"
    "${sudo[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# What the build needs: RocksDB is C++, and its bindings are made by libclang.
install_build_tools() {
    command -v cargo >/dev/null || die "cargo is missing: install a Rust toolchain (rustup.rs) first"
    install_packages "to compile RocksDB and make its bindings" g++ clang libclang-dev
    install_rocksdb
}

# RocksDB is compiled once, by itself, and linked from there. Cargo would compile it again whenever
# the features of any build dependency change, which is 10 to 20 minutes on 2 cores each time
# (docs/adr/0002-one-profile.md).
install_rocksdb() {
    local version features=lz4 home
    version="$(sed -n '/^name = "librocksdb-sys"$/{n;s/^version = "\(.*\)"$/\1/p}' Cargo.lock)"
    [ -n "$version" ] || die "Cargo.lock names no librocksdb-sys"
    home="${LARDER_ROCKSDB:-$(dirname "$CARGO_TARGET_DIR")/rocksdb-${version##*+}-$features}"
    if ! [ -f "$home/librocksdb.a" ]; then
        say "compiling RocksDB ${version##*+} once, for 10 to 20 minutes on 2 cores, into $home"
        local build="$home.build"
        mkdir -p "$build/src"
        cat >"$build/Cargo.toml" <<TOML
[package]
name = "rocksdb-once"
version = "0.0.0"
edition = "2024"
[workspace]
[dependencies]
librocksdb-sys = { version = "=${version}", default-features = false, features = ["bindgen-runtime", "$features"] }
[profile.release.package.librocksdb-sys]
opt-level = 3
debug = false
TOML
        : >"$build/src/lib.rs"
        # In a shell of its own, away from this workspace's lock file and configuration.
        (cd "$build" && env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC ROCKSDB_COMPILE=1 \
            CARGO_TARGET_DIR="$build/target" cargo build --release)
        mkdir -p "$home"
        cp "$build"/target/release/build/librocksdb-sys-*/out/librocksdb.a "$home/librocksdb.a.new"
        mv "$home/librocksdb.a.new" "$home/librocksdb.a"
        rm -rf "$build"
    fi
    export ROCKSDB_LIB_DIR="$home" ROCKSDB_STATIC=1
}

# build PACKAGE...: the release profile, which is the only one (docs/adr/0002-one-profile.md).
build() {
    local args=() package
    for package in "$@"; do args+=(-p "$package"); done
    cargo build --locked --release "${args[@]}"
}

# calm WHAT: waits until the machine has nothing to do. What one server still does behind its replies,
# compactions or files written anew, would be measured with the next.
calm() {
    local deadline=$((SECONDS + 180)) busy
    while [ "$SECONDS" -lt "$deadline" ]; do
        busy="$({ head -n 1 /proc/stat; sleep 1; head -n 1 /proc/stat; } |
            awk '{idle = $5 + $6; all = 0; for (i = 2; i <= 9; i++) all += $i}
                NR == 1 {i0 = idle; a0 = all} NR == 2 {print int(100 - 100 * (idle - i0) / (all - a0))}')"
        [ "$busy" -ge 10 ] || return 0
    done
    say "  the machine is still $busy % busy before $1"
}
