#!/usr/bin/env bash
# Checks the locked dependencies against the advisory database, which it fetches: needs a network,
# so it is not part of the gate.
source "$(dirname "$0")/common.sh"
cargo deny --locked check advisories
