//! Asks a running server, or the same routes over a data directory in this process.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};
use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use millrace_http::Trust;
use millrace_pipeline::engine::Engine;
use serde_json::Value;
use tower::ServiceExt as _;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::Global;
use crate::config::Config;

/// Bytes that are read from a file at a time.
const CHUNK_BYTES: usize = 64 * 1024;
/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Where requests go.
pub enum Client {
    /// A running server.
    Remote { base: String, agent: ureq::Agent, token: Option<String> },
    /// An engine of our own.
    Local { router: Router, engine: Arc<Engine> },
}

impl Client {
    /// The server at `--url`, or the data directory. `run` starts the loops of the stores: for commands that write.
    pub async fn open(global: &Global, config: &Config, run: bool) -> Result<Self> {
        if let Some(url) = &global.url {
            return Self::remote_with(url, global.token.clone(), global.ca_file.as_deref());
        }
        if !config.data_dir.join("keyspace").is_dir() {
            bail!("there is no data in {}: give --data-dir, or --url of a running server", config.data_dir.display());
        }
        let engine = crate::serve::open_engine(config).await?;
        if run {
            engine.start().await;
        } else {
            engine.read_progress().await?;
        }
        let router = millrace_http::router(engine.clone(), config.http_limits(), Trust::Offline);
        Ok(Self::Local { router, engine })
    }

    /// The server at `url`, without a token.
    pub fn remote(url: &str) -> Result<Self> {
        Self::remote_with(url, None, None)
    }

    /// The server at `url`, whose certificate is signed by one in `ca_file`, or by one that everybody knows.
    fn remote_with(url: &str, token: Option<String>, ca_file: Option<&Path>) -> Result<Self> {
        let base = url.trim_end_matches('/').to_owned();
        if !base.starts_with("http://") && !base.starts_with("https://") {
            bail!("--url {url}: it must begin with http:// or https://, as in http://127.0.0.1:7070");
        }
        let mut agent = ureq::Agent::config_builder().http_status_as_error(false);
        if let Some(path) = ca_file {
            let pem = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
            let roots: Vec<Certificate<'static>> = parse_pem(&pem)
                .filter_map(|item| match item {
                    Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
                    Ok(_) => None,
                    Err(error) => Some(Err(error)),
                })
                .collect::<Result<_, _>>()
                .with_context(|| format!("reading {}", path.display()))?;
            agent = agent.tls_config(TlsConfig::builder().root_certs(RootCerts::from(roots)).build());
        }
        Ok(Self::Remote { base, agent: agent.build().new_agent(), token })
    }

    /// Waits until the stores have everything and closes an engine of our own.
    pub async fn close(self) -> Result<()> {
        match self {
            Self::Remote { .. } => Ok(()),
            Self::Local { engine, .. } => Ok(engine.stop().await?),
        }
    }

    /// Waits until both stores have all that is in the log; a running server does that by itself.
    pub async fn drain(&self) -> Result<()> {
        match self {
            Self::Remote { .. } => Ok(()),
            Self::Local { engine, .. } => engine.drain().await.map_err(|reason| anyhow!(reason)),
        }
    }

    /// `GET path`.
    pub async fn get(&self, path: &str) -> Result<Value> {
        let (status, answer) = self.send(Method::GET, path, None, std::io::empty()).await?;
        success(status, answer)
    }

    /// `POST path` with a JSON body.
    pub async fn post_json(&self, path: &str, body: &Value) -> Result<Value> {
        self.send_json(Method::POST, path, body).await
    }

    /// A request with a JSON body.
    pub async fn send_json(&self, method: Method, path: &str, body: &Value) -> Result<Value> {
        let body = std::io::Cursor::new(body.to_string());
        let (status, answer) = self.send(method, path, Some("application/json"), body).await?;
        success(status, answer)
    }

    /// `DELETE path`.
    pub async fn delete(&self, path: &str) -> Result<Value> {
        let (status, answer) = self.send(Method::DELETE, path, None, std::io::empty()).await?;
        success(status, answer)
    }

    /// `POST path` with a body that is read as it is sent.
    pub async fn post_stream(&self, path: &str, body: impl Read + Send + 'static) -> Result<Value> {
        let (status, answer) = self.send(Method::POST, path, None, body).await?;
        success(status, answer)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&'static str>,
        body: impl Read + Send + 'static,
    ) -> Result<(StatusCode, Value)> {
        let mut request = Request::builder().method(method);
        if let Some(content_type) = content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let (status, bytes) = match self {
            Self::Remote { base, agent, token } => {
                if let Some(token) = token {
                    request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
                }
                let (agent, request) = (agent.clone(), request.uri(format!("{base}{path}")));
                tokio::task::spawn_blocking(move || send_remote(&agent, request, body)).await??
            }
            Self::Local { router, .. } => {
                let request = request.uri(path).body(stream(body))?;
                let response = router.clone().oneshot(request).await?;
                let status = response.status();
                (status, axum::body::to_bytes(response.into_body(), ANSWER_BYTES_MAX).await?.to_vec())
            }
        };
        let answer = serde_json::from_slice(&bytes)
            .with_context(|| format!("{path} answered {status} with something that is no JSON"))?;
        Ok((status, answer))
    }
}

fn send_remote(
    agent: &ureq::Agent,
    request: axum::http::request::Builder,
    mut body: impl Read + Send + 'static,
) -> Result<(StatusCode, Vec<u8>)> {
    let url = request.uri_ref().map(ToString::to_string).unwrap_or_default();
    let sent = match request.method_ref() {
        Some(&Method::GET | &Method::DELETE) => agent.run(request.body(())?),
        _ => agent.run(request.body(ureq::SendBody::from_reader(&mut body))?),
    };
    let mut response = sent.with_context(|| format!("asking {url}; is the server running?"))?;
    let status = StatusCode::from_u16(response.status().as_u16())?;
    let bytes = response.body_mut().with_config().limit(ANSWER_BYTES_MAX as u64).read_to_vec()?;
    Ok((status, bytes))
}

/// A body that is read on a thread of its own, a few chunks ahead.
fn stream(mut body: impl Read + Send + 'static) -> Body {
    let (sender, receiver) = tokio::sync::mpsc::channel::<std::io::Result<bytes::Bytes>>(4);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut chunk = vec![0; CHUNK_BYTES];
            let read = match body.read(&mut chunk) {
                Ok(0) => return,
                Ok(read) => {
                    chunk.truncate(read);
                    Ok(chunk.into())
                }
                Err(error) => Err(error),
            };
            // The receiver is gone when the request has been answered before its body ended.
            let failed = read.is_err();
            if sender.blocking_send(read).is_err() || failed {
                return;
            }
        }
    });
    Body::from_stream(futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|chunk| (chunk, receiver))
    }))
}

/// The answer of a request that succeeded; else the server's error, in its own words.
fn success(status: StatusCode, answer: Value) -> Result<Value> {
    if status.is_success() {
        return Ok(answer);
    }
    let error = &answer["error"];
    let message = error["message"].as_str().unwrap_or("no message");
    match &error["detail"] {
        Value::Null => Err(anyhow!("{message} ({status})")),
        detail => Err(anyhow!("{message} ({status}): {detail}")),
    }
}

/// Text as a part of a path or a query.
pub fn path_part(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}
