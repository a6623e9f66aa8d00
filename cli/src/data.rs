//! `kv get`, `set`, `del` and `scan`.

use std::io::{self, IsTerminal, Read, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use larder_resp::Value;
use serde_json::{Map, Value as Json, json};

use crate::args::{Del, Format, Get, Scan, Set, Target, bytes_of};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::output;

/// The largest value that is read from standard input: what Redis takes at most.
const VALUE_BYTES_MAX: u64 = 512 << 20;

/// Requests in one pipeline of `scan --long`: short, see [`Connection::call_all`].
const DETAILS_AT_ONCE: usize = 200;

/// Prints the value of a key.
///
/// # Errors
/// The key is missing, and what [`Connection`] fails with.
pub(crate) async fn get(target: &Target, get: &Get) -> Result<(), Failure> {
    let key = bytes_of(&get.key);
    let reply = Connection::open(target).await?.call(&[&b"GET"[..], key]).await?;
    if target.output == Format::Json {
        let mut object = Map::new();
        output::insert_bytes(&mut object, "key", key);
        insert_value(&mut object, "value", &reply);
        output::print_json(&Json::Object(object))?;
    } else if let Some(value) = reply.as_bytes() {
        output::print_bytes(value, get.raw)?;
    }
    if reply.is_null() {
        return Err(Failure::Unmet(format!("no such key: {}", output::for_line(key))));
    }
    Ok(())
}

/// Adds a string or null reply to a JSON object.
fn insert_value(object: &mut Map<String, Json>, name: &str, reply: &Value) {
    match reply.as_bytes() {
        Some(bytes) => output::insert_bytes(object, name, bytes),
        None => {
            object.insert(name.to_owned(), Json::Null);
        }
    }
}

/// Stores a value under a key.
///
/// # Errors
/// The condition does not hold, standard input fails, and what [`Connection`] fails with.
pub(crate) async fn set(target: &Target, set: &Set) -> Result<(), Failure> {
    let value = match &set.value {
        Some(value) => bytes_of(value).to_vec(),
        None => value_from_stdin()?,
    };
    let key = bytes_of(&set.key);
    let mut request = vec![b"SET".to_vec(), key.to_vec(), value];
    for (name, amount) in [("EX", set.ex), ("PX", set.px)] {
        if let Some(amount) = amount {
            request.extend([name.into(), amount.to_string().into_bytes()]);
        }
    }
    for (name, given) in
        [("KEEPTTL", set.keepttl), ("NX", set.nx), ("XX", set.xx), ("GET", set.get)]
    {
        if given {
            request.push(name.into());
        }
    }
    let reply = Connection::open(target).await?.call(&request).await?;
    let stored = was_stored(set, &reply);
    if target.output == Format::Json {
        let mut object = Map::new();
        output::insert_bytes(&mut object, "key", key);
        object.insert("stored".to_owned(), stored.into());
        if set.get {
            insert_value(&mut object, "previous", &reply);
        }
        output::print_json(&Json::Object(object))?;
    } else if !set.get && stored {
        output::print_line("OK")?;
    } else if let (true, Some(previous)) = (set.get, reply.as_bytes()) {
        output::print_bytes(previous, false)?;
    }
    if stored {
        return Ok(());
    }
    let state = if set.nx { "exists already" } else { "does not exist" };
    Err(Failure::Unmet(format!("not stored: {} {state}", output::for_line(key))))
}

/// Whether SET took place. With GET the reply is the value before, which tells whether the key
/// existed, and so whether the condition held.
fn was_stored(set: &Set, reply: &Value) -> bool {
    match (set.get, set.nx, set.xx) {
        (false, _, _) => !reply.is_null(),
        (true, true, _) => reply.is_null(),
        (true, _, true) => !reply.is_null(),
        (true, false, false) => true,
    }
}

fn value_from_stdin() -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    io::stdin().lock().take(VALUE_BYTES_MAX + 1).read_to_end(&mut value).map_err(|source| {
        Failure::Local { what: "cannot read standard input".to_owned(), source }
    })?;
    if value.len() as u64 > VALUE_BYTES_MAX {
        return Err(Failure::Usage(format!("the value is longer than {VALUE_BYTES_MAX} bytes")));
    }
    Ok(value)
}

/// Deletes keys.
///
/// # Errors
/// None of the keys existed, and what [`Connection`] fails with.
pub(crate) async fn del(target: &Target, del: &Del) -> Result<(), Failure> {
    let request: Vec<&[u8]> =
        std::iter::once(&b"DEL"[..]).chain(del.keys.iter().map(bytes_of)).collect();
    let reply = Connection::open(target).await?.call(&request).await?;
    let deleted = reply.as_integer().ok_or_else(|| unexpected("DEL", &reply))?;
    match target.output {
        Format::Json => output::print_json(&json!({"asked": del.keys.len(), "deleted": deleted}))?,
        Format::Table => {
            output::print_line(&format!("deleted {deleted} of {}", del.keys.len()))?;
        }
    }
    if deleted == 0 {
        return Err(Failure::Unmet("none of the keys existed".to_owned()));
    }
    Ok(())
}

/// A reply that the command does not give.
fn unexpected(command: &str, reply: &Value) -> Failure {
    Failure::Refused(format!("unexpected reply to {command}: {reply:?}"))
}

/// A key as `scan --long` shows it.
struct Details {
    kind: String,
    /// `None`: it stays.
    ttl_ms: Option<i64>,
}

/// Lists keys, page by page: memory is bounded by what the server gives at once.
///
/// # Errors
/// What [`Connection`] fails with.
pub(crate) async fn scan(target: &Target, scan: &Scan) -> Result<(), Failure> {
    let mut connection = Connection::open(target).await?;
    let progress = scan_progress();
    let mut left = scan.limit.unwrap_or(u64::MAX);
    let mut cursor = b"0".to_vec();
    let mut listed = 0;
    loop {
        let reply = connection.call(&scan_request(scan, &cursor)).await?;
        let (next, mut keys) = page(&reply).ok_or_else(|| unexpected("SCAN", &reply))?;
        keys.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        left -= keys.len() as u64;
        listed += keys.len();
        if scan.long {
            print_with_details(&mut connection, target.output, &keys).await?;
        } else {
            print_keys(target.output, &keys)?;
        }
        progress.set_message(format!("{listed} keys"));
        if next == b"0" || left == 0 {
            break;
        }
        if next == cursor {
            return Err(Failure::Refused(
                "SCAN gave the cursor it was asked with: it would never end".to_owned(),
            ));
        }
        cursor = next.to_vec();
    }
    progress.finish_and_clear();
    Ok(())
}

fn scan_request(scan: &Scan, cursor: &[u8]) -> Vec<Vec<u8>> {
    let mut request = vec![b"SCAN".to_vec(), cursor.to_vec()];
    if let Some(pattern) = &scan.pattern {
        request.extend([b"MATCH".to_vec(), bytes_of(pattern).to_vec()]);
    }
    request.extend([b"COUNT".to_vec(), scan.count.to_string().into_bytes()]);
    if let Some(kind) = &scan.kind {
        request.extend([b"TYPE".to_vec(), kind.clone().into_bytes()]);
    }
    request
}

/// Cursor and keys of a reply to SCAN.
fn page(reply: &Value) -> Option<(&[u8], Vec<&[u8]>)> {
    let [cursor, keys] = reply.as_values()? else { return None };
    let keys = keys.as_values()?.iter().map(Value::as_bytes).collect::<Option<_>>()?;
    Some((cursor.as_bytes()?, keys))
}

/// A spinner on standard error when somebody watches that, and the keys go elsewhere.
fn scan_progress() -> ProgressBar {
    if io::stdout().is_terminal() || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} in {elapsed}") {
        spinner.set_style(style);
    }
    spinner.enable_steady_tick(Duration::from_millis(200));
    spinner
}

fn print_keys(format: Format, keys: &[&[u8]]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let mut page = Vec::new();
    for key in keys {
        match format {
            Format::Json => {
                let mut object = Map::new();
                output::insert_bytes(&mut object, "key", key);
                page.extend_from_slice(Json::Object(object).to_string().as_bytes());
            }
            Format::Table if out.is_terminal() => {
                page.extend_from_slice(output::for_line(key).as_bytes());
            }
            Format::Table => page.extend_from_slice(key),
        }
        page.push(b'\n');
    }
    out.write_all(&page)?;
    Ok(out.flush()?)
}

async fn print_with_details(
    connection: &mut Connection,
    format: Format,
    keys: &[&[u8]],
) -> Result<(), Failure> {
    let mut table = output::table(&["key", "type", "expires in"], 2);
    for keys in keys.chunks(DETAILS_AT_ONCE / 2) {
        for (key, details) in keys.iter().zip(details(connection, keys).await?) {
            // It went away since SCAN named it.
            let Some(Details { kind, ttl_ms }) = details else { continue };
            if format == Format::Json {
                let mut object = Map::new();
                output::insert_bytes(&mut object, "key", key);
                object.insert("type".to_owned(), kind.into());
                object.insert("ttl_ms".to_owned(), ttl_ms.into());
                output::print_json(&Json::Object(object))?;
            } else {
                let ttl = ttl_ms.map_or_else(|| "never".to_owned(), seconds);
                table.add_row([output::for_line(key), output::for_line(kind.as_bytes()), ttl]);
            }
        }
    }
    if table.row_count() > 0 {
        output::print_line(&table.to_string())?;
    }
    Ok(())
}

/// Milliseconds for people.
fn seconds(ms: i64) -> String {
    format!("{}.{:03} s", ms / 1000, ms % 1000)
}

/// Type and time to live of each key; `None` for a key that is gone.
async fn details(
    connection: &mut Connection,
    keys: &[&[u8]],
) -> Result<Vec<Option<Details>>, Failure> {
    let requests: Vec<[&[u8]; 2]> =
        keys.iter().flat_map(|key| [[&b"TYPE"[..], key], [&b"PTTL"[..], key]]).collect();
    let replies = connection.call_all(&requests).await?;
    replies.chunks_exact(2).map(|pair| one_detail(&pair[0], &pair[1])).collect()
}

fn one_detail(kind: &Value, ttl: &Value) -> Result<Option<Details>, Failure> {
    if let Some(message) = kind.as_error().or_else(|| ttl.as_error()) {
        return Err(Failure::from_reply(message));
    }
    let kind = kind.as_bytes().ok_or_else(|| unexpected("TYPE", kind))?;
    let ttl_ms = ttl.as_integer().ok_or_else(|| unexpected("PTTL", ttl))?;
    if kind == b"none" || ttl_ms == -2 {
        return Ok(None);
    }
    let kind = String::from_utf8_lossy(kind).into_owned();
    Ok(Some(Details { kind, ttl_ms: (ttl_ms >= 0).then_some(ttl_ms) }))
}
