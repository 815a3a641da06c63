//! The whole system on a real Iggy server, where there is one: `MILLRACE_TEST_IGGY=iggy://user:password@host:8090`, and for
//! tests that kill the server itself `MILLRACE_TEST_IGGY_SERVER`, the path of its program.

#![cfg(feature = "iggy")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking too")]

mod common;
#[path = "../engine/log-iggy/tests/common/mod.rs"]
mod topic;

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::load::Load;
use common::{PATIENCE, Server, assert_exactly_once_with, event, seed};
use iggy::prelude::{
    Identifier, IggyMessage, MessageClient as _, Partitioning, PersonalAccessTokenClient as _,
    PersonalAccessTokenExpiry, SegmentClient as _,
};
use millrace_log::{EventLog as _, LogError, NewRecord, ReadLimit, ResumeError, check_resume};
use millrace_log_iggy::{IggyLog, Options};
use millrace_pipeline::engine::EngineOptions;
use millrace_rows::{Cursor, Mark};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use topic::Stream;

const PARTITIONS: u32 = 4;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(future)
}

fn environment(stream: &Stream) -> Vec<(&str, &str)> {
    vec![("MILLRACE_LOG__URL", &stream.url), ("MILLRACE_LOG__STREAM", &stream.name)]
}

fn start(dir: &Path, stream: &Stream) -> Server {
    let started = Server::try_start_with(dir, "", &environment(stream));
    started.unwrap_or_else(|status| panic!("the server ended at start: {status}"))
}

fn options(dir: &Path, stream: &Stream) -> EngineOptions {
    EngineOptions { iggy: Some(stream.options(PARTITIONS)), ..common::options(dir) }
}

#[test]
fn killed_at_25_moments_nothing_is_lost_or_doubled() {
    let Some(url) = topic::url() else { return };
    let mut random = StdRng::seed_from_u64(seed(51));
    let dir = tempfile::tempdir().unwrap();
    let stream = Stream::new(url);
    block_on(stream.create_topic(PARTITIONS, None));
    let began = Instant::now();
    let mut server = start(dir.path(), &stream);
    let load = Load::start("kill", &server.url);
    for _ in 0..25 {
        load.wait_acknowledged(random.random_range(1..12));
        std::thread::sleep(Duration::from_micros(random.random_range(0..30_000)));
        server.kill();
        server = start(dir.path(), &stream);
        load.moved_to(&server.url);
    }
    load.wait_acknowledged(3);
    let acknowledged = load.finish();
    assert_exactly_once_with(options(dir.path(), &stream), server, &acknowledged);
    println!("25 kills, {} events, {:?}", acknowledged.len(), began.elapsed());
}

/// An Iggy server of a test's own.
struct Iggy {
    program: PathBuf,
    dir: PathBuf,
    tcp: u16,
    http: u16,
    /// More of its environment.
    more: Vec<(&'static str, String)>,
    child: Child,
}

impl Iggy {
    fn start(dir: &Path) -> Option<Self> {
        Self::start_with(dir, Vec::new())
    }

    fn start_with(dir: &Path, more: Vec<(&'static str, String)>) -> Option<Self> {
        let Some(program) = std::env::var_os("MILLRACE_TEST_IGGY_SERVER") else {
            println!("SKIPPED: MILLRACE_TEST_IGGY_SERVER is not set to the program of an Iggy server");
            return None;
        };
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (program, tcp, http) = (PathBuf::from(program), free(), free());
        let child = Self::spawn(&program, dir, tcp, http, &more);
        let iggy = Self { program, dir: dir.to_owned(), tcp, http, more, child };
        iggy.wait();
        Some(iggy)
    }

    fn spawn(program: &Path, dir: &Path, tcp: u16, http: u16, more: &[(&'static str, String)]) -> Child {
        let log = std::fs::File::options().create(true).append(true).open(dir.join("server.log")).unwrap();
        Command::new(program)
            .current_dir(dir)
            .env("IGGY_ROOT_USERNAME", "iggy")
            .env("IGGY_ROOT_PASSWORD", "iggy")
            .env("IGGY_SYSTEM_PATH", dir.join("data"))
            .env("IGGY_TCP_ADDRESS", format!("127.0.0.1:{tcp}"))
            .env("IGGY_HTTP_ADDRESS", format!("127.0.0.1:{http}"))
            .env("IGGY_QUIC_ENABLED", "false")
            .env("IGGY_WEBSOCKET_ENABLED", "false")
            .envs(more.iter().map(|(name, value)| (*name, value)))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .expect("the Iggy server starts")
    }

    fn wait(&self) {
        let deadline = Instant::now() + PATIENCE;
        for port in [self.tcp, self.http] {
            while TcpStream::connect(("127.0.0.1", port)).is_err() {
                assert!(Instant::now() < deadline, "the Iggy server does not listen");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn terminate(&mut self) {
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                println!("the Iggy server does not stop when it is asked to");
                return self.kill();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn restart(&mut self) {
        self.child = Self::spawn(&self.program, &self.dir, self.tcp, self.http, &self.more);
        self.wait();
    }

    fn stream(&self) -> Stream {
        let mut stream = Stream::new(format!("iggy://iggy:iggy@127.0.0.1:{}", self.tcp));
        stream.http = format!("http://127.0.0.1:{}", self.http);
        stream
    }
}

impl Drop for Iggy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_log_server_goes_and_comes_back_and_nothing_is_lost_or_doubled() {
    let (dir, iggy_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let Some(mut iggy) = Iggy::start(iggy_dir.path()) else { return };
    let outage = std::env::var("MILLRACE_TEST_OUTAGE_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    let mut random = StdRng::seed_from_u64(seed(52));
    let stream = iggy.stream();
    block_on(stream.create_topic(PARTITIONS, None));
    let began = Instant::now();
    let mut server = start(dir.path(), &stream);
    let load = Load::start("outage", &server.url);
    for round in 0..10 {
        load.wait_acknowledged(random.random_range(3..30));
        std::thread::sleep(Duration::from_micros(random.random_range(0..30_000)));
        // In order, or in the middle of what it does; for a moment, or for longer.
        if random.random_bool(0.3) {
            iggy.terminate()
        } else {
            iggy.kill()
        }
        std::thread::sleep(Duration::from_millis(random.random_range(0..1500)));
        if round == 4 {
            std::thread::sleep(Duration::from_secs(outage));
            let (code, status) = server.get("/v1/status");
            assert_eq!(code, 200, "{status}");
            assert!(status["log"]["problem"].as_str().is_some_and(|problem| problem.contains("reached")), "{status:#}");
            let (code, ready) = server.get("/readyz");
            assert_eq!(code, 503, "{ready}");
        }
        // While nobody knows what became of its last batches.
        if round % 3 == 2 {
            server.kill();
            iggy.restart();
            server = start(dir.path(), &stream);
            load.moved_to(&server.url);
        } else {
            iggy.restart();
        }
    }
    load.wait_acknowledged(20);
    let acknowledged = load.finish();
    let status = server.wait_caught_up();
    assert!(status["log"]["problem"].is_null(), "{status:#}");
    assert_eq!(server.get("/readyz").0, 200);
    let (_, metrics) = server.get("/metrics");
    let metrics = metrics.as_str().unwrap_or_default();
    for line in metrics.lines().filter(|line| line.starts_with("millrace_log_") && !line.contains('{')) {
        println!("{line}");
    }
    assert_exactly_once_with(options(dir.path(), &stream), server, &acknowledged);
    println!("10 ends of the log server, 3 of ours, {} events, {:?}", acknowledged.len(), began.elapsed());
}

#[test]
fn over_tls_with_a_token() {
    let (dir, iggy_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let made = rcgen::generate_simple_self_signed(["log.example.org".to_owned()]).unwrap();
    let (certificate, key) = (iggy_dir.path().join("cert.pem"), iggy_dir.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let shown = |path: &Path| path.to_str().unwrap().to_owned();
    let more = vec![
        ("IGGY_TCP_TLS_ENABLED", "true".to_owned()),
        ("IGGY_TCP_TLS_SELF_SIGNED", "false".to_owned()),
        ("IGGY_TCP_TLS_CERT_FILE", shown(&certificate)),
        ("IGGY_TCP_TLS_KEY_FILE", shown(&key)),
    ];
    let Some(iggy) = Iggy::start_with(iggy_dir.path(), more) else { return };
    let tls = format!("tls=true&tls_domain=log.example.org&tls_ca_file={}", shown(&certificate));
    let mut stream = iggy.stream();
    stream.url = format!("{}?{tls}", stream.url);
    let token = block_on(async {
        stream.create_topic(PARTITIONS, None).await;
        let client = topic::client(&stream.url).await;
        client.create_personal_access_token("millrace", PersonalAccessTokenExpiry::NeverExpire).await.unwrap().token
    });
    let token = token.as_str();
    let address = format!("127.0.0.1:{}", iggy.tcp);
    let with = |url: &str| {
        let environment = [("MILLRACE_LOG__URL", url), ("MILLRACE_LOG__STREAM", &stream.name)];
        Server::try_start_with(dir.path(), "", &environment)
    };
    let server = with(&format!("iggy://{token}@{address}?{tls}")).unwrap_or_else(|status| panic!("{status}"));
    let body = json!({"batch": [event("one", "device", 1)]}).to_string();
    assert_eq!(server.post("/v1/batch", body.as_bytes()).unwrap().0, 200);
    let status = server.wait_caught_up();
    assert!(!status.to_string().contains(token), "the token is shown");
    assert!(server.stop().success());
    // Another name than the certificate's, and the log is not spoken with.
    let options =
        |url: &str| Options { open_wait: Duration::from_millis(100), ..Options::new(url.parse().unwrap(), "s", "t") };
    for wrong in [
        format!("iggy://{token}@{address}?{}", tls.replace("log.example.org", "other.example.org")),
        format!("iggy://{token}@{address}?tls=true&tls_domain=log.example.org"),
        format!("iggy://{token}x@{address}?{tls}"),
    ] {
        let error = block_on(IggyLog::open(options(&wrong))).err().expect("no log").to_string();
        assert!(error.contains(&address) && !error.contains(token), "{error}");
    }
}

#[test]
fn records_that_the_server_lost_are_missed() {
    let iggy_dir = tempfile::tempdir().unwrap();
    let Some(mut iggy) = Iggy::start(iggy_dir.path()) else { return };
    let stream = iggy.stream();
    let all = ReadLimit { records: usize::MAX, bytes: usize::MAX };
    let record = |id| NewRecord { id, receipt: None, payload: Bytes::from_static(b"{}") };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    // It acknowledges what is in its memory.
    runtime.block_on(stream.create_topic_as(2, None, false));
    let log = runtime.block_on(async {
        let log = IggyLog::open(stream.options(2)).await.unwrap();
        for partition in 0..2 {
            log.append(partition, (1..=100).map(record).collect()).await.unwrap();
        }
        log
    });
    let read = runtime.block_on(log.read(0, 0, all)).unwrap();
    let last = read.last().unwrap();
    let cursor = Cursor { log: log.id(), next: last.offset + 1, mark: last.mark() };
    iggy.kill();
    iggy.restart();
    runtime.block_on(async {
        let deadline = Instant::now() + PATIENCE;
        let end = loop {
            match log.bounds(0).await {
                Ok(bounds) => break bounds.end,
                Err(error) => assert!(error.is_temporary() && Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert!(end < 100, "this server lost nothing: the test needs one that does");
        for answer in [log.read(0, 100, all).await.err(), log.wait_past(0, 100).await.err()] {
            assert!(matches!(answer, Some(LogError::PastEnd { partition: 0, .. })), "{answer:?}");
        }
        // Offsets are given again, to others.
        produce(&stream, 0, 0, 120).await;
        let anew = IggyLog::open(stream.options(2)).await.unwrap();
        assert_eq!(anew.id(), log.id());
        let resumed = check_resume(&anew, 0, &cursor).await;
        assert!(matches!(resumed, Err(ResumeError::OffsetReused { offset: 99, .. })), "{resumed:?}");
        let resumed = check_resume(&anew, 1, &Cursor { mark: Mark::NONE, ..cursor }).await;
        assert!(matches!(resumed, Err(ResumeError::Log(LogError::PastEnd { .. }))), "{resumed:?}");
        // And the log that was open all the time goes on reading nothing of it.
        assert!(log.read(0, 100, all).await.is_err());
    });
}

/// Events of a producer that knows nothing of us.
async fn produce(stream: &Stream, partition: u32, from: u64, count: u64) {
    let client = topic::client(&stream.url).await;
    let name = |name: &str| Identifier::named(name).unwrap();
    let padding = "x".repeat(8_000);
    for batch in (from..from + count).collect::<Vec<_>>().chunks(20) {
        let mut messages: Vec<IggyMessage> = batch
            .iter()
            .map(|n| {
                let mut event = event(&format!("raw-{partition}-{n}"), &format!("device-{}", n % 7), *n);
                event["properties"]["padding"] = padding.clone().into();
                IggyMessage::builder().payload(event.to_string().into()).build().unwrap()
            })
            .collect();
        let to = Partitioning::partition_id(partition);
        client.send_messages(&name(&stream.name), &name("events"), &to, &mut messages).await.unwrap();
    }
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_gap_stops_a_partition_until_it_is_accepted() {
    let Some(url) = topic::url() else { return };
    let dir = tempfile::tempdir().unwrap();
    let stream = Stream::new(url);
    block_on(stream.create_topic(2, Some(1024 * 1024)));
    let server = start(dir.path(), &stream);
    // Other producers' events are events.
    block_on(produce(&stream, 0, 0, 40));
    let seen = |server: &Server| {
        wait_for("the events of another producer are in both stores", || {
            let status = server.wait_caught_up();
            (status["log"]["partitions"][0]["end"].as_u64()? >= 40).then_some(())
        })
    };
    seen(&server);
    assert!(server.stop().success());

    block_on(async {
        produce(&stream, 0, 40, 600).await;
        let client = topic::client(&stream.url).await;
        let name = |name: &str| Identifier::named(name).unwrap();
        client.delete_segments(&name(&stream.name), &name("events"), 0, 1).await.unwrap();
    });
    let server = start(dir.path(), &stream);
    let first = wait_for("both stores stop before the gap", || {
        let (_, status) = server.get("/v1/status");
        let stopped = ["delta", "history"].into_iter().all(|store| {
            let partition = &status["stores"][store]["partitions"][0];
            assert!(partition["cursor"].as_u64().is_none_or(|cursor| cursor <= 40), "{status:#}");
            partition["state"] == "stopped" && partition["reason"].as_str().unwrap().contains("millrace gap accept")
        });
        stopped.then(|| status["log"]["partitions"][0]["first"].as_u64().unwrap())
    });
    assert!(first > 40, "the log starts at {first}");
    assert_eq!(server.get("/readyz").0, 503);
    // The other partition goes on.
    block_on(produce(&stream, 1, 0, 20));
    wait_for("the other partition goes on", || {
        let (_, status) = server.get("/v1/status");
        (status["stores"]["history"]["partitions"][1]["cursor"] == 20).then_some(())
    });

    let (code, answer) = server.ask("POST", "/v1/gaps", json!({"partition": 1, "reason": "none there"}));
    assert_eq!((code, answer["error"]["code"].as_str()), (409, Some("no_gap")), "{answer}");
    let (code, answer) = server.ask("POST", "/v1/gaps", json!({"partition": 0, "store": "spark", "reason": "x"}));
    assert_eq!(code, 400, "{answer}");
    let reason = "the segments were deleted by hand";
    let (code, answer) = server.ask("POST", "/v1/gaps", json!({"partition": 0, "store": "delta", "reason": reason}));
    assert_eq!(code, 200, "{answer}");
    assert_eq!(answer["accepted"].as_array().unwrap().len(), 1, "{answer}");
    let (_, status) = server.get("/v1/status");
    assert_eq!(status["stores"]["history"]["partitions"][0]["state"], "stopped", "only one store was asked to go on");
    let (code, answer) = server.ask("POST", "/v1/gaps", json!({"partition": 0, "reason": reason}));
    assert_eq!((code, answer["accepted"][0]["store"].as_str()), (200, Some("history")), "{answer}");
    let status = server.wait_caught_up();
    assert_eq!(status["gaps"].as_array().unwrap().len(), 2, "{status:#}");
    assert_eq!(server.get("/readyz").0, 200);

    let (_, gaps) = server.get("/v1/gaps");
    for gap in gaps["gaps"].as_array().unwrap() {
        assert_eq!((gap["from"].as_u64(), gap["to"].as_u64()), (Some(40), Some(first)), "{gap}");
    }
    let (_, trail) = server.get("/v1/audit");
    assert_eq!(trail["audit"].as_array().unwrap().iter().filter(|entry| entry["action"] == "gap.accept").count(), 2);
    let (code, report) = server.ask("POST", "/v1/verify", json!({"full": true}));
    assert_eq!((code, &report["differences"]), (200, &json!(0)), "{report:#}");
    for store in ["delta", "history"] {
        assert_eq!(report["stores"][store]["missing"], json!(first - 40), "{report:#}");
        assert_eq!(report["stores"][store]["unverifiable"], json!(first), "{report:#}");
    }
    assert!(server.stop().success());

    // A restart goes on from there, and knows what was accepted.
    let server = start(dir.path(), &stream);
    let status = server.wait_caught_up();
    assert_eq!(status["gaps"].as_array().unwrap().len(), 2);
    assert_eq!(server.get("/readyz").0, 200);
}
