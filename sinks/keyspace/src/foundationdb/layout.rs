//! Keys below a prefix, and pages put together from the client library's answers.

use bytes::Bytes;

use crate::{KEY_BYTES_MAX, KeyspaceError, PAGE_BYTES_MAX, Page};

/// Longest name of a prefix, in bytes.
pub const PREFIX_NAME_BYTES_MAX: usize = 64;

/// FoundationDB's longest key, in bytes.
const CLUSTER_KEY_BYTES_MAX: usize = 10_000;

// The longest key of ours fits below the longest prefix.
const _: () = assert!(KEY_BYTES_MAX + PREFIX_NAME_BYTES_MAX + 2 <= CLUSTER_KEY_BYTES_MAX);

/// What every key of one keyspace begins with: its name as a tuple of one string, as FoundationDB's own layers write it
/// (0x02, the name, 0x00). No other name's prefix is a beginning of it, so keyspaces never meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prefix(Bytes);

impl Prefix {
    pub(super) fn new(name: &str) -> Result<Self, KeyspaceError> {
        if !(1..=PREFIX_NAME_BYTES_MAX).contains(&name.len()) || name.contains('\0') {
            return Err(KeyspaceError::Broken(format!(
                "the prefix {name:?}: a name of 1 to {PREFIX_NAME_BYTES_MAX} bytes without a zero byte is needed"
            )));
        }
        Ok(Self([&[2], name.as_bytes(), &[0]].concat().into()))
    }

    /// The cluster's key for one of ours, or for a bound of a range.
    pub(super) fn key(&self, key: &[u8]) -> Vec<u8> {
        [&self.0, key].concat()
    }

    /// Our key for one of the cluster's.
    pub(super) fn strip<'k>(&self, key: &'k [u8]) -> Result<&'k [u8], KeyspaceError> {
        key.strip_prefix(&*self.0)
            .ok_or_else(|| KeyspaceError::Broken("FoundationDB answered a range with a key outside it".to_owned()))
    }
}

/// A page while it is filled from several answers.
pub(super) struct Filling {
    page: Page,
    limit: usize,
    bytes: usize,
}

impl Filling {
    pub(super) fn new(limit: usize) -> Self {
        Self { page: Page::default(), limit, bytes: 0 }
    }

    fn full(&self) -> bool {
        self.page.pairs.len() >= self.limit || self.bytes >= PAGE_BYTES_MAX
    }

    /// How many pairs to ask for: one more than fit, so that `more` is exact.
    pub(super) fn wanted(&self) -> usize {
        if self.full() { 1 } else { self.limit - self.page.pairs.len() + 1 }
    }

    /// Takes the next pair; false where the page is complete without it.
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) -> bool {
        if self.full() {
            self.page.more = true;
            return false;
        }
        self.bytes += key.len() + value.len();
        // Copies: what the client library returns keeps its whole answer alive.
        self.page.pairs.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        true
    }

    pub(super) fn finish(self) -> Page {
        self.page
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefix_end;

    #[test]
    fn prefixes_never_meet() {
        let names = ["a", "ab", "b", "a\u{1}", "größe", &"x".repeat(PREFIX_NAME_BYTES_MAX)];
        for one in names {
            let one = Prefix::new(one).unwrap();
            let end = prefix_end(&one.0).unwrap();
            let longest = one.key(&[0xff; KEY_BYTES_MAX]);
            assert!(longest.len() <= CLUSTER_KEY_BYTES_MAX && *longest < *end);
            assert_eq!(one.strip(&longest).unwrap(), [0xff; KEY_BYTES_MAX]);
            for other in names.map(|name| Prefix::new(name).unwrap()).into_iter().filter(|other| *other != one) {
                let key = other.key(b"\0");
                assert!(!(one.0.as_ref()..end.as_ref()).contains(&&key[..]), "{one:?} {other:?}");
                assert!(one.strip(&key).is_err());
            }
        }
    }

    #[test]
    fn a_prefix_is_the_tuple_of_its_name() {
        assert_eq!(*Prefix::new("millrace").unwrap().0, *b"\x02millrace\0");
        for wrong in ["", "a\0b", &"x".repeat(PREFIX_NAME_BYTES_MAX + 1)] {
            assert!(matches!(Prefix::new(wrong), Err(KeyspaceError::Broken(_))), "{wrong:?}");
        }
    }

    /// Fills a page as a snapshot does, from a cluster that answers at most `answer` pairs at a time.
    fn fill(pairs: &[(Vec<u8>, Vec<u8>)], limit: usize, answer: usize) -> Page {
        let mut page = Filling::new(limit);
        let mut rest = pairs;
        loop {
            let (now, behind) = rest.split_at(rest.len().min(answer).min(page.wanted()));
            for (key, value) in now {
                if !page.take(key, value) {
                    return page.finish();
                }
            }
            if behind.is_empty() {
                return page.finish();
            }
            rest = behind;
        }
    }

    #[test]
    fn more_is_exact_however_the_answers_are_cut() {
        let pairs: Vec<_> = (0..20_u8).map(|n| (vec![n], vec![n; 3])).collect();
        for answer in [1, 2, 7, 19, 20, 100] {
            for limit in [0, 1, 2, 19, 20, 21, 1000] {
                let page = fill(&pairs, limit, answer);
                assert_eq!(page.pairs.len(), limit.min(20), "{answer} {limit}");
                assert_eq!(page.more, limit < 20, "{answer} {limit}");
            }
        }
        assert_eq!(fill(&[], 5, 5), Page::default());
    }

    #[test]
    fn a_page_ends_at_its_bytes() {
        let pairs: Vec<_> = (0..30_u8).map(|n| (vec![n], vec![n; PAGE_BYTES_MAX / 10 - 1])).collect();
        for answer in [1, 3, 10, 30] {
            let page = fill(&pairs, 1000, answer);
            assert_eq!((page.pairs.len(), page.more), (10, true), "{answer}");
            let page = fill(&pairs[..10], 1000, answer);
            assert_eq!((page.pairs.len(), page.more), (10, false), "{answer}");
        }
    }
}
