//! Senders that behave like SDKs.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

use super::{PATIENCE, event};

/// Posts batches until told to stop; sends a batch again, like an SDK, until it is acknowledged.
pub struct Load {
    url: Arc<Mutex<String>>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    senders: Vec<std::thread::JoinHandle<HashSet<String>>>,
}

impl Load {
    const SENDERS: u64 = 3;
    const BATCH: u64 = 40;

    /// Starts senders that send as fast as they can; `run` names their events.
    pub fn start(run: &str, url: &str) -> Self {
        Self::paced(run, url, Duration::ZERO)
    }

    /// Starts senders that rest between two batches.
    pub fn paced(run: &str, url: &str, rest: Duration) -> Self {
        let url = Arc::new(Mutex::new(url.to_owned()));
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let senders = (0..Self::SENDERS)
            .map(|sender| {
                let (url, stop, acknowledged) = (url.clone(), stop.clone(), acknowledged.clone());
                let run = run.to_owned();
                std::thread::spawn(move || {
                    let mut ids = HashSet::new();
                    let agent = super::agent();
                    for batch in 0.. {
                        if stop.load(Ordering::SeqCst) {
                            break;
                        }
                        let names: Vec<String> =
                            (0..Self::BATCH).map(|n| format!("{run}-{sender}-{batch}-{n}")).collect();
                        let events: Vec<_> = (0..)
                            .zip(&names)
                            .map(|(n, name)| event(name, &format!("device-{}", (batch * 7 + n) % 50), batch * 100 + n))
                            .collect();
                        let body = json!({"batch": events}).to_string();
                        loop {
                            let target = url.lock().unwrap().clone();
                            match super::answer(agent.post(format!("{target}/v1/batch")).send(body.as_bytes())) {
                                Ok((200, answer)) => {
                                    assert_eq!(answer, json!({"success": true}));
                                    break;
                                }
                                Ok((503, _)) | Err(_) => std::thread::sleep(Duration::from_millis(5)),
                                Ok(other) => panic!("{other:?}"),
                            }
                        }
                        ids.extend(names);
                        acknowledged.fetch_add(1, Ordering::SeqCst);
                        std::thread::sleep(rest);
                    }
                    ids
                })
            })
            .collect();
        Self { url, stop, acknowledged, senders }
    }

    /// The server is somewhere else now.
    pub fn moved_to(&self, url: &str) {
        *self.url.lock().unwrap() = url.to_owned();
    }

    /// Waits until so many batches more are acknowledged.
    pub fn wait_acknowledged(&self, more: u64) {
        let target = self.acknowledged.load(Ordering::SeqCst) + more;
        let deadline = std::time::Instant::now() + PATIENCE;
        while self.acknowledged.load(Ordering::SeqCst) < target {
            assert!(std::time::Instant::now() < deadline, "no batch is acknowledged");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Stops, and gives the ids of all events that were acknowledged.
    pub fn finish(self) -> HashSet<String> {
        self.stop.store(true, Ordering::SeqCst);
        self.senders.into_iter().flat_map(|sender| sender.join().expect("the sender")).collect()
    }
}
