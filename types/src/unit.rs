//! Units: the 16384 buckets that a namespace's keys hash into, as in Redis Cluster.

use std::fmt;

use crc16::{State, XMODEM};

/// How many units a namespace has; Redis Cluster's number of slots.
pub const UNITS: u16 = 16_384;

/// One of the [`UNITS`] hash buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unit(u16);

impl Unit {
    /// The unit with this number, or `None` at [`UNITS`] and above.
    pub const fn new(number: u16) -> Option<Self> {
        if number < UNITS { Some(Self(number)) } else { None }
    }

    /// The unit of `key`: CRC16 (XMODEM) of its first non-empty `{tag}`, else of the whole key.
    /// Source: the Redis Cluster specification, "Hash tags".
    pub fn of_key(key: &[u8]) -> Self {
        Self(State::<XMODEM>::calculate(hash_tag(key)) % UNITS)
    }

    /// The unit's number.
    pub const fn as_u16(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&byte| byte == b'{') else { return key };
    let rest = &key[open + 1..];
    match rest.iter().position(|&byte| byte == b'}') {
        Some(close) if close > 0 => &rest[..close],
        _ => key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_fall_into_the_slots_of_redis_cluster() {
        assert_eq!(Unit::of_key(b"123456789").as_u16(), 0x31c3);
        assert_eq!(Unit::of_key(b"foo").as_u16(), 12_182);
        assert_eq!(Unit::of_key(b"{user1000}.following"), Unit::of_key(b"{user1000}.followers"));
    }

    #[test]
    fn an_empty_or_unclosed_tag_is_no_tag() {
        assert_eq!(hash_tag(b"foo{}{bar}"), b"foo{}{bar}");
        assert_eq!(hash_tag(b"foo{bar"), b"foo{bar");
        assert_eq!(hash_tag(b"foo{{bar}}zap"), b"{bar");
        assert_eq!(hash_tag(b"foo{bar}{zap}"), b"bar");
    }
}
