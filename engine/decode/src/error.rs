//! Why an event, a context or a request body was refused.

/// The codes of refusals. The decoder's dead letters carry one of the codes of events; they are part of the semantics:
/// changing which input gets which code changes stored dead letters.
pub mod codes {
    /// The payload is longer than [`crate::EVENT_BYTES_MAX`]. Nothing else was looked at.
    pub const TOO_LARGE: &str = "too_large";
    /// The payload is not UTF-8.
    pub const INVALID_UTF8: &str = "invalid_utf8";
    /// The payload is not JSON (RFC 8259), wherever the fault lies: also inside `properties`, which are stored verbatim.
    pub const INVALID_JSON: &str = "invalid_json";
    /// The payload is JSON, but no object.
    pub const NOT_AN_OBJECT: &str = "not_an_object";
    /// Arrays and objects are nested deeper than [`crate::DEPTH_MAX`], the event itself being the first level.
    pub const TOO_DEEP: &str = "too_deep";
    /// None of `context.device.id`, `anonymousId` and `userId` is there.
    pub const MISSING_DEVICE_ID: &str = "missing_device_id";
    /// `context.device.id` is no id (see the table of types in the crate's doc); or every id that could stand for the
    /// device is empty; or `user:` and the user id together are longer than an id may be.
    pub const BAD_DEVICE_ID: &str = "bad_device_id";
    /// `anonymousId` is no id.
    pub const BAD_ANONYMOUS_ID: &str = "bad_anonymous_id";
    /// `userId` is no id.
    pub const BAD_USER_ID: &str = "bad_user_id";
    /// `messageId` is no id.
    pub const BAD_MESSAGE_ID: &str = "bad_message_id";
    /// The `context` around a batch is no object, is no valid JSON, or is longer than
    /// [`crate::BATCH_CONTEXT_BYTES_MAX`].
    pub const BAD_BATCH_CONTEXT: &str = "bad_batch_context";
    /// The body of a batch request has no `batch`, or it is no array. Never a dead letter.
    pub const MISSING_BATCH: &str = "missing_batch";
    /// The body of a batch request has more than [`crate::BATCH_EVENTS_MAX`] events. Never a dead letter.
    pub const TOO_MANY_EVENTS: &str = "too_many_events";
}

/// A refusal. It quotes nothing of the input, which could be personal data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code} at byte {position}: {message}")]
pub struct EventError {
    /// One of [`codes`].
    pub code: &'static str,
    /// What was wrong, for people.
    pub message: &'static str,
    /// Where it was noticed, in bytes from the start of what was given to be read.
    pub position: usize,
}

impl EventError {
    pub(crate) fn new(code: &'static str, message: &'static str, position: usize) -> Self {
        Self { code, message, position }
    }

    pub(crate) fn json(message: &'static str, position: usize) -> Self {
        Self::new(codes::INVALID_JSON, message, position)
    }

    /// The same error as seen from something larger, in which what was read starts at byte `start`.
    #[must_use]
    pub fn within(self, start: usize) -> Self {
        Self { position: self.position + start, ..self }
    }
}
