//! The cost of a commit and the memory of a writer do not grow with the table.
//!
//! Work is counted as bytes allocated, which neither a slow disk nor a busy machine changes. Alone in its binary: the
//! count is of the whole process.

#![allow(unsafe_code, reason = "a global allocator that counts can't be written without")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use common::*;
use millrace_rows::Store;

struct Counting;

static ALLOCATED: AtomicU64 = AtomicU64::new(0);
static LIVE: AtomicI64 = AtomicI64::new(0);

// SAFETY: hands every call on to the system's allocator, unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size() as u64, Ordering::Relaxed);
        LIVE.fetch_add(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller's promise is ours.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller's promise is ours.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const COMMITS: u64 = 5_000;
const WINDOW: u64 = 500;

#[tokio::test]
async fn five_thousand_commits_cost_the_same_at_the_end_as_at_the_start() {
    // In memory where there is such a file system: five thousand commits are twenty-five thousand syncs.
    let memory = std::path::Path::new("/dev/shm");
    let directory = tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()).unwrap();
    let mut store = open(directory.path()).await;
    let mut windows = Vec::new();
    for commit in 0..COMMITS {
        if commit % WINDOW == 0 {
            windows.push((ALLOCATED.load(Ordering::Relaxed), LIVE.load(Ordering::Relaxed)));
        }
        store.stage(slice((commit % 4) as u32, commit / 4 * 2, 2, 1)).await.unwrap();
        store.commit().await.unwrap();
    }
    windows.push((ALLOCATED.load(Ordering::Relaxed), LIVE.load(Ordering::Relaxed)));

    let work = |window: usize| (windows[window + 1].0 - windows[window].0) / WINDOW;
    let (first, last) = (work(0), work(windows.len() - 2));
    // The first window warms up, so memory is compared from its end on.
    let grown = windows[windows.len() - 1].1 - windows[1].1;
    println!(
        "allocated per commit: {first} bytes in the first {WINDOW}, {last} in the last; live memory grew by {grown}"
    );
    assert!(last as f64 <= first as f64 * 1.1, "a commit costs {last} bytes of allocation, {first} at the start");
    assert!(grown < 256 * 1024, "memory grew by {grown} bytes over {} commits", COMMITS - WINDOW);

    let status = store.reader().status().await.unwrap();
    assert_eq!((status.version, status.files, status.rows), (COMMITS, COMMITS, 2 * COMMITS));
    let mut keys = read_table(&store.reader()).await.into_keys();
    for partition in 0..4 {
        assert!((0..2 * COMMITS as i64 / 4).all(|offset| keys.next() == Some((partition, offset, 0))));
    }
}
