//! The topic: looked up, created, told apart from another one of the same name.

use std::collections::BTreeMap;
use std::ops::Range;

use iggy::prelude::{
    Durability, Identifier, IggyByteSize, IggyDuration, IggyError, IggyExpiry, ResourceOptions, StreamClient as _,
    TcpClient, TopicClient as _, TopicCreateOptions, TopicDetails, topic_option_keys,
};
use millrace_log::LogError;
use millrace_rows::LogId;
use xxhash_rust::xxh3::xxh3_128;

use crate::options::Options;

/// What tells a topic from another one, also where server-side numbers are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) stream: u32,
    pub(crate) topic: u32,
    stream_created_us: u64,
    topic_created_us: u64,
}

impl Identity {
    /// As the identity of a log.
    pub(crate) fn log_id(&self) -> LogId {
        let mut bytes = b"iggy".to_vec();
        bytes.extend_from_slice(&self.stream.to_le_bytes());
        bytes.extend_from_slice(&self.topic.to_le_bytes());
        bytes.extend_from_slice(&self.stream_created_us.to_le_bytes());
        bytes.extend_from_slice(&self.topic_created_us.to_le_bytes());
        LogId(xxh3_128(&bytes).to_be_bytes())
    }
}

/// The topic as it is; `None` when it or its stream is not there.
pub(crate) async fn look(client: &TcpClient, options: &Options) -> Result<Option<(Identity, TopicDetails)>, IggyError> {
    let stream_name = Identifier::named(&options.stream)?;
    let Some(stream) = absent(client.get_stream(&stream_name).await)? else { return Ok(None) };
    let topic = client.get_topic(&stream_name, &Identifier::named(&options.topic)?).await;
    Ok(absent(topic)?.map(|details| {
        let identity = Identity {
            stream: stream.id,
            topic: details.id,
            stream_created_us: stream.created_at.as_micros(),
            topic_created_us: details.created_at.as_micros(),
        };
        (identity, details)
    }))
}

/// What is not there is told as nothing or as an error.
fn absent<T>(answer: Result<Option<T>, IggyError>) -> Result<Option<T>, IggyError> {
    match answer {
        Err(
            IggyError::StreamIdNotFound(_)
            | IggyError::StreamNameNotFound(_)
            | IggyError::TopicIdNotFound(..)
            | IggyError::TopicNameNotFound(..)
            | IggyError::ResourceNotFound(_),
        ) => Ok(None),
        other => other,
    }
}

/// Why a topic could not be made.
pub(crate) enum CreateError {
    /// Try again.
    Later(IggyError),
    /// Nothing that trying again would help.
    Never(LogError),
}

/// Creates the stream if need be, and the topic.
pub(crate) async fn create(client: &TcpClient, options: &Options) -> Result<(), CreateError> {
    let refused = |what: &str, error: &IggyError| {
        CreateError::Never(LogError::Unusable(format!("{what} can't be created on the Iggy server: {error}")))
    };
    match client.create_stream(&options.stream).await {
        Ok(_) | Err(IggyError::StreamNameAlreadyExists(_)) => {}
        Err(error) if crate::error::is_refusal(&error) => {
            return Err(refused(&format!("the stream {:?}", options.stream), &error));
        }
        Err(error) => return Err(CreateError::Later(error)),
    }
    let stream = Identifier::named(&options.stream).map_err(CreateError::Later)?;
    let expiry =
        options.retention.map_or(IggyExpiry::NeverExpire, |age| IggyExpiry::ExpireDuration(IggyDuration::from(age)));
    let create = TopicCreateOptions {
        partitions_count: Some(options.partitions),
        message_expiry: Some(expiry),
        segment_size: options.segment_bytes.map(IggyByteSize::from),
        durability: Durability::Persisted,
        raw: BTreeMap::new(),
        ..TopicCreateOptions::default()
    };
    match client.create_topic(&stream, &options.topic, &create).await {
        Ok(_) | Err(IggyError::TopicNameAlreadyExists(..)) => Ok(()),
        // A server of another age than the client library.
        Err(IggyError::UnsupportedOptionKey(_)) => Err(CreateError::Never(LogError::Unusable(format!(
            "the Iggy server does not know the topic option {:?}, so it is older than the release 0.9.0 and the topic {}/{} was not \
             created: use a server of version 0.9.0, or create the topic yourself over the server's HTTP interface, with \
             messages_required_to_save = 1 and enforce_fsync = true so that what it acknowledges is on its disk, and start again",
            topic_option_keys::DURABILITY,
            options.stream,
            options.topic
        )))),
        Err(error) if crate::error::is_refusal(&error) => {
            Err(refused(&format!("the topic {}/{}", options.stream, options.topic), &error))
        }
        Err(error) => Err(CreateError::Later(error)),
    }
}

/// Whether what the topic acknowledges is on the disk; `None` when its options do not tell.
pub(crate) fn is_persisted(options: &ResourceOptions) -> Option<bool> {
    let value = |wanted: &str| {
        options
            .iter()
            .find(|(key, _)| key.as_bytes() == wanted.as_bytes())
            .map(|(_, option)| option.value.to_string_value())
    };
    if let Some(durability) = value(topic_option_keys::DURABILITY) {
        return Some(durability.eq_ignore_ascii_case("persisted"));
    }
    // A server that does not know it yet says it in two options.
    let fsync = value("enforce_fsync")?;
    Some(fsync == "true" && value(topic_option_keys::MESSAGES_REQUIRED_TO_SAVE).as_deref() == Some("1"))
}

/// The partitions' bounds, by number.
///
/// # Errors
/// When partitions are not numbered from 0.
pub(crate) fn bounds(details: &TopicDetails) -> Result<Vec<Range<u64>>, LogError> {
    let mut numbered: Vec<_> = details.partitions.iter().collect();
    numbered.sort_unstable_by_key(|partition| partition.id);
    if numbered.iter().zip(0..).any(|(partition, number)| partition.id != number) {
        let detail = "the topic's partitions are not numbered 0, 1, 2 …: some were deleted; use a topic that has all";
        return Err(LogError::Unusable(detail.to_owned()));
    }
    let bounds = numbered.into_iter().map(|partition| match (partition.messages_count, partition.current_offset) {
        // An empty partition says 0, as one with a single message does.
        (0, 0) => 0..0,
        (count, last) => (last + 1).saturating_sub(count)..last + 1,
    });
    Ok(bounds.collect())
}
