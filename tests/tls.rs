//! TLS by certificate files, and a server beyond loopback, which takes nobody without a token.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking too")]

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::Server;

/// Writes a certificate of its own for 127.0.0.1, and its key.
fn certificate(dir: &Path) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (certificate, key) = (path("server.pem"), path("server.key"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (certificate, key)
}

fn millrace(dir: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_millrace"))
        .args(arguments)
        .current_dir(dir)
        .env("MILLRACE_PIPELINE__COMPILED_DIR", common::compiled_dir())
        .envs(environment.iter().copied())
        .output()
        .expect("the command runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_server_beyond_loopback_speaks_tls_and_knows_its_callers() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = certificate(dir.path());
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    let serve = |environment: &[(&str, &str)]| {
        let refused = millrace(dir.path(), &["serve", "--listen", "0.0.0.0:0", "--data-dir", data], environment);
        assert!(!refused.status.success());
        text(&refused.stderr)
    };
    assert!(serve(&[]).contains("without TLS the server binds to loopback only"));
    let files = [("MILLRACE_HTTP__TLS_CERTIFICATE", certificate.as_str()), ("MILLRACE_HTTP__TLS_KEY", key.as_str())];
    assert!(serve(&files[..1]).contains("go together"));
    assert!(serve(&files).contains("without a token"), "{}", serve(&files));

    let made = millrace(dir.path(), &["token", "create", "ops", "--scope", "admin", "--data-dir", data], &[]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let token = text(&made.stdout).trim().to_owned();
    assert!(token.starts_with("millrace_"), "{token}");

    let server = Server::try_start_with(Path::new(data), "", &files).expect("the server starts");
    assert!(server.url.starts_with("https://127.0.0.1:"), "{}", server.url);
    let status = |environment: &[(&str, &str)]| millrace(dir.path(), &["status", "--url", &server.url], environment);
    let (known, with_token) = (("MILLRACE_CA_FILE", certificate.as_str()), ("MILLRACE_TOKEN", token.as_str()));
    let unknown = status(&[with_token]);
    assert!(text(&unknown.stderr).to_lowercase().contains("certificate"), "{}", text(&unknown.stderr));
    let nobody = status(&[known]);
    assert!(text(&nobody.stderr).contains("a token is needed"), "{}", text(&nobody.stderr));
    let shown = status(&[known, with_token]);
    assert!(shown.status.success() && text(&shown.stdout).contains("chain"), "{}", text(&shown.stderr));
    let plain = millrace(dir.path(), &["status", "--url", &server.url.replace("https", "http")], &[with_token]);
    assert!(!plain.status.success(), "no plain HTTP on the port of TLS");
    assert!(server.stop().success());
}
