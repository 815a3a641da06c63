//! Configuration: `millrace.toml`, then environment, then flags; the later wins.
//!
//! Environment variables are `MILLRACE_` and the path of the key in capitals, its parts joined by two underscores:
//! `MILLRACE_HTTP__LISTEN=127.0.0.1:8080`. Every key has a default; [`REFERENCE`] is a file with all of them. A key that
//! does not exist or a value that does not fit is refused with its place.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use millrace_pipeline::diagnostics::DiagnosticsOptions;
use millrace_pipeline::engine::EngineOptions;
use millrace_pipeline::ingest::IngestOptions;
use millrace_pipeline::materialize::CommitPolicy;
use millrace_pipeline::pipeline::{PipelinePolicy, PluginSource, StepSource};
use millrace_pipeline::processor::ProcessorOptions;
use millrace_pipeline::roles::Roles;
use millrace_pipeline::staging::STAGED_BYTES_MAX;
use millrace_plugin_host::{CompilerProcess, Limits, OnError};
use serde::{Deserialize, Deserializer};

use crate::keyspace::Keyspace;

/// A configuration file with every key at its default, for `millrace config`.
pub const REFERENCE: &str = include_str!("millrace.toml");

const PREFIX: &str = "MILLRACE_";

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub data_dir: PathBuf,
    pub roles: Roles,
    pub http: Http,
    pub log: Log,
    pub ingest: Ingest,
    pub pipeline: Pipeline,
    pub delta: Delta,
    pub history: History,
    pub keyspace: Keyspace,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "millrace-data".into(),
            roles: Roles::default(),
            http: Http::default(),
            log: Log::default(),
            ingest: Ingest::default(),
            pipeline: Pipeline::default(),
            delta: Delta::default(),
            history: History::default(),
            keyspace: Keyspace::default(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    pub listen: SocketAddr,
    pub body_bytes_max: usize,
    pub batch_events_max: usize,
    pub requests_max: usize,
    pub plugin_bytes_max: usize,
    pub token_requests_per_second: u32,
    pub tls_certificate: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
}

impl Default for Http {
    fn default() -> Self {
        let limits = millrace_http::Limits::default();
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7070)),
            body_bytes_max: limits.body_bytes,
            batch_events_max: limits.batch_events,
            requests_max: limits.requests,
            plugin_bytes_max: limits.plugin_bytes,
            token_requests_per_second: limits.token_requests_per_second,
            tls_certificate: None,
            tls_key: None,
        }
    }
}

/// Text that is never shown.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct Hidden(String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    pub url: Option<Hidden>,
    pub stream: String,
    pub topic: String,
    pub partitions: u32,
    pub segment_bytes: u64,
    #[serde(deserialize_with = "duration")]
    pub retention: Duration,
    pub retention_bytes: Option<u64>,
    pub disk_budget_bytes: Option<u64>,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            url: None,
            stream: "millrace".to_owned(),
            topic: "events".to_owned(),
            partitions: 4,
            segment_bytes: 64 * 1024 * 1024,
            retention: Duration::from_secs(30 * 24 * 3600),
            retention_bytes: None,
            disk_budget_bytes: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ingest {
    pub dedup_events: usize,
    pub in_flight_bytes_max: usize,
    #[serde(deserialize_with = "duration")]
    pub append_wait: Duration,
}

impl Default for Ingest {
    fn default() -> Self {
        let options = IngestOptions::default();
        Self {
            dedup_events: options.dedup_events,
            in_flight_bytes_max: options.in_flight_bytes,
            append_wait: options.append_wait,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pipeline {
    pub batch_records: usize,
    pub batch_bytes: usize,
    pub cache_bytes: u64,
    pub concurrency: usize,
    pub staged_bytes_max: u64,
    pub bad_rows_max: usize,
    pub compiled_dir: Option<PathBuf>,
    pub failure_rate_max: f64,
    pub split_check_every: u32,
    pub required: Vec<String>,
    pub limits_max: Option<toml::Table>,
    pub compile_memory_bytes: u64,
    pub compile_cpu_seconds: u64,
    pub log_lines_per_minute: u32,
    pub steps: Option<Vec<Step>>,
}

impl Default for Pipeline {
    fn default() -> Self {
        let options = ProcessorOptions::default();
        Self {
            batch_records: options.batch_records,
            batch_bytes: options.batch_bytes,
            cache_bytes: options.cache_bytes,
            concurrency: options.concurrency,
            staged_bytes_max: STAGED_BYTES_MAX,
            bad_rows_max: 64,
            compiled_dir: None,
            failure_rate_max: options.failure_rate_max,
            split_check_every: options.split_check_every,
            required: Vec::new(),
            limits_max: None,
            compile_memory_bytes: 2 << 30,
            compile_cpu_seconds: 120,
            log_lines_per_minute: DiagnosticsOptions::default().log_lines_per_minute,
            steps: None,
        }
    }
}

/// A step of the chain: `plugin = "name@version"` or `wasm = "file.wasm"`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub plugin: Option<String>,
    pub wasm: Option<PathBuf>,
    #[serde(default)]
    pub config: toml::Table,
    #[serde(default)]
    pub limits: toml::Table,
    #[serde(default)]
    pub on_error: OnError,
    #[serde(default)]
    pub tables: BTreeMap<String, u32>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Delta {
    pub path: Option<PathBuf>,
    #[serde(deserialize_with = "duration")]
    pub commit_age: Duration,
    pub commit_bytes: usize,
    pub checkpoint_commits: u64,
}

impl Default for Delta {
    fn default() -> Self {
        Self {
            path: None,
            commit_age: Duration::from_secs(5),
            commit_bytes: 128 * 1024 * 1024,
            checkpoint_commits: 100,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct History {
    pub commit_bytes: usize,
    pub cache_bytes: u64,
}

impl Default for History {
    fn default() -> Self {
        Self { commit_bytes: 16 * 1024 * 1024, cache_bytes: 64 * 1024 * 1024 }
    }
}

pub(crate) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text)
        .map_err(|error| serde::de::Error::custom(format!("{text:?} is no duration: {error}; write 5s, 90m, 30d")))
}

impl Config {
    /// Reads the file (`millrace.toml` in the working directory when none is named and it is there), then the
    /// environment, then `flags`: pairs of a key's path and its value.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[(&str, Option<String>)],
    ) -> Result<Self> {
        let mut table =
            match file.map(Path::to_owned).or_else(|| Some("millrace.toml".into()).filter(|p: &PathBuf| p.exists())) {
                Some(path) => {
                    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
                    // Deserializing from the text itself gives errors with line and column.
                    toml::from_str::<Self>(&text)
                        .map_err(|error| anyhow!("{}: {}", path.display(), masked(&error.to_string())))?;
                    toml::from_str::<toml::Table>(&text).map_err(|error| anyhow!(masked(&error.to_string())))?
                }
                None => toml::Table::new(),
            };
        for (name, value) in environment {
            let Some(path) = name.strip_prefix(PREFIX) else { continue };
            let path = path.to_ascii_lowercase();
            // Taken by the command line itself.
            if ["config", "log_filter", "token", "ca_file"].contains(&path.as_str()) {
                continue;
            }
            overlay(&mut table, &path.split("__").collect::<Vec<_>>(), &value)
                .with_context(|| format!("environment variable {name}"))?;
        }
        for (path, value) in flags {
            if let Some(value) = value {
                overlay(&mut table, &path.split('.').collect::<Vec<_>>(), value)
                    .with_context(|| format!("--{}", path.rsplit('.').next().unwrap_or(path).replace('_', "-")))?;
            }
        }
        let config: Self = table.try_into().context("configuration")?;
        config.check()?;
        Ok(config)
    }

    /// What one value can't tell by itself.
    fn check(&self) -> Result<()> {
        #[cfg(not(feature = "iggy"))]
        if self.log.url.is_some() {
            bail!("log.url: this build has no Iggy: build it with the feature `iggy`, or leave the key out");
        }
        #[cfg(feature = "iggy")]
        self.iggy()?;
        if self.http.tls_certificate.is_some() != self.http.tls_key.is_some() {
            bail!("http.tls_certificate and http.tls_key go together: give both files");
        }
        if !self.http.listen.ip().is_loopback() && self.http.tls_certificate.is_none() {
            bail!(
                "http.listen = {}: without TLS the server binds to loopback only: give http.tls_certificate and \
                 http.tls_key, and make a token, or use 127.0.0.1 or [::1]",
                self.http.listen
            );
        }
        for (key, value, least, most) in [
            ("log.partitions", u64::from(self.log.partitions), 1, 1024),
            ("log.segment_bytes", self.log.segment_bytes, 1 << 20, 1 << 32),
            ("pipeline.batch_records", self.pipeline.batch_records as u64, 1, 65_536),
            ("pipeline.batch_bytes", self.pipeline.batch_bytes as u64, 1024, 256 << 20),
            ("pipeline.concurrency", self.pipeline.concurrency as u64, 1, 256),
            ("http.body_bytes_max", self.http.body_bytes_max as u64, 1024, 256 << 20),
            ("http.batch_events_max", self.http.batch_events_max as u64, 1, 1_000_000),
            ("http.requests_max", self.http.requests_max as u64, 1, 100_000),
            ("ingest.dedup_events", self.ingest.dedup_events as u64, 1, 100_000_000),
            ("http.plugin_bytes_max", self.http.plugin_bytes_max as u64, 1024, 64 << 20),
            ("http.token_requests_per_second", u64::from(self.http.token_requests_per_second), 1, 1_000_000),
            ("pipeline.compile_memory_bytes", self.pipeline.compile_memory_bytes, 128 << 20, 1 << 40),
            ("pipeline.compile_cpu_seconds", self.pipeline.compile_cpu_seconds, 1, 3600),
            ("delta.checkpoint_commits", self.delta.checkpoint_commits, 1, 100_000),
        ] {
            if !(least..=most).contains(&value) {
                bail!("{key} = {value}: it must be {least} to {most}");
            }
        }
        if self.roles != Roles::default() && !self.shared() {
            bail!(
                "roles = {}: a process whose log or keyspace is its own does everything; roles are for several processes \
                 that share an Iggy server and a FoundationDB cluster",
                self.roles
            );
        }
        if !(0.0..=1.0).contains(&self.pipeline.failure_rate_max) {
            bail!("pipeline.failure_rate_max = {}: it must be 0 to 1", self.pipeline.failure_rate_max);
        }
        self.keyspace.check()
    }

    /// The engine's options.
    pub fn engine_options(&self) -> Result<EngineOptions> {
        let pipeline = self
            .pipeline
            .steps
            .as_ref()
            .map(|steps| (1..).zip(steps).map(|(n, step)| step.source(n)).collect::<Result<Vec<_>>>())
            .transpose()?;
        let limits_max = self.pipeline.limits_max.as_ref().map(limits).transpose();
        let limits_max = limits_max.context("pipeline.limits_max")?;
        let clock = millrace_pipeline::system_clock();
        Ok(EngineOptions {
            data_dir: self.data_dir.clone(),
            log: millrace_log::embedded::Options {
                partitions: self.log.partitions,
                segment_bytes: self.log.segment_bytes,
                retention_age: self.log.retention,
                retention_bytes: self.log.retention_bytes,
                disk_budget_bytes: self.log.disk_budget_bytes,
                clock: clock.clone(),
                ..Default::default()
            },
            #[cfg(feature = "iggy")]
            iggy: self.iggy()?,
            shared_log: None,
            keyspace: self.keyspace.options(self.history.cache_bytes),
            delta_path: self.delta.path.clone(),
            delta: millrace_delta::Options { checkpoint_every: self.delta.checkpoint_commits, ..Default::default() },
            delta_commit: CommitPolicy { bytes: self.delta.commit_bytes, age: self.delta.commit_age },
            history_commit: CommitPolicy { bytes: self.history.commit_bytes, age: Duration::ZERO },
            processor: ProcessorOptions {
                batch_records: self.pipeline.batch_records,
                batch_bytes: self.pipeline.batch_bytes,
                cache_bytes: self.pipeline.cache_bytes,
                concurrency: self.pipeline.concurrency,
                failure_rate_max: self.pipeline.failure_rate_max,
                split_check_every: self.pipeline.split_check_every,
            },
            staged_bytes_max: self.pipeline.staged_bytes_max,
            ingest: IngestOptions {
                dedup_events: self.ingest.dedup_events,
                in_flight_bytes: self.ingest.in_flight_bytes_max,
                append_wait: self.ingest.append_wait,
            },
            host: millrace_plugin_host::HostOptions {
                bad_rows_max: self.pipeline.bad_rows_max,
                cache_dir: self.pipeline.compiled_dir.clone(),
                module_bytes_max: self.http.plugin_bytes_max,
                compiler: Some(self.compiler()?),
                ..Default::default()
            },
            pipeline,
            policy: PipelinePolicy { required: self.pipeline.required.clone(), limits_max },
            diagnostics: DiagnosticsOptions {
                log_lines_per_minute: self.pipeline.log_lines_per_minute,
                ..DiagnosticsOptions::default()
            },
            roles: self.roles.clone(),
            shared: self.shared(),
            clock,
        })
    }

    /// Whether other processes can share log and keyspace with this one.
    fn shared(&self) -> bool {
        self.log.url.is_some() && self.keyspace.cluster_file.is_some()
    }

    /// The topic that is the log, if it is one.
    #[cfg(feature = "iggy")]
    fn iggy(&self) -> Result<Option<millrace_pipeline::log::iggy::Options>> {
        let Some(Hidden(url)) = &self.log.url else { return Ok(None) };
        let url = url.parse().context("log.url")?;
        let options = millrace_pipeline::log::iggy::Options::new(url, &self.log.stream, &self.log.topic);
        Ok(Some(millrace_pipeline::log::iggy::Options {
            partitions: self.log.partitions,
            retention: Some(self.log.retention),
            ..options
        }))
    }

    /// This program compiles plugins in a child of its own.
    pub fn compiler(&self) -> Result<CompilerProcess> {
        let program = std::env::current_exe().context("finding this program, to have plugins compiled by it")?;
        let mut compiler = CompilerProcess::new(program, [crate::COMPILE_PLUGIN]);
        compiler.memory_bytes = self.pipeline.compile_memory_bytes;
        compiler.cpu_seconds = self.pipeline.compile_cpu_seconds;
        Ok(compiler)
    }

    /// Bounds of HTTP requests.
    pub fn http_limits(&self) -> millrace_http::Limits {
        millrace_http::Limits {
            body_bytes: self.http.body_bytes_max,
            batch_events: self.http.batch_events_max,
            requests: self.http.requests_max,
            plugin_bytes: self.http.plugin_bytes_max,
            token_requests_per_second: self.http.token_requests_per_second,
        }
    }
}

impl Step {
    fn source(&self, number: usize) -> Result<StepSource> {
        let plugin = match (&self.plugin, &self.wasm) {
            (Some(name), None) => {
                PluginSource::Named(name.parse().map_err(|error| anyhow!("pipeline.steps, step {number}: {error}"))?)
            }
            (None, Some(path)) => PluginSource::File(path.clone()),
            _ => bail!(
                "pipeline.steps, step {number}: give plugin = \"name@version\" or wasm = \"file.wasm\", one of them"
            ),
        };
        let limits = limits(&self.limits).with_context(|| format!("pipeline.steps, step {number}, limits"))?;
        let config =
            serde_json::to_value(&self.config).with_context(|| format!("pipeline.steps, step {number}, config"))?;
        Ok(StepSource { plugin, config, limits, on_error: self.on_error, tables: self.tables.clone() })
    }
}

/// Limits of a step: what is not named has its default.
fn limits(table: &toml::Table) -> Result<Limits> {
    Ok(serde_json::from_value(serde_json::to_value(table)?)?)
}

/// A message without the secrets of the connection strings that it quotes.
fn masked(message: &str) -> String {
    let mut out = String::new();
    let mut rest = message;
    while let Some((before, after)) = rest.split_once("iggy://") {
        out += before;
        out += "iggy://***";
        // Up to the host, or where there is none to the end of the line.
        let line = after.find('\n').unwrap_or(after.len());
        rest = &after[after[..line].rfind('@').unwrap_or(line)..];
    }
    out + rest
}

/// Sets one key of a table, from text: as TOML if the key takes that, else as a string.
fn overlay(table: &mut toml::Table, path: &[&str], text: &str) -> Result<()> {
    let as_toml = format!("value = {text}").parse::<toml::Table>().ok().and_then(|mut table| table.remove("value"));
    let as_string = toml::Value::String(text.to_owned());
    let mut error = None;
    for value in as_toml.into_iter().chain([as_string]) {
        let mut alone = value.clone();
        for part in path.iter().rev() {
            alone = toml::Value::Table(toml::Table::from_iter([((*part).to_owned(), alone)]));
        }
        match alone.try_into::<Config>() {
            Ok(_) => {
                insert(table, path, value);
                return Ok(());
            }
            Err(refused) => error = error.or(Some(refused)),
        }
    }
    match error {
        Some(error) => Err(anyhow!("{:?} does not fit {}: {}", masked(text), path.join("."), masked(error.message()))),
        None => Ok(()),
    }
}

fn insert(table: &mut toml::Table, path: &[&str], value: toml::Value) {
    match path {
        [] => {}
        [last] => {
            table.insert((*last).to_owned(), value);
        }
        [first, rest @ ..] => {
            let inner = table.entry((*first).to_owned()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            // Its type was checked when the file was read.
            if let toml::Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str, environment: &[(&str, &str)], flags: &[(&str, Option<String>)]) -> Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.toml");
        fs::write(&path, file).unwrap();
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::load(Some(&path), environment, flags)
    }

    #[test]
    fn the_reference_file_is_the_default() {
        let mut config = load(REFERENCE, &[], &[]).unwrap();
        // The default depends on the machine.
        config.pipeline.concurrency = Config::default().pipeline.concurrency;
        assert_eq!(config, Config::default());
    }

    #[test]
    fn flags_outweigh_environment_outweighs_file() {
        let file = "data_dir = \"a\"\n[http]\nlisten = \"127.0.0.1:1\"\n[log]\npartitions = 2\n";
        let environment = [("MILLRACE_HTTP__LISTEN", "127.0.0.1:2"), ("MILLRACE_LOG__PARTITIONS", "3"), ("OTHER", "x")];
        let config = load(file, &environment, &[("http.listen", Some("127.0.0.1:3".into()))]).unwrap();
        assert_eq!(config.data_dir, PathBuf::from("a"));
        assert_eq!(config.log.partitions, 3);
        assert_eq!(config.http.listen.port(), 3);
    }

    #[cfg(feature = "iggy")]
    #[test]
    fn the_secret_of_a_connection_string_is_never_shown() {
        let url = "iggy://ops:hunter2@127.0.0.1:8090";
        let config = load("", &[("MILLRACE_LOG__URL", url)], &[]).unwrap();
        assert!(config.engine_options().unwrap().iggy.is_some());
        assert!(!format!("{config:?}").contains("hunter2"));
        for name in ["MILLRACE_LOG__URI", "MILLRACE_LOG__PARTITIONS"] {
            let error = format!("{:#}", load("", &[(name, url)], &[]).unwrap_err());
            assert!(!error.contains("hunter2") && error.contains(name), "{error}");
        }
        for file in [
            format!("[log]\nurl = {url}\n"),
            format!("[log]\nurl = [\"{url}\"]\n"),
            format!("[log]\nurl = \"{url}?no=1\"\n"),
            "[log]\nurl = \"iggy://hunter2\"\n".to_owned(),
        ] {
            let error = format!("{:#}", load(&file, &[], &[]).unwrap_err());
            assert!(!error.contains("hunter2") && error.contains("url"), "{error}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let message = |result: Result<Config>| format!("{:#}", result.unwrap_err());
        let wrong = message(load("[log]\npartitons = 2\n", &[], &[]));
        assert!(wrong.contains("line 2") && wrong.contains("partitons"), "{wrong}");
        let wrong = message(load("[delta]\ncommit_age = \"soon\"\n", &[], &[]));
        assert!(wrong.contains("line 2") && wrong.contains("soon"), "{wrong}");
        let wrong = message(load("", &[("MILLRACE_LOG__PARTITIONS", "many")], &[]));
        assert!(wrong.contains("MILLRACE_LOG__PARTITIONS") && wrong.contains("many"), "{wrong}");
        let wrong = message(load("", &[("MILLRACE_LOGG__PARTITIONS", "1")], &[]));
        assert!(wrong.contains("MILLRACE_LOGG__PARTITIONS"), "{wrong}");
        let wrong = message(load("", &[], &[("http.listen", Some("nowhere".into()))]));
        assert!(wrong.contains("--listen"), "{wrong}");
        let wrong = message(load("[http]\nlisten = \"0.0.0.0:80\"\n", &[], &[]));
        assert!(wrong.contains("loopback"), "{wrong}");
        let wrong = message(load("[log]\npartitions = 0\n", &[], &[]));
        assert!(wrong.contains("log.partitions = 0"), "{wrong}");
    }
}
