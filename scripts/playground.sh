#!/usr/bin/env bash
# Builds Larder, starts a store on this machine, prints lines to try, and stays in the foreground.
# Ctrl-C ends it; the data stays in a directory that is named at the end, unless it was temporary.
#
# usage: scripts/playground.sh [--port PORT] [--data DIR]
source "$(dirname "$0")/common.sh"

port=6380
data=
while [ $# -gt 0 ]; do
    case "$1" in
        --port) port="${2:?--port needs a number}"; shift 2 ;;
        --data) data="${2:?--data needs a directory}"; shift 2 ;;
        -h|--help) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) die "unknown argument $1; see --help" ;;
    esac
done

install_build_tools
build larder-server larder-cli
kvd="$CARGO_TARGET_DIR/release/kvd"
kv="$CARGO_TARGET_DIR/release/kv"

temporary=
if [ -z "$data" ]; then
    data="$(mktemp -d "${TMPDIR:-/tmp}/larder-playground.XXXXXX")"
    temporary=yes
fi
admin=$((port + 10000))

"$kvd" --data "$data" --resp "127.0.0.1:$port" --admin "127.0.0.1:$admin" &
server=$!
finish() {
    trap - EXIT INT TERM
    kill -TERM "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    if [ -n "$temporary" ]; then rm -rf "$data"; else say "the data is in $data"; fi
}
trap finish EXIT
trap 'exit 0' INT TERM

for _ in $(seq 200); do
    kill -0 "$server" 2>/dev/null || die "kvd did not start; its message is above"
    "$kv" --server "127.0.0.1:$port" ping >/dev/null 2>&1 && break
    sleep 0.05
done
"$kv" --server "127.0.0.1:$port" ping >/dev/null || die "kvd did not answer on port $port"

cat <<TEXT

Larder is up: one node, every write fsynced before its reply.

  $kv --server 127.0.0.1:$port set greeting hello
  $kv --server 127.0.0.1:$port get greeting
  $kv --server 127.0.0.1:$port info larder
  $kv --server 127.0.0.1:$port bench --seconds 5 --rate 5000
  redis-cli -p $port hset user:1 name Ada city London
  curl -s http://127.0.0.1:$admin/metrics | head

Ctrl-C stops it.
TEXT
wait "$server"
