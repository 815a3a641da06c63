//! What the whole-system tests share: the real binary as a child process, and the comparison of both stores with a
//! recomputation from the log.
#![allow(dead_code, reason = "each test file uses some of it")]

pub mod corrections;
pub mod load;
pub mod model;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_delta::reader::{ScanRequest, TableReader};
use millrace_pipeline::engine::{Engine, EngineOptions};
use millrace_rows::canonical::RowEncoder;
use millrace_rows::schema::EVENT_DATE;
use serde_json::{Value, json};

/// Longest time that any test waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The seed of a test: from `MILLRACE_SEED`, else fixed; printed, so that a failure can be run again.
pub fn seed(default: u64) -> u64 {
    let seed = std::env::var("MILLRACE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    println!("seed {seed} (set MILLRACE_SEED to run with another)");
    seed
}

/// `millrace serve` as a child process on a free port.
pub struct Server {
    child: Child,
    pub url: String,
}

impl Server {
    /// Starts a server; gives its exit status when it ends before it listens, as failpoints make it.
    pub fn try_start(data_dir: &Path, failpoints: &str) -> Result<Self, ExitStatus> {
        Self::try_start_with(data_dir, failpoints, &[])
    }

    /// The same, with more of the environment.
    pub fn try_start_with(data_dir: &Path, failpoints: &str, environment: &[(&str, &str)]) -> Result<Self, ExitStatus> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
        // What is for the tests is no configuration, and refused as such.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MILLRACE_")) {
            command.env_remove(name);
        }
        let mut child = command
            .envs(environment.iter().copied())
            .args(["serve", "--listen", "127.0.0.1:0", "--log-filter", "error,iggy=off", "--data-dir"])
            .arg(data_dir)
            .env("FAILPOINTS", failpoints)
            .env("MILLRACE_DELTA__COMMIT_AGE", "200ms")
            .env("MILLRACE_PIPELINE__COMPILED_DIR", compiled_dir())
            .current_dir(data_dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the binary starts");
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        stdout.read_line(&mut line).expect("stdout is read");
        // Whatever else it prints must not block it.
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
        match line.trim().strip_prefix("listening on ") {
            Some(url) => Ok(Self { child, url: url.to_owned() }),
            None => Err(child.wait().expect("the child is waited for")),
        }
    }

    /// Starts a server that must start.
    pub fn start(data_dir: &Path) -> Self {
        Self::try_start(data_dir, "").unwrap_or_else(|status| panic!("the server ended at start: {status}"))
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().expect("the child is killed");
        self.child.wait().expect("the child is waited for");
    }

    /// `kill -9` while somebody else speaks with it.
    pub fn signal_kill(&self) {
        let killed = Command::new("kill").args(["-9", &self.child.id().to_string()]).status().expect("kill runs");
        assert!(killed.success());
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(mut self) -> ExitStatus {
        let terminated = Command::new("kill").arg(self.child.id().to_string()).status().expect("kill runs");
        assert!(terminated.success());
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child is waited for") {
                return status;
            }
            assert!(Instant::now() < deadline, "the server did not stop within {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether it has ended by itself.
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().expect("the child is waited for").is_some()
    }

    /// Waits until it ends by itself.
    pub fn wait_end(mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        while !self.ended() {
            assert!(Instant::now() < deadline, "the server did not end within {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        self.child.wait().expect("the child is waited for")
    }

    pub fn get(&self, path: &str) -> (u16, Value) {
        answer(agent().get(format!("{}{path}", self.url)).call()).expect("the server answers")
    }

    /// A request with a JSON body, and a token if there is one.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: &Value,
    ) -> Result<(u16, Value), ureq::Error> {
        let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.url));
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = request.header("content-type", "application/json").body(body).expect("a request");
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .allow_non_standard_methods(true)
            .build()
            .new_agent();
        answer(agent.run(request))
    }

    /// The same, of a server that must answer.
    pub fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.send(method, path, None, &body).expect("the server answers")
    }

    pub fn post(&self, path: &str, body: &[u8]) -> Result<(u16, Value), ureq::Error> {
        answer(agent().post(format!("{}{path}", self.url)).send(body))
    }

    /// Waits until both stores have everything that is in the log.
    pub fn wait_caught_up(&self) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (_, status) = self.get("/v1/status");
            let behind = status["stores"].as_object().expect("stores").values().any(|store| store["lag_events"] != 0);
            if !behind {
                return status;
            }
            assert!(Instant::now() < deadline, "stores are behind after {PATIENCE:?}: {status:#}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    /// A test that fails leaves no server behind.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build().new_agent()
}

pub fn answer(sent: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<(u16, Value), ureq::Error> {
    let mut response = sent?;
    let status = response.status().as_u16();
    let mut text = String::new();
    response.body_mut().as_reader().read_to_string(&mut text).map_err(ureq::Error::Io)?;
    Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
}

/// Compiled plugins, shared by all tests of a build: compiling them anew would be most of their time.
pub fn compiled_dir() -> std::path::PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("aot")
}

/// An engine's options with compiled plugins at hand.
pub fn options(data_dir: &Path) -> EngineOptions {
    let mut options = EngineOptions::at(data_dir);
    options.host.cache_dir = Some(compiled_dir());
    options
}

/// An event as an SDK sends it.
pub fn event(id: &str, device: &str, number: u64) -> Value {
    json!({
        "type": "track",
        "messageId": id,
        "event": if number.is_multiple_of(3) { "product_view" } else { "add_to_cart" },
        "timestamp": format!("2026-01-{:02}T{:02}:00:00Z", number % 3 + 1, number % 24),
        "properties": {"n": number, "email": "ada@example.com"},
        "context": {
            "device": {"id": device}, "ip": "203.0.113.77",
            "userAgent": "Mozilla/5.0 (X11; Linux x86_64; rv:125.0) Gecko/20100101 Firefox/125.0",
        },
    })
}

/// Where a row comes from: partition, offset, sub.
pub type Place = (i64, i64, i64);

/// All rows of a store: canonical bytes by place.
pub type Rows = BTreeMap<Place, Vec<u8>>;

/// Both stores and the recomputation, as rows and dead letters.
pub struct Audit {
    pub recomputed: Rows,
    pub delta: Rows,
    pub history: Rows,
    /// Offsets of dead letters by partition: recomputed, and as the history has them.
    pub dead: [Vec<(u32, u64)>; 2],
    /// Acknowledged event ids and how often each is in the recomputation.
    pub event_ids: HashMap<String, usize>,
    /// Revisions under which rows of the recomputation were made.
    pub revisions: BTreeSet<i64>,
}

impl Audit {
    /// Reads everything in a data directory that no process works on.
    pub fn of(data_dir: &Path) -> Self {
        Self::of_options(options(data_dir))
    }

    /// The same, with a log of one's own choice.
    pub fn of_options(options: EngineOptions) -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
        runtime.block_on(async {
            let engine = Engine::open(options).await.expect("the engine opens");
            let audit = Self::of_engine(&engine).await;
            engine.stop().await.expect("the engine stops");
            audit
        })
    }

    /// Reads everything of an engine that has come to rest.
    pub async fn of_engine(engine: &Arc<Engine>) -> Self {
        let mut audit = Self {
            recomputed: Rows::new(),
            delta: Rows::new(),
            history: Rows::new(),
            dead: [Vec::new(), Vec::new()],
            event_ids: HashMap::new(),
            revisions: BTreeSet::new(),
        };
        let timeline = engine.processor().timeline().borrow().clone();
        for (partition, end) in engine.log_ends().await.expect("ends") {
            let mut next = engine.log().bounds(partition).await.expect("bounds").start;
            while next < end {
                let slice = engine.processor().slice(partition, next, timeline.head()).await.expect("a slice");
                add(&mut audit.recomputed, &slice.rows, "recomputation");
                audit.dead[0].extend(slice.dead.iter().map(|dead| (partition, dead.offset)));
                for id in arrow::array::AsArray::as_string::<i32>(slice.rows.column_by_name("event_id").expect("ids")) {
                    *audit.event_ids.entry(id.expect("an id").to_owned()).or_default() += 1;
                }
                let revisions = slice.rows.column_by_name("_revision").expect("revisions");
                audit.revisions.extend(
                    arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(revisions)
                        .values()
                        .iter()
                        .copied(),
                );
                next = slice.cursor.next;
            }
        }
        let location = engine.delta_path().to_str().expect("UTF-8");
        let reader = TableReader::open(location, &HashMap::new()).expect("the table opens");
        let scan = reader.scan(ScanRequest::default()).await.expect("the table is scanned");
        let batches: Vec<_> = tokio::task::spawn_blocking(move || scan.collect::<Result<_, _>>())
            .await
            .expect("no panic")
            .expect("a scan");
        for mut batch in batches {
            let date = batch.schema().index_of(EVENT_DATE).expect("a date");
            batch.remove_column(date);
            add(&mut audit.delta, &batch, "delta");
        }
        let mut behind = None;
        loop {
            let page = engine.history().rows(behind.as_ref(), 1000).await.expect("rows");
            for stored in page.rows {
                let key = &stored.key;
                let place = (i64::from(key.partition), key.offset as i64, i64::from(key.sub));
                let before = audit.history.insert(place, stored.row.to_vec());
                assert!(before.is_none(), "history has two rows of {place:?}");
            }
            behind = page.next;
            if behind.is_none() {
                break;
            }
        }
        for partition in 0..engine.log().partitions() {
            let mut next = Some(0);
            while let Some(from) = next {
                let page = engine.history().dead_letters(partition, from, 1000).await.expect("dead letters");
                audit.dead[1].extend(page.letters.iter().map(|dead| (partition, dead.offset)));
                next = page.next;
            }
        }
        audit
    }

    /// Both stores hold exactly what the log and the timeline say.
    pub fn assert_agree(&self) {
        let differences = self.differences();
        assert!(differences.is_empty(), "{}", differences.join("; "));
    }

    /// Where the stores hold something else, a few of each kind.
    pub fn differences(&self) -> Vec<String> {
        let mut differences = Vec::new();
        for (name, rows) in [("delta", &self.delta), ("history", &self.history)] {
            if rows.len() != self.recomputed.len() {
                differences.push(format!("{name} has {} rows of {}", rows.len(), self.recomputed.len()));
            }
            let differs = self.recomputed.iter().filter(|(place, expected)| rows.get(place) != Some(expected));
            differences
                .extend(differs.take(5).map(|(place, _)| format!("{name} has another row at {place:?}, or none")));
        }
        if self.dead[0] != self.dead[1] {
            differences.push(format!("dead letters are {:?}, to be {:?}", self.dead[1], self.dead[0]));
        }
        differences
    }
}

/// Lets the stores catch up, stops the server in order, and compares: both stores hold what the log says, and every
/// acknowledged event once.
pub fn assert_exactly_once(data_dir: &Path, server: Server, acknowledged: &HashSet<String>) {
    assert_exactly_once_with(options(data_dir), server, acknowledged);
}

/// The same, with a log of one's own choice.
pub fn assert_exactly_once_with(options: EngineOptions, server: Server, acknowledged: &HashSet<String>) {
    server.wait_caught_up();
    assert!(server.stop().success());
    let audit = Audit::of_options(options);
    audit.assert_agree();
    for id in acknowledged {
        assert_eq!(audit.event_ids.get(id), Some(&1), "event {id} was acknowledged");
    }
    println!("{} events acknowledged, {} rows", acknowledged.len(), audit.recomputed.len());
}

pub fn add(rows: &mut Rows, batch: &arrow::record_batch::RecordBatch, name: &str) {
    use arrow::array::AsArray as _;
    use arrow::datatypes::Int64Type;
    let encoder = RowEncoder::new(batch).expect("a canonical batch");
    let number = |column: &str, row: usize| {
        batch.column_by_name(column).expect("lineage").as_primitive::<Int64Type>().value(row)
    };
    for row in 0..batch.num_rows() {
        let place = (number("_partition", row), number("_offset", row), number("_sub", row));
        let mut encoded = Vec::new();
        encoder.encode(row, &mut encoded);
        assert!(rows.insert(place, encoded).is_none(), "{name} has two rows of {place:?}");
    }
}
