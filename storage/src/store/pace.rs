//! How fast the log may grow while the fold is behind: hardly faster than it folds. Writers are slowed a
//! little then, batch by batch, where they would otherwise stand still until a whole layer is folded.

use std::time::Duration;

use parking_lot::Mutex;

use super::StoreOptions;
use crate::inflight::InFlight;

/// Longer than this no batch waits: what the fold does not keep up with nevertheless stops the writer at
/// its bound.
const PAUSE_MAX: Duration = Duration::from_millis(20);
/// Of the fold's rate, how much is let in where pauses begin, and how much where the writer would stop.
/// Above 1 the log gains on the fold, below it the fold on the log: they meet in between.
const SHARES: (f64, f64) = (1.5, 0.5);

/// What is known of the fold's rate.
#[derive(Debug, Default)]
pub(super) struct Pace {
    recent: Mutex<Recent>,
}

/// What was folded, and how long that took. What came a full layer earlier has half the weight.
#[derive(Debug, Default)]
struct Recent {
    bytes: f64,
    seconds: f64,
}

impl Pace {
    /// Notes that `bytes` of log were folded within `took`, where a full layer has `layer_bytes`.
    pub(super) fn folded(&self, bytes: u64, took: Duration, layer_bytes: u64) {
        let mut recent = self.recent.lock();
        let keep = 0.5_f64.powf(bytes as f64 / layer_bytes as f64);
        recent.bytes = recent.bytes * keep + bytes as f64;
        recent.seconds = recent.seconds * keep + took.as_secs_f64();
    }

    /// Notes that the fold was held up for so long.
    pub(super) fn held_up(&self, took: Duration) {
        self.recent.lock().seconds += took.as_secs_f64();
    }

    /// How long the next batch has to wait, where the last one had so many bytes and began so long ago.
    /// `fill` is of [`fill`].
    pub(super) fn pause(&self, fill: f64, bytes: u64, ago: Duration) -> Duration {
        if fill <= 0.0 {
            return Duration::ZERO;
        }
        let recent = self.recent.lock();
        if recent.seconds == 0.0 {
            return Duration::ZERO;
        }
        let share = SHARES.0 + (SHARES.1 - SHARES.0) * fill.min(1.0);
        let rate = recent.bytes / recent.seconds * share;
        let due = Duration::try_from_secs_f64(bytes as f64 / rate).unwrap_or(PAUSE_MAX);
        due.saturating_sub(ago).min(PAUSE_MAX)
    }
}

/// How far what is unfolded has come from the two layers that there are without a fold that is behind, one
/// that grows and one that is folded (0), to the bound at which the writer stops (1).
pub(super) fn fill(inflight: &InFlight, options: &StoreOptions) -> f64 {
    let bytes = filled(inflight.log_bytes(), options.layer_bytes, options.unapplied_bytes_max);
    let changes = filled(inflight.changes(), options.layer_changes, options.unapplied_changes_max);
    bytes.max(changes)
}

/// [`fill`] in one unit. Where the bound leaves room for two layers alone, nothing is ever slowed.
fn filled(unfolded: u64, layer: u64, max: u64) -> f64 {
    let free = layer.saturating_mul(2);
    if free >= max { 0.0 } else { (unfolded as f64 - free as f64) / (max - free) as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const LAYER: u64 = 64 * MIB;
    const BOUND: u64 = 3 * LAYER;

    /// A fold of 200 MiB a second.
    fn pace() -> Pace {
        let pace = Pace::default();
        pace.folded(50 * MIB, Duration::from_millis(250), LAYER);
        pace
    }

    #[test]
    fn what_is_unfolded_fills_from_two_layers_up_to_the_bound() {
        let fills = [1, 4, 5, 6, 8].map(|halves| filled(halves * LAYER / 2, LAYER, BOUND));
        assert_eq!(fills, [-1.5, 0.0, 0.5, 1.0, 2.0]);
        assert_eq!(filled(u64::MAX, LAYER, 2 * LAYER), 0.0);
        assert_eq!(filled(u64::MAX, u64::MAX, BOUND), 0.0);
    }

    #[test]
    fn a_batch_waits_as_long_as_the_fold_would_take_for_the_last_one() {
        let ms = |fill, ago| pace().pause(fill, MIB, Duration::from_millis(ago)).as_millis();
        assert_eq!((ms(-0.5, 0), ms(0.0, 0)), (0, 0), "the fold keeps up");
        assert_eq!((ms(0.01, 0), ms(0.75, 0), ms(1.0, 0)), (3, 6, 10));
        assert_eq!((ms(1.0, 9), ms(1.0, 11)), (1, 0));
        assert_eq!(pace().pause(1.0, 100 * MIB, Duration::ZERO), PAUSE_MAX);
        assert_eq!(
            Pace::default().pause(1.0, MIB, Duration::ZERO),
            Duration::ZERO,
            "not known yet"
        );
    }

    #[test]
    fn the_rate_follows_what_large_layers_took_and_hardly_what_small_ones_did() {
        let pace = pace();
        let ms = || pace.pause(1.0, MIB, Duration::ZERO).as_millis();
        for _ in 0..20 {
            pace.folded(1000, Duration::from_micros(100), LAYER);
        }
        assert!((9..11).contains(&ms()), "{}", ms());
        for _ in 0..4 {
            pace.folded(LAYER, Duration::from_millis(640), LAYER);
        }
        assert!((18..20).contains(&ms()), "{}", ms());
        pace.held_up(Duration::from_secs(1));
        assert_eq!(pace.pause(1.0, MIB, Duration::ZERO), PAUSE_MAX);
    }

    /// Clients that wait for each batch and would write it in 3 ms, as many bytes as the fold takes 4 for.
    #[test]
    fn writers_that_outrun_the_fold_are_slowed_and_never_stand_still() {
        const BATCH: u64 = 800 << 10;
        const BATCH_US: u64 = 3_000;
        const FOLD_US: u64 = LAYER * 1_000_000 / (200 * MIB);
        let pace = pace();
        let (mut now, mut unfolded, mut fold_ends) = (0, 0, None);
        let mut longest = Duration::ZERO;
        for _ in 0..10_000 {
            let fill = filled(unfolded, LAYER, BOUND);
            let pause = pace.pause(fill, BATCH, Duration::from_micros(BATCH_US));
            longest = longest.max(pause);
            now += BATCH_US + pause.as_micros() as u64;
            unfolded += BATCH;
            if fold_ends.is_some_and(|end| end <= now) {
                (unfolded, fold_ends) = (unfolded - LAYER, None);
            }
            if fold_ends.is_none() && unfolded >= LAYER {
                fold_ends = Some(now + FOLD_US);
            }
            assert!(unfolded < BOUND, "the writer would stand still until a layer is folded");
        }
        assert!(longest > Duration::ZERO && longest < Duration::from_millis(6), "{longest:?}");
    }
}
