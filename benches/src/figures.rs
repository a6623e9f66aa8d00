//! Percentiles.

use serde::Serialize;

/// Percentiles of what was measured, in its own unit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// How many were measured. With none, the percentiles are not numbers.
    pub count: usize,
    /// Half of them are at most this.
    pub p50: f64,
    /// All but a hundredth are at most this.
    pub p99: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// The percentiles of these values, in any order.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |share| below(&values, share);
        Self { count: values.len(), p50: at(0.5), p99: at(0.99), max: at(1.0) }
    }
}

/// The smallest of the sorted values that this share of them does not exceed.
fn below(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let spread = Spread::of((1..=200).rev().map(f64::from).collect());
        assert_eq!(spread, Spread { count: 200, p50: 100.0, p99: 198.0, max: 200.0 });
        assert_eq!(Spread::of(vec![7.0]), Spread { count: 1, p50: 7.0, p99: 7.0, max: 7.0 });
        assert!(Spread::of(Vec::new()).p50.is_nan());
    }
}
