# What is measured: kept a run a line in a file, printed as it comes, and as medians at the end.
# shellcheck shell=bash disable=SC2154

# The order in which figures were first noted, with what they are and kvd's bound.
noted=()

# note FIGURE SIDE VALUE: keeps a value. A figure is named line.what; sides are kvd and redis.
note() {
    local figure="$1" side="$2" value="$3"
    [[ " ${noted[*]} " == *" $figure "* ]] || noted+=("$figure")
    echo "$value" >>"$work/figures/$figure.$side"
}

median() { sort -g | awk '{v[NR]=$1} END {if (NR) print (NR % 2) ? v[(NR+1)/2] : (v[NR/2]+v[NR/2+1])/2}'; }

# middle FIGURE SIDE: the median, nothing where nothing was noted.
middle() { [ ! -f "$work/figures/$1.$2" ] || median <"$work/figures/$1.$2"; }

# describe FIGURE: what it is.
describe() {
    case "$1" in
        *.30.p50) echo "30 ms away: lag beyond one way, p50, ms" ;;
        *.30.p99) echo "30 ms away: lag beyond one way, p99, ms" ;;
        *.40.p50) echo "40 ms away: lag beyond one way, p50, ms" ;;
        *.40.p99) echo "40 ms away: lag beyond one way, p99, ms" ;;
        *.30.sent.p50) echo "30 ms away: the same from sending, p50, ms" ;;
        *.30.sent.p99) echo "30 ms away: the same from sending, p99, ms" ;;
        *.40.sent.p50) echo "40 ms away: the same from sending, p50, ms" ;;
        *.40.sent.p99) echo "40 ms away: the same from sending, p99, ms" ;;
        *.ack.p50) echo "a probe's acknowledgement, p50, ms" ;;
        *.ack.p99) echo "a probe's acknowledgement, p99, ms" ;;
        *.question) echo "a question to a slave, in the lag, p50, ms" ;;
        paced.load) echo "load that was taken, SET/s" ;;
        paced.load.p99) echo "its SETs, p99, ms" ;;
        cpu.full.alone) echo "master alone, as fast as can be, SET/s" ;;
        cpu.full.slaves) echo "master with two slaves, SET/s" ;;
        cpu.full.ratio) echo "throughput with slaves to alone" ;;
        cpu.full.cpu.alone) echo "CPU a write alone, us" ;;
        cpu.full.cpu.slaves) echo "CPU a write with slaves, us" ;;
        cpu.full.cpu.ratio) echo "CPU a write with slaves to alone" ;;
        cpu.paced.cpu.alone) echo "at 20,000 SET/s: CPU a write alone, us" ;;
        cpu.paced.cpu.slaves) echo "at 20,000 SET/s: CPU with slaves, us" ;;
        cpu.paced.cpu.ratio) echo "at 20,000 SET/s: with slaves to alone" ;;
        cpu.plain.cpu.alone) echo "the same, lines not shaped: alone, us" ;;
        cpu.plain.cpu.slaves) echo "the same, lines not shaped: slaves, us" ;;
        cpu.plain.cpu.ratio) echo "the same, lines not shaped: ratio" ;;
        majority.rate) echo "SET/s" ;;
        majority.p50) echo "a pipeline of 16, p50, ms" ;;
        majority.p99) echo "a pipeline of 16, p99, ms" ;;
        wan.*.sent) echo "at ${1//[^0-9]/} SET/s: replication's bytes" ;;
        wan.*.wire) echo "at ${1//[^0-9]/} SET/s: with all of QUIC" ;;
        snapshot.rate) echo "data a second, MB/s" ;;
        snapshot.seconds) echo "until the slave streams, s" ;;
        snapshot.before) echo "SET before, p99, ms" ;;
        snapshot.during) echo "SET meanwhile, p99, ms" ;;
        snapshot.slower) echo "meanwhile to before" ;;
        snapshot.load) echo "SETs taken meanwhile, SET/s" ;;
        *) echo "$1" ;;
    esac
}

# bound FIGURE: what kvd is to keep, as "<= N" or ">= N"; nothing where there is no bound.
bound() {
    case "$1" in
        idle.??.p50) echo "<= 1" ;;
        idle.??.p99) echo "<= 3" ;;
        paced.??.p50) echo "<= 2" ;;
        paced.??.p99) echo "<= 15" ;;
        cpu.*.cpu.ratio) echo "<= 1.33" ;;
        majority.rate) echo ">= 20000" ;;
        wan.*.wire) echo "<= 0.5" ;;
        snapshot.rate) echo ">= 100" ;;
        snapshot.slower) echo "<= 3" ;;
    esac
}

# verdict VALUE BOUND
verdict() {
    [ -n "$1" ] && [ -n "$2" ] || return 0
    awk -v value="$1" -v op="${2% *}" -v bound="${2#* }" \
        'BEGIN { print ((op == "<=") ? value <= bound : value >= bound) ? "kept" : "MISSED" }'
}

number() { [ -z "$1" ] && echo - || awk -v v="$1" 'BEGIN { printf (v >= 1000) ? "%.0f" : "%.2f", v }'; }

# show FIGURE: the newest value of each side.
show() {
    local figure="$1" side values=()
    for side in redis kvd; do
        values+=("$(number "$(tail -n 1 "$work/figures/$figure.$side" 2>/dev/null || true)")")
    done
    printf '  %-44s %10s %10s\n' "$(describe "$figure")" "${values[@]}"
}

# show_round LINE ROUND: every figure of a line.
show_round() {
    local figure
    printf '  %-44s %10s %10s\n' "round $2 of $rounds" redis kvd
    for figure in "${noted[@]}"; do
        [[ "$figure" != "$1".* ]] || show "$figure"
    done
}

summary() {
    local figure line last= kvd_value
    printf '\nmedians\n%-9s %-44s %10s %10s  %-9s %s\n' line figure redis kvd bound ''
    for figure in "${noted[@]}"; do
        line="${figure%%.*}" kvd_value="$(middle "$figure" kvd)"
        [ "$line" != "$last" ] || line=
        last="${figure%%.*}"
        printf '%-9s %-44s %10s %10s  %-9s %s\n' "$line" "$(describe "$figure")" \
            "$(number "$(middle "$figure" redis)")" "$(number "$kvd_value")" \
            "$(bound "$figure")" "$(verdict "$kvd_value" "$(bound "$figure")")"
    done
}

summary_json() {
    local figure
    for figure in "${noted[@]}"; do
        jq -n --arg figure "$figure" --arg what "$(describe "$figure")" --arg bound "$(bound "$figure")" \
            --argjson redis "$(middle "$figure" redis | grep . || echo null)" \
            --argjson kvd "$(middle "$figure" kvd | grep . || echo null)" \
            '{$figure, $what, $redis, $kvd, bound: (if $bound == "" then null else $bound end)}'
    done | jq -s --argjson rounds "$rounds" --argjson seconds "$seconds" --argjson mib "$snapshot_mib" \
        '{settings: {$rounds, $seconds, snapshot_mib: $mib}, figures: .}'
}
