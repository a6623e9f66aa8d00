# Shared by the scripts beside it: where things are built, and what must be installed first.
# shellcheck shell=bash

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# One target directory outside of the checkout for everything, so that RocksDB is compiled once.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/larder/target}"
export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-auto}"

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

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
}

# build PACKAGE...: the release profile, which is the only one (docs/adr/0002-one-profile.md).
build() {
    local args=() package
    for package in "$@"; do args+=(-p "$package"); done
    if ! [ -d "$CARGO_TARGET_DIR/release/build" ]; then
        say "the first build compiles RocksDB, which takes 10 to 20 minutes on 2 cores"
    fi
    cargo build --locked --release "${args[@]}"
}
