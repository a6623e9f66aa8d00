# Starts and ends the servers of both sides, each once it is needed.
# shellcheck shell=bash disable=SC2154

# What was started and not ended yet, and nothing else is ever ended.
pids=()

finish() {
    local pid
    # The shell tells of each that is killed.
    exec 2>/dev/null
    for pid in "${pids[@]}"; do kill -9 "$pid" || true; done
    wait || true
    rm -rf "$work"
}

# end PID...: ends these, in order if they do so within 10 s.
end() {
    local pid
    for pid in "$@"; do kill "$pid" 2>/dev/null || true; done
    for pid in "$@"; do
        for _ in $(seq 200); do kill -0 "$pid" 2>/dev/null || break; sleep 0.05; done
        kill -9 "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    forget "$@"
}

# forget PID...: these have ended.
forget() {
    local pid left=()
    for pid in "${pids[@]}"; do [[ " $* " == *" $pid "* ]] || left+=("$pid"); done
    pids=("${left[@]}")
}

free_port() { python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])' 2>/dev/null || echo $((20000 + RANDOM % 20000)); }

# until_true WHAT SECONDS COMMAND...: asks until it is so; seldom enough that it does not disturb what is measured.
until_true() {
    local what="$1" deadline=$((SECONDS + $2))
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || die "$what: not within the time; logs: $(tail -qn 2 "$work"/*.log 2>/dev/null | tail -n 12)"
        sleep 0.2
    done
}

answers() { redis-cli -p "$1" ping | grep -q PONG; }

# ---- kvd: a master and two slaves, and one alone ----

# Nodes, their regions, and the round trips between them.
nodes=(shenzhen-1 tianjin-1 shanghai-1)
declare -A resp admin udp kvd_pid
one_way_ms() {
    case "$1 $2" in
        *shenzhen-1*tianjin-1* | *tianjin-1*shenzhen-1*) echo 15 ;;
        *shenzhen-1*shanghai-1* | *shanghai-1*shenzhen-1*) echo 20 ;;
        *) echo 12.5 ;;
    esac
}
# What runs now: the level, and where.
kvd_level= kvd_dir=

# kvd_set LEVEL: has the master and its slaves run with this level, lines shaped.
kvd_set() {
    [ "$kvd_level" != "$1" ] || return 0
    kvd_set_end
    local node
    kvd_dir="$(mktemp -d "$work/kvd.XXXXXX")"
    "$kv" ca init --cluster benches --dir "$kvd_dir/ca" >/dev/null
    for node in "${nodes[@]}"; do
        "$kv" ca issue "$node" --dir "$kvd_dir/ca" --out "$kvd_dir/certificates" >/dev/null
        resp[$node]="$(free_port)" admin[$node]="$(free_port)" udp[$node]="$(free_port)"
    done
    for node in "${nodes[@]}"; do
        kvd_config "$node" "$1" >"$kvd_dir/$node.toml"
        kvd_start "$node"
    done
    kvd_level="$1"
    until_true "two slaves of kvd" 60 kvd_streams 2
    shape
}

kvd_start() {
    "$kvd" --config "$kvd_dir/$1.toml" 2>>"$work/$1.log" &
    kvd_pid[$1]=$!
    pids+=($!)
}

kvd_config() {
    local node="$1" peer
    cat <<TOML
data = "$kvd_dir/$node"
resp = "127.0.0.1:${resp[$node]}"
admin = "127.0.0.1:${admin[$node]}"
drain_ms = 1000
[node]
id = "$node"
region = "${node%-1}"
listen = "127.0.0.1:${udp[$node]}"
ca = "$kvd_dir/ca/ca.pem"
certificate = "$kvd_dir/certificates/$node.pem"
key = "$kvd_dir/certificates/$node.key"
TOML
    for peer in "${nodes[@]}"; do
        [ "$peer" = "$node" ] || cat <<TOML
[[node.peers]]
id = "$peer"
region = "${peer%-1}"
address = "127.0.0.1:${udp[$peer]}"
resp = "127.0.0.1:${resp[$peer]}"
TOML
    done
    printf '[replication]\nlevel = "%s"\nfirst_master = "%s"\n[lab]\nenabled = true\n' "$2" "${nodes[0]}"
}

kvd_set_end() {
    [ -n "$kvd_level" ] || return 0
    end "${kvd_pid[@]}"
    rm -rf "$kvd_dir"
    kvd_level=
}

# ask METHOD NODE PATH [BODY]: what the node's admin port answers.
ask() {
    local answer
    if ! answer="$(curl -sS --fail-with-body --max-time 30 -X "$1" ${4:+-H 'content-type: application/json' -d "$4"} \
        "http://127.0.0.1:${admin[$2]}$3" 2>&1)"; then
        say "$1 $3 at $2: $answer"
        return 1
    fi
    printf '%s\n' "$answer"
}

# kvd_streams COUNT: whether so many slaves have every record as it comes.
kvd_streams() {
    [ "$(ask GET "${nodes[0]}" /replication | jq '[.members[] | select(.state == "streaming")] | length')" = "$1" ]
}

# shape: makes kvd's lines as long as they are to be.
shape() {
    local node peer
    for node in "${nodes[@]}"; do
        for peer in "${nodes[@]}"; do
            [ "$peer" = "$node" ] ||
                ask PUT "$node" /lab/shapes "{\"peer\":\"$peer\",\"delay_ms\":$(one_way_ms "$node" "$peer")}" >/dev/null
        done
    done
}

# unshape: makes them as they are.
unshape() {
    local node peer
    for node in "${nodes[@]}"; do
        for peer in "${nodes[@]}"; do
            [ "$peer" = "$node" ] || ask DELETE "$node" "/lab/shapes/$peer" >/dev/null
        done
    done
}

alone_kvd_port= alone_kvd_pid=
kvd_alone() {
    [ -z "$alone_kvd_port" ] || return 0
    alone_kvd_port="$(free_port)"
    "$kvd" --data "$work/kvd-alone" --resp "127.0.0.1:$alone_kvd_port" 2>"$work/kvd-alone.log" &
    alone_kvd_pid=$!
    pids+=($!)
    until_true "kvd alone" 30 answers "$alone_kvd_port"
}

# ---- redis-server: the same ----

redis_port= redis_pid=
declare -A replica_port proxy_port
# redis NAME FSYNC [OPTIONS]: starts one in the background; sets started_port and started_pid.
redis() {
    local name="$1" fsync="$2"
    shift 2
    mkdir "$work/$name"
    started_port="$(free_port)"
    redis-server --port "$started_port" --bind 127.0.0.1 --appendonly yes --appendfsync "$fsync" --save '' \
        --auto-aof-rewrite-percentage 0 --repl-diskless-sync-delay 0 --dir "$work/$name" "$@" >"$work/$name.log" &
    started_pid=$!
    pids+=($!)
    until_true "$name" 30 answers "$started_port"
}

linked() { redis-cli -p "$1" info replication | grep -q master_link_status:up; }

redis_set() {
    [ -z "$redis_port" ] || return 0
    local ms proxy
    redis redis-master always
    redis_port="$started_port" redis_pid="$started_pid"
    for ms in 30 40; do
        proxy="$(free_port)"
        proxy_port[$ms]="$proxy"
        "$tools/delay-proxy" --listen "127.0.0.1:$proxy" --to "127.0.0.1:$redis_port" --delay-ms "$((ms / 2))" \
            >"$work/proxy-$ms.log" 2>&1 &
        pids+=($!)
        until_true "the proxy" 10 grep -q : "$work/proxy-$ms.log"
        redis "redis-replica-$ms" everysec --replicaof 127.0.0.1 "$proxy"
        replica_port[$ms]="$started_port"
        until_true "a replica of redis" 60 linked "${replica_port[$ms]}"
    done
}

# redis_lines shaped|plain: has the replicas go by the proxies, or straight to the master.
redis_lines() {
    local ms port
    for ms in 30 40; do
        port="$redis_port"
        [ "$1" = plain ] || port="${proxy_port[$ms]}"
        redis-cli -p "${replica_port[$ms]}" replicaof 127.0.0.1 "$port" >/dev/null
        until_true "a replica of redis" 60 linked "${replica_port[$ms]}"
    done
}

alone_redis_port= alone_redis_pid=
redis_alone() {
    [ -z "$alone_redis_port" ] || return 0
    redis redis-alone always
    alone_redis_port="$started_port" alone_redis_pid="$started_pid"
}

# ---- both ----

# servers_end: ends all that run, and removes their data.
servers_end() {
    [ "${#pids[@]}" -eq 0 ] || end "${pids[@]}"
    rm -rf "$work"/kvd.* "$work"/kvd-alone "$work"/redis-*/
    kvd_level= redis_port= alone_kvd_port= alone_redis_port=
}

master_port() { [ "$1" = kvd ] && echo "${resp[${nodes[0]}]}" || echo "$redis_port"; }
master_pid() { [ "$1" = kvd ] && echo "${kvd_pid[${nodes[0]}]}" || echo "$redis_pid"; }
# slave_port SIDE ROUND_TRIP
slave_port() {
    case "$1 $2" in
        "kvd 30") echo "${resp[tianjin-1]}" ;;
        "kvd 40") echo "${resp[shanghai-1]}" ;;
        *) echo "${replica_port[$2]}" ;;
    esac
}
# sides ROUND: both, the order alternating, so that neither always runs on the warmer machine.
sides() { [ $(($1 % 2)) -eq 1 ] && echo redis kvd || echo kvd redis; }
# cpu_us PID: what a process has used.
cpu_us() { awk -v hz="$(getconf CLK_TCK)" '{sub(/.*\) /, ""); print int(($12 + $13) * 1000000 / hz)}' "/proc/$1/stat"; }
