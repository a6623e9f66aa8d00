//! The links between the regions: how long they are, and which are cut.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::layout::{Region, one_way_ms};
use crate::args::Wan;

/// All links.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Links {
    wan: Wan,
    /// The smaller region first.
    cuts: BTreeSet<(Region, Region)>,
}

impl Links {
    /// Links that are whole.
    pub(crate) fn new(wan: Wan) -> Self {
        Self { wan, cuts: BTreeSet::new() }
    }

    /// Cuts the link between two regions; whether it was whole.
    pub(crate) fn cut(&mut self, a: Region, b: Region) -> bool {
        self.cuts.insert((a.min(b), a.max(b)))
    }

    /// Makes all links whole; which ones were cut.
    pub(crate) fn heal(&mut self) -> BTreeSet<(Region, Region)> {
        std::mem::take(&mut self.cuts)
    }

    /// The links that are cut.
    pub(crate) fn cuts(&self) -> impl Iterator<Item = (Region, Region)> + '_ {
        self.cuts.iter().copied()
    }

    /// Whether the link between two regions is cut.
    pub(crate) fn is_cut(&self, a: Region, b: Region) -> bool {
        self.cuts.contains(&(a.min(b), a.max(b)))
    }

    /// From one region to another, milliseconds.
    pub(crate) fn one_way_ms(&self, a: Region, b: Region) -> f64 {
        one_way_ms(self.wan, a, b)
    }

    /// What the node of one region is told of its link to another, as `PUT /lab/shapes` takes it.
    pub(crate) fn shape(&self, from: Region, to: Region) -> Json {
        let cut = self.is_cut(from, to);
        json!({
            "peer": to.node(),
            "delay_ms": self.one_way_ms(from, to),
            "jitter_ms": 0.0,
            "loss": 0.0,
            "rate_bytes_per_s": null,
            "cut_send": cut,
            "cut_receive": cut,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_told_to_both_sides_and_keeps_the_distance() {
        let (shenzhen, tianjin, shanghai) = (Region::ALL[0], Region::ALL[1], Region::ALL[2]);
        let mut links = Links::new(Wan::Emulated);
        assert!(links.cut(shanghai, tianjin));
        assert!(!links.cut(tianjin, shanghai));
        for (from, to) in [(tianjin, shanghai), (shanghai, tianjin)] {
            let shape = links.shape(from, to);
            assert_eq!(shape["peer"], to.node().as_str());
            assert_eq!(shape["delay_ms"], 12.5);
            assert_eq!((&shape["cut_send"], &shape["cut_receive"]), (&true.into(), &true.into()));
        }
        assert_eq!(links.shape(shenzhen, shanghai)["cut_send"], false);
        assert_eq!(links.heal().into_iter().collect::<Vec<_>>(), [(tianjin, shanghai)]);
        assert_eq!(links.shape(tianjin, shanghai)["cut_receive"], false);
    }
}
