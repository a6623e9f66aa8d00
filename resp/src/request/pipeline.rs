//! Whole requests, taken out of a connection's buffer.

use std::fmt;
use std::ops::Index;

use bytes::Bytes;

/// Where an argument lies in a pipeline's bytes: offset, length.
pub(crate) type Span = (u32, u32);

/// Requests that arrived together, or one that is kept. It owns their bytes, and where in them each
/// argument lies; nothing is copied or allocated for a single request of those that arrived.
#[derive(Clone, Default)]
pub struct Pipeline {
    bytes: Bytes,
    spans: Vec<Span>,
    /// For each request, how many of `spans` belong to it and to those before it.
    ends: Vec<u32>,
}

impl Pipeline {
    pub(crate) fn new(bytes: Bytes, spans: Vec<Span>, ends: Vec<u32>) -> Self {
        Self { bytes, spans, ends }
    }

    /// A request alone, in memory of its own and no more of it than that takes.
    pub fn of(request: Request<'_>) -> Self {
        let mut bytes = Vec::with_capacity(request.iter().map(<[u8]>::len).sum());
        let mut spans = Vec::with_capacity(request.len());
        for argument in request {
            spans.push((bytes.len() as u32, argument.len() as u32));
            bytes.extend_from_slice(argument);
        }
        Self { bytes: bytes.into(), spans, ends: vec![request.len() as u32] }
    }

    pub(crate) fn into_vectors(self) -> (Vec<Span>, Vec<u32>) {
        (self.spans, self.ends)
    }

    /// How many requests there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no request.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The request at `index`. Panics, as indexing does, if there are fewer.
    #[inline]
    pub fn request(&self, index: usize) -> Request<'_> {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        Request {
            bytes: &self.bytes,
            spans: &self.spans[start as usize..self.ends[index] as usize],
        }
    }

    /// The requests in the order of their arrival.
    pub fn iter(&self) -> Requests<'_> {
        Requests { bytes: &self.bytes, spans: &self.spans, ends: self.ends.iter(), start: 0 }
    }

    /// Bytes of the requests as they were sent; of one made by [`Self::of`], those of its arguments.
    pub fn wire_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of memory this pipeline keeps from being freed: its requests as sent and the places
    /// of their arguments. What a budget for work not yet executed counts.
    pub fn memory_bytes(&self) -> usize {
        let spans = self.spans.capacity().saturating_mul(size_of::<Span>());
        let ends = self.ends.capacity().saturating_mul(size_of::<u32>());
        self.bytes.len().saturating_add(spans).saturating_add(ends)
    }
}

impl<'a> IntoIterator for &'a Pipeline {
    type Item = Request<'a>;
    type IntoIter = Requests<'a>;

    fn into_iter(self) -> Requests<'a> {
        self.iter()
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

/// The requests of a [`Pipeline`].
#[derive(Clone)]
pub struct Requests<'a> {
    bytes: &'a [u8],
    spans: &'a [Span],
    ends: std::slice::Iter<'a, u32>,
    start: usize,
}

impl<'a> Iterator for Requests<'a> {
    type Item = Request<'a>;

    #[inline]
    fn next(&mut self) -> Option<Request<'a>> {
        let end = *self.ends.next()? as usize;
        let spans = &self.spans[self.start..end];
        self.start = end;
        Some(Request { bytes: self.bytes, spans })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.ends.size_hint()
    }
}

impl ExactSizeIterator for Requests<'_> {}

/// One request: the command's name and its arguments, at least one.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    bytes: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Request<'a> {
    /// How many arguments there are, the command's name included.
    #[expect(clippy::len_without_is_empty, reason = "a request has at least its name")]
    #[inline]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// The argument at `index`; 0 is the command's name. Panics, as indexing does, if there are
    /// fewer.
    #[inline]
    pub fn arg(&self, index: usize) -> &'a [u8] {
        slice(self.bytes, self.spans[index])
    }

    /// The argument at `index`, if there are so many; 0 is the command's name.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        self.spans.get(index).map(|&span| slice(self.bytes, span))
    }

    /// The command's name and the arguments.
    #[inline]
    pub fn iter(&self) -> Arguments<'a> {
        Arguments { bytes: self.bytes, spans: self.spans.iter() }
    }
}

impl<'a> IntoIterator for Request<'a> {
    type Item = &'a [u8];
    type IntoIter = Arguments<'a>;

    fn into_iter(self) -> Arguments<'a> {
        self.iter()
    }
}

impl Index<usize> for Request<'_> {
    type Output = [u8];

    #[inline]
    fn index(&self, index: usize) -> &[u8] {
        self.arg(index)
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.iter().map(|arg| String::from_utf8_lossy(arg).into_owned()))
            .finish()
    }
}

/// The arguments of a [`Request`], its name first.
#[derive(Clone)]
pub struct Arguments<'a> {
    bytes: &'a [u8],
    spans: std::slice::Iter<'a, Span>,
}

impl<'a> Iterator for Arguments<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        self.spans.next().map(|&span| slice(self.bytes, span))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.spans.size_hint()
    }
}

impl DoubleEndedIterator for Arguments<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.spans.next_back().map(|&span| slice(self.bytes, span))
    }
}

impl ExactSizeIterator for Arguments<'_> {}

#[inline]
fn slice(bytes: &[u8], (offset, len): Span) -> &[u8] {
    &bytes[offset as usize..][..len as usize]
}
