//! How fast the log may grow while the fold is behind: hardly faster than it folds. Writers are slowed a
//! little then, batch by batch, where they would otherwise stand still until a whole layer is folded.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::StoreOptions;
use crate::inflight::Layer;

/// Longer than this no batch waits: what the fold does not keep up with nevertheless stops the writer at
/// its bound. A thousand clients at pipeline 16 fill batches that the fold takes 30 to 70 ms for.
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// Of the fold's rate, how much is let in where pauses begin, and how much where the writer would stop.
/// Above 1 the log gains on the fold, below it the fold on the log: they meet in between.
const SHARES: (f64, f64) = (1.5, 0.5);

/// What is known of the fold, and how long batches have waited for it.
#[derive(Debug, Default)]
pub(super) struct Pace {
    recent: Mutex<Recent>,
    /// Nanoseconds that batches waited.
    paused: AtomicU64,
}

/// What was folded, and how long that took. What came a full layer earlier has half the weight.
#[derive(Debug, Default)]
struct Recent {
    bytes: f64,
    seconds: f64,
    /// How long the fold was held up between layers.
    held_up: f64,
    /// The last record of the layer that is folded now, and when it was begun.
    began: Option<(u64, Instant)>,
}

impl Pace {
    /// Notes that the bottom layer, which ends with record `last`, is folded from now on.
    pub(super) fn begin(&self, last: u64, now: Instant) {
        self.recent.lock().began = Some((last, now));
    }

    /// Notes that it is folded, and had `bytes` of log, and what there is in so many full layers.
    pub(super) fn folded(&self, bytes: u64, layers: f64, now: Instant) {
        let mut recent = self.recent.lock();
        let keep = 0.5_f64.powf(layers);
        let took = recent.began.take().map_or(Duration::ZERO, |(_, began)| now - began);
        recent.bytes = recent.bytes * keep + bytes as f64;
        recent.seconds = recent.seconds * keep + took.as_secs_f64();
        recent.held_up *= keep;
    }

    /// Notes that the fold was held up for so long.
    pub(super) fn held_up(&self, took: Duration) {
        self.recent.lock().held_up += took.as_secs_f64();
    }

    /// How much of the layer that ends with record `last`, of `bytes` of log, is folded by now, from 0 to 1:
    /// it shows only when all of it is, and is guessed until then.
    fn share_folded(&self, last: Option<u64>, bytes: u64, now: Instant) -> f64 {
        let recent = self.recent.lock();
        let is_known = |(of, _): &(u64, Instant)| Some(*of) == last && recent.seconds > 0.0;
        let Some((_, began)) = recent.began.filter(is_known) else { return 0.0 };
        let takes = bytes as f64 * recent.seconds / recent.bytes;
        ((now - began).as_secs_f64() / takes).min(1.0)
    }

    /// How far what is unfolded has come from a full layer, as it is where the fold keeps up (0), to where
    /// the writer stops before the bottom layer is folded (1).
    pub(super) fn fill(&self, stack: &[Arc<Layer>], options: &StoreOptions, now: Instant) -> f64 {
        let Some(bottom) = stack.last() else { return 0.0 };
        let last = bottom.sealed().map(|last| last.position.seq.as_u64());
        let folded = self.share_folded(last, bottom.log_bytes(), now);
        let unfolded = |of: fn(&Layer) -> u64| {
            unfolded(stack.iter().map(|layer| of(layer)).sum(), of(bottom), folded)
        };
        let (bytes, changes) = (unfolded(Layer::log_bytes), unfolded(Layer::changes));
        let bytes = filled(bytes, options.layer_bytes, options.unapplied_bytes_max);
        bytes.max(filled(changes, options.layer_changes, options.unapplied_changes_max))
    }

    /// Notes that a batch waited for so long.
    pub(super) fn note_pause(&self, pause: Duration) {
        self.paused.fetch_add(pause.as_nanos() as u64, Ordering::Relaxed);
    }

    /// How long batches have waited.
    pub(super) fn paused(&self) -> Duration {
        Duration::from_nanos(self.paused.load(Ordering::Relaxed))
    }

    /// How long the next batch has to wait, where the last one had so many bytes and began so long ago.
    /// `fill` is of [`Pace::fill`].
    pub(super) fn pause(&self, fill: f64, bytes: u64, ago: Duration) -> Duration {
        if fill <= 0.0 {
            return Duration::ZERO;
        }
        let recent = self.recent.lock();
        let seconds = recent.seconds + recent.held_up;
        if seconds == 0.0 {
            return Duration::ZERO;
        }
        let share = SHARES.0 + (SHARES.1 - SHARES.0) * fill.min(1.0);
        let rate = recent.bytes / seconds * share;
        let due = Duration::try_from_secs_f64(bytes as f64 / rate).unwrap_or(PAUSE_MAX);
        due.saturating_sub(ago).min(PAUSE_MAX)
    }
}

/// What is left of so much in all layers, where a share of the bottom one is folded.
fn unfolded(all: u64, bottom: u64, folded: f64) -> f64 {
    all as f64 - bottom as f64 * folded
}

/// How many full layers have as much as this one has.
pub(super) fn layers(layer: &Layer, options: &StoreOptions) -> f64 {
    let bytes = layer.log_bytes() as f64 / options.layer_bytes as f64;
    bytes.max(layer.changes() as f64 / options.layer_changes as f64)
}

/// [`Pace::fill`] in one unit. The bound counts all of the bottom layer until the whole of it is folded.
/// Where it leaves room for two layers alone, nothing is ever slowed.
fn filled(unfolded: f64, layer: u64, max: u64) -> f64 {
    let room = max.saturating_sub(layer.saturating_mul(2));
    if room == 0 { 0.0 } else { (unfolded - layer as f64) / room as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const LAYER: u64 = 64 * MIB;
    const BOUND: u64 = 3 * LAYER;

    /// A fold of 200 MiB a second, at the end of a layer.
    fn pace() -> (Pace, Instant) {
        let (pace, began) = (Pace::default(), Instant::now());
        let now = fold(&pace, 50 * MIB, 250, began);
        (pace, now)
    }

    /// Folds so much from `now` on; answers when it is folded.
    fn fold(pace: &Pace, bytes: u64, millis: u64, now: Instant) -> Instant {
        pace.begin(1, now);
        let end = now + Duration::from_millis(millis);
        pace.folded(bytes, bytes as f64 / LAYER as f64, end);
        end
    }

    #[test]
    fn what_is_unfolded_fills_from_one_layer_up_to_one_below_the_bound() {
        let layers = |layers| filled(layers * LAYER as f64, LAYER, BOUND);
        assert_eq!([0.5, 1.0, 1.5, 2.0, 3.0].map(layers), [-0.5, 0.0, 0.5, 1.0, 2.0]);
        assert_eq!(filled(f64::MAX, LAYER, 2 * LAYER), 0.0);
        assert_eq!(filled(f64::MAX, u64::MAX, BOUND), 0.0);
    }

    #[test]
    fn of_the_layer_that_is_folded_as_much_is_done_as_the_fold_does_in_that_time() {
        let (pace, now) = pace();
        let share =
            |of, millis| pace.share_folded(Some(of), LAYER, now + Duration::from_millis(millis));
        assert_eq!(share(7, 160), 0.0, "none is folded");
        pace.begin(7, now);
        pace.held_up(Duration::from_secs(1));
        assert_eq!([0, 160, 320, 1_000].map(|millis| share(7, millis)), [0.0, 0.5, 1.0, 1.0]);
        assert_eq!(share(8, 1_000), 0.0, "another one");
        let unknown = Pace::default();
        unknown.begin(7, now);
        assert_eq!(unknown.share_folded(Some(7), LAYER, now + Duration::from_secs(1)), 0.0);
    }

    #[test]
    fn a_batch_waits_as_long_as_the_fold_would_take_for_the_last_one() {
        let (pace, _) = pace();
        let ms = |fill, ago| pace.pause(fill, MIB, Duration::from_millis(ago)).as_millis();
        assert_eq!((ms(-0.5, 0), ms(0.0, 0)), (0, 0), "the fold keeps up");
        assert_eq!((ms(0.01, 0), ms(0.75, 0), ms(1.0, 0)), (3, 6, 10));
        assert_eq!((ms(1.0, 9), ms(1.0, 11)), (1, 0));
        assert_eq!(pace.pause(1.0, 100 * MIB, Duration::ZERO), PAUSE_MAX);
        assert_eq!(
            Pace::default().pause(1.0, MIB, Duration::ZERO),
            Duration::ZERO,
            "not known yet"
        );
    }

    #[test]
    fn the_rate_follows_what_large_layers_took_and_hardly_what_small_ones_did() {
        let (pace, mut now) = pace();
        let ms = || pace.pause(1.0, MIB, Duration::ZERO).as_millis();
        for _ in 0..20 {
            now = fold(&pace, 1000, 1, now);
        }
        assert!((9..12).contains(&ms()), "{}", ms());
        for _ in 0..4 {
            now = fold(&pace, LAYER, 640, now);
        }
        assert!((18..20).contains(&ms()), "{}", ms());
        pace.held_up(Duration::from_secs(10));
        assert_eq!(pace.pause(1.0, MIB, Duration::ZERO), PAUSE_MAX);
    }

    /// Microseconds that clients' batches wait in the end, of so many bytes, which would be written in this time.
    fn settled(batch: u64, time: Duration) -> (u128, u128) {
        const FOLD_TIME: Duration = Duration::from_millis(LAYER * 1_000 / (200 * MIB));
        let (pace, mut now) = pace();
        let (mut all, mut fold_ends) = (0, None);
        let mut pauses = Vec::new();
        for _ in 0..10_000 {
            let left = unfolded(all, LAYER, pace.share_folded(Some(1), LAYER, now));
            let pause = pace.pause(filled(left, LAYER, BOUND), batch, time);
            pauses.push(pause.as_micros());
            now += time + pause;
            all += batch;
            if let Some(end) = fold_ends.take_if(|end| *end <= now) {
                pace.folded(LAYER, 1.0, end);
                all -= LAYER;
            }
            if fold_ends.is_none() && all >= LAYER {
                pace.begin(1, now);
                fold_ends = Some(now + FOLD_TIME);
            }
            assert!(all < BOUND, "the writer would stand still until a layer is folded");
        }
        let settled = &pauses[5_000..];
        (*settled.iter().min().unwrap(), *settled.iter().max().unwrap())
    }

    #[test]
    fn few_and_many_writers_that_outrun_the_fold_are_slowed_alike_and_never_stand_still() {
        // As many bytes as the fold takes 4 ms for, in 3.
        let few = settled(800 << 10, Duration::from_millis(3));
        assert!(few.0 > 800 && few.1 < 1_100, "{few:?}");
        // And 40 ms for, in 10.
        let many = settled(8 * MIB, Duration::from_millis(10));
        assert!(many.0 > 25_000 && many.1 < 40_000, "{many:?}");
    }
}
