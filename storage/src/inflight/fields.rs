//! The changed fields of one key in a layer.

use std::{
    collections::BTreeSet,
    ops::Bound::{Excluded, Unbounded},
    sync::{Arc, OnceLock},
};

use hashbrown::HashMap;

use super::{RowBytes, lowest::Lowest, versions::Versions};
use crate::row::Generation;

/// A field's latest change and the hash it was made in.
pub(crate) type FieldChange = (Generation, RowBytes);

/// The changed fields of one key.
#[derive(Default)]
pub(super) struct Fields {
    /// The one that was changed first. Of many hashes a layer changes one field: a table for it would
    /// take several times the memory.
    first: Option<(Arc<[u8]>, Versions<FieldChange>)>,
    others: HashMap<Arc<[u8]>, Versions<FieldChange>>,
    /// Their names in order, from the first page that was asked for on: most hashes are never read
    /// by pages, and keeping order costs each write of a field.
    order: OnceLock<BTreeSet<Arc<[u8]>>>,
}

impl Fields {
    pub(super) fn put(&mut self, field: &[u8], seq: u64, floor: u64, change: FieldChange) {
        if let Some(versions) = self.get_mut(field) {
            return versions.push(seq, floor, change);
        }
        let name: Arc<[u8]> = Arc::from(field);
        if let Some(order) = self.order.get_mut() {
            order.insert(name.clone());
        }
        let versions = Versions::new(seq, change);
        if self.first.is_none() {
            self.first = Some((name, versions));
        } else {
            self.others.insert(name, versions);
        }
    }

    fn get_mut(&mut self, field: &[u8]) -> Option<&mut Versions<FieldChange>> {
        match &mut self.first {
            Some((name, versions)) if **name == *field => Some(versions),
            _ => self.others.get_mut(field),
        }
    }

    fn get(&self, field: &[u8]) -> Option<&Versions<FieldChange>> {
        match &self.first {
            Some((name, versions)) if **name == *field => Some(versions),
            _ => self.others.get(field),
        }
    }

    fn iter(&self) -> impl Iterator<Item = (&Arc<[u8]>, &Versions<FieldChange>)> {
        self.first.iter().map(|(name, versions)| (name, versions)).chain(&self.others)
    }

    fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.others.len()
    }

    fn in_order(&self) -> &BTreeSet<Arc<[u8]>> {
        self.order.get_or_init(|| self.iter().map(|(name, _)| name.clone()).collect())
    }
}

/// A key's changed fields in one layer, as of a record.
#[derive(Clone, Copy)]
pub(crate) struct FieldsAt<'a> {
    fields: Option<&'a Fields>,
    seq: u64,
}

impl<'a> FieldsAt<'a> {
    pub(super) const fn new(fields: Option<&'a Fields>, seq: u64) -> Self {
        Self { fields, seq }
    }

    /// What this layer knows of `field` in the hash `generation`: `None` if nothing.
    pub(crate) fn change(&self, generation: &Generation, field: &[u8]) -> Option<&'a RowBytes> {
        self.at(generation, self.fields?.get(field)?)
    }

    /// Every changed field of the hash `generation`, in no order.
    pub(crate) fn changes(
        self,
        generation: Generation,
    ) -> impl Iterator<Item = (&'a Arc<[u8]>, &'a RowBytes)> {
        self.fields
            .into_iter()
            .flat_map(Fields::iter)
            .filter_map(move |(field, versions)| Some((field, self.at(&generation, versions)?)))
    }

    /// Offers a page the changed fields of the hash `generation` beyond `after`, and answers how many
    /// it looked at: all of them where the page takes that many, else those of the page and little
    /// more.
    pub(crate) fn offer(
        self,
        generation: Generation,
        after: Option<&[u8]>,
        page: &mut Lowest<Arc<[u8]>>,
    ) -> usize {
        let Some(fields) = self.fields else { return 0 };
        if page.limit() >= fields.len() {
            for (field, change) in self.changes(generation) {
                if after.is_none_or(|after| **field > *after) {
                    page.offer(field.clone(), change);
                }
            }
            return fields.len();
        }
        let mut looked = 0;
        let beyond = after.map_or(Unbounded, Excluded);
        for field in fields.in_order().range::<[u8], _>((beyond, Unbounded)) {
            looked += 1;
            if page.passes_over(|last| last < field) {
                break;
            }
            let Some(change) = self.change(&generation, field) else { continue };
            page.offer(field.clone(), change);
        }
        looked
    }

    fn at(
        &self,
        generation: &Generation,
        versions: &'a Versions<FieldChange>,
    ) -> Option<&'a RowBytes> {
        let (made_in, row) = versions.at(self.seq)?;
        (made_in == generation).then_some(row)
    }
}

#[cfg(test)]
mod tests {
    use larder_types::{Epoch, Position, SequenceNumber};

    use super::{
        super::{KeyRef, Layer, Sight},
        *,
    };

    const HASH: &[u8] = b"hash";
    const FIELDS: u64 = 10_000;
    const PAGE: usize = 10;

    fn generation(ordinal: u32) -> Generation {
        let epoch = Epoch { term: 1, run: 1, id: 1 };
        Generation { position: Position { epoch, seq: SequenceNumber::FIRST }, ordinal }
    }

    fn put(layer: &Layer, seq: u64, generation: Generation, field: u64, value: Option<&[u8]>) {
        let change = (generation, value.map(Arc::from));
        assert!(layer.put_field(KeyRef::new(HASH), seq, 0, name(field).as_bytes(), change));
    }

    /// In another order than the numbers'.
    fn name(field: u64) -> String {
        format!("{:05}", field * 7_919 % FIELDS)
    }

    /// The names of the page beyond `after`, and how many changes were looked at for it.
    fn page(layer: &Layer, generation: Generation, after: Option<&str>) -> (Vec<String>, usize) {
        let (mut page, mut looked) = (Lowest::new(PAGE), 0);
        layer.look(KeyRef::new(HASH), Sight::Newest, |fields, _| {
            looked = fields.offer(generation, after.map(str::as_bytes), &mut page);
        });
        let names = page.take().0.into_iter().filter(|(_, change)| change.is_some());
        (names.map(|(name, _)| String::from_utf8_lossy(&name).into_owned()).collect(), looked)
    }

    #[test]
    fn a_page_of_a_large_hash_looks_at_what_it_answers() {
        let layer = Layer::new(None);
        layer.put_row(KeyRef::new(HASH), 1, 0, Some(Arc::from(&b"row"[..])));
        for field in 0..FIELDS {
            put(&layer, 1, generation(1), field, Some(b"v"));
        }
        let (mut found, mut last) = (Vec::new(), None);
        loop {
            let (names, looked) = page(&layer, generation(1), last.as_deref());
            assert!(looked <= PAGE + 1, "{looked} changes were looked at after {last:?}");
            let Some(name) = names.last() else { break };
            last = Some(name.clone());
            found.extend(names);
        }
        assert_eq!(found.len() as u64, FIELDS);
        assert!(found.is_sorted(), "they come in order, each once");
    }

    #[test]
    fn what_is_written_between_two_pages_is_in_the_next_one() {
        let layer = Layer::new(None);
        layer.put_row(KeyRef::new(HASH), 1, 0, Some(Arc::from(&b"row"[..])));
        for field in (0..FIELDS).filter(|field| name(*field) != "00012") {
            put(&layer, 1, generation(1), field, Some(b"v"));
        }
        let (names, _) = page(&layer, generation(1), None);
        assert_eq!(names.last().map(String::as_str), Some("00009"));
        let named = |wanted: &str| (0..FIELDS).find(|field| name(*field) == wanted).unwrap();
        put(&layer, 2, generation(1), named("00012"), Some(b"new"));
        put(&layer, 2, generation(1), named("00011"), None);
        put(&layer, 2, generation(2), named("00013"), Some(b"of another hash"));
        let (names, looked) = page(&layer, generation(1), Some("00009"));
        assert_eq!(names[..3], ["00010", "00012", "00014"]);
        assert!(looked <= PAGE + 3, "{looked} changes were looked at");
    }
}
