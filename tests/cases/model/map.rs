//! The ordered map that a store must be indistinguishable from: the commands of the generator,
//! answered as Redis 7.0.15 answers them.

use std::collections::BTreeMap;

use larder_tests::faults::contents::{Contents, Stored, Value};

use crate::generate::{Command, VOLATILE};

/// A reply on the wire.
type Wire = Vec<u8>;

const WRONG_TYPE: &str = "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";
const NOT_AN_INTEGER: &str = "-ERR value is not an integer or out of range\r\n";
const HASH_NOT_AN_INTEGER: &str = "-ERR hash value is not an integer\r\n";
const OVERFLOW: &str = "-ERR increment or decrement would overflow\r\n";

/// What is stored, and a transaction that has begun.
#[derive(Clone, Debug, Default)]
pub(crate) struct Map {
    contents: Contents,
    queued: Option<Vec<Command>>,
}

impl Map {
    /// What is stored; it may hold keys that have expired since [`Map::expire`].
    pub(crate) fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Drops what has expired by `now_ms`.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        self.contents.retain(|_, stored| stored.expires_at.is_none_or(|at| at > now_ms));
    }

    /// Makes a small mistake, to see whether it is noticed. False where there is nothing fit.
    pub(crate) fn alter(&mut self, alteration: usize) -> bool {
        let chosen = self.contents.iter_mut().find_map(|(key, stored)| {
            matches!((alteration, &stored.value), (0 | 2, Value::Text(_)) | (1, Value::Hash(_)))
                .then_some((key.clone(), stored))
        });
        let Some((key, stored)) = chosen else { return false };
        match &mut stored.value {
            Value::Text(text) if alteration == 0 => text.push(b'!'),
            Value::Hash(fields) => {
                fields.pop_first();
            }
            Value::Text(_) => {
                self.contents.remove(&key);
            }
        }
        true
    }

    /// Executes a command. `None` where the reply depends on the moment.
    pub(crate) fn answer(&mut self, command: &Command, now_ms: u64) -> Option<Wire> {
        let name = command[0].as_slice();
        match (name, self.queued.take()) {
            (b"MULTI", _) => {
                self.queued = Some(Vec::new());
                Some(ok())
            }
            (b"DISCARD", _) => Some(ok()),
            (b"EXEC", queued) => {
                let queued = queued.unwrap_or_default();
                let mut reply = format!("*{}\r\n", queued.len()).into_bytes();
                for command in queued {
                    reply.extend(self.execute(&command, now_ms));
                }
                Some(reply)
            }
            (_, Some(mut queued)) => {
                queued.push(command.clone());
                self.queued = Some(queued);
                Some(b"+QUEUED\r\n".to_vec())
            }
            (_, None) => {
                let is_volatile = command.get(1).is_some_and(|key| key.starts_with(VOLATILE));
                let reply = self.execute(command, now_ms);
                (!is_volatile).then_some(reply)
            }
        }
    }

    fn execute(&mut self, command: &Command, now_ms: u64) -> Wire {
        let (name, arguments) = (command[0].as_slice(), &command[1..]);
        match name {
            b"FLUSHDB" => {
                self.contents.clear();
                ok()
            }
            b"DEL" => integer(count(arguments, |key| self.contents.remove(key).is_some())),
            b"EXISTS" => integer(count(arguments, |key| self.contents.contains_key(key))),
            b"TYPE" => match self.contents.get(&arguments[0]).map(|stored| &stored.value) {
                None => b"+none\r\n".to_vec(),
                Some(Value::Text(_)) => b"+string\r\n".to_vec(),
                Some(Value::Hash(_)) => b"+hash\r\n".to_vec(),
            },
            b"PEXPIREAT" | b"PERSIST" | b"PEXPIRETIME" => self.expiry(name, arguments, now_ms),
            _ if name.starts_with(b"H") => self.hash(name, arguments),
            _ => self.string(name, arguments),
        }
    }

    fn expiry(&mut self, name: &[u8], arguments: &[Vec<u8>], now_ms: u64) -> Wire {
        let key = &arguments[0];
        let Some(stored) = self.contents.get_mut(key) else {
            return integer(if name == b"PEXPIRETIME" { -2 } else { 0 });
        };
        match name {
            b"PERSIST" => integer(i64::from(stored.expires_at.take().is_some())),
            b"PEXPIRETIME" => integer(stored.expires_at.map_or(-1, u64::cast_signed)),
            _ => {
                let at = parsed(&arguments[1]).unwrap_or_default().cast_unsigned();
                stored.expires_at = Some(at);
                if at <= now_ms {
                    self.contents.remove(key);
                }
                integer(1)
            }
        }
    }

    fn string(&mut self, name: &[u8], arguments: &[Vec<u8>]) -> Wire {
        let key = &arguments[0];
        let old = self.contents.get(key).cloned();
        let old_text = match &old {
            Some(Stored { value: Value::Text(text), .. }) => Some(text.clone()),
            // These two do not care what was there.
            Some(_) if name != b"SET" && name != b"SETNX" => return WRONG_TYPE.into(),
            _ => None,
        };
        let expires_at = old.as_ref().and_then(|stored| stored.expires_at);
        match name {
            b"SET" => {
                let expires_at = match arguments.get(2).map(Vec::as_slice) {
                    Some(b"KEEPTTL") => expires_at,
                    Some(b"PXAT") => parsed(&arguments[3]).map(i64::cast_unsigned),
                    _ => None,
                };
                self.put(key, arguments[1].clone(), expires_at);
                ok()
            }
            b"SETNX" if old.is_some() => integer(0),
            b"SETNX" => {
                self.put(key, arguments[1].clone(), None);
                integer(1)
            }
            b"APPEND" => {
                let text = [old_text.unwrap_or_default(), arguments[1].clone()].concat();
                let length = text.len();
                self.put(key, text, expires_at);
                integer(i64::try_from(length).unwrap_or(i64::MAX))
            }
            b"INCR" | b"INCRBY" => {
                let by = arguments.get(1).map_or(Some(1), |by| parsed(by));
                let Some((old, by)) = old_text.map_or(Some(0), |text| parsed(&text)).zip(by) else {
                    return NOT_AN_INTEGER.into();
                };
                let Some(sum) = old.checked_add(by) else { return OVERFLOW.into() };
                self.put(key, sum.to_string().into_bytes(), expires_at);
                integer(sum)
            }
            b"GETDEL" => {
                self.contents.remove(key);
                bulk(old_text.as_deref())
            }
            _ => bulk(old_text.as_deref()),
        }
    }

    fn hash(&mut self, name: &[u8], arguments: &[Vec<u8>]) -> Wire {
        let key = &arguments[0];
        if matches!(self.contents.get(key), Some(Stored { value: Value::Text(_), .. })) {
            return WRONG_TYPE.into();
        }
        let stored = self
            .contents
            .entry(key.clone())
            .or_insert_with(|| Stored { value: Value::Hash(BTreeMap::new()), expires_at: None });
        let Value::Hash(fields) = &mut stored.value else { return WRONG_TYPE.into() };
        let reply = match name {
            b"HSET" => integer(
                arguments[1..]
                    .chunks_exact(2)
                    .map(|pair| {
                        i64::from(fields.insert(pair[0].clone(), pair[1].clone()).is_none())
                    })
                    .sum(),
            ),
            b"HSETNX" if fields.contains_key(&arguments[1]) => integer(0),
            b"HSETNX" => {
                fields.insert(arguments[1].clone(), arguments[2].clone());
                integer(1)
            }
            b"HDEL" => integer(count(&arguments[1..], |field| fields.remove(field).is_some())),
            b"HINCRBY" => {
                let old = fields.get(&arguments[1]).map_or(Some(0), |text| parsed(text));
                let by = parsed(&arguments[2]).unwrap_or_default();
                match old.map(|old| old.checked_add(by)) {
                    None => HASH_NOT_AN_INTEGER.into(),
                    Some(None) => OVERFLOW.into(),
                    Some(Some(sum)) => {
                        fields.insert(arguments[1].clone(), sum.to_string().into_bytes());
                        integer(sum)
                    }
                }
            }
            b"HLEN" => integer(i64::try_from(fields.len()).unwrap_or(i64::MAX)),
            _ => bulk(fields.get(&arguments[1]).map(Vec::as_slice)),
        };
        if fields.is_empty() {
            self.contents.remove(key);
        }
        reply
    }

    fn put(&mut self, key: &[u8], text: Vec<u8>, expires_at: Option<u64>) {
        self.contents.insert(key.to_vec(), Stored { value: Value::Text(text), expires_at });
    }
}

fn count(keys: &[Vec<u8>], mut counts: impl FnMut(&Vec<u8>) -> bool) -> i64 {
    keys.iter().map(|key| i64::from(counts(key))).sum()
}

/// A number in the one form that Redis takes for one.
fn parsed(text: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}

fn ok() -> Wire {
    b"+OK\r\n".to_vec()
}

fn integer(number: i64) -> Wire {
    format!(":{number}\r\n").into_bytes()
}

fn bulk(text: Option<&[u8]>) -> Wire {
    text.map_or_else(
        || b"$-1\r\n".to_vec(),
        |text| [format!("${}\r\n", text.len()).as_bytes(), text, b"\r\n"].concat(),
    )
}
