//! The table of writes in flight: what the log holds and RocksDB does not hold yet.
//!
//! A stack of layers, newest on top. Writes go to the top; when it has grown to its bound it is
//! sealed, and a new one begins; the fold takes sealed layers from the bottom. A key is looked up
//! from the top down, then in RocksDB. A reader keeps the stack it began with: a layer that is
//! folded meanwhile stays in its sight, and says the same as RocksDB does for it.

mod fields;
mod layer;
mod lowest;
mod versions;

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

pub(crate) use fields::{FieldChange, FieldsAt};
pub(crate) use layer::{BLOCKS, FoldRow, Found, KeyRef, Layer, RowBytes, Sight, UNITS_PER_BLOCK};
pub(crate) use lowest::Lowest;

/// The layers, newest first.
pub(crate) type Stack = Vec<Arc<Layer>>;

/// The stack of layers.
pub(crate) struct InFlight {
    stack: ArcSwap<Stack>,
}

impl InFlight {
    pub(crate) fn new() -> Self {
        Self::over(Arc::new(Layer::new(None)))
    }

    /// A stack of this layer alone.
    pub(crate) fn over(layer: Arc<Layer>) -> Self {
        Self { stack: ArcSwap::from_pointee(vec![layer]) }
    }

    pub(crate) fn stack(&self) -> Guard<Arc<Stack>> {
        self.stack.load()
    }

    /// The layer that the writer writes to.
    pub(crate) fn top(&self) -> Arc<Layer> {
        self.stack.load()[0].clone()
    }

    /// Whether there is a layer that the fold may take once it is durable and visible.
    pub(crate) fn bottom_is_sealed(&self) -> bool {
        self.stack.load().last().is_some_and(|layer| layer.sealed().is_some())
    }

    /// Puts `layer` on top. Called by the writer alone, after it sealed the layer below.
    pub(crate) fn push(&self, layer: Arc<Layer>) {
        self.stack.rcu(|stack| {
            std::iter::once(layer.clone()).chain(stack.iter().cloned()).collect::<Stack>()
        });
    }

    /// Takes the bottom layer off. Called by the fold alone, after RocksDB holds all of it.
    pub(crate) fn pop_bottom(&self) {
        self.stack.rcu(|stack| stack[..stack.len() - 1].to_vec());
    }

    /// Bytes of log that are not folded yet.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.stack.load().iter().map(|layer| layer.log_bytes()).sum()
    }

    /// Changes of rows and fields that are not folded yet; see [`Layer::changes`].
    pub(crate) fn changes(&self) -> u64 {
        self.stack.load().iter().map(|layer| layer.changes()).sum()
    }

    /// Records that are not folded yet.
    pub(crate) fn records(&self) -> u64 {
        self.stack.load().iter().map(|layer| layer.records()).sum()
    }
}
