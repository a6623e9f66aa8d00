#!/usr/bin/env bash
# Runs every test suite, each within a time budget, and prints what each used.
#
# usage: scripts/test.sh [SUITE...]      (default: all; --list names them)
#
# With CI=true, as the gate has it, a suite that cannot run here fails (but for latencies of the hostile suite, where the
# machine gives no memory in time), and nothing of the environment
# (LARDER_SEED and the like) may alter what is tested; elsewhere a suite says that it was skipped, and why.
source "$(dirname "$0")/common.sh"
refuse_overrides

# name | seconds it may take | what it runs
suites=(
    "unit|400|cargo test --locked --release --workspace --exclude larder-tests --exclude larder-storage"
    "storage|700|cargo test --locked --release -p larder-storage -- --nocapture"
    "no-rocksdb|150|cargo test --locked --release -p larder-config -p larder-storage --no-default-features --test config_fuzz --test log_fuzz --test keys_fuzz -- --nocapture"
    "simulation|240|cargo test --locked --release -p larder-replication --no-default-features --features planted-bugs --test simulation -- --nocapture"
    "harness|150|cargo test --locked --release -p larder-tests --lib"
    "arrows|85|cargo test --locked --release -p larder-tests --test arrows"
    "differential|110|cargo test --locked --release -p larder-tests --test differential -- --nocapture"
    "model|100|cargo test --locked --release -p larder-tests --test model -- --nocapture"
    "faults|150|cargo test --locked --release -p larder-tests --test faults -- --nocapture --test-threads 1"
    "powercut|150|cargo test --locked --release -p larder-tests --test powercut -- --nocapture --test-threads 1"
    "replication|480|cargo test --locked --release -p larder-tests --test replication -- --nocapture --test-threads 1"
    "hostile|340|cargo test --locked --release -p larder-tests --test hostile -- --nocapture --test-threads 1"
)

# The faults that the simulator plants must not be in what is shipped. With the feature on, the same
# question has to name it: else it would find nothing ever.
features_of() { cargo tree --locked --edges no-dev --format '{p} {f}' -p larder-server "$@"; }
check_for_planted_bugs() {
    local shipped planted
    shipped="$(features_of)"
    planted="$(features_of -p larder-replication --features larder-replication/planted-bugs)"
    [[ "$shipped" != *planted-bugs* ]] || die "kvd is built with the planted bugs of the simulation"
    [[ "$planted" == *planted-bugs* ]] || die "whether kvd has planted bugs cannot be told any more"
}

# What the suite no-rocksdb runs must be built without RocksDB, which is compiled for the others and so
# would not be missed. With its features on, the same question has to name it.
dependencies_of() { cargo tree --locked --edges normal,build,dev -p larder-config -p larder-storage "$@"; }
check_for_rocksdb() {
    local without with
    without="$(dependencies_of --no-default-features)"
    with="$(dependencies_of)"
    [[ "$without" != *rocksdb* ]] || die "what is to be built without RocksDB depends on it"
    [[ "$with" == *rocksdb* ]] || die "whether something depends on RocksDB cannot be told any more"
}

if [ "${1:-}" = --list ]; then
    printf '%s\n' "${suites[@]}" | awk -F '|' '{printf "%-14s %5s  %s\n", $1, $2, $3}'
    exit 0
fi
wanted=("$@")
for name in "${wanted[@]}"; do
    printf '%s\n' "${suites[@]}" | grep -q "^$name|" || die "there is no suite $name; see scripts/test.sh --list"
done

install_build_tools
# Where they cannot be installed, suites skip what needs them; the gate takes no suite that does.
(install_packages "the peer of the differential suite, loop mounts and fault injection of the others" \
    redis-server redis-tools e2fsprogs util-linux strace xfsprogs iproute2) ||
    { [ "${CI:-}" != true ] || exit 1; say "going on without: what needs them is skipped"; }

say "building everything that is tested"
SECONDS=0
build larder-server larder-cli
cargo test --locked --release --workspace --no-run
built=$SECONDS
check_for_planted_bugs
check_for_rocksdb

export LARDER_KVD="$CARGO_TARGET_DIR/release/kvd"
export LARDER_KV="$CARGO_TARGET_DIR/release/kv"
report=()
passed=0
skipped=0
failed=0
output="$(mktemp)"
trap 'rm -f "$output"' EXIT
for suite in "${suites[@]}"; do
    IFS='|' read -r name budget command <<<"$suite"
    if [ "${#wanted[@]}" -gt 0 ] && [[ " ${wanted[*]} " != *" $name "* ]]; then continue; fi
    printf '\n== %s (at most %s s)\n' "$name" "$budget"
    SECONDS=0
    ended=0
    exec {tee}> >(tee "$output")
    # shellcheck disable=SC2086
    timeout --kill-after=20 "$budget" $command >&$tee 2>&1 || ended=$?
    exec {tee}>&-
    # What a test left behind may hold its end for ever.
    timeout 5 tail --pid=$! -f /dev/null || true
    if [ "$ended" -ne 0 ]; then
        result=FAILED
        failed=$((failed + 1))
    elif grep -q 'SKIPPED ' "$output"; then
        result=SKIPPED
        skipped=$((skipped + 1))
    else
        result=passed
        passed=$((passed + 1))
    fi
    report+=("$(printf '%-14s %-7s %5d s of %s s' "$name" "$result" "$SECONDS" "$budget")")
done

printf '\nbuild                  %5d s\n' "$built"
printf '%s\n' "${report[@]}"
printf '%d passed, %d skipped (at least in part), %d failed\n' "$passed" "$skipped" "$failed"
[ "$failed" -eq 0 ]
