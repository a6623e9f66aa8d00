#!/usr/bin/env bash
# Checks the locked dependencies against the advisory database, which it fetches: needs a network,
# so it is not part of the gate.
source "$(dirname "$0")/common.sh"
cargo deny --version >/dev/null 2>&1 ||
    die "cargo-deny is missing: cargo install --locked cargo-deny@0.20.2 (the gate, .ci/run, installs it)"
cargo deny --locked check advisories
