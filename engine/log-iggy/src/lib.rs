//! The event log on an Apache Iggy topic: [`IggyLog`] is an [`EventLog`](millrace_log::EventLog) whose records are the
//! messages of one topic.
//!
//! * **Place.** A record's partition and offset are those of its message. Consumer groups and offsets stored on the
//!   server are not used: cursors are in the stores.
//! * **Identity.** The [`LogId`](millrace_rows::LogId) is made of the ids of stream and topic and of when they were
//!   created: a topic that was deleted and made anew is another log. Every new connection, and every look at the topic,
//!   checks it.
//! * **Receipts** travel in the user header [`Receipt::HEADER`](millrace_log::Receipt::HEADER); see [`message`]. Messages
//!   of other producers are welcome: without that header, or with one that can't be read, a record has no receipt.
//! * **Durability.** The topic is created with the durability `persisted`: what is acknowledged is on the disk. A topic
//!   that is there already keeps its settings; one that acknowledges from memory is warned of.
//! * **Retention** is the topic's own. What it takes from under a cursor is a [gap](millrace_log::LogError::Gap), told and
//!   never skipped, though Iggy itself answers such a read with whatever comes next.
//! * **Appends** to a partition are sent one batch at a time; those that wait meanwhile go together in the next one. See
//!   [`append`] for what happens when a batch is sent and no answer comes.
//! * **Truncation.** A server that acknowledged from memory and crashed gives offsets again. An end that falls, and a
//!   record last read that is another one after a reconnection, stop the partition until a restart holds its cursors
//!   against the log.
//!
//! Times of append are the server's: one for all messages of a batch, and falling only where the server's clock does.
//!
//! Memory: the bytes of appends that wait ([`Options::queue_bytes`]) twice, and one answer of
//! [`Options::poll_records`] messages for each read under way.

pub mod append;
mod connection;
mod error;
mod log;
pub mod message;
mod open;
mod options;
mod state;
mod topic;

pub use log::{IggyLog, Stats};
pub use options::{Options, Url, UrlError};
