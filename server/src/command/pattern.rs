//! Matching of text: glob patterns, and the words of options.
//!
//! The globs are those of Redis 7.0.15 (`stringmatchlen`), its corner cases included: an unclosed
//! bracket ends with the pattern, a range may stand the wrong way round, bytes in ranges compare
//! signed, and an empty text is matched by the empty pattern alone.

use larder_types::limits::PATTERN_BYTES_MAX;

use super::CommandError;

/// Steps of matching that one text may cost; that all names of a CONFIG GET or a COMMAND LIST may
/// cost together; and after which SCAN stops and answers a cursor: a millisecond or two, because
/// others wait for the thread.
pub const MATCH_STEPS_MAX: u64 = 1 << 20;

/// A glob: `*`, `?`, `[a-z]`, `[^a-z]`, and `\` before a byte that is meant literally.
///
/// Matching is iterative and remembers the last `*` only, which is enough because an earlier one
/// could not reach further. The time is at most the product of the two lengths, never
/// exponential.
#[derive(Clone, Copy, Debug)]
pub struct Pattern<'p> {
    pattern: &'p [u8],
    folds_case: bool,
}

impl<'p> Pattern<'p> {
    /// The glob `pattern`; upper and lower case differ.
    pub const fn new(pattern: &'p [u8]) -> Self {
        Self { pattern, folds_case: false }
    }

    /// The glob that a client sent.
    ///
    /// # Errors
    /// When it is longer than [`PATTERN_BYTES_MAX`].
    pub fn of_client(pattern: &'p [u8]) -> Result<Self, CommandError> {
        let bytes = pattern.len();
        if bytes > PATTERN_BYTES_MAX {
            let text = format!(
                "ERR a pattern of {bytes} bytes is larger than the limit of {PATTERN_BYTES_MAX}"
            );
            return Err(CommandError::Message(text.into()));
        }
        Ok(Self::new(pattern))
    }

    /// The same glob, with ASCII letters that match in either case.
    pub const fn ignoring_case(self) -> Self {
        Self { folds_case: true, ..self }
    }

    /// Whether the glob is `*` alone, which KEYS and SCAN take for "everything", the empty key
    /// included.
    pub const fn is_everything(&self) -> bool {
        matches!(self.pattern, b"*")
    }

    /// Whether the whole of `text` matches; takes what it costs off `steps`, one for each byte of
    /// the pattern that is looked at. `None` once that is used up.
    pub fn matches_within(&self, text: &[u8], steps: &mut u64) -> Option<bool> {
        if text.is_empty() {
            return Some(self.pattern.is_empty());
        }
        let (mut at, mut reached) = (0, 0);
        let mut retry: Option<(usize, usize)> = None;
        while let Some(&byte) = text.get(reached) {
            let (matched, next) = match self.pattern.get(at) {
                Some(b'*') => {
                    at += 1;
                    if at == self.pattern.len() {
                        return Some(true);
                    }
                    retry = Some((at, reached));
                    *steps = steps.checked_sub(1)?;
                    continue;
                }
                Some(&element) => self.one(element, at, byte),
                None => (false, at + 1),
            };
            *steps = steps.checked_sub((next - at) as u64)?;
            if matched {
                (at, reached) = (next, reached + 1);
                continue;
            }
            let Some((after_star, from)) = retry else { return Some(false) };
            retry = Some((after_star, from + 1));
            (at, reached) = (after_star, from + 1);
        }
        Some(self.pattern[at..].iter().all(|&byte| byte == b'*'))
    }

    /// Matches one byte against the `element` at `at`; answers whether it does, and where the next
    /// element starts.
    fn one(&self, element: u8, at: usize, byte: u8) -> (bool, usize) {
        match element {
            b'?' => (true, at + 1),
            b'[' => self.class(at + 1, byte),
            b'\\' if at + 1 < self.pattern.len() => (self.same(self.pattern[at + 1], byte), at + 2),
            _ => (self.same(element, byte), at + 1),
        }
    }

    /// Matches one byte against the class whose `[` stands before `at`; answers whether it is in
    /// it, and where the next element starts.
    fn class(&self, mut at: usize, byte: u8) -> (bool, usize) {
        let negated = self.pattern.get(at) == Some(&b'^');
        at += usize::from(negated);
        let mut matched = false;
        loop {
            match self.pattern[at.min(self.pattern.len())..] {
                [] => break,
                [b']', ..] => {
                    at += 1;
                    break;
                }
                // An escaped byte is literal even where case is ignored.
                [b'\\', escaped, ..] => {
                    matched |= escaped == byte;
                    at += 2;
                }
                [start, b'-', end, ..] => {
                    matched |= self.is_between(start, end, byte);
                    at += 3;
                }
                [literal, ..] => {
                    matched |= self.same(literal, byte);
                    at += 1;
                }
            }
        }
        (matched != negated, at)
    }

    fn is_between(&self, start: u8, end: u8, byte: u8) -> bool {
        // `char` is signed on Redis' platforms.
        let (low, high) = ((start as i8).min(end as i8), (start as i8).max(end as i8));
        let fold =
            |byte: i8| if self.folds_case { (byte as u8).to_ascii_lowercase() as i8 } else { byte };
        (fold(low)..=fold(high)).contains(&fold(byte as i8))
    }

    const fn same(&self, left: u8, right: u8) -> bool {
        left == right || self.folds_case && left.eq_ignore_ascii_case(&right)
    }
}

/// Whether `argument` is the option `word` in either case. As a C string, it ends at a NUL.
pub fn is_word(argument: &[u8], word: &str) -> bool {
    c_text(argument).eq_ignore_ascii_case(word.as_bytes())
}

/// `argument` as far as C reads it: up to the first NUL.
pub(super) fn c_text(argument: &[u8]) -> &[u8] {
    let end = argument.iter().position(|&byte| byte == 0).unwrap_or(argument.len());
    &argument[..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_matched(pattern: &Pattern<'_>, text: &[u8]) -> bool {
        let mut steps = u64::MAX;
        pattern.matches_within(text, &mut steps).expect("there is no bound")
    }

    fn matches(pattern: &str, text: &str) -> bool {
        is_matched(&Pattern::new(pattern.as_bytes()), text.as_bytes())
    }

    /// Tries everything at every star: slow, and plainly right.
    fn naive(pattern: &Pattern<'_>, at: usize, text: &[u8]) -> bool {
        match (pattern.pattern.get(at), text) {
            (None, _) => text.is_empty(),
            (Some(b'*'), _) => {
                (0..=text.len()).any(|skipped| naive(pattern, at + 1, &text[skipped..]))
            }
            (Some(element), [byte, rest @ ..]) => {
                let (matched, next) = pattern.one(*element, at, *byte);
                matched && naive(pattern, next, rest)
            }
            (Some(_), []) => false,
        }
    }

    #[test]
    fn elements_match_what_redis_matches() {
        for (pattern, text, expected) in [
            ("*", "abc", true),
            ("a*c", "abbbc", true),
            ("a*c", "abbbd", false),
            ("a**c", "ac", true),
            ("*b*", "abc", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hallo", true),
            (r"h\*llo", "h*llo", true),
            (r"h\*llo", "hxllo", false),
            (r"a\", r"a\", true),
            (r"[\]]", "]", true),
            ("[abc", "c", true),
            ("[abc", "d", false),
            ("[^", "x", true),
            ("[", "[", false),
            ("[a-]", "b", false),
            ("[a-]", "^", true),
            ("[]", "]", false),
            ("", "a", false),
            ("A", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} against {text}");
        }
    }

    #[test]
    fn an_empty_text_is_matched_by_the_empty_pattern_alone() {
        assert!(matches("", ""));
        assert!(!matches("*", ""));
        assert!(!matches("**", ""));
        assert!(Pattern::new(b"*").is_everything() && !Pattern::new(b"**").is_everything());
    }

    #[test]
    fn ranges_compare_bytes_signed() {
        let range = Pattern::new(b"[\x01-\xff]");
        assert!(is_matched(&range, b"\xff") && is_matched(&range, b"\x00"));
        assert!(!is_matched(&range, b"a"));
    }

    #[test]
    fn case_is_ignored_on_request() {
        let pattern = Pattern::new(b"MAX[A-C]*y").ignoring_case();
        assert!(is_matched(&pattern, b"maxbmemorY"));
        assert!(!is_matched(&pattern, b"maxdmemory"));
    }

    #[test]
    fn many_stars_cost_no_more_than_the_product_of_the_lengths() {
        let pattern = "*a".repeat(200) + "b";
        let text = "a".repeat(2_000);
        let pattern = Pattern::new(pattern.as_bytes());
        let mut steps = (pattern.pattern.len() * text.len()) as u64;
        assert_eq!(pattern.matches_within(text.as_bytes(), &mut steps), Some(false));
        assert_eq!(pattern.matches_within(text.as_bytes(), &mut 100), None);
    }

    #[test]
    fn a_long_class_counts_with_its_length() {
        let pattern = format!("*[{}]", "x".repeat(1_000));
        let mut steps = 5_000;
        assert_eq!(Pattern::new(pattern.as_bytes()).matches_within(b"aaaaaaaa", &mut steps), None);
    }

    #[test]
    fn a_pattern_may_be_as_long_as_its_bound_and_no_longer() {
        let refusal = |bytes: usize| {
            let refused = Pattern::of_client(&vec![b'*'; bytes]).err();
            refused.map(|error| error.to_string())
        };
        assert_eq!(refusal(PATTERN_BYTES_MAX - 1), None);
        assert_eq!(refusal(PATTERN_BYTES_MAX), None);
        let expected = "ERR a pattern of 4097 bytes is larger than the limit of 4096";
        assert_eq!(refusal(PATTERN_BYTES_MAX + 1).as_deref(), Some(expected));
    }

    #[test]
    fn a_word_ends_at_a_nul_and_has_no_case() {
        assert!(is_word(b"nX", "nx") && is_word(b"NX\0more", "nx"));
        assert!(!is_word(b"nxx", "nx") && !is_word(b"", "nx"));
    }

    proptest! {
        #[test]
        fn the_iterative_matcher_agrees_with_the_naive_one(
            pattern in "[ab*?\\[\\]^\\\\-]{0,10}",
            text in "[ab*\\]-]{1,10}",
        ) {
            let glob = Pattern::new(pattern.as_bytes());
            prop_assert_eq!(is_matched(&glob, text.as_bytes()), naive(&glob, 0, text.as_bytes()));
        }

        #[test]
        fn arbitrary_bytes_never_panic(pattern: Vec<u8>, text: Vec<u8>) {
            let _ = is_matched(&Pattern::new(&pattern), &text);
            let _ = is_matched(&Pattern::new(&pattern).ignoring_case(), &text);
        }
    }
}
