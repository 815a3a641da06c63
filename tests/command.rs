//! The command on a data directory that no server has open, and what it says when it can't.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking too")]

mod common;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use common::{Audit, Server};
use serde_json::Value;

fn millrace(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_millrace"))
        .args(arguments)
        .current_dir(dir)
        .env("MILLRACE_PIPELINE__COMPILED_DIR", common::compiled_dir())
        .output()
        .expect("the command runs")
}

/// Standard output of a command that must succeed.
fn done(dir: &Path, arguments: &[&str]) -> String {
    let output = millrace(dir, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Standard error of a command that must fail.
fn refused(dir: &Path, arguments: &[&str]) -> String {
    let output = millrace(dir, arguments);
    assert!(!output.status.success(), "{arguments:?} succeeded");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_file_is_imported_looked_at_and_exported_offline() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    // The data directory is made by a server.
    assert!(Server::start(dir).stop().success());
    let data = dir.to_str().unwrap();
    fs::write(
        dir.join("clicks.csv"),
        "who,what,when,plan\nd-1,home,2026-01-01T00:00:00Z,pro\nd-1,cart,2026-01-01T00:00:05Z,\n",
    )
    .unwrap();
    let import = [
        "import",
        "clicks.csv",
        "--map",
        "anonymousId=who",
        "--map",
        "event=what",
        "--map",
        "timestamp=when",
        "--set",
        "type=track",
        "--json",
        "--data-dir",
        data,
    ];
    let summary: Value = serde_json::from_str(&done(dir, &import)).unwrap();
    assert_eq!(summary["accepted"], 2, "{summary}");
    let summary: Value = serde_json::from_str(&done(dir, &import)).unwrap();
    assert_eq!(summary["accepted"], 0, "{summary}");

    let history = done(dir, &["history", "d-1", "--json", "--data-dir", data]);
    let events: Vec<Value> = history.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 2);
    assert_eq!(events.iter().filter(|event| event["properties"]["plan"] == "pro").count(), 1);
    assert!(done(dir, &["history", "d-1", "--event", "cart", "--data-dir", data]).contains("cart"));

    let status: Value = serde_json::from_str(&done(dir, &["status", "--json", "--data-dir", data])).unwrap();
    for store in ["delta", "history"] {
        assert_eq!(status["stores"][store]["lag_events"], 0, "{status}");
    }

    let export = dir.join("catalogue.ndjson");
    let export = export.to_str().unwrap();
    done(dir, &["catalogue", "export", export, "--data-dir", data]);
    let elsewhere = dir.join("elsewhere");
    done(dir, &["catalogue", "restore", export, "--data-dir", elsewhere.to_str().unwrap()]);
    let again = done(dir, &["catalogue", "export", "-", "--data-dir", elsewhere.to_str().unwrap()]);
    assert_eq!(again, fs::read_to_string(export).unwrap());
    assert!(refused(dir, &["catalogue", "restore", export, "--data-dir", data]).contains("timeline already"));
    Audit::of(dir).assert_agree();

    // The keyspace is lost, catalogue and history with it: an empty catalogue is not taken for a new deployment; the
    // export brings the timeline back, and the log the history.
    fs::remove_dir_all(dir.join("keyspace")).unwrap();
    assert!(refused(dir, &["serve", "--listen", "127.0.0.1:0", "--data-dir", data]).contains("catalogue restore"));
    done(dir, &["catalogue", "restore", export, "--data-dir", data]);
    let server = Server::start(dir);
    server.wait_caught_up();
    assert!(server.stop().success());
    let audit = Audit::of(dir);
    audit.assert_agree();
    assert_eq!(audit.history.len(), 2);
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let server = Server::start(dir);
    let data = dir.to_str().unwrap();
    assert!(refused(dir, &["status", "--data-dir", data]).contains("in use by another millrace process"));
    done(dir, &["status", "--url", &server.url]);
    assert!(server.stop().success());

    fs::write(dir.join("bad.toml"), "[log]\npartitons = 3\n").unwrap();
    let message = refused(dir, &["status", "--config", "bad.toml", "--data-dir", data]);
    assert!(message.contains("bad.toml") && message.contains("line 2") && message.contains("partitons"), "{message}");
    let message = refused(dir, &["serve", "--listen", "0.0.0.0:0", "--data-dir", data]);
    assert!(message.contains("loopback") && !message.contains("panicked"), "{message}");
    let message = refused(dir, &["status", "--data-dir", "nowhere"]);
    assert!(message.contains("no data in nowhere"), "{message}");
    assert!(!dir.join("nowhere").exists(), "a look makes nothing");
    fs::write(dir.join("chain.toml"), "[[pipeline.steps]]\nplugin = \"nobody@1.0.0\"\n").unwrap();
    let message = refused(dir, &["serve", "--config", "chain.toml", "--data-dir", data]);
    assert!(message.contains("step 1") && message.contains("nobody@1.0.0"), "{message}");
    fs::write(dir.join("not.wasm"), "PK\u{3}\u{4}zip").unwrap();
    fs::write(dir.join("zip.toml"), "[[pipeline.steps]]\nwasm = \"not.wasm\"\n").unwrap();
    let message = refused(dir, &["serve", "--config", "zip.toml", "--data-dir", data]);
    assert!(message.contains("step 1") && message.contains("not a WebAssembly component"), "{message}");
}

#[test]
fn an_address_that_is_taken_is_said_before_anything_is_made() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for command in [&["serve"][..], &["demo", "--exit"]] {
        let arguments = [command, &["--listen", &address, "--data-dir", "new"]].concat();
        let message = refused(dir, &arguments);
        assert!(message.contains(&address) && message.contains("--listen 127.0.0.1:0"), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(!dir.join("new").exists(), "it made the directory");
    }
}
