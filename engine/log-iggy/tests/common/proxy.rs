//! A TCP proxy that breaks connections on purpose: before a request came through, after it came through and before its
//! answer did, or from here on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the proxy does to requests larger than [`Proxy::LARGE`] bytes: batches, in these tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trouble {
    /// Of 1000 batches, how many are cut before the server has all of them.
    pub cut: u32,
    /// Of 1000 batches, how many reach the server and lose their answer with the connection.
    pub swallowed: u32,
    /// Of 1000 batches, how many reach the server after the client's connection broke.
    pub late: u32,
    /// How late, at the most.
    pub late_by: Duration,
}

pub struct Proxy {
    pub address: String,
    trouble: watch::Sender<Trouble>,
    up: watch::Sender<bool>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    connections: AtomicU64,
    cut: AtomicU64,
    swallowed: AtomicU64,
    late: AtomicU64,
}

impl Proxy {
    pub const LARGE: usize = 700;

    pub async fn start(server: String, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let proxy = Self {
            address,
            trouble: watch::Sender::new(Trouble::default()),
            up: watch::Sender::new(true),
            counts: Arc::default(),
        };
        let (trouble, up, counts) = (proxy.trouble.subscribe(), proxy.up.subscribe(), proxy.counts.clone());
        tokio::spawn(async move {
            let mut number = 0;
            while let Ok((client, _)) = listener.accept().await {
                number += 1;
                counts.connections.fetch_add(1, Ordering::SeqCst);
                if !*up.borrow() {
                    continue;
                }
                let Ok(server) = TcpStream::connect(&server).await else { continue };
                let random = StdRng::seed_from_u64(seed ^ (number << 32));
                tokio::spawn(carry(client, server, random, trouble.clone(), up.clone(), counts.clone()));
            }
        });
        proxy
    }

    pub fn trouble(&self, trouble: Trouble) {
        self.trouble.send_replace(trouble);
    }

    /// Cuts every connection, and answers none until it is up again.
    pub fn set_up(&self, up: bool) {
        self.up.send_replace(up);
    }

    /// Connections, and batches that were cut, swallowed and late.
    pub fn counts(&self) -> [u64; 4] {
        let Counts { connections, cut, swallowed, late } = &*self.counts;
        [connections, cut, swallowed, late].map(|count| count.load(Ordering::SeqCst))
    }
}

async fn carry(
    client: TcpStream,
    server: TcpStream,
    mut random: StdRng,
    trouble: watch::Receiver<Trouble>,
    mut up: watch::Receiver<bool>,
    counts: Arc<Counts>,
) {
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let silent = Arc::new(AtomicBool::new(false));
    let silenced = silent.clone();
    let answers = async move {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from_server.read(&mut bytes).await {
            if silenced.load(Ordering::SeqCst) {
                // The server has answered: the batch is there, and nobody will know.
                return;
            }
            if to_client.write_all(&bytes[..count]).await.is_err() {
                return;
            }
        }
    };
    let requests = async move {
        let mut bytes = vec![0; 1024 * 1024];
        while let Ok(count @ 1..) = from_client.read(&mut bytes).await {
            let Trouble { cut, swallowed, late, late_by } = *trouble.borrow();
            if count > Proxy::LARGE {
                let dice = random.random_range(0..1000);
                if dice < cut {
                    counts.cut.fetch_add(1, Ordering::SeqCst);
                    let some = random.random_range(0..count);
                    let _ = to_server.write_all(&bytes[..some]).await;
                    return;
                }
                if dice < cut + swallowed {
                    counts.swallowed.fetch_add(1, Ordering::SeqCst);
                    silent.store(true, Ordering::SeqCst);
                }
                if (cut + swallowed..cut + swallowed + late).contains(&dice) {
                    counts.late.fetch_add(1, Ordering::SeqCst);
                    let wait = late_by.mul_f64(random.random());
                    let rest = bytes[..count].to_vec();
                    // The connection to the server outlives the one to the client.
                    tokio::spawn(async move {
                        tokio::time::sleep(wait).await;
                        let _ = to_server.write_all(&rest).await;
                        // Until the server has read it.
                        tokio::time::sleep(Duration::from_secs(3)).await;
                    });
                    return;
                }
            }
            if to_server.write_all(&bytes[..count]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = answers => {}
        () = requests => {}
        _ = up.wait_for(|up| !up) => {}
    }
}
