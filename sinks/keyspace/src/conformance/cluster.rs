//! A prefix of the tests' cluster that is used once.

use bytes::Bytes;

use super::place::CLUSTER_FILE;
use crate::foundationdb::{FoundationDbKeyspace, Options};
use crate::{Batch, KEY_BYTES_MAX, Keyspace, Write};

/// Bytes of a test's name that its prefix begins with: the rest must not be long either.
const NAME_BYTES_MAX: usize = 40;

/// A prefix that is cleared when this is dropped.
#[derive(Debug)]
pub struct Scratch {
    options: Options,
    clears: bool,
}

impl Scratch {
    /// A new prefix; `None` where the environment names no cluster file.
    pub fn new(test: &str) -> Option<Self> {
        let name: String = test.chars().filter(char::is_ascii).take(NAME_BYTES_MAX).collect();
        let prefix = format!("test/{name}/{:016x}", rand::random::<u64>());
        Some(Self { options: Options { prefix, ..Options::at(std::env::var_os(CLUSTER_FILE)?) }, clears: true })
    }

    /// A prefix that another process clears.
    pub fn of_another_process(prefix: &str) -> Self {
        let file = std::env::var_os(CLUSTER_FILE).expect("the other process has it as well");
        Self { options: Options { prefix: prefix.to_owned(), ..Options::at(file) }, clears: false }
    }

    /// Where it is.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Opens the keyspace below it.
    pub async fn open(&self) -> FoundationDbKeyspace {
        FoundationDbKeyspace::open(self.options.clone()).await.unwrap()
    }

    async fn clear(&self) {
        let all = Write::Clear(Bytes::new(), Bytes::from(vec![0xff; KEY_BYTES_MAX + 1]));
        let cleared = self.open().await.commit(Batch { compares: Vec::new(), writes: vec![all] }).await;
        if let Err(error) = cleared {
            println!("the prefix {:?} was not cleared: {error}", self.options.prefix);
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.clears {
            // On a thread of its own: a test's runtime may have one thread, and that is here.
            std::thread::scope(|scope| {
                scope.spawn(|| tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(self.clear()));
            });
        }
    }
}
