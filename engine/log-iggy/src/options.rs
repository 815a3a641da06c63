//! What can be set, and the connection string.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use iggy::prelude::TcpClientConfig;
use iggy_common::{ConnectionString, TcpConnectionStringOptions};

/// Where the log is, and the bounds of working with it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server, and who we are to it.
    pub url: Url,
    /// Name of the stream; created when it is not there.
    pub stream: String,
    /// Name of the topic; created when it is not there.
    pub topic: String,
    /// Partitions that a new topic gets. One that is there keeps its own.
    pub partitions: u32,
    /// How long a new topic keeps its messages; `None`: for ever. One that is there keeps its own.
    pub retention: Option<Duration>,
    /// Size at which a new topic's segments are sealed, in bytes, a multiple of 512 from 1 MiB to 1 GiB: retention takes
    /// sealed segments only. `None`: the server's default. A topic that is there keeps its own.
    pub segment_bytes: Option<u64>,
    /// Longest wait for the server when the log is opened.
    pub open_wait: Duration,
    /// Longest wait for a connection and its log-in.
    pub connect_timeout: Duration,
    /// Longest wait for the answer to a read or a question; then the connection is given up.
    pub request_timeout: Duration,
    /// Longest wait for the answer to a batch. The client library gives up its connection after 30 s by itself: a longer
    /// wait here lets it close the connection before the batch is looked for.
    pub send_timeout: Duration,
    /// Pause before the first try to connect again; doubled with each up to [`Options::reconnect_pause_max`].
    pub reconnect_pause_min: Duration,
    /// Longest pause between tries to connect.
    pub reconnect_pause_max: Duration,
    /// How long a batch that could not be sent yet waits for a connection before its appends fail.
    pub append_wait: Duration,
    /// After a batch without an answer: how long it is looked for on a new connection, which answers, before it counts as
    /// never taken.
    pub settle: Duration,
    /// Times that a batch is sent, each after it was found not to be in the log.
    pub send_tries: u32,
    /// Bytes of appends that wait or are being sent; further ones wait for room.
    pub queue_bytes: usize,
    /// Bytes at which a batch takes no further append. A single append may be larger.
    pub batch_bytes: usize,
    /// Most messages that one read asks for.
    pub poll_records: u32,
    /// Pause between looks at the ends of the partitions while they move.
    pub poll_pause_min: Duration,
    /// Pause between looks while they do not.
    pub poll_pause_max: Duration,
    /// Connections for appends, and as many for reads: at most one for each partition.
    pub connections: u32,
}

impl Options {
    /// Defaults for a topic.
    pub fn new(url: Url, stream: impl Into<String>, topic: impl Into<String>) -> Self {
        Self {
            url,
            stream: stream.into(),
            topic: topic.into(),
            partitions: 4,
            retention: Some(Duration::from_secs(30 * 24 * 3600)),
            segment_bytes: None,
            open_wait: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            send_timeout: Duration::from_secs(35),
            reconnect_pause_min: Duration::from_millis(50),
            reconnect_pause_max: Duration::from_secs(2),
            append_wait: Duration::from_secs(5),
            settle: Duration::from_secs(1),
            send_tries: 5,
            queue_bytes: 64 * 1024 * 1024,
            batch_bytes: 4 * 1024 * 1024,
            poll_records: 2000,
            poll_pause_min: Duration::from_millis(10),
            poll_pause_max: Duration::from_millis(100),
            connections: 4,
        }
    }
}

/// A connection string: `iggy://user:password@host:8090?tls=true&tls_domain=example.org&tls_ca_file=ca.pem`, or
/// `iggy://token@host:8090` with a personal access token. Shown without its secret.
#[derive(Clone)]
pub struct Url(TcpClientConfig);

/// Text that is no connection string. Does not quote it: it may hold a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no connection string of Iggy over TCP: write iggy://USER:PASSWORD@HOST:PORT or iggy://TOKEN@HOST:PORT, with \
     ?tls=true&tls_domain=NAME&tls_ca_file=FILE for TLS"
)]
pub struct UrlError;

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        // The library would take the other protocols' prefixes for ours.
        if !text.starts_with("iggy://") && !text.starts_with("iggy+tcp://") {
            return Err(UrlError);
        }
        let parsed = ConnectionString::<TcpConnectionStringOptions>::from_str(text).map_err(|_| UrlError)?;
        let mut config = TcpClientConfig::from(parsed);
        // Without it a batch of 100 waits for 40 ms.
        config.nodelay = true;
        // Connections are made anew here, where it is known what was under way on the old one.
        config.reconnection.enabled = false;
        Ok(Self(config))
    }
}

impl Url {
    /// Host and port.
    pub fn address(&self) -> &str {
        &self.0.server_address
    }

    pub(crate) fn config(&self) -> &TcpClientConfig {
        &self.0
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "iggy://***@{}", self.address())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_string_is_read_and_its_secret_never_shown() {
        let text = "iggy://ops:hunter2@log.example.org:8090?tls=true&tls_domain=example.org&tls_ca_file=ca.pem";
        let url: Url = text.parse().unwrap();
        assert_eq!(url.address(), "log.example.org:8090");
        assert!(url.config().tls_enabled && url.config().nodelay && !url.config().reconnection.enabled);
        assert_eq!(url.config().tls_ca_file.as_deref(), Some("ca.pem"));
        let shown = format!("{url} {url:?} {:?}", Options::new(url.clone(), "s", "t"));
        assert!(!shown.contains("hunter2") && !shown.contains("ops:"), "{shown}");
        let url: Url = "iggy://iggypat-secret@127.0.0.1:8090".parse().unwrap();
        assert!(!format!("{url:?}").contains("secret"));
        for wrong in ["", "http://x:y@z:1", "iggy+quic://x:y@z:1", "iggy://x:y@z", "iggy://x:y@z:1?nonsense=1"] {
            let error = wrong.parse::<Url>().unwrap_err().to_string();
            assert!(!error.contains("x:y"), "{error}");
        }
    }
}
