#!/usr/bin/env bash
# Builds Larder and runs kv playground: three regions on this machine, a master and two slaves, with
# distances between them. Prints lines to try and stays in the foreground; Ctrl-C ends all of it.
#
# usage: scripts/playground.sh [OPTION...]      (those of kv playground; --help lists them)
source "$(dirname "$0")/common.sh"

install_build_tools
build larder-server larder-cli
exec "$CARGO_TARGET_DIR/release/kv" playground "$@"
