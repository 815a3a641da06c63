//! What a batch comes to: one final value or removal per key.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use crate::{CLEAR_KEYS_MAX, KeyspaceError, Write};

use super::CLEAR_KEY_BYTES_MAX;

/// Per key what it becomes; `None`: removed.
pub(super) type Effects = BTreeMap<Bytes, Option<Bytes>>;

/// Applies the writes in order. The library gives all of a batch one sequence number, so a key must occur once in it.
///
/// `keys` calls back for each stored key of a range until it is told `false`.
pub(super) fn resolve(
    writes: Vec<Write>,
    mut keys: impl FnMut(&[u8], &[u8], &mut dyn FnMut(Bytes) -> bool) -> Result<(), KeyspaceError>,
) -> Result<Effects, KeyspaceError> {
    let mut effects = Effects::new();
    let mut cleared = 0;
    let mut cleared_bytes = 0;
    for write in writes {
        match write {
            Write::Put(key, value) => {
                effects.insert(key, Some(value));
            }
            Write::Delete(key) => {
                effects.insert(key, None);
            }
            Write::Clear(begin, end) if begin < end => {
                let range = (Bound::Included(begin.clone()), Bound::Excluded(end.clone()));
                effects.range_mut(range).for_each(|(_, value)| *value = None);
                let mut fits = true;
                keys(&begin, &end, &mut |key| {
                    cleared += 1;
                    cleared_bytes += key.len();
                    fits = cleared <= CLEAR_KEYS_MAX && cleared_bytes <= CLEAR_KEY_BYTES_MAX;
                    if fits {
                        effects.insert(key, None);
                    }
                    fits
                })?;
                if !fits {
                    return Err(KeyspaceError::TooLarge(format!(
                        "clearing a range removes more than {CLEAR_KEYS_MAX} keys or {CLEAR_KEY_BYTES_MAX} bytes of keys: \
                         clear in several batches"
                    )));
                }
            }
            Write::Clear(..) => {}
        }
    }
    Ok(effects)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn b(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    /// Resolves over a store that holds `stored`.
    fn run(stored: &[&str], writes: Vec<Write>) -> Vec<(String, Option<String>)> {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        resolve(writes, |begin, end, each| {
            let _ = stored.iter().map(|key| b(key)).filter(|key| &**key >= begin && &**key < end).all(each);
            Ok(())
        })
        .unwrap()
        .iter()
        .map(|(key, value)| (text(key), value.as_ref().map(text)))
        .collect()
    }

    #[test]
    fn the_last_write_of_a_key_decides() {
        let (put, delete, clear) =
            (|k, v| Write::Put(b(k), b(v)), |k| Write::Delete(b(k)), |from, to| Write::Clear(b(from), b(to)));
        assert_eq!(run(&[], vec![put("a", "1"), put("a", "2")]), [("a".into(), Some("2".into()))]);
        assert_eq!(run(&[], vec![put("a", "1"), delete("a")]), [("a".into(), None)]);
        assert_eq!(run(&[], vec![put("b", "1"), clear("a", "c")]), [("b".into(), None)]);
        assert_eq!(
            run(&["a", "b", "c"], vec![clear("a", "c"), put("b", "2")]),
            [("a".into(), None), ("b".into(), Some("2".into()))]
        );
        assert_eq!(run(&["a"], vec![clear("b", "a"), clear("a", "a")]), []);
    }

    #[test]
    fn a_clear_stops_at_its_bound_and_asks_for_no_more_keys() {
        let mut asked = 0;
        let result = resolve(vec![Write::Clear(b("a"), b("b"))], |_, _, each| {
            for n in 0..CLEAR_KEYS_MAX * 2 {
                asked += 1;
                if !each(Bytes::from(format!("a{n:06}"))) {
                    break;
                }
            }
            Ok(())
        });
        assert!(matches!(result, Err(KeyspaceError::TooLarge(_))));
        assert_eq!(asked, CLEAR_KEYS_MAX + 1);
    }

    #[test]
    fn the_bound_counts_all_clears_of_a_batch() {
        let half = CLEAR_KEYS_MAX / 2 + 1;
        let result = resolve(vec![Write::Clear(b("a"), b("b")), Write::Clear(b("c"), b("d"))], |begin, _, each| {
            let _ = (0..half).all(|n| each(Bytes::from([begin, format!("{n:06}").as_bytes()].concat())));
            Ok(())
        });
        assert!(matches!(result, Err(KeyspaceError::TooLarge(_))));
    }
}
