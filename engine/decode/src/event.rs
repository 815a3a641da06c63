//! One event, read and checked.

use std::borrow::Cow;

use millrace_rows::check::ID_BYTES_MAX;

use crate::document::{Document, Time};
use crate::error::{EventError, codes};
use crate::fields::{Field, Place};
use crate::json::{Scanner, Shape};

/// Longest event, in bytes.
pub const EVENT_BYTES_MAX: usize = 256 * 1024;

/// Longest `context` around a batch, in bytes. It is written into the row of every event of the batch.
pub const BATCH_CONTEXT_BYTES_MAX: usize = 16 * 1024;

/// Reads one event in one pass, and checks all of it that can be refused but the device id (see [`Event::device_id`]).
///
/// # Errors
/// With one of the [`codes`] when the payload is no event.
pub fn scan(payload: &[u8]) -> Result<Event<'_>, EventError> {
    let mut event = Event::empty();
    event.read(payload)?;
    event.ids()?;
    Ok(event)
}

/// An event: borrowed from its payload but for texts with escapes in them.
pub struct Event<'a> {
    pub(crate) document: Document<'a>,
}

/// The ids of an event; of each, `None` when it is absent, null or empty.
pub(crate) struct Ids<'e> {
    pub(crate) message: Option<Cow<'e, str>>,
    pub(crate) anonymous: Option<Cow<'e, str>>,
    pub(crate) user: Option<Cow<'e, str>>,
    device: Option<Cow<'e, str>>,
}

/// The id of the device that an event belongs to: `prefix` and `id` together.
pub(crate) struct Device<'e> {
    pub(crate) prefix: &'static str,
    pub(crate) id: &'e str,
    /// The member that it was taken from.
    pub(crate) source: Field,
}

impl<'a> Event<'a> {
    pub(crate) fn empty() -> Self {
        Self { document: Document::empty() }
    }

    /// Reads another event into the same memory. Ids are not looked at yet.
    pub(crate) fn read(&mut self, payload: &'a [u8]) -> Result<(), EventError> {
        if payload.len() > EVENT_BYTES_MAX {
            return Err(EventError::new(codes::TOO_LARGE, "the event is longer than 256 KiB", EVENT_BYTES_MAX));
        }
        let text = utf8(payload)?;
        let mut scanner = Scanner::new(text);
        scanner.skip_space();
        let start = scanner.at;
        if scanner.peek() == Some(b'{') {
            return self.document.read(text, start, Place::Top, 0);
        }
        scanner.value(0)?;
        scanner.end()?;
        Err(EventError::new(codes::NOT_AN_OBJECT, "an event must be an object", start))
    }

    pub(crate) fn ids(&self) -> Result<Ids<'_>, EventError> {
        let document = &self.document;
        Ok(Ids {
            message: document.id(Field::MessageId, codes::BAD_MESSAGE_ID)?,
            anonymous: document.id(Field::AnonymousId, codes::BAD_ANONYMOUS_ID)?,
            user: document.id(Field::UserId, codes::BAD_USER_ID)?,
            device: document.id(Field::DeviceId, codes::BAD_DEVICE_ID)?,
        })
    }

    /// The device that the event belongs to; `batch` is the context around it.
    pub(crate) fn device<'e>(
        &'e self,
        ids: &'e Ids<'_>,
        batch: Option<&'e BatchContext<'_>>,
    ) -> Result<Device<'e>, EventError> {
        let batch = batch.filter(|_| self.document.given(Field::Device).is_none());
        let device = ids.device.as_deref().or_else(|| batch?.device_id.as_deref());
        if let Some(id) = device {
            return Ok(Device { prefix: "", id, source: Field::DeviceId });
        }
        if let Some(id) = ids.anonymous.as_deref() {
            return Ok(Device { prefix: "", id, source: Field::AnonymousId });
        }
        if let Some(id) = ids.user.as_deref() {
            const PREFIX: &str = "user:";
            return match self.document.member(Field::UserId) {
                Some(member) if PREFIX.len() + id.len() > ID_BYTES_MAX => Err(EventError::new(
                    codes::BAD_DEVICE_ID,
                    "user: and the userId, which stand for the missing device id, are longer than 256 bytes",
                    member.value as usize,
                )),
                _ => Ok(Device { prefix: PREFIX, id, source: Field::UserId }),
            };
        }
        let empty = [Field::DeviceId, Field::AnonymousId, Field::UserId]
            .into_iter()
            .find_map(|field| self.document.given(field));
        Err(match empty {
            Some(member) => EventError::new(
                codes::BAD_DEVICE_ID,
                "every id that could stand for the device is empty",
                member.value as usize,
            ),
            None => {
                EventError::new(codes::MISSING_DEVICE_ID, "an event needs context.device.id, anonymousId or userId", 0)
            }
        })
    }

    /// The device that the event belongs to, as it will stand in `device_id`. `batch` is the context around a batch, of
    /// which the event takes what its own context lacks.
    ///
    /// # Errors
    /// [`codes::MISSING_DEVICE_ID`], [`codes::BAD_DEVICE_ID`].
    pub fn device_id(&self, batch: Option<&BatchContext<'_>>) -> Result<Cow<'_, str>, EventError> {
        let ids = self.ids()?;
        let Device { prefix, id, .. } = self.device(&ids, batch)?;
        Ok(Cow::Owned(format!("{prefix}{id}")))
    }

    /// `messageId`, unless it is absent, null or empty.
    pub fn message_id(&self) -> Option<Cow<'_, str>> {
        self.document.label(Field::MessageId)
    }

    /// `userId`, unless it is absent, null or empty.
    pub fn user_id(&self) -> Option<Cow<'_, str>> {
        self.document.label(Field::UserId)
    }

    /// `anonymousId`, unless it is absent, null or empty.
    pub fn anonymous_id(&self) -> Option<Cow<'_, str>> {
        self.document.label(Field::AnonymousId)
    }

    /// `type`, if it is a string.
    pub fn kind(&self) -> Option<Cow<'_, str>> {
        self.document.string(Field::Type)
    }

    /// `event`, else `name`, if it is a string.
    pub fn name(&self) -> Option<Cow<'_, str>> {
        self.document.string(Field::Event).or_else(|| self.document.string(Field::Name))
    }

    /// `writeKey`, if it is a string.
    pub fn write_key(&self) -> Option<Cow<'_, str>> {
        self.document.string(Field::WriteKey)
    }

    /// The event's own `sentAt`, in µs since 1970 UTC.
    pub fn sent_at_us(&self) -> Option<i64> {
        known(self.document.time(Field::SentAt))
    }

    /// `receivedAt`, in µs since 1970 UTC: given by exports of an installed base, for the import. The decoder does not
    /// look at it.
    pub fn received_at_us(&self) -> Option<i64> {
        known(self.document.time(Field::ReceivedAt))
    }

    /// `properties` if it is an object, else `traits` if that is one: the bytes of the input. (Half a surrogate pair is
    /// replaced, as everywhere.)
    pub fn properties(&self) -> Option<&str> {
        self.document.object_text(Field::Properties).or_else(|| self.document.object_text(Field::Traits))
    }
}

pub(crate) fn known(time: Time) -> Option<i64> {
    match time {
        Time::At(time) => Some(time),
        Time::Absent | Time::Unreadable => None,
    }
}

pub(crate) fn utf8(bytes: &[u8]) -> Result<&str, EventError> {
    std::str::from_utf8(bytes)
        .map_err(|error| EventError::new(codes::INVALID_UTF8, "the text is not UTF-8", error.valid_up_to()))
}

/// The `context` around a batch of events.
pub struct BatchContext<'a> {
    raw: &'a str,
    pub(crate) document: Document<'a>,
    device_id: Option<String>,
}

impl<'a> BatchContext<'a> {
    /// Reads the context around a batch, as it comes in a body or stands in a receipt. `None` when it is `null`.
    ///
    /// # Errors
    /// [`codes::BAD_BATCH_CONTEXT`] when it is no object, no valid JSON, nested deeper than an event's own may be, or
    /// longer than [`BATCH_CONTEXT_BYTES_MAX`]; [`codes::BAD_DEVICE_ID`].
    pub fn scan(bytes: &'a [u8]) -> Result<Option<Self>, EventError> {
        let bad = |error: EventError| EventError { code: codes::BAD_BATCH_CONTEXT, ..error };
        let refused = |message, position| EventError::new(codes::BAD_BATCH_CONTEXT, message, position);
        if bytes.len() > BATCH_CONTEXT_BYTES_MAX {
            return Err(refused("the context around a batch is longer than 16 KiB", BATCH_CONTEXT_BYTES_MAX));
        }
        let raw = utf8(bytes).map_err(bad)?;
        let mut scanner = Scanner::new(raw);
        scanner.skip_space();
        let start = scanner.at;
        if scanner.peek() != Some(b'{') {
            let shape = scanner.value(1).and_then(|shape| scanner.end().map(|()| shape)).map_err(bad)?;
            return match shape {
                Shape::Null => Ok(None),
                _ => Err(refused("the context around a batch must be an object", start)),
            };
        }
        let mut document = Document::empty();
        // The context of an event stands inside of the event.
        document.read(raw, start, Place::Context, 1).map_err(bad)?;
        let device_id = document.id(Field::DeviceId, codes::BAD_DEVICE_ID)?.map(Cow::into_owned);
        Ok(Some(Self { raw, document, device_id }))
    }

    /// The bytes that were read: what goes into a receipt.
    pub fn raw(&self) -> &'a str {
        self.raw
    }
}
