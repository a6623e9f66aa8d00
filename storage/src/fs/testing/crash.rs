//! Every disk that a power cut could leave behind, as far as it can be enumerated.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use super::{Image, Node, Op, write_into};
use crate::fs::parent_of;

/// What a disk writes in one piece.
const SECTOR_BYTES: usize = 512;
/// Seeded subsets of the sectors and bytes of one torn write.
const SUBSETS: u64 = 4;

/// What became of the operations that were not durable at the cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The first so many of them reached the disk.
    Prefix(usize),
    /// All but this one did.
    Dropped(usize),
    /// All before this write did, and this one in part.
    TornLast(usize, Tear),
    /// All but this write did, and this one in part.
    TornAmong(usize, Tear),
}

/// What is left of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tear {
    /// Its first bytes; the file ends there.
    Cut(usize),
    /// Its first bytes; the file has its full length.
    CutInLength(usize),
    /// All but this sector.
    WithoutSector(usize),
    /// A pseudo-random subset of its sectors.
    SectorSubset(u64),
}

/// A recorded history, to be cut anywhere.
#[derive(Debug)]
pub struct Crashes {
    base: Disk,
    ops: Vec<Op>,
}

/// Files by number and names for them: what an [`Image`] is before names are resolved.
#[derive(Clone, Debug, Default)]
struct Disk {
    nodes: BTreeMap<Node, Arc<Vec<u8>>>,
    names: BTreeMap<PathBuf, Node>,
    image: Image,
}

impl Crashes {
    pub(super) fn new(base: Image, base_nodes: &[PathBuf], ops: Vec<Op>) -> Self {
        let names: BTreeMap<_, _> = base_nodes.iter().cloned().zip(0..).collect();
        let nodes = names.iter().map(|(path, &node)| (node, Arc::clone(&base.files[path])));
        let nodes = nodes.collect();
        Self { base: Disk { nodes, names, image: Image { files: BTreeMap::new(), ..base } }, ops }
    }

    /// The number of recorded operations: the disk can be cut before each and after the last.
    pub fn points(&self) -> usize {
        self.ops.len()
    }

    /// Gives every disk that a cut after the first `point` operations could leave, as far as
    /// [`Variant`] enumerates them. Some are equal to each other.
    pub fn each(&self, point: usize, each: &mut dyn FnMut(Variant, Image)) {
        let (durable, pending) = self.divide(point);
        let mut before = self.base.clone();
        durable.iter().for_each(|op| before.apply(op));
        for (count, op) in pending.iter().enumerate() {
            each(Variant::Prefix(count), before.image());
            if let Op::Write { node, offset, bytes } = op {
                let length = before.nodes.get(node).map_or(0, |file| file.len());
                for tear in tears(*offset, bytes.len(), (point * 31 + count) as u64) {
                    let mut torn = before.clone();
                    torn.apply_torn(*node, *offset, bytes, tear, length);
                    each(Variant::TornLast(count, tear), torn.image());
                    pending[count + 1..].iter().for_each(|op| torn.apply(op));
                    each(Variant::TornAmong(count, tear), torn.image());
                }
            }
            let mut without = before.clone();
            pending[count + 1..].iter().for_each(|op| without.apply(op));
            each(Variant::Dropped(count), without.image());
            before.apply(op);
        }
        each(Variant::Prefix(pending.len()), before.image());
    }

    /// Divides the first `point` operations into those that are durable and those that may be.
    fn divide(&self, point: usize) -> (Vec<&Op>, Vec<&Op>) {
        let (mut durable, mut pending) = (Vec::new(), Vec::<&Op>::new());
        for op in &self.ops[..point] {
            match op {
                Op::SyncData { node } => {
                    let (synced, rest) = pending.into_iter().partition(|op| op.writes_to(*node));
                    let synced: Vec<_> = synced;
                    durable.extend(synced);
                    pending = rest;
                }
                Op::SyncDataFailed { node } => pending.retain(|op| !op.writes_to(*node)),
                Op::SyncDir { dir } => {
                    let (synced, rest) = pending.into_iter().partition(|op| op.names_in(dir));
                    let synced: Vec<_> = synced;
                    durable.extend(synced);
                    pending = rest;
                }
                _ => pending.push(op),
            }
        }
        (durable, pending)
    }
}

impl Op {
    fn writes_to(&self, file: Node) -> bool {
        matches!(self, Self::Write { node, .. } | Self::Truncate { node, .. } if *node == file)
    }

    /// A rename between directories is one transaction: syncing either makes it durable.
    fn names_in(&self, dir: &std::path::Path) -> bool {
        match self {
            Self::CreateDir { dir: path } | Self::Create { path, .. } | Self::Remove { path } => {
                parent_of(path) == dir
            }
            Self::Rename { from, to } => parent_of(from) == dir || parent_of(to) == dir,
            _ => false,
        }
    }
}

impl Disk {
    fn apply(&mut self, op: &Op) {
        match op {
            Op::CreateDir { dir } => {
                self.image.dirs.insert(dir.clone());
            }
            Op::Create { path, node } => {
                self.nodes.entry(*node).or_default();
                self.names.insert(path.clone(), *node);
            }
            Op::Write { node, offset, bytes } => write_into(self.file(*node), *offset, bytes),
            Op::Truncate { node, len } => self.file(*node).resize(*len, 0),
            Op::Rename { from, to } => {
                if let Some(node) = self.names.remove(from) {
                    self.names.insert(to.clone(), node);
                }
            }
            Op::Remove { path } => {
                self.names.remove(path);
            }
            Op::SyncData { .. } | Op::SyncDataFailed { .. } | Op::SyncDir { .. } => {}
        }
    }

    /// Applies a part of a write. What does not reach the disk is what was there, or zeros
    /// behind the old end, `length`.
    fn apply_torn(&mut self, node: Node, offset: usize, bytes: &[u8], tear: Tear, length: usize) {
        let file = self.file(node);
        let mut left = file.get(offset..).unwrap_or(&[]).to_vec();
        left.resize(bytes.len().max(left.len()), 0);
        for (at, (into, byte)) in left.iter_mut().zip(bytes).enumerate() {
            let sector = (offset + at) / SECTOR_BYTES - offset / SECTOR_BYTES;
            let reached = match tear {
                Tear::Cut(count) | Tear::CutInLength(count) => at < count,
                Tear::WithoutSector(lost) => sector != lost,
                Tear::SectorSubset(seed) => scramble(seed ^ (sector as u64)) & 1 == 0,
            };
            if reached {
                *into = *byte;
            }
        }
        if let Tear::Cut(count) = tear {
            left.truncate(count.max(length.saturating_sub(offset)));
        }
        write_into(file, offset, &left);
    }

    fn file(&mut self, node: Node) -> &mut Vec<u8> {
        Arc::make_mut(self.nodes.entry(node).or_default())
    }

    /// A file whose directory did not reach the disk did not either.
    fn image(&self) -> Image {
        let dirs = &self.image.dirs;
        let reachable = self.names.iter().filter(|(path, _)| dirs.contains(parent_of(path)));
        let files = reachable.map(|(path, node)| (path.clone(), Arc::clone(&self.nodes[node])));
        Image { files: files.collect(), dirs: dirs.clone() }
    }
}

fn tears(offset: usize, length: usize, seed: u64) -> Vec<Tear> {
    let mut tears = vec![Tear::CutInLength(0)];
    let first_sector = SECTOR_BYTES - offset % SECTOR_BYTES;
    let sectors = (first_sector..length).step_by(SECTOR_BYTES);
    for (sector, cut) in sectors.enumerate() {
        tears.extend([Tear::Cut(cut), Tear::CutInLength(cut), Tear::WithoutSector(sector)]);
    }
    for subset in 0..SUBSETS {
        let random = scramble(seed.wrapping_mul(SUBSETS).wrapping_add(subset));
        let cut = (random as usize) % length.max(1);
        tears.extend([Tear::Cut(cut), Tear::CutInLength(cut)]);
        if length > first_sector {
            tears.push(Tear::SectorSubset(random));
        }
    }
    tears
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): bits from a seed, the same every run.
const fn scramble(seed: u64) -> u64 {
    let mut bits = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
