#!/usr/bin/env bash
# Figures of size: memory with the default configuration after a start on an empty directory, a data set
# four times the block cache, and opening after a crash that left one layer unfolded. Fails where a bound is
# not kept. (The largest log that the bounds allow is opened by storage/tests/store_opening_time.rs.)
#
# usage: benches/size.sh [--cache-mib N] [--dir DIR]
#   --cache-mib  the block cache (default 64); the data set is four times that, in random values of 1 KiB
#   --dir        where the data is kept (default: a directory under the target directory)
source "$(dirname "$0")/../scripts/common.sh"

cache=64 dir=
while [ $# -gt 0 ]; do
    case "$1" in
        --cache-mib) cache="$2"; shift 2 ;;
        --dir) dir="$2"; shift 2 ;;
        -h|--help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) die "unknown argument $1; see --help" ;;
    esac
done

install_packages "the load" redis-tools
install_build_tools
build larder-server larder-cli
kvd="$CARGO_TARGET_DIR/release/kvd" kv="$CARGO_TARGET_DIR/release/kv"
[ -n "$dir" ] || { dir="$CARGO_TARGET_DIR/compare"; mkdir -p "$dir"; }
work="$(mktemp -d "$dir/size.XXXXXX")"
pid=
finish() { [ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true; rm -rf "$work"; }
trap finish EXIT
port=$((20000 + RANDOM % 20000))

start() {
    "$kvd" --config "$work/kvd.toml" 2>>"$work/kvd.log" &
    pid=$!
    for _ in $(seq 2000); do redis-cli -p "$port" ping >/dev/null 2>&1 && return 0; sleep 0.01; done
    die "kvd did not start: $(tail -n 3 "$work/kvd.log")"
}
stop() { kill "-$1" "$pid"; wait "$pid" 2>/dev/null || true; pid=; }
resident() { awk '/VmRSS/ {printf "%.1f MiB", $2 / 1024}' "/proc/$pid/status"; }
# within WHAT VALUE BOUND: remembers a figure that is not below its bound; the script then fails at its end.
failed=
within() { awk "BEGIN {exit !($2 < $3)}" || { say "$1: $2 is not below $3"; failed=yes; }; }
field() { redis-cli -p "$port" info larder | tr -d '\r' | sed -n "s/^$1://p"; }

# load ARGUMENT...: kv bench on all keys for 10 s, of which it prints the line of its run.
load() {
    "$kv" --server "127.0.0.1:$port" bench --connections 50 --rate 0 --keys "$keys" --value-size 1024 \
        --read-ratio 1 --runs 1 --seconds 10 "$@" | sed -n 's/^run 1\/1: //p'
}
# saved: waits until all that was written is in RocksDB's tables.
saved() {
    local written
    written="$(field log_appended_seq)"
    redis-cli -p "$port" bgsave >/dev/null
    for _ in $(seq 1200); do [ "$(field state_persisted_seq)" -ge "$written" ] && return 0; sleep 0.1; done
    die "what was written is not persisted after two minutes"
}

cat >"$work/kvd.toml" <<TOML
data = "$work/data"
resp = "127.0.0.1:$port"
TOML
start
sleep 10
empty="$(resident)"
printf 'resident 10 s after a start on an empty directory: %s (bound: 64 MiB)\n' "$empty"
within "resident MiB on an empty directory" "${empty% MiB}" 64
stop TERM

cat >>"$work/kvd.toml" <<TOML
[state]
block_cache_bytes = "${cache}MiB"
hot_cache_bytes = "16MiB"
TOML
start
keys=$((cache * 4 * 1024))
printf '\na data set of %s MiB (%s keys, each with 1 KiB that does not compress) over a block cache of %s MiB\n' \
    $((cache * 4)) "$keys" "$cache"
loaded="$(load --populate)" || failed=yes
printf '  GET, pipeline 1, what was written last still in memory: %s\n' "$loaded"
saved
tables="$(du -cm "$work"/data/state/*.sst | tail -n 1 | cut -f 1)"
printf '  in tables: %s MiB\n' "$tables"
[ "$tables" -ge $((cache * 4)) ] || { say "the tables hold less than the data set: it was compressed"; failed=yes; }
for p in 1 16; do
    loaded="$(load --pipeline "$p")" || failed=yes
    printf '  GET, pipeline %s: %s\n' "$p" "$loaded"
done
printf '  resident: %s\n' "$(resident)"
stop TERM

# The log that a crash leaves when nothing was folded: layers that never fill, up to the bound.
rm -rf "$work/data"
cat >>"$work/kvd.toml" <<TOML
layer_bytes = "128MiB"
TOML
start
while [ "$(field state_unapplied_bytes)" -lt $((240 << 20)) ] && [ "$(field state_unapplied_records)" -lt 480000 ]; do
    redis-benchmark -p "$port" -c 50 -P 16 -d 64 -r 1000000 -n 40000 -t set -q >/dev/null
done
bytes="$(field state_unapplied_bytes)" records="$(field state_unapplied_records)"
stop KILL
start
opening="$(field opening_ms)"
printf '\nopening with %s unapplied records (%s MiB of log): %s ms (bound: 5000 ms)\n' "$records" $((bytes >> 20)) "$opening"
within "opening in ms" "$opening" 5000
stop TERM
[ -z "$failed" ]
