# The lines: what is run, and which figures it gives.
# shellcheck shell=bash disable=SC2154

title() {
    case "$1" in
        idle) echo "idle: 500 probe writes a second, nothing else" ;;
        paced) echo "paced: the same probes under 20,000 SET/s of 100 B (50 connections x pipeline 4)" ;;
        cpu) echo "cpu: 50 connections x pipeline 16, SET of 100 B; the master's CPU from /proc/PID/stat" ;;
        majority) echo "majority: 50 connections x pipeline 16, SET of 100 B, the nearer slave 30 ms away" ;;
        wan) echo "wan: bytes to a slave for each byte of key and value, orders in JSON of about 450 B" ;;
        snapshot) echo "snapshot: a new slave takes $snapshot_mib MiB of random values of 4 KiB, lines not shaped, 5,000 SET/s of 100 B meanwhile" ;;
    esac
}

both_sets() {
    kvd_set "$1"
    redis_set
}

# load SIDE SECONDS [OPTIONS]: the report of a load on a master.
load() {
    local side="$1" seconds="$2"
    shift 2
    timeout "$((seconds + 60))" "$tools/batch-load" --server "127.0.0.1:$(master_port "$side")" --seconds "$seconds" "$@"
}

# load_begin SIDE SECONDS [OPTIONS]: the same in the background.
load_begin() {
    local side="$1" seconds="$2"
    shift 2
    "$tools/batch-load" --server "127.0.0.1:$(master_port "$side")" --seconds "$seconds" "$@" >"$work/load" &
    load_pid=$!
    pids+=("$load_pid")
}
# load_end: waits for it; its report is in $work/load.
load_end() {
    wait "$load_pid" || die "the load failed"
    forget "$load_pid"
}

# fsyncs NODE: how many a node of kvd has done, and the seconds they took.
fsyncs() {
    ask GET "$1" /metrics | awk '/^larder_log_fsync_seconds_count/ {count = $2} /^larder_log_fsync_seconds_sum/ {sum = $2} END {print count, sum}'
}
# fsync_ms NODE COUNT SECONDS: what one took on average since there were so many.
fsync_ms() { fsyncs "$1" | awk -v count="$2" -v sum="$3" '$1 > count {print ($2 - sum) / ($1 - count) * 1000}'; }

# probe LINE SIDE: probes both slaves of a side.
probe() {
    local line="$1" side="$2" report at ms master slave
    if [ "$side" = kvd ]; then master="$(fsyncs shenzhen-1)" slave="$(fsyncs tianjin-1)"; fi
    report="$(timeout "$((seconds + 60))" "$tools/lag-probe" --json --seconds "$seconds" --rate 500 \
        --master "127.0.0.1:$(master_port "$side")" \
        --slave "127.0.0.1:$(slave_port "$side" 30)=15" --slave "127.0.0.1:$(slave_port "$side" 40)=20")"
    [ "$(jq '[.slaves[].unseen] | add' <<<"$report")" = 0 ] || die "probes were never seen at a slave of $side: $report"
    at=0
    for ms in 30 40; do
        note "$line.$ms.p50" "$side" "$(jq ".slaves[$at].lag_ms.p50" <<<"$report")"
        note "$line.$ms.p99" "$side" "$(jq ".slaves[$at].lag_ms.p99" <<<"$report")"
        note "$line.$ms.sent.p50" "$side" "$(jq ".slaves[$at].lag_from_sending_ms.p50" <<<"$report")"
        note "$line.$ms.sent.p99" "$side" "$(jq ".slaves[$at].lag_from_sending_ms.p99" <<<"$report")"
        at=$((at + 1))
    done
    note "$line.ack.p50" "$side" "$(jq .acknowledged_ms.p50 <<<"$report")"
    note "$line.ack.p99" "$side" "$(jq .acknowledged_ms.p99 <<<"$report")"
    note "$line.question" "$side" "$(jq '[.slaves[].question_ms.p50] | max' <<<"$report")"
    if [ "$side" = kvd ]; then
        # shellcheck disable=SC2086
        note "$line.fsync.master" kvd "$(fsync_ms shenzhen-1 $master)"
        # shellcheck disable=SC2086
        note "$line.fsync.slave" kvd "$(fsync_ms tianjin-1 $slave)"
    fi
}

line_idle() {
    local round side
    both_sets local
    for round in $(seq "$rounds"); do
        for side in $(sides "$round"); do probe idle "$side"; done
        show_round idle "$round"
    done
}

line_paced() {
    local round side
    both_sets local
    for round in $(seq "$rounds"); do
        for side in $(sides "$round"); do
            load_begin "$side" "$((seconds + 1))" --rate 20000 --pipeline 4
            probe paced "$side"
            load_end
            note paced.load "$side" "$(jq .per_second "$work/load")"
            note paced.load.p99 "$side" "$(jq .batch_ms.p99 "$work/load")"
        done
        show_round paced "$round"
    done
}

# cpu_run PORT PID [OPTIONS]: SETs a second and the server's microseconds a SET.
cpu_run() {
    local port="$1" pid="$2" before after report
    shift 2
    before="$(cpu_us "$pid")"
    report="$(timeout "$((seconds + 60))" "$tools/batch-load" --server "127.0.0.1:$port" --seconds "$seconds" "$@")"
    after="$(cpu_us "$pid")"
    jq -r --argjson us "$((after - before))" '"\(.per_second) \($us / .requests)"' <<<"$report"
}

line_cpu() {
    local round side how options alone slaves alone_cpu slaves_cpu alone_port alone_pid
    both_sets local
    kvd_alone
    redis_alone
    for round in $(seq "$rounds"); do
        for how in full paced plain; do
            options=(); [ "$how" = full ] || options=(--rate 20000 --pipeline 4)
            # kvd's lines are made long by a thread of its own, Redis' by other processes: without
            # either, what is left is what replication costs.
            if [ "$how" = plain ]; then unshape; redis_lines plain; fi
            for side in $(sides "$round"); do
                alone_port="alone_${side}_port" alone_pid="alone_${side}_pid"
                read -r alone alone_cpu <<<"$(cpu_run "${!alone_port}" "${!alone_pid}" "${options[@]}")"
                read -r slaves slaves_cpu <<<"$(cpu_run "$(master_port "$side")" "$(master_pid "$side")" "${options[@]}")"
                if [ "$how" = full ]; then
                    note cpu.full.alone "$side" "$alone"
                    note cpu.full.slaves "$side" "$slaves"
                    note cpu.full.ratio "$side" "$(awk "BEGIN{print $slaves/$alone}")"
                fi
                note "cpu.$how.cpu.alone" "$side" "$alone_cpu"
                note "cpu.$how.cpu.slaves" "$side" "$slaves_cpu"
                note "cpu.$how.cpu.ratio" "$side" "$(awk "BEGIN{print $slaves_cpu/$alone_cpu}")"
                # What was written is still on its way to the slaves.
                settle "$side"
            done
        done
        shape
        redis_lines shaped
        show_round cpu "$round"
    done
}

# settle SIDE: waits until its slaves have everything.
settle() { until_true "the slaves of $1 have everything" 120 "settled_$1"; }
settled_kvd() {
    [ "$(ask GET "${nodes[0]}" /replication | jq '[.members[] | select(.state != "master" and (.state != "streaming" or .lag_records > 0))] | length')" = 0 ]
}
settled_redis() {
    redis-cli -p "$redis_port" info replication | tr -d '\r' |
        awk -F'[=,:]' '/^slave[0-9]/ {for (i = 1; i < NF; i++) if ($i == "offset") at[n++] = $(i+1)}
            /^master_repl_offset/ {end = $2} END {for (i in at) if (at[i] < end) exit 1}'
}

line_majority() {
    local round side report options
    both_sets majority
    for round in $(seq "$rounds"); do
        for side in $(sides "$round"); do
            options=(); [ "$side" = kvd ] || options=(--wait 1)
            report="$(load "$side" "$seconds" "${options[@]}")"
            note majority.rate "$side" "$(jq .per_second <<<"$report")"
            note majority.p50 "$side" "$(jq .batch_ms.p50 <<<"$report")"
            note majority.p99 "$side" "$(jq .batch_ms.p99 <<<"$report")"
            settle "$side"
        done
        show_round majority "$round"
    done
}

# sent SIDE: bytes sent to all slaves so far, as replication counts them.
sent() {
    if [ "$1" = kvd ]; then
        ask GET "${nodes[0]}" /metrics | awk '/^larder_replication_sent_bytes_total/ {printf "%.0f\n", $2}'
    else
        redis-cli -p "$redis_port" info replication | tr -d '\r' | awk -F: '/^master_repl_offset/ {print $2 * 2}'
    fi
}
# carried: bytes of kvd's datagrams to all slaves so far; 0 where the lab does not count them.
carried() { ask GET "${nodes[0]}" /lab/shapes | jq '[.[].carried_bytes // 0] | add'; }

line_wan() {
    local round side rate report sent_before carried_before written bytes
    both_sets local
    for round in $(seq "$rounds"); do
        for rate in 5000 20000; do
            for side in $(sides "$round"); do
                settle "$side"
                sent_before="$(sent "$side")" carried_before=0
                [ "$side" = redis ] || carried_before="$(carried)"
                report="$(load "$side" "$seconds" --rate "$rate" --pipeline 4 --values json)"
                settle "$side"
                written="$(jq .written_bytes <<<"$report")"
                note "wan.$rate.sent" "$side" "$(awk "BEGIN{print ($(sent "$side") - $sent_before) / 2 / $written}")"
                [ "$side" = kvd ] || continue
                bytes=$(($(carried) - carried_before))
                [ "$bytes" -eq 0 ] || note "wan.$rate.wire" kvd "$(awk "BEGIN{print $bytes / 2 / $written}")"
            done
        done
        show_round wan "$round"
    done
}

# Starts a slave on an empty disk.
resync_kvd() { kvd_start tianjin-1; }
resynced_kvd() { linked "${resp[tianjin-1]}"; }
took_a_snapshot() {
    [ "$(ask GET "$1" /metrics | awk '/^larder_replication_snapshots_taken_total/ {print $2}')" -gt 0 ]
}
resync_redis() {
    redis redis-replica-new everysec --replicaof 127.0.0.1 "$redis_port"
    new_replica_port="$started_port"
}
resynced_redis() { linked "$new_replica_port"; }

line_snapshot() {
    local side keys=$((snapshot_mib * 256)) report before during seconds_taken began
    # Each side alone: what the servers of both hold is more than the memory of many a machine, and
    # whoever is measured would wait for files that are read from the disk again.
    for side in redis kvd; do
        servers_end
        if [ "$side" = redis ]; then redis_set; else kvd_set local && unshape; fi
        report="$(timeout 1800 "$tools/batch-load" --server "127.0.0.1:$(master_port "$side")" --fill --keys "$keys" --value-bytes 4096)"
        say "  $side holds $snapshot_mib MiB, written at $(jq '.per_second | round' <<<"$report") SET/s"
        settle "$side"
        calm "$side is measured"
        before="$(load "$side" "$seconds" --rate 5000 --pipeline 1 --keys 100000 | jq .batch_ms.p99)"
        if [ "$side" = kvd ]; then
            end "${kvd_pid[tianjin-1]}"
            # Removing it would have the file system busy while clients are measured.
            mv "$kvd_dir/tianjin-1" "$kvd_dir/tianjin-1.was"
        fi
        load_begin "$side" 1800 --rate 5000 --pipeline 1 --keys 100000 --warmup-seconds 0
        began="$(date +%s%N)"
        "resync_$side"
        until_true "a snapshot of $side" 1200 "resynced_$side"
        seconds_taken="$(awk "BEGIN{print ($(date +%s%N) - $began) / 1e9}")"
        kill -TERM "$load_pid"
        load_end
        [ "$side" = redis ] || took_a_snapshot tianjin-1 || die "tianjin-1 has taken no snapshot"
        during="$(jq .batch_ms.p99 "$work/load")"
        note snapshot.rate "$side" "$(awk "BEGIN{print $snapshot_mib * 1.048576 / $seconds_taken}")"
        note snapshot.seconds "$side" "$seconds_taken"
        note snapshot.before "$side" "$before"
        note snapshot.during "$side" "$during"
        note snapshot.slower "$side" "$(awk "BEGIN{print $during/$before}")"
        note snapshot.load "$side" "$(jq .per_second "$work/load")"
    done
    servers_end
    rounds=1 show_round snapshot 1
}
