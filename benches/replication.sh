#!/usr/bin/env bash
# Measures a master with two slaves, 30 and 40 ms of round trip away: kvd with shaped lines, and
# Debian's redis-server with two replicas behind a proxy of equal delay, by turns. Prints every
# run, then the medians with the bounds that kvd is to keep.
#
# usage: benches/replication.sh [options] [LINE...]
#   --rounds N        runs of each side for each line but the snapshot (default 3)
#   --seconds S       how long each run measures (default 8)
#   --snapshot-mib N  data of the line snapshot (default 256; the bound is meant for 2048)
#   --dir DIR         where all servers keep their data (default: a directory under the target
#                     directory)
#   --built DIR       take kvd and kv from there instead of building them
#   --json FILE       write the medians as JSON too
#   LINE              of these (default: all)
#     idle      how late a slave is, under 500 probe writes a second and nothing else
#     paced     the same under 20,000 SET/s of 100 B
#     cpu       the master's CPU a write and its throughput, alone and with its slaves
#     majority  SET/s of 50 connections x pipeline 16 that a majority has: kvd's level "majority",
#               Redis' WAIT 1 after each pipeline, which waits for a replica's memory, not its disk
#     wan       bytes sent to a slave for each byte written, of values that look like JSON
#     snapshot  a new slave takes all there is, lines not shaped, while the master takes 5,000 SET/s
#
# Redis: appendfsync always at the master, everysec at the replicas. kvd: fsync everywhere before
# anything is said. Servers and load share this machine, so that all of them take CPU from each other.
source "$(dirname "$0")/../scripts/common.sh"

rounds=3 seconds=8 snapshot_mib=256 dir= built= json=
lines=()
while [ $# -gt 0 ]; do
    case "$1" in
        --rounds) rounds="$2"; shift 2 ;;
        --seconds) seconds="$2"; shift 2 ;;
        --snapshot-mib) snapshot_mib="$2"; shift 2 ;;
        --dir) dir="$2"; shift 2 ;;
        --built) built="$(cd "$2" && pwd)"; shift 2 ;;
        --json) json="$2"; shift 2 ;;
        -h|--help) sed -n '2,27s/^# \{0,1\}//p' "benches/replication.sh"; exit 0 ;;
        -*) die "unknown option $1; see --help" ;;
        idle|paced|cpu|majority|wan|snapshot) lines+=("$1"); shift ;;
        *) die "unknown line $1; see --help" ;;
    esac
done
[ "${#lines[@]}" -gt 0 ] || lines=(idle paced cpu majority wan snapshot)

install_packages "the peer, and to speak to admin ports" redis-server redis-tools curl jq
if [ -n "$built" ]; then
    build larder-benches
else
    install_build_tools
    build larder-server larder-cli larder-benches
    built="$CARGO_TARGET_DIR/release"
fi
kvd="$built/kvd" kv="$built/kv"
"$kvd" --version | grep -q release || die "$kvd was not built with the release profile"
tools="$CARGO_TARGET_DIR/release"

[ -n "$dir" ] || { dir="$CARGO_TARGET_DIR/compare"; mkdir -p "$dir"; }
work="$(mktemp -d "$dir/replication.XXXXXX")"
mkdir "$work/figures"
trap finish EXIT

source benches/replication/servers.sh
source benches/replication/figures.sh
source benches/replication/lines.sh

for line in "${lines[@]}"; do
    printf '\n%s\n' "$(title "$line")"
    "line_$line"
done
summary
[ -z "$json" ] || summary_json >"$json"
