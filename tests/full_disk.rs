//! A full log and a full disk: events are refused with 503, nothing acknowledged is lost, and it goes on when there is room.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking too")]

mod common;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Server, assert_exactly_once, event};
use serde_json::json;

/// A file system of a few MiB, unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(dir: &Path, mebibytes: u32) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"])
            .arg(dir)
            .status()
            .is_ok_and(|status| status.success());
        mounted.then(|| Self(dir.to_owned()))
    }

    fn resize(&self, mebibytes: u32) {
        let resized =
            Command::new("mount").args(["-o", &format!("remount,size={mebibytes}m")]).arg(&self.0).status().unwrap();
        assert!(resized.success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Nothing is left to do for a test that could not clean up.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Posts batches until one is refused; gives the ids that were acknowledged.
fn fill(server: &Server, name: &str, batches_max: usize) -> (HashSet<String>, bool) {
    let mut acknowledged = HashSet::new();
    for batch in 0..batches_max {
        let ids: Vec<String> = (0..50).map(|n| format!("{name}-{batch}-{n}")).collect();
        let events: Vec<_> = ids
            .iter()
            .map(|id| {
                let mut event = event(id, &format!("device-{}", batch % 7), 1);
                // What does not compress, so that the stores fill up, too.
                event["properties"]["noise"] = json!(
                    (0..40).map(|n| format!("{:x}", (n * 7919 + batch) as u64 * 2_654_435_761)).collect::<String>()
                );
                event
            })
            .collect();
        match server.post("/v1/batch", json!({"batch": events}).to_string().as_bytes()).expect("the server answers") {
            (200, _) => acknowledged.extend(ids),
            (503, answer) => {
                assert_eq!(answer["error"]["code"], "unavailable", "{answer}");
                return (acknowledged, true);
            }
            other => panic!("{other:?}"),
        }
    }
    (acknowledged, false)
}

#[test]
fn a_full_disk_refuses_events_and_loses_none() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(dir.path(), 40) else {
        println!("skipped: this user may not mount a tmpfs");
        return;
    };
    let server = Server::start(dir.path());
    let (mut acknowledged, refused) = fill(&server, "first", 100_000);
    assert!(refused, "40 MiB were never full");
    assert!(acknowledged.len() > 1000, "{} events before the disk was full", acknowledged.len());
    let (status, _) = server.get("/healthz");
    assert_eq!(status, 200);
    // Killed while it is full, and started again with room.
    server.kill();
    disk.resize(400);
    let server = Server::start(dir.path());
    let (more, refused) = fill(&server, "second", 20);
    assert!(!refused);
    acknowledged.extend(more);
    assert_exactly_once(dir.path(), server, &acknowledged);
}

#[test]
fn a_disk_that_gets_room_again_is_used_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(dir.path(), 40) else {
        println!("skipped: this user may not mount a tmpfs");
        return;
    };
    let server = Server::start(dir.path());
    let (mut acknowledged, refused) = fill(&server, "first", 100_000);
    assert!(refused, "40 MiB were never full");
    disk.resize(400);
    server.wait_caught_up();
    let (more, refused) = fill(&server, "second", 20);
    assert!(!refused, "there is room, and events are refused");
    acknowledged.extend(more);
    assert_exactly_once(dir.path(), server, &acknowledged);
}
