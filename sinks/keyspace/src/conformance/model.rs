//! Random batches against a map in memory.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Scope, scan};
use crate::{Batch, Compare, KeyspaceError, Write};

type Model = BTreeMap<Bytes, Bytes>;

/// Few keys, many of them prefixes of each other, so that batches meet the same ones again and again.
fn random_key(s: &Scope, random: &mut StdRng) -> Bytes {
    const BYTES: [u8; 5] = [0x00, 0x01, b'a', 0xfe, 0xff];
    let length = random.random_range(1..=3);
    s.key((0..length).map(|_| BYTES[random.random_range(0..BYTES.len())]).collect::<Vec<_>>())
}

fn random_write(s: &Scope, random: &mut StdRng) -> Write {
    match random.random_range(0..10) {
        0..6 => {
            let length = if random.random_bool(0.05) { 40_000 } else { random.random_range(0..20) };
            Write::Put(random_key(s, random), (0..length).map(|_| random.random::<u8>()).collect())
        }
        6..9 => Write::Delete(random_key(s, random)),
        _ => Write::Clear(random_key(s, random), random_key(s, random)),
    }
}

/// Mostly a compare that holds, else whatever was drawn.
fn random_compare(s: &Scope, model: &Model, random: &mut StdRng) -> Compare {
    let key = random_key(s, random);
    let expected = match random.random_range(0..10) {
        0 => None,
        1 => Some(Bytes::from_static(b"not there")),
        _ => model.get(&key).cloned(),
    };
    Compare { key, expected }
}

/// What a batch does by the contract: the key of the first compare that fails, or the new state.
fn apply(model: &mut Model, batch: &Batch) -> Result<(), Bytes> {
    if let Some(failed) = batch.compares.iter().find(|compare| model.get(&compare.key) != compare.expected.as_ref()) {
        return Err(failed.key.clone());
    }
    for write in &batch.writes {
        match write {
            Write::Put(key, value) => {
                model.insert(key.clone(), value.clone());
            }
            Write::Delete(key) => {
                model.remove(key);
            }
            Write::Clear(begin, end) => model.retain(|key, _| !(begin <= key && key < end)),
        }
    }
    Ok(())
}

/// Random batches have the outcome and the effect that the contract gives them, in snapshots of every age.
pub async fn random_batches_match_a_map(s: Scope) {
    let mut random = StdRng::seed_from_u64(s.seed);
    let mut model = Model::new();
    let mut old = (s.keyspace.snapshot().await.unwrap(), model.clone());
    for step in 0..300 {
        let batch = Batch {
            compares: (0..random.random_range(0..3)).map(|_| random_compare(&s, &model, &mut random)).collect(),
            writes: (0..random.random_range(0..12)).map(|_| random_write(&s, &mut random)).collect(),
        };
        let expected = apply(&mut model, &batch);
        match (s.keyspace.commit(batch.clone()).await, expected) {
            (Ok(()), Ok(())) => {}
            (Err(KeyspaceError::Conflict { key }), Err(expected)) => assert_eq!(key, expected, "step {step}"),
            (found, expected) => panic!("step {step}: {found:?} for {expected:?}: {batch:?}"),
        }
        let snapshot = s.keyspace.snapshot().await.unwrap();
        let key = random_key(&s, &mut random);
        assert_eq!(snapshot.get(&key).await.unwrap().as_ref(), model.get(&key), "step {step}");
        let (begin, end) = (random_key(&s, &mut random), random_key(&s, &mut random));
        let limit = random.random_range(1..30);
        let expected: Vec<_> = if begin < end {
            model.range(begin.clone()..end.clone()).map(|(key, value)| (key.clone(), value.clone())).collect()
        } else {
            Vec::new()
        };
        assert_eq!(scan(&*snapshot, &begin, &end, limit).await, expected, "step {step}");
        if step % 10 == 9 {
            let (snapshot, model_then) = &old;
            let expected: Vec<_> = model_then.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
            assert_eq!(scan(&**snapshot, &s.prefix, &s.end(), 50).await, expected, "an older snapshot at step {step}");
            old = (s.keyspace.snapshot().await.unwrap(), model.clone());
        }
    }
}
