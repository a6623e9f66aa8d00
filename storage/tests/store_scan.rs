//! Scans page by page over what is in flight: a page of keys costs a look at the changes of their block,
//! not a sort of them, and a page of a hash's fields little more than what it answers.

#![cfg(feature = "state")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod store_support;

use std::{collections::BTreeSet, ops::ControlFlow, time::Duration};

use larder_storage::{ScanPosition, StoreOptions, state::DatabaseOptions};
use store_support::{Node, WALL_MS, busy};

const ELEMENTS: u32 = 100_000;
/// Small pages of keys that are read from the beginning.
const PAGES: usize = 200;
/// Sorting everything for each page takes several times as long.
const DEADLINE: Duration = Duration::from_secs(5);

fn options() -> StoreOptions {
    StoreOptions { reserve_bytes: 0, ..StoreOptions::new(DatabaseOptions::new(8 << 20, 8 << 20)) }
}

fn name(number: u32) -> Vec<u8> {
    // Of one unit, as keys.
    format!("{{tag}}{:08x}", number.wrapping_mul(2_654_435_761)).into_bytes()
}

fn in_time<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let (done, took) = busy(work);
    println!("{what}: {took:?}");
    assert!(took < DEADLINE, "{what} took {took:?}");
    done
}

#[test]
fn pages_of_a_large_hash_in_flight_come_in_time() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::open(root.path(), options()).unwrap();
    let names: Vec<Vec<u8>> = (0..ELEMENTS).map(name).collect();
    for names in names.chunks(1_000) {
        let pairs: Vec<(&[u8], &[u8])> = names.iter().map(|name| (&**name, &b"v"[..])).collect();
        let mut txn = node.writer.transaction(WALL_MS);
        txn.hash_put(b"hash", &pairs).unwrap();
        txn.commit().unwrap();
        node.commit();
    }
    let sorted: BTreeSet<&[u8]> = names.iter().map(|name| &**name).collect();
    let view = node.store.view(WALL_MS);
    let read = |limit, pages_max| {
        let mut found: Vec<Vec<u8>> = Vec::new();
        for _ in 0..pages_max {
            let after = found.last().map(|name| &**name);
            let page = view.row_and_fields_after(b"hash", after, limit, usize::MAX).unwrap();
            let page = page.unwrap();
            found.extend(page.fields.iter().map(|(name, _)| name.to_vec()));
            if page.complete {
                break;
            }
        }
        found
    };
    for (limit, pages) in [(10, usize::MAX), (10_000, usize::MAX), (usize::MAX, 1)] {
        let found = in_time(&format!("pages of {limit} fields"), || read(limit, pages));
        let expected = sorted.len().min(limit.saturating_mul(pages));
        assert_eq!(found.len(), expected);
        assert!(found.iter().eq(sorted.iter().take(expected)), "pages of {limit} fields");
    }
}

#[test]
fn pages_of_many_keys_of_one_unit_in_flight_come_in_time() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::open(root.path(), options()).unwrap();
    let mut expected = BTreeSet::new();
    for number in 0..ELEMENTS {
        expected.insert(name(number));
        node.append(std::str::from_utf8(&name(number)).unwrap(), "v");
        // Some of them are in RocksDB, and some of these are deleted in flight.
        if number == 999 {
            node.commit();
            node.writer.seal();
            node.fold();
        }
    }
    let mut txn = node.writer.transaction(WALL_MS);
    for number in (0..2_000).step_by(3) {
        assert!(txn.delete(&name(number)).unwrap());
        expected.remove(&name(number));
    }
    txn.commit().unwrap();
    node.commit();
    let view = node.store.view(WALL_MS);
    let read = |limit: usize, pages_max: usize| {
        let (mut found, mut from) = (Vec::new(), Some(ScanPosition::default()));
        for _ in 0..pages_max {
            let Some(position) = from else { break };
            let end = found.len().saturating_add(limit);
            let visit = &mut |key: &[u8], _: larder_storage::row::RowRef<'_>| {
                found.push(key.to_vec());
                if found.len() < end { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            };
            from = view.scan(position, visit).unwrap();
        }
        found
    };
    for (limit, pages) in [(10, PAGES), (10_000, usize::MAX), (usize::MAX, 1)] {
        let found = in_time(&format!("pages of {limit} keys"), || read(limit, pages));
        let expected_len = expected.len().min(limit.saturating_mul(pages));
        assert_eq!(found.len(), expected_len);
        assert!(found.iter().eq(expected.iter().take(expected_len)), "pages of {limit} keys");
    }
}
