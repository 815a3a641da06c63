//! What the tests against a real server share. They run where `MILLRACE_TEST_IGGY` is a connection string, and say so where
//! it is not.
#![allow(dead_code, reason = "each test file uses some of it")]

pub mod proxy;

use std::collections::BTreeMap;
use std::sync::Arc;

use iggy::prelude::{
    Client as _, Durability, Identifier, IggyByteSize, IggyError, StreamClient as _, TcpClient, TopicClient as _,
    TopicCreateOptions,
};
use millrace_log_iggy::{IggyLog, Options};

/// The server to test against.
pub fn url() -> Option<String> {
    let url = std::env::var("MILLRACE_TEST_IGGY").ok().filter(|url| !url.is_empty());
    if url.is_none() {
        println!("SKIPPED: MILLRACE_TEST_IGGY is not set to the connection string of an Iggy server");
    }
    url
}

/// The seed of a test: from `MILLRACE_SEED`, else fixed; printed, so that a failure can be run again.
pub fn seed(default: u64) -> u64 {
    let seed = std::env::var("MILLRACE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    println!("seed {seed} (set MILLRACE_SEED to run with another)");
    seed
}

/// A connection of the client library itself, as any producer has one.
pub async fn client(url: &str) -> TcpClient {
    let options = if url.contains('?') { '&' } else { '?' };
    let url = format!("{url}{options}nodelay=true&reconnection_retries=3");
    let client = TcpClient::from_connection_string(&url).unwrap();
    client.connect().await.unwrap();
    client
}

/// A stream of one test; deleted at its end.
pub struct Stream {
    pub url: String,
    /// The server's HTTP interface, for what a server does not understand in the client library's words.
    pub http: String,
    pub name: String,
}

impl Stream {
    pub fn new(url: String) -> Self {
        let http = std::env::var("MILLRACE_TEST_IGGY_HTTP").unwrap_or_else(|_| "http://127.0.0.1:3000".to_owned());
        Self { url, http, name: format!("test-{}", uuid::Uuid::new_v4().simple()) }
    }

    /// Options of a log on the topic `events` of this stream.
    pub fn options(&self, partitions: u32) -> Options {
        Options { partitions, ..Options::new(self.url.parse().unwrap(), &self.name, "events") }
    }

    /// Makes the topic; a server that is older than the client library is asked over HTTP.
    pub async fn create_topic(&self, partitions: u32, segment_bytes: Option<u64>) {
        self.create_topic_as(partitions, segment_bytes, true).await;
    }

    /// The same, of a durability of one's own choice.
    pub async fn create_topic_as(&self, partitions: u32, segment_bytes: Option<u64>, persisted: bool) {
        let client = client(&self.url).await;
        if !matches!(client.create_stream(&self.name).await, Ok(_) | Err(IggyError::StreamNameAlreadyExists(_))) {
            panic!("the stream can't be created");
        }
        let options = TopicCreateOptions {
            partitions_count: Some(partitions),
            durability: if persisted { Durability::Persisted } else { Durability::Replicated },
            segment_size: segment_bytes.map(IggyByteSize::from),
            raw: BTreeMap::new(),
            ..TopicCreateOptions::default()
        };
        let stream = Identifier::named(&self.name).unwrap();
        match client.create_topic(&stream, "events", &options).await {
            Ok(_) => {}
            Err(IggyError::UnsupportedOptionKey(_)) => {
                self.create_topic_over_http(partitions, segment_bytes, persisted);
            }
            Err(error) => panic!("the topic can't be created: {error}"),
        }
    }

    fn create_topic_over_http(&self, partitions: u32, segment_bytes: Option<u64>, persisted: bool) {
        let http = &self.http;
        let (user, password) =
            self.url.trim_start_matches("iggy://").split('@').next().unwrap().split_once(':').unwrap();
        let login = serde_json::json!({"username": user, "password": password});
        let answer = post(&format!("{http}/users/login"), None, &login);
        let token = answer["access_token"]["token"].as_str().expect("a token").to_owned();
        let mut options = serde_json::json!({});
        if persisted {
            options["messages_required_to_save"] = "1".into();
            options["enforce_fsync"] = "true".into();
        }
        if let Some(bytes) = segment_bytes {
            options["segment_size"] = bytes.to_string().into();
        }
        let topic = serde_json::json!({
            "name": "events", "partitions_count": partitions, "compression_algorithm": "none", "message_expiry": 0,
            "max_topic_size": 0, "options": options,
        });
        post(&format!("{http}/streams/{}/topics", self.name), Some(&token), &topic);
    }

    pub async fn delete_topic(&self) {
        let stream = Identifier::named(&self.name).unwrap();
        client(&self.url).await.delete_topic(&stream, &Identifier::named("events").unwrap()).await.unwrap();
    }
}

fn post(url: &str, token: Option<&str>, body: &serde_json::Value) -> serde_json::Value {
    let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
    let mut request = agent.post(url).header("content-type", "application/json");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let mut answer = request.send(body.to_string()).expect("the server's HTTP interface answers");
    let text = answer.body_mut().read_to_string().unwrap_or_default();
    assert!(answer.status().is_success(), "{url}: {} {text}", answer.status());
    serde_json::from_str(&text).unwrap_or_default()
}

impl Drop for Stream {
    fn drop(&mut self) {
        let (url, name) = (self.url.clone(), self.name.clone());
        // A runtime of its own: this may run while the test's one is going away.
        let deleted = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let client = client(&url).await;
                let _ = client.delete_stream(&Identifier::named(&name).unwrap()).await;
                std::io::Result::Ok(())
            })
        });
        let _ = deleted.join();
    }
}

/// A fresh topic and the log on it.
pub async fn fresh(url: String, partitions: u32) -> (Arc<IggyLog>, Stream) {
    let stream = Stream::new(url);
    stream.create_topic(partitions, None).await;
    let log = IggyLog::open(stream.options(partitions)).await.unwrap();
    (Arc::new(log), stream)
}
