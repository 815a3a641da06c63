//! Connections that are made again when they break.
//!
//! The library answers one request at a time on a connection, so there are several of them: *lanes*. A lane connects when
//! it is used; where that fails, whoever comes within the pause that follows is told so at once. The library's own
//! reconnection is off: it would hide what was under way when a connection broke.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use iggy::prelude::{Client as _, IggyError, TcpClient};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, error::Elapsed, timeout};

use crate::error::{CallError, is_refusal};
use crate::options::Options;
use crate::topic::{self, Identity};

/// What all lanes of a log share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    /// The topic that the log was opened on; unset until it is.
    pub(crate) identity: std::sync::OnceLock<Identity>,
    /// Grows with each connection made: what was known over an older one may have to be looked at again.
    pub(crate) epoch: AtomicU64,
    /// Set once the topic was found to be another one.
    pub(crate) other_topic: std::sync::OnceLock<String>,
}

impl Shared {
    pub(crate) fn new(options: Options) -> Self {
        Self {
            options,
            identity: std::sync::OnceLock::new(),
            epoch: AtomicU64::new(0),
            other_topic: std::sync::OnceLock::new(),
        }
    }

    /// Checks that a topic is the one that the log was opened on.
    pub(crate) fn check_identity(&self, found: Identity) -> Result<(), CallError> {
        match self.identity.get() {
            Some(expected) if *expected != found => {
                let detail = format!(
                    "the topic {}/{} was created anew while this log was open: its records are others; restart to see \
                     whether the stores can follow it",
                    self.options.stream, self.options.topic
                );
                Err(CallError::OtherTopic(self.other_topic.get_or_init(|| detail).clone()))
            }
            _ => Ok(()),
        }
    }
}

/// One connection, made when it is needed.
pub(crate) struct Lane {
    shared: Arc<Shared>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    client: Option<TcpClient>,
    pause: Option<Duration>,
    /// No try to connect before this.
    wait_until: Option<Instant>,
    failed: String,
}

impl Lane {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, state: Mutex::default() }
    }

    /// The lane, connected, for one request.
    pub(crate) async fn hold(&self) -> Result<Held<'_>, CallError> {
        if let Some(detail) = self.shared.other_topic.get() {
            return Err(CallError::OtherTopic(detail.clone()));
        }
        let mut state = self.state.lock().await;
        if state.client.is_none() {
            if state.wait_until.is_some_and(|until| Instant::now() < until) {
                return Err(CallError::NotSent(state.failed.clone()));
            }
            match self.connect().await {
                Ok(client) => {
                    *state = State { client: Some(client), ..State::default() };
                    self.shared.epoch.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    let options = &self.shared.options;
                    let pause = state.pause.map_or(options.reconnect_pause_min, |pause| pause * 2);
                    let pause = pause.min(options.reconnect_pause_max);
                    state.pause = Some(pause);
                    state.wait_until = Some(Instant::now() + pause);
                    if let CallError::NotSent(detail) = &error {
                        state.failed.clone_from(detail);
                    }
                    return Err(error);
                }
            }
        }
        Ok(Held { state })
    }

    async fn connect(&self) -> Result<TcpClient, CallError> {
        let options = &self.shared.options;
        let address = options.url.address();
        let failed = |error: &dyn std::fmt::Display| {
            CallError::NotSent(format!("the Iggy server at {address} can't be reached: {error}"))
        };
        let client = TcpClient::create(Arc::new(options.url.config().clone())).map_err(|error| failed(&error))?;
        match timeout(options.connect_timeout, client.connect()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(failed(&error)),
            Err(_) => return Err(failed(&format_args!("no answer within {:?}", options.connect_timeout))),
        }
        if self.shared.identity.get().is_some() {
            let looked = timeout(options.request_timeout, topic::look(&client, options)).await;
            let found = match looked {
                Ok(Ok(found)) => found,
                Ok(Err(error)) => return Err(failed(&error)),
                Err(_) => return Err(failed(&format_args!("no answer within {:?}", options.request_timeout))),
            };
            // After a start the server may take a moment until it knows its topics.
            let Some((identity, _)) = found else {
                let (stream, topic) = (&options.stream, &options.topic);
                return Err(CallError::NotSent(format!("the server at {address} has no topic {stream}/{topic}")));
            };
            self.shared.check_identity(identity)?;
        }
        Ok(client)
    }
}

/// A lane in use.
pub(crate) struct Held<'a> {
    state: MutexGuard<'a, State>,
}

impl Held<'_> {
    /// The connection.
    pub(crate) fn client(&self) -> Result<&TcpClient, CallError> {
        self.state.client.as_ref().ok_or_else(|| CallError::NotSent("not connected".to_owned()))
    }

    /// Takes the outcome of a request, and gives the connection up where it is of no more use.
    pub(crate) fn settle<T>(mut self, answer: Result<Result<T, IggyError>, Elapsed>) -> Result<T, CallError> {
        let error = match answer {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) if is_refusal(&error) => return Err(CallError::Refused(error)),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        self.state.client = None;
        Err(CallError::Unknown(format!("the connection to the Iggy server broke: {error}")))
    }
}
