//! The suite that every [`Keyspace`] passes.
//!
//! Each check takes a keyspace, a prefix that no other check uses, and a seed; it reads and writes only below the prefix,
//! so that many checks share one cluster. A failed check panics. [`conformance_tests!`](crate::conformance_tests) makes
//! one test of each:
//!
//! ```ignore
//! millrace_keyspace::conformance_tests!(async |name: &'static str| -> (Arc<dyn Keyspace>, Bytes, impl Sized) { … });
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a check fails by a panic")]

#[cfg(feature = "foundationdb")]
pub mod cluster;
mod concurrency;
mod model;
pub mod place;

pub use concurrency::{a_snapshot_never_changes, commits_are_seen, counters_are_exact, sums_hold_in_every_snapshot};
pub use model::random_batches_match_a_map;

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    BATCH_BYTES_MAX, Batch, Compare, KEY_BYTES_MAX, Keyspace, KeyspaceError, PAGE_BYTES_MAX, PAGE_PAIRS_MAX, Pair,
    Snapshot, VALUE_BYTES_MAX, Write, prefix_end,
};

/// One keyspace with the prefix and the seed of one check.
#[derive(Clone)]
pub struct Scope {
    /// The keyspace under test.
    pub keyspace: Arc<dyn Keyspace>,
    /// Everything that the check writes starts with this.
    pub prefix: Bytes,
    /// Seed of whatever is random.
    pub seed: u64,
}

impl Scope {
    /// A key below the prefix.
    pub fn key(&self, suffix: impl AsRef<[u8]>) -> Bytes {
        [&self.prefix, suffix.as_ref()].concat().into()
    }

    /// The end of the prefix's range.
    pub fn end(&self) -> Bytes {
        prefix_end(&self.prefix).expect("the prefix is not all 0xff")
    }

    async fn write(&self, writes: Vec<Write>) {
        self.keyspace.commit(Batch { compares: Vec::new(), writes }).await.unwrap();
    }

    async fn put(&self, suffix: impl AsRef<[u8]>, value: &str) {
        self.write(vec![Write::Put(self.key(suffix), Bytes::copy_from_slice(value.as_bytes()))]).await;
    }

    async fn get(&self, suffix: impl AsRef<[u8]>) -> Option<Bytes> {
        self.keyspace.get(&self.key(suffix)).await.unwrap()
    }

    /// All pairs below the prefix, keys without it, read in pages of `limit`.
    async fn all(&self, limit: usize) -> Vec<Pair> {
        self.all_in(&*self.keyspace.snapshot().await.unwrap(), limit).await
    }

    async fn all_in(&self, snapshot: &dyn Snapshot, limit: usize) -> Vec<Pair> {
        let pairs = scan(snapshot, &self.prefix, &self.end(), limit).await;
        pairs.into_iter().map(|(key, value)| (key.slice(self.prefix.len()..), value)).collect()
    }
}

/// The seed of a run: `MILLRACE_SEED`, else a new one. It is printed, so that a failed run can be repeated.
pub fn seed() -> u64 {
    let seed = std::env::var("MILLRACE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand::random);
    println!("MILLRACE_SEED={seed}");
    seed
}

/// Reads a range to its end, as the trait says to.
async fn scan(snapshot: &dyn Snapshot, begin: &[u8], end: &[u8], limit: usize) -> Vec<Pair> {
    let mut pairs: Vec<Pair> = Vec::new();
    let mut from = begin.to_vec();
    loop {
        let page = snapshot.range(&from, end, limit).await.unwrap();
        assert!(page.pairs.len() <= limit.min(PAGE_PAIRS_MAX));
        assert!(!page.more || !page.pairs.is_empty(), "a page that makes no progress");
        pairs.extend(page.pairs);
        match pairs.last() {
            Some((last, _)) if page.more => from = [last, &[0][..]].concat(),
            _ => return pairs,
        }
    }
}

fn text(value: &'static str) -> Bytes {
    Bytes::from_static(value.as_bytes())
}

/// A key is absent, then has its last value, then is absent again.
pub async fn keys_are_set_and_removed(s: Scope) {
    assert_eq!(s.get("a").await, None);
    s.put("a", "1").await;
    s.put("a", "2").await;
    s.put("ab", "").await;
    assert_eq!(s.get("a").await, Some(text("2")));
    assert_eq!(s.get("ab").await, Some(text("")), "an empty value is a value");
    s.write(vec![Write::Delete(s.key("a")), Write::Delete(s.key("never there"))]).await;
    assert_eq!(s.get("a").await, None);
    assert_eq!(s.get("ab").await, Some(text("")));
}

/// Writes of a batch happen in order: the last one of a key decides.
pub async fn the_last_write_of_a_key_wins(s: Scope) {
    s.put("cleared", "old").await;
    s.put("kept", "old").await;
    let put = |key: &str, value| Write::Put(s.key(key), text(value));
    s.write(vec![
        put("twice", "1"),
        put("twice", "2"),
        put("removed", "1"),
        Write::Delete(s.key("removed")),
        Write::Delete(s.key("set")),
        put("set", "1"),
        put("c in the batch", "1"),
        Write::Clear(s.key("c"), s.key("d")),
        put("c again", "1"),
    ])
    .await;
    let expected = [("c again", "1"), ("kept", "old"), ("set", "1"), ("twice", "2")];
    assert_eq!(s.all(100).await, expected.map(|(key, value)| (text(key), text(value))));
}

/// If one compare fails the batch does nothing, and the error names the key.
pub async fn compares_guard_the_whole_batch(s: Scope) {
    s.put("a", "1").await;
    let compare = |key: &str, expected: Option<&'static str>| Compare { key: s.key(key), expected: expected.map(text) };
    let try_with = |compares: Vec<Compare>| {
        let writes =
            vec![Write::Put(s.key("a"), text("2")), Write::Delete(s.key("a")), Write::Put(s.key("b"), text("2"))];
        s.keyspace.commit(Batch { compares, writes })
    };
    for (compares, culprit) in [
        (vec![compare("a", Some("2"))], "a"),
        (vec![compare("a", None)], "a"),
        (vec![compare("b", Some(""))], "b"),
        (vec![compare("a", Some("1")), compare("b", Some("1")), compare("c", Some("1"))], "b"),
        (vec![compare("a", Some("11"))], "a"),
        (vec![compare("a", Some(""))], "a"),
    ] {
        match try_with(compares.clone()).await {
            Err(KeyspaceError::Conflict { key }) => assert_eq!(key, s.key(culprit), "{compares:?}"),
            other => panic!("{compares:?}: {other:?}"),
        }
        assert_eq!(s.all(10).await, [(text("a"), text("1"))]);
    }
    try_with(vec![compare("a", Some("1")), compare("b", None)]).await.unwrap();
    assert_eq!(s.all(10).await, [(text("b"), text("2"))], "compares see the state before the batch");
    // A batch without writes is a check of several keys at one moment.
    let check = |expected| s.keyspace.commit(Batch { compares: vec![compare("b", expected)], writes: Vec::new() });
    check(Some("2")).await.unwrap();
    assert!(matches!(check(None).await, Err(KeyspaceError::Conflict { .. })));
}

/// Ranges are half open, in byte order, and read on exactly where a page ended.
pub async fn ranges_page_in_byte_order(s: Scope) {
    // All keys of up to two bytes from a set with the extremes.
    let bytes = [0x00, 0x01, 0x7f, 0x80, 0xfe, 0xff];
    let mut keys: Vec<Vec<u8>> = bytes.iter().map(|a| vec![*a]).collect();
    keys.extend(bytes.iter().flat_map(|a| bytes.iter().map(move |b| vec![*a, *b])));
    s.write(keys.iter().map(|key| Write::Put(s.key(key), Bytes::copy_from_slice(key))).collect()).await;
    keys.sort();
    let expected: Vec<Pair> = keys.iter().map(|key| (key.clone().into(), key.clone().into())).collect();
    for limit in [1, 2, 7, keys.len() - 1, keys.len(), keys.len() + 1, usize::MAX] {
        assert_eq!(s.all(limit).await, expected, "pages of {limit}");
    }
    let snapshot = s.keyspace.snapshot().await.unwrap();
    for (i, begin) in keys.iter().enumerate() {
        for (j, end) in keys.iter().enumerate() {
            let page = snapshot.range(&s.key(begin), &s.key(end), 100).await.unwrap();
            assert_eq!(page.pairs.len(), j.saturating_sub(i), "{begin:?}..{end:?}");
            assert!(!page.more);
        }
    }
    assert!(snapshot.range(&s.prefix, &s.end(), 0).await.unwrap().pairs.is_empty());
    let first = snapshot.range(&s.prefix, &s.end(), 1).await.unwrap();
    assert!(first.more && first.pairs.len() == 1);
}

/// A page ends before it grows without bound, and still makes progress.
pub async fn pages_are_bounded_in_bytes(s: Scope) {
    let value = Bytes::from(vec![7; VALUE_BYTES_MAX]);
    let count = 2 * PAGE_BYTES_MAX / VALUE_BYTES_MAX + 3;
    for n in 0..count {
        s.write(vec![Write::Put(s.key(format!("{n:03}")), value.clone())]).await;
    }
    let snapshot = s.keyspace.snapshot().await.unwrap();
    let page = snapshot.range(&s.prefix, &s.end(), usize::MAX).await.unwrap();
    let bytes: usize = page.pairs.iter().map(|(key, value)| key.len() + value.len()).sum();
    assert!(page.more && bytes <= PAGE_BYTES_MAX + KEY_BYTES_MAX + VALUE_BYTES_MAX, "{bytes}");
    let all = s.all_in(&*snapshot, usize::MAX).await;
    assert_eq!(all.len(), count);
    assert!(all.iter().all(|(_, found)| *found == value));
}

/// [`prefix_end`] bounds exactly the keys of a prefix.
pub async fn a_prefix_ends_where_it_should(s: Scope) {
    let keys: [&[u8]; 8] = [b"a", b"a\0", b"a\xff", b"a\xff\xff", b"b", b"b\0", b"\xff", b"\xff\xff"];
    s.write(keys.iter().map(|key| Write::Put(s.key(key), Bytes::new())).collect()).await;
    let snapshot = s.keyspace.snapshot().await.unwrap();
    for prefix in keys {
        let begin = s.key(prefix);
        let page = snapshot.range(&begin, &prefix_end(&begin).unwrap(), 100).await.unwrap();
        let expected: Vec<Bytes> = keys.iter().filter(|key| key.starts_with(prefix)).map(|key| s.key(key)).collect();
        assert_eq!(page.pairs.into_iter().map(|pair| pair.0).collect::<Vec<_>>(), expected, "{prefix:?}");
    }
}

/// A clear removes its half-open range and nothing beside it.
pub async fn clears_are_half_open(s: Scope) {
    for n in 0..300 {
        s.put(format!("{n:03}"), "x").await;
    }
    s.write(vec![Write::Clear(s.key("100"), s.key("200"))]).await;
    let expected: Vec<Bytes> = (0..100).chain(200..300).map(|n| Bytes::from(format!("{n:03}"))).collect();
    assert_eq!(s.all(1000).await.into_iter().map(|pair| pair.0).collect::<Vec<_>>(), expected);
    // Empty and inverted ranges, and one with nothing in it.
    for (begin, end) in [("250", "250"), ("260", "250"), ("150", "160")] {
        s.write(vec![Write::Clear(s.key(begin), s.key(end))]).await;
    }
    assert_eq!(s.all(1000).await.len(), 200);
    s.write(vec![Write::Clear(s.prefix.clone(), s.end())]).await;
    assert!(s.all(10).await.is_empty());
    s.put("150", "again").await;
    assert_eq!(s.all(10).await, [(text("150"), text("again"))]);
}

/// What is exactly at a limit is taken, one byte more is refused and writes nothing.
pub async fn limits_hold_on_every_backend(s: Scope) {
    let refused = async |writes: Vec<Write>| {
        let result = s.keyspace.commit(Batch { compares: Vec::new(), writes }).await;
        assert!(matches!(result, Err(KeyspaceError::TooLarge(_))), "{result:?}");
    };
    let longest = s.key(vec![b'k'; KEY_BYTES_MAX - s.prefix.len()]);
    let longer = Bytes::from([&longest, &b"k"[..]].concat());
    let largest = Bytes::from(vec![1; VALUE_BYTES_MAX]);
    let larger = Bytes::from(vec![1; VALUE_BYTES_MAX + 1]);
    refused(vec![Write::Put(s.key("beside"), text("1")), Write::Put(longer.clone(), text("1"))]).await;
    refused(vec![Write::Put(s.key("beside"), text("1")), Write::Delete(longer.clone())]).await;
    refused(vec![Write::Put(s.key("beside"), larger)]).await;
    refused(vec![Write::Put(Bytes::new(), text("1"))]).await;

    // A batch of exactly the limit, and one byte more.
    let batch = |last: usize| -> Vec<Write> {
        let value = BATCH_BYTES_MAX / 10 - s.prefix.len() - 1;
        let size = |n| if n == 9 { last } else { value };
        (0..10).map(|n| Write::Put(s.key(n.to_string()), Bytes::from(vec![2; size(n)]))).collect()
    };
    let exact = BATCH_BYTES_MAX / 10 - s.prefix.len() - 1;
    refused(batch(exact + 1)).await;
    assert!(s.all(10).await.is_empty(), "nothing of a refused batch is written");
    s.write(batch(exact)).await;
    assert_eq!(s.all(20).await.len(), 10);

    s.write(vec![Write::Put(longest.clone(), largest.clone())]).await;
    assert_eq!(s.keyspace.get(&longest).await.unwrap(), Some(largest));
    s.write(vec![Write::Clear(longest.clone(), Bytes::from([&longest, &b"\0"[..]].concat()))]).await;
    assert_eq!(s.keyspace.get(&longest).await.unwrap(), None);
}

/// Makes one test of each check. The argument is an async closure or function that takes the check's name and returns
/// `(Arc<dyn Keyspace>, Bytes, guard)`: a keyspace, a prefix that is used nowhere else, and what must live until the end.
/// Or `None` where there is no such keyspace; it says why.
#[macro_export]
macro_rules! conformance_tests {
    ($open:expr) => {
        $crate::conformance_tests!(
            @ $open;
            keys_are_set_and_removed, the_last_write_of_a_key_wins, compares_guard_the_whole_batch,
            ranges_page_in_byte_order, pages_are_bounded_in_bytes, a_prefix_ends_where_it_should, clears_are_half_open,
            limits_hold_on_every_backend, random_batches_match_a_map, a_snapshot_never_changes, commits_are_seen,
            counters_are_exact, sums_hold_in_every_snapshot
        );
    };
    (@ $open:expr; $($check:ident),+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $check() {
                let opened: Option<(_, _, _)> = ($open)(stringify!($check)).await.into();
                let Some((keyspace, prefix, _guard)) = opened else { return };
                let seed = $crate::conformance::seed();
                $crate::conformance::$check($crate::conformance::Scope { keyspace, prefix, seed }).await;
            }
        )+
    };
}
