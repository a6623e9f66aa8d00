//! Replies on their way to a client: bytes of their own, and between them values that others hold too.

use std::{
    io::IoSlice,
    ops::{Deref, Range},
};

use bytes::{Buf, Bytes, BytesMut};

/// What is to be sent to a client. Small replies lie one behind the other; a large value may be shared
/// with who stores it, so that it is not copied.
///
/// A position counts all bytes that are sent before it, shared or not. Those that are given lie between
/// replies, never within a shared value.
#[derive(Debug, Default)]
pub struct Replies {
    pub(super) own: BytesMut,
    /// In their order; none is empty.
    shared: Vec<Shared>,
    /// What they have together.
    shared_bytes: usize,
}

#[derive(Debug)]
struct Shared {
    /// Where it begins.
    position: usize,
    /// How many of the own bytes come before it.
    own_before: usize,
    value: Bytes,
}

impl Shared {
    /// Where it ends.
    fn end(&self) -> usize {
        self.position.saturating_add(self.value.len())
    }
}

impl Replies {
    /// How many bytes are to be sent.
    #[inline]
    pub fn len(&self) -> usize {
        self.own.len().saturating_add(self.shared_bytes)
    }

    /// Whether there is nothing to be sent.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory that it has for itself, in use or not.
    pub fn memory_bytes(&self) -> usize {
        let places = self.shared.capacity().saturating_mul(size_of::<Shared>());
        self.own.capacity().saturating_add(places)
    }

    /// Drops all of it, and keeps the memory for more.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Drops what comes behind `position`.
    pub fn truncate(&mut self, position: usize) {
        let (shared, own) = self.before(position);
        self.shared.truncate(shared);
        self.shared_bytes =
            self.shared.last().map_or(0, |last| last.end().saturating_sub(last.own_before));
        self.own.truncate(own);
    }

    /// Appends what another has at these positions: its own bytes are copied, those shared are shared
    /// once more.
    pub fn append_range(&mut self, other: &Self, range: Range<usize>) {
        let (first, mut own) = other.before(range.start);
        let (beyond, own_end) = other.before(range.end);
        for Shared { own_before, value, .. } in &other.shared[first..beyond] {
            self.own.extend_from_slice(&other.own[own..*own_before]);
            self.share(value.clone());
            own = *own_before;
        }
        self.own.extend_from_slice(&other.own[own..own_end]);
    }

    /// The bytes in their order, in pieces of which none is empty.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> + Clone {
        (0..=self.shared.len())
            .flat_map(|index| [self.own_between(index), self.shared_at(index)])
            .filter(|piece| !piece.is_empty())
    }

    /// The bytes as one piece, where nothing is shared.
    pub fn as_one_piece(&self) -> Option<&[u8]> {
        self.shared.is_empty().then_some(&*self.own)
    }

    /// The bytes as a buffer to send from; it knows how far that has got.
    pub fn unsent(&self) -> impl Buf {
        let mut rest = self.pieces();
        Unsent { piece: rest.next().unwrap_or_default(), rest, bytes: self.len() }
    }

    /// A copy of all bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        self.pieces().collect::<Vec<_>>().concat()
    }

    /// Appends a value that others hold, too.
    pub(super) fn share(&mut self, value: Bytes) {
        if value.is_empty() {
            return;
        }
        let (position, own_before) = (self.len(), self.own.len());
        self.shared_bytes = self.shared_bytes.saturating_add(value.len());
        self.shared.push(Shared { position, own_before, value });
    }

    /// How many shared values, and how many of the own bytes, come before `position`.
    fn before(&self, position: usize) -> (usize, usize) {
        let position = position.min(self.len());
        let shared = self.shared.partition_point(|shared| shared.position < position);
        let Some(last) = self.shared[..shared].last() else { return (0, position) };
        debug_assert!(position >= last.end(), "{position} is within a shared value");
        (shared, last.own_before.saturating_add(position.saturating_sub(last.end())))
    }

    /// The own bytes between the shared value before this one and this one.
    fn own_between(&self, index: usize) -> &[u8] {
        let own_before = |index: usize| self.shared.get(index).map(|shared| shared.own_before);
        let start = index.checked_sub(1).and_then(own_before).unwrap_or_default();
        &self.own[start..own_before(index).unwrap_or(self.own.len())]
    }

    fn shared_at(&self, index: usize) -> &[u8] {
        self.shared.get(index).map(|shared| shared.value.deref()).unwrap_or_default()
    }
}

/// What of replies is yet to be sent.
struct Unsent<'a, I> {
    piece: &'a [u8],
    rest: I,
    /// Of both.
    bytes: usize,
}

impl<'a, I: Iterator<Item = &'a [u8]> + Clone> Buf for Unsent<'a, I> {
    fn remaining(&self) -> usize {
        self.bytes
    }

    fn chunk(&self) -> &[u8] {
        self.piece
    }

    fn chunks_vectored<'b>(&'b self, slices: &mut [IoSlice<'b>]) -> usize {
        let first = Some(self.piece).filter(|piece| !piece.is_empty());
        let pieces = first.into_iter().chain(self.rest.clone());
        let filled =
            slices.iter_mut().zip(pieces).map(|(slice, piece)| *slice = IoSlice::new(piece));
        filled.count()
    }

    fn advance(&mut self, count: usize) {
        self.bytes = self.bytes.checked_sub(count).expect("no more is sent than there is");
        let mut sent = count;
        while let Some(beyond) = sent.checked_sub(self.piece.len()) {
            let Some(next) = self.rest.next() else {
                self.piece = &[];
                return;
            };
            (self.piece, sent) = (next, beyond);
        }
        self.piece = &self.piece[sent..];
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::Index};

    use super::*;
    use crate::{Protocol, ReplyWriter};

    fn bulk(value: &[u8]) -> Vec<u8> {
        let mut replies = Replies::default();
        ReplyWriter::new(&mut replies, Protocol::Resp2).bulk(value);
        replies.to_vec()
    }

    /// Three replies of which the second is shared, and where each ends.
    fn three_replies(value: &Bytes) -> (Replies, [usize; 3]) {
        let mut replies = Replies::default();
        let mut writer = ReplyWriter::new(&mut replies, Protocol::Resp2);
        let mut end_of = |write: &dyn Fn(&mut ReplyWriter<'_>)| {
            write(&mut writer);
            writer.position()
        };
        let ends = [
            end_of(&|writer| writer.simple("first")),
            end_of(&|writer| writer.bulk_shared(value.clone())),
            end_of(&|writer| writer.integer(3)),
        ];
        (replies, ends)
    }

    #[test]
    fn a_shared_value_is_a_piece_of_its_own_and_not_copied() {
        let value = Bytes::from(vec![b'v'; 100]);
        let (replies, _) = three_replies(&value);
        let pieces: Vec<&[u8]> = replies.pieces().collect();
        assert_eq!(pieces, [&b"+first\r\n$100\r\n"[..], &value, b"\r\n:3\r\n"]);
        assert_eq!(pieces[1].as_ptr(), value.as_ptr());
        assert_eq!(replies.as_one_piece(), None);
        assert_eq!(replies.to_vec(), [&b"+first\r\n"[..], &bulk(&value), b":3\r\n"].concat());
        assert!(replies.memory_bytes() < 1 << 10);
    }

    #[test]
    fn what_is_dropped_behind_a_position_is_shared_no_longer() {
        let value = Bytes::from(vec![b'v'; 100]);
        for (kept, is_shared) in [(3, true), (2, true), (1, false), (0, false)] {
            let (mut replies, ends) = three_replies(&value);
            let end = if kept == 0 { 0 } else { ends[kept - 1] };
            let whole = replies.to_vec();
            replies.truncate(end);
            assert_eq!((replies.len(), replies.is_empty()), (end, kept == 0));
            assert_eq!(replies.to_vec(), whole[..end]);
            assert_eq!(value.is_unique(), !is_shared, "of {kept} replies");
            replies.truncate(end + 1);
            assert_eq!(replies.len(), end, "a position beyond the end drops nothing");
        }
        let (mut replies, _) = three_replies(&value);
        replies.clear();
        assert!(replies.is_empty() && value.is_unique());
        assert_eq!(replies.as_one_piece(), Some(&b""[..]));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Own(Vec<u8>),
        Shared(Vec<u8>),
        Truncate(Index),
        /// Moves all of it, and a part of it once more.
        Append(Index, Index),
        Clear,
    }

    fn step() -> impl Strategy<Value = Step> {
        let value = || prop::collection::vec(any::<u8>(), 0..30);
        prop_oneof![
            4 => value().prop_map(Step::Own),
            4 => value().prop_map(Step::Shared),
            2 => any::<Index>().prop_map(Step::Truncate),
            1 => any::<(Index, Index)>().prop_map(|(one, other)| Step::Append(one, other)),
            1 => Just(Step::Clear),
        ]
    }

    /// Replies beside the same in one vector, and the positions between them.
    struct Twins {
        replies: Replies,
        flat: Vec<u8>,
        positions: Vec<usize>,
    }

    impl Twins {
        fn take(&mut self, step: &Step) {
            let mut writer = ReplyWriter::new(&mut self.replies, Protocol::Resp2);
            match step {
                Step::Own(value) => {
                    writer.bulk(value);
                    self.flat.extend(bulk(value));
                }
                Step::Shared(value) => {
                    writer.bulk_shared(Bytes::copy_from_slice(value));
                    self.flat.extend(bulk(value));
                }
                Step::Truncate(to) => {
                    let kept = to.index(self.positions.len()) + 1;
                    self.positions.truncate(kept);
                    writer.truncate(self.positions[kept - 1]);
                    self.flat.truncate(self.positions[kept - 1]);
                }
                Step::Append(one, other) => {
                    let [one, other] = [one, other].map(|index| index.index(self.positions.len()));
                    let (first, last) = (one.min(other), one.max(other));
                    let range = self.positions[first]..self.positions[last];
                    let moved = std::mem::take(&mut self.replies);
                    self.replies.append_range(&moved, 0..moved.len());
                    self.replies.append_range(&moved, range.clone());
                    self.flat.extend_from_within(range);
                }
                Step::Clear => {
                    self.replies.clear();
                    (self.flat, self.positions) = (Vec::new(), vec![0]);
                }
            }
            self.positions.push(self.flat.len());
        }
    }

    /// Sends so many bytes at a time, out of at most four pieces.
    fn sent(replies: &Replies, steps: &[usize]) -> Vec<u8> {
        let (mut unsent, mut sent) = (replies.unsent(), Vec::new());
        let mut steps = steps.iter().cycle();
        while unsent.has_remaining() {
            let mut slices = [IoSlice::new(&[]); 4];
            let filled = unsent.chunks_vectored(&mut slices);
            let together: Vec<u8> =
                slices[..filled].iter().flat_map(|it| it.iter().copied()).collect();
            assert!(together.starts_with(unsent.chunk()) && !unsent.chunk().is_empty());
            let step = together.len().min(*steps.next().expect("there is one"));
            sent.extend_from_slice(&together[..step]);
            unsent.advance(step);
        }
        sent
    }

    proptest! {
        #[test]
        fn replies_of_which_some_are_shared_are_sent_like_those_of_one_buffer(
            steps in prop::collection::vec(step(), 1..30),
            lengths in prop::collection::vec(1_usize..50, 1..8),
        ) {
            let mut twins =
                Twins { replies: Replies::default(), flat: Vec::new(), positions: vec![0] };
            for step in &steps {
                twins.take(step);
                let Twins { replies, flat, .. } = &twins;
                prop_assert_eq!(replies.len(), flat.len());
                prop_assert_eq!(&replies.to_vec(), flat);
                prop_assert_eq!(&sent(replies, &lengths), flat);
            }
        }
    }
}
