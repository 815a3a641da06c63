//! Finds the topic, or creates it.

use std::ops::Range;

use millrace_log::LogError;
use tokio::time::timeout;

use crate::connection::{Lane, Shared};
use crate::error::CallError;
use crate::topic::{self, CreateError, Identity};

/// Why the topic was not found.
pub(crate) enum Retry {
    Later(String),
    Never(LogError),
}

impl From<CallError> for Retry {
    fn from(error: CallError) -> Self {
        match error {
            CallError::NotSent(detail) | CallError::Unknown(detail) => Self::Later(detail),
            CallError::Refused(error) => {
                Self::Never(LogError::Unusable(format!("the Iggy server refuses to show the topic: {error}")))
            }
            CallError::OtherTopic(detail) => Self::Never(LogError::Unusable(detail)),
        }
    }
}

/// Looks the topic up, and creates it where it is not there.
pub(crate) async fn find(control: &Lane, shared: &Shared) -> Result<(Identity, Vec<Range<u64>>), Retry> {
    let options = &shared.options;
    let look = async || {
        let held = control.hold().await?;
        let answer = timeout(options.request_timeout, topic::look(held.client()?, options)).await;
        held.settle(answer)
    };
    let found = match look().await? {
        Some(found) => Some(found),
        None => {
            let held = control.hold().await?;
            match timeout(options.request_timeout, topic::create(held.client()?, options)).await {
                Ok(Ok(())) => held.settle(Ok(Ok(())))?,
                Ok(Err(CreateError::Never(error))) => return Err(Retry::Never(error)),
                Ok(Err(CreateError::Later(error))) => held.settle(Ok(Err(error)))?,
                Err(elapsed) => held.settle(Err(elapsed))?,
            }
            look().await?
        }
    };
    let (identity, details) =
        found.ok_or_else(|| Retry::Later("the server does not show the topic yet that it created".to_owned()))?;
    if details.partitions_count == 0 {
        return Err(Retry::Never(LogError::Unusable("the topic has no partitions: add some".to_owned())));
    }
    if details.partitions.len() != details.partitions_count as usize {
        return Err(Retry::Later("the server does not show all partitions of the topic yet".to_owned()));
    }
    if topic::is_persisted(&details.options) == Some(false) {
        tracing::warn!(
            stream = options.stream,
            topic = options.topic,
            "the topic acknowledges before a message is on the disk: a crash of the server can lose acknowledged events; \
             create it with durability = persisted"
        );
    }
    Ok((identity, topic::bounds(&details).map_err(Retry::Never)?))
}
