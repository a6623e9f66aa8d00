#!/usr/bin/env bash
# Runs Debian's redis-server (appendfsync always) and kvd by turns under the same redis-benchmark
# lines, and prints every pair and the ratio of the medians, with the floors and whether they are kept: of
# the ratio, and for SET of a p99 that is not above redis-server's. Beside them the ceilings. Ends with 1
# where a floor is missed.
#
# usage: benches/compare.sh [--pairs N] [--requests N] [--busy N] [--dir DIR] [--no-ceilings] [LINE...]
#   --pairs     runs of each server for each line (default 5, and at least)
#   --requests  requests a run at pipeline 16; a third of it at pipeline 1 (default 1200000)
#   --busy      so many processes want a processor each meanwhile (default 0)
#   --dir       where both servers keep their data: the disk that is compared (default: a directory
#               under the target directory)
# Both may hold the data set in memory, redis-server because it has no bound, kvd by a hot cache of
# 2 GiB; the rest is as by default. benches/size.sh is for data beyond the memory.
#   LINE        of: set-p1 set-p16 get-p1 get-p16 set1k-p1 set1k-p16 get1k-p1 get1k-p16
#               incr hset hget mset (default: all)
source "$(dirname "$0")/../scripts/common.sh"

pairs=5 requests=1200000 busy=0 dir= ceilings=yes
lines=()
while [ $# -gt 0 ]; do
    case "$1" in
        --pairs) pairs="$2"; shift 2 ;;
        --requests) requests="$2"; shift 2 ;;
        --busy) busy="$2"; shift 2 ;;
        --dir) dir="$2"; shift 2 ;;
        --no-ceilings) ceilings=; shift ;;
        -h|--help) sed -n '2,16s/^# \{0,1\}//p' "$0"; exit 0 ;;
        -*) die "unknown option $1; see --help" ;;
        *) lines+=("$1"); shift ;;
    esac
done
[ "$pairs" -ge 5 ] || die "--pairs $pairs: the medians of fewer than 5 say nothing"
[ "${#lines[@]}" -gt 0 ] || lines=(set-p1 set-p16 get-p1 get-p16 set1k-p1 set1k-p16 get1k-p1 get1k-p16 incr hset hget mset)

install_packages "the peer and its benchmark, and to ask kvd for its batches" redis-server redis-tools curl
install_build_tools
build larder-server larder-benches
kvd="$CARGO_TARGET_DIR/release/kvd"
"$kvd" --version | grep -q release || die "$kvd was not built with the release profile"

[ -n "$dir" ] || { dir="$CARGO_TARGET_DIR/compare"; mkdir -p "$dir"; }
work="$(mktemp -d "$dir/compare.XXXXXX")"
pids=()
# Ends the processes that keep the machine busy, where there are any.
rest() {
    local pid
    [ -f "$work/busy" ] || return 0
    while read -r pid; do kill "$pid" 2>/dev/null || true; done <"$work/busy"
    rm "$work/busy"
}
finish() { rest; for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done; wait 2>/dev/null || true; rm -rf "$work"; }
trap finish EXIT

free_port() { python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])' 2>/dev/null || echo $((20000 + RANDOM % 20000)); }
wait_for() { for _ in $(seq 200); do redis-cli -p "$1" ping >/dev/null 2>&1 && return 0; sleep 0.05; done; die "no server on port $1"; }

redis_port="$(free_port)" kvd_port="$(free_port)" admin_port="$(free_port)"
mkdir "$work/redis" "$work/kvd"
redis-server --port "$redis_port" --bind 127.0.0.1 --appendonly yes --appendfsync always --save '' --dir "$work/redis" >"$work/redis.log" &
pids+=($!)
printf '[state]\nhot_cache_bytes = "2 GiB"\n' >"$work/kvd.toml"
"$kvd" --config "$work/kvd.toml" --data "$work/kvd" --resp "127.0.0.1:$kvd_port" --admin "127.0.0.1:$admin_port" 2>"$work/kvd.log" &
pids+=($!)
wait_for "$redis_port"
wait_for "$kvd_port"

# The redis-benchmark arguments of a line.
arguments() {
    local n1=$((requests / 3)) n16="$requests"
    local common="-c 50 -r 1000000 --csv"
    case "$1" in
        set-p1) echo "$common -d 64 -P 1 -n $n1 -t set" ;;
        set-p16) echo "$common -d 64 -P 16 -n $n16 -t set" ;;
        get-p1) echo "$common -d 64 -P 1 -n $n1 -t get" ;;
        get-p16) echo "$common -d 64 -P 16 -n $n16 -t get" ;;
        set1k-p1) echo "$common -d 1024 -P 1 -n $n1 -t set" ;;
        set1k-p16) echo "$common -d 1024 -P 16 -n $n16 -t set" ;;
        get1k-p1) echo "$common -d 1024 -P 1 -n $n1 -t get" ;;
        get1k-p16) echo "$common -d 1024 -P 16 -n $n16 -t get" ;;
        incr) echo "$common -P 16 -n $n16 -t incr" ;;
        hset) echo "$common -d 64 -P 16 -n $n16 -t hset" ;;
        hget) echo "$common -P 16 -n $n16 HGET myhash element:__rand_int__" ;;
        mset) echo "$common -d 64 -P 1 -n $((n1 / 4)) -t mset" ;;
        *) die "unknown line $1" ;;
    esac
}

# run PORT LINE: requests a second and p99 in milliseconds.
run() {
    calm "a run of $2"
    for _ in $(seq "$busy"); do
        (while :; do :; done) >/dev/null &
        echo $! >>"$work/busy"
    done
    # shellcheck disable=SC2046
    redis-benchmark -p "$1" $(arguments "$2") | tail -n 1 | tr -d '"' | awk -F, '{print $(NF-6), $(NF-1)}'
    rest
}
# run_kvd LINE: the same of kvd, and in $work/batch the records that it fsynced at a time, on average.
run_kvd() {
    local before after
    before="$(synced)"
    run "$kvd_port" "$1"
    after="$(synced)"
    awk -v before="$before" -v after="$after" 'BEGIN {
        split(before, b); split(after, a)
        if (a[2] > b[2]) printf "%.0f\n", (a[1] - b[1]) / (a[2] - b[2]); else print 0
    }' >>"$work/batch"
}
# Records that kvd has on disk, and fsyncs of its log.
synced() {
    curl -fsS "http://127.0.0.1:$admin_port/metrics" |
        awk '$1 == "larder_log_durable_seq" {r = $2} $1 == "larder_log_fsync_seconds_count" {s = $2} END {print r, s}'
}
median() { sort -g | awk '{v[NR]=$1} END {print (NR % 2) ? v[(NR+1)/2] : (v[NR/2]+v[NR/2+1])/2}'; }

# What a line reads is there before it runs: a million keys, or a million fields of one hash.
populate() {
    local port
    for port in "$redis_port" "$kvd_port"; do
        case "$1" in
            get1k-*) redis-benchmark -p "$port" -c 50 -P 16 -r 1000000 -n 2000000 -d 1024 -q -t set ;;
            get-*) redis-benchmark -p "$port" -c 50 -P 16 -r 1000000 -n 2000000 -d 64 -q -t set ;;
            hget) redis-benchmark -p "$port" -c 50 -P 16 -r 1000000 -n 2000000 -d 64 -q -t hset ;;
        esac
    done >/dev/null
}

printf '%-10s %4s %12s %12s %7s %10s %10s\n' line pair redis/s kvd/s ratio redis-p99 kvd-p99
summary=()
populated=
declare -A batch
for line in "${lines[@]}"; do
    if [ "${line%-*}" != "$populated" ]; then populate "$line"; populated="${line%-*}"; fi
    : >"$work/r"; : >"$work/k"; : >"$work/rp"; : >"$work/kp"; : >"$work/batch"
    for pair in $(seq "$pairs"); do
        # The order within a pair alternates, so that neither always runs on the warmer machine.
        if [ $((pair % 2)) -eq 1 ]; then
            read -r r rp <<<"$(run "$redis_port" "$line")"; read -r k kp <<<"$(run_kvd "$line")"
        else
            read -r k kp <<<"$(run_kvd "$line")"; read -r r rp <<<"$(run "$redis_port" "$line")"
        fi
        echo "$r" >>"$work/r"; echo "$k" >>"$work/k"; echo "$rp" >>"$work/rp"; echo "$kp" >>"$work/kp"
        printf '%-10s %4s %12.0f %12.0f %7.2f %10.2f %10.2f\n' "$line" "$pair" "$r" "$k" "$(awk "BEGIN{print $k/$r}")" "$rp" "$kp"
    done
    summary+=("$line $(median <"$work/r") $(median <"$work/k") $(median <"$work/rp") $(median <"$work/kp")")
    batch[$line]="$(median <"$work/batch")"
done

# Bytes of the log that a record of a line takes: its header, a key of 16, the value, and 12 or 13 around
# them; and those of the mark before each batch (docs/format/log.md).
mark_bytes=48
record_bytes() {
    case "$1" in
        set-*) echo 140 ;;
        set1k-*) echo 1101 ;;
    esac
}

# The least ratio of a line, where there is one.
floor() {
    case "$1" in
        set-* | set1k-* | get-p1 | get1k-p1) echo 0.9 ;;
        get-p16 | get1k-p16) echo 0.5 ;;
        *) echo - ;;
    esac
}
# judge LINE RATIO REDIS-P99 KVD-P99: the floor, and whether it and the p99 are kept.
judge() {
    awk -v line="$1" -v floor="$(floor "$1")" -v ratio="$2" -v redis="$3" -v kvd="$4" 'BEGIN {
        rate = floor == "-" ? "-" : ratio >= floor ? "kept" : "MISSED"
        p99 = line !~ /^set/ ? "-" : kvd <= redis ? "kept" : "MISSED"
        print floor, rate, p99
    }'
}

missed=0
printf '\nmedians of %s\n%-10s %12s %12s %7s %5s %-6s %10s %10s %s\n' \
    "$pairs" line redis/s kvd/s ratio floor "" redis-p99 kvd-p99 ""
for row in "${summary[@]}"; do
    read -r line r k rp kp <<<"$row"
    ratio="$(awk "BEGIN{print $k/$r}")"
    read -r floor rate p99 <<<"$(judge "$line" "$ratio" "$rp" "$kp")"
    case "$rate$p99" in *MISSED*) missed=1 ;; esac
    printf '%-10s %12.0f %12.0f %7.2f %5s %-6s %10.2f %10.2f %s\n' \
        "$line" "$r" "$k" "$ratio" "$floor" "$rate" "$rp" "$kp" "$p99"
done

if [ -n "$ceilings" ]; then
    printf '\nceilings\n'
    ceiling_port="$(free_port)"
    "$CARGO_TARGET_DIR/release/resp-ceiling" --resp "127.0.0.1:$ceiling_port" >/dev/null &
    pids+=($!)
    wait_for "$ceiling_port"
    for line in set-p1 set-p16 get-p1 get-p16; do
        read -r c _ <<<"$(run "$ceiling_port" "$line")"
        printf '  a RESP server that does nothing, %-8s %12.0f/s\n' "$line" "$c"
    done
    # What kvd wrote in the line, in batches of the size that it wrote.
    for line in "${lines[@]}"; do
        records="$(printf '%.0f' "${batch[$line]}")"
        bytes="$(record_bytes "$line")"
        if [ -z "$bytes" ] || [ "$records" -eq 0 ]; then continue; fi
        printf '  write and fsync, %-9s %4s records of %4s B a batch: ' "$line" "$records" "$bytes"
        "$CARGO_TARGET_DIR/release/fsync-ceiling" --dir "$work" --batch-bytes $((mark_bytes + records * bytes)) --batch-records "$records" --seconds 3
    done
fi

exit "$missed"
