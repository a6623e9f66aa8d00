//! Everything a store holds, as a client sees it: read by SCAN and compared as a whole, so that a
//! key that nobody wrote shows as well as one that is missing.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};

use crate::client::{Client, encode_into};
use crate::reply::{Reply, quoted};

/// Keys asked about in one pipeline.
const KEYS_PER_PIPELINE: usize = 500;

/// What is stored under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The value.
    pub value: Value,
    /// When it expires, in milliseconds since 1970.
    pub expires_at: Option<u64>,
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A string.
    Text(Vec<u8>),
    /// A hash.
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
}

/// Keys and what is stored under them.
pub type Contents = BTreeMap<Vec<u8>, Stored>;

/// Reads everything. Nothing else may write meanwhile.
///
/// # Errors
/// When a command is answered with an error, which is how a store says that it cannot read what it
/// holds; or when SCAN and DBSIZE disagree.
pub fn read_contents(client: &mut Client) -> Result<Contents> {
    let keys = scan(client)?;
    let mut contents = Contents::new();
    let keys: Vec<Vec<u8>> = keys.into_iter().collect();
    for some in keys.chunks(KEYS_PER_PIPELINE) {
        read_some(client, some, &mut contents)?;
    }
    let size = client.expect_ok(&["DBSIZE"])?.integer();
    if size != i64::try_from(contents.len()).ok() {
        bail!("SCAN found {} keys, DBSIZE says {size:?}", contents.len());
    }
    Ok(contents)
}

fn scan(client: &mut Client) -> Result<BTreeSet<Vec<u8>>> {
    let mut keys = BTreeSet::new();
    let mut cursor = b"0".to_vec();
    loop {
        let reply = client.expect_ok(&[b"SCAN".as_slice(), &cursor, b"COUNT", b"1000"])?;
        let [next, found] = reply.items() else {
            bail!("SCAN was answered with {}", reply.describe());
        };
        keys.extend(found.items().iter().map(|key| key.text().to_vec()));
        cursor = next.text().to_vec();
        if cursor == b"0" {
            return Ok(keys);
        }
    }
}

fn read_some(client: &mut Client, keys: &[Vec<u8>], contents: &mut Contents) -> Result<()> {
    let types = ask_each(client, keys, |key| vec![b"TYPE", key])?;
    let values = {
        let mut types = types.iter();
        ask_each(client, keys, |key| {
            let is_hash = types.next().is_some_and(|kind| kind.text() == b"hash");
            vec![if is_hash { b"HGETALL" } else { b"GET" }, key]
        })?
    };
    let expiries = ask_each(client, keys, |key| vec![b"PEXPIRETIME", key])?;
    for (((key, kind), value), expiry) in keys.iter().zip(types).zip(values).zip(expiries) {
        let expires_at = match expiry.integer() {
            Some(-1) => None,
            Some(at) if at >= 0 => Some(at.unsigned_abs()),
            // It expired between SCAN and now.
            Some(-2) => continue,
            _ => bail!("PEXPIRETIME {} was answered with {}", quoted(key), expiry.describe()),
        };
        let value = match kind.text() {
            b"string" if !value.is_null() => Value::Text(value.text().to_vec()),
            b"hash" => Value::Hash(fields(value.items())),
            _ => bail!(
                "{} is in SCAN, of type {} and value {}",
                quoted(key),
                kind.describe(),
                value.describe()
            ),
        };
        contents.insert(key.clone(), Stored { value, expires_at });
    }
    Ok(())
}

fn fields(items: &[Reply]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    items.chunks_exact(2).map(|pair| (pair[0].text().to_vec(), pair[1].text().to_vec())).collect()
}

fn ask_each<'a>(
    client: &mut Client,
    keys: &'a [Vec<u8>],
    mut command: impl FnMut(&'a [u8]) -> Vec<&'a [u8]>,
) -> Result<Vec<Reply>> {
    let mut wire = Vec::new();
    for key in keys {
        encode_into(&mut wire, &command(key));
    }
    client.send_raw(&wire)?;
    let mut replies = Vec::with_capacity(keys.len());
    for key in keys {
        let reply = client.reply().with_context(|| format!("asking for {}", quoted(key)))?.reply;
        if reply.is_error() {
            bail!("asking for {} was answered with {}", quoted(key), reply.describe());
        }
        replies.push(reply);
    }
    Ok(replies)
}

/// The first few differences, for people; empty when there is none.
pub fn differences(expected: &Contents, found: &Contents) -> Vec<String> {
    let keys: BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    keys.into_iter()
        .filter(|key| expected.get(*key) != found.get(*key))
        .take(5)
        .map(|key| {
            format!(
                "{}: expected {}, found {}",
                quoted(key),
                described(expected.get(key)),
                described(found.get(key))
            )
        })
        .collect()
}

/// One stored value for people; nothing for none.
pub fn described(stored: Option<&Stored>) -> String {
    let Some(stored) = stored else {
        return "nothing".to_owned();
    };
    let value = match &stored.value {
        Value::Text(text) => quoted(text),
        Value::Hash(fields) => {
            let shown: Vec<_> = fields
                .iter()
                .take(8)
                .map(|(field, value)| format!("{}={}", quoted(field), quoted(value)))
                .collect();
            format!("a hash of {} fields: {}", fields.len(), shown.join(" "))
        }
    };
    stored.expires_at.map_or_else(|| value.clone(), |at| format!("{value} until {at}"))
}
