#!/usr/bin/env bash
# The long modes of the suites: for nights, not for the gate. Seeds are printed; a failure names its replay.
#
# usage: scripts/test-long.sh [MINUTES]     (default 60: shared among fuzzing, crash images, power cuts, comparison, simulation, replication)
source "$(dirname "$0")/common.sh"

minutes="${1:-60}"
[[ "$minutes" =~ ^[0-9]+$ ]] || { sed -n '2,4s/^# \{0,1\}//p' "$0"; exit 64; }
install_build_tools
install_packages "the peer of the comparison, and loop mounts" redis-server redis-tools e2fsprogs util-linux xfsprogs
build larder-server larder-cli
export LARDER_KVD="$CARGO_TARGET_DIR/release/kvd"

say "== fuzzing"
# Other seeds every night, and far from the gate's.
first=$(($(date +%s) / 60 * 100000))
export LARDER_FUZZ_SEED=$first LARDER_FUZZ_SECONDS=$((minutes * 60 / 8))
cargo test --locked --release -p larder-resp --test fuzz -- --nocapture
cargo test --locked --release -p larder-net --test wire_fuzz -- --nocapture
cargo test --locked --release -p larder-config -p larder-storage --no-default-features --test config_fuzz --test log_fuzz --test keys_fuzz -- --nocapture
say "== crash images"
LARDER_CRASH_SEED=$first LARDER_CRASH_IMAGES=$((minutes * 25000)) cargo test --locked --release -p larder-storage --test log_crash_points -- --nocapture
say "== power cuts"
LARDER_CUTS=$((minutes * 10)) cargo test --locked --release -p larder-tests --test powercut -- --nocapture --test-threads 1
say "== comparison with redis-server"
LARDER_STEPS=$((minutes * 2000)) cargo test --locked --release -p larder-tests --test differential -- --nocapture
say "== simulation of replication"
LARDER_SIM_FIRST=$first LARDER_SIM_SEEDS=$((minutes * 1000)) cargo test --locked --release -p larder-replication --no-default-features \
    --features planted-bugs --test simulation whatever_breaks -- --nocapture
say "== replication, again and again"
end=$((SECONDS + minutes * 60 / 6))
while :; do
    cargo test --locked --release -p larder-tests --test replication -- --nocapture --test-threads 1
    [ "$SECONDS" -lt "$end" ] || break
done
