//! The de-duplication window of the ingest: which events are in the log already.
//!
//! It holds the keys of the last events, [`key`] of (app, messageId), and forgets the oldest beyond its size. A key is
//! *claimed* by the request that appends its event; a repeat that comes meanwhile waits for that request's outcome, so
//! that nobody is told "it is in the log" before it is.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use xxhash_rust::xxh3::Xxh3;

/// The key of an event in the window.
pub fn key(app: Option<&str>, message_id: &str) -> u128 {
    let mut hash = Xxh3::new();
    let app = app.unwrap_or_default();
    hash.update(&(app.len() as u64).to_le_bytes());
    hash.update(app.as_bytes());
    hash.update(message_id.as_bytes());
    hash.digest128()
}

/// How the append of a claimed event ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not known yet.
    Pending,
    /// The event is durable.
    Durable,
    /// The event is not in the log.
    Failed,
}

/// What the window says of an event.
#[derive(Debug)]
pub enum Claim {
    /// It is new: append it, then [`Window::settle`].
    New,
    /// It is in the log.
    Known,
    /// Another request is appending it: wait for what comes of it.
    Pending(watch::Receiver<Outcome>),
}

/// Keys are hashes already.
#[derive(Default)]
struct TakeHash(u64);

impl Hasher for TakeHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_le_bytes(word);
        }
    }
}

enum State {
    Pending(watch::Receiver<Outcome>),
    Durable,
}

#[derive(Default)]
struct Inner {
    states: HashMap<u128, State, BuildHasherDefault<TakeHash>>,
    /// Durable keys, oldest first.
    order: VecDeque<u128>,
}

/// The window.
pub struct Window {
    inner: Mutex<Inner>,
    keys_max: usize,
}

impl Window {
    /// A window over the last `keys_max` events. Each takes about 60 bytes.
    pub fn new(keys_max: usize) -> Self {
        Self { inner: Mutex::default(), keys_max }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The maps are consistent between any two statements that can panic: there is none.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for an event, on behalf of an append whose outcome `outcome` will tell.
    pub fn claim(&self, key: u128, outcome: &watch::Receiver<Outcome>) -> Claim {
        let mut inner = self.lock();
        match inner.states.get(&key) {
            Some(State::Durable) => Claim::Known,
            Some(State::Pending(receiver)) => Claim::Pending(receiver.clone()),
            None => {
                inner.states.insert(key, State::Pending(outcome.clone()));
                Claim::New
            }
        }
    }

    /// Ends the claims on `keys`: they are in the log, or they are free again.
    pub fn settle(&self, keys: &[u128], durable: bool) {
        let mut inner = self.lock();
        for key in keys {
            if !durable {
                inner.states.remove(key);
                continue;
            }
            if !matches!(inner.states.insert(*key, State::Durable), Some(State::Durable)) {
                inner.order.push_back(*key);
            }
            if inner.order.len() > self.keys_max
                && let Some(oldest) = inner.order.pop_front()
            {
                inner.states.remove(&oldest);
            }
        }
    }

    /// Number of durable keys held.
    pub fn len(&self) -> usize {
        self.lock().order.len()
    }

    /// Whether no durable key is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(window: &Window, key: u128) -> Claim {
        let (_, receiver) = watch::channel(Outcome::Pending);
        window.claim(key, &receiver)
    }

    #[test]
    fn app_and_message_id_do_not_run_together() {
        assert_ne!(key(Some("ab"), "c"), key(Some("a"), "bc"));
        assert_ne!(key(None, "ab"), key(Some("a"), "b"));
    }

    #[test]
    fn a_claim_is_free_again_after_a_failure_and_known_after_success() {
        let window = Window::new(10);
        assert!(matches!(claim(&window, 1), Claim::New));
        assert!(matches!(claim(&window, 1), Claim::Pending(_)));
        window.settle(&[1], false);
        assert!(matches!(claim(&window, 1), Claim::New));
        window.settle(&[1], true);
        assert!(matches!(claim(&window, 1), Claim::Known));
    }

    #[test]
    fn a_repeat_within_one_request_waits_for_that_request() {
        let window = Window::new(10);
        let (_, receiver) = watch::channel(Outcome::Pending);
        assert!(matches!(window.claim(1, &receiver), Claim::New));
        assert!(matches!(window.claim(1, &receiver), Claim::Pending(_)));
    }

    #[test]
    fn the_oldest_is_forgotten_and_memory_stays_bounded() {
        let window = Window::new(3);
        for key in 0..1000 {
            window.settle(&[key], true);
            window.settle(&[key], true);
        }
        assert_eq!(window.len(), 3);
        assert_eq!(window.lock().states.len(), 3);
        assert!(matches!(claim(&window, 996), Claim::New));
        assert!(matches!(claim(&window, 997), Claim::Known));
    }
}
