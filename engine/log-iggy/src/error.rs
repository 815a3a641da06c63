//! What a failed request means.

use iggy::prelude::IggyError;
use millrace_log::LogError;

/// Why a request has no result.
#[derive(Debug)]
pub(crate) enum CallError {
    /// It never left: there was no connection.
    NotSent(String),
    /// It left, or may have, and no answer came that settles it. The connection is given up.
    Unknown(String),
    /// The server refused it.
    Refused(IggyError),
    /// The topic is not the one that the log was opened on.
    OtherTopic(String),
}

impl CallError {
    /// As an error of a request that changes nothing.
    pub(crate) fn of_read(self) -> LogError {
        match self {
            Self::NotSent(detail) | Self::Unknown(detail) => LogError::Unavailable(detail),
            Self::Refused(error) => LogError::Unavailable(format!("the Iggy server refused: {error}")),
            Self::OtherTopic(detail) => LogError::Unusable(detail),
        }
    }
}

/// Whether an answer says that the request was not carried out, and that the connection is as good as before.
pub(crate) fn is_refusal(error: &IggyError) -> bool {
    matches!(
        error,
        IggyError::InvalidCommand
            | IggyError::FeatureUnavailable
            | IggyError::InvalidIdentifier
            | IggyError::ResourceNotFound(_)
            | IggyError::Unauthorized
            | IggyError::StreamIdNotFound(_)
            | IggyError::StreamNameNotFound(_)
            | IggyError::StreamNameAlreadyExists(_)
            | IggyError::InvalidStreamName
            | IggyError::TopicIdNotFound(..)
            | IggyError::TopicNameNotFound(..)
            | IggyError::TopicNameAlreadyExists(..)
            | IggyError::InvalidTopicName
            | IggyError::TooManyPartitions
            | IggyError::InvalidPartitionsCount
            | IggyError::PartitionNotFound(..)
            | IggyError::NoPartitions(..)
            | IggyError::TopicFull(..)
            | IggyError::TooBigUserHeaders
            | IggyError::InvalidHeaderKey
            | IggyError::InvalidHeaderValue
            | IggyError::TooBigMessagePayload
            | IggyError::TooManyMessages
            | IggyError::EmptyMessagePayload
            | IggyError::InvalidMessagePayloadLength
            | IggyError::InvalidMessagesCount
            | IggyError::UnsupportedOptionKey(_)
            | IggyError::InvalidOptionValue(_)
            | IggyError::InvalidSegmentSize(_)
    )
}
