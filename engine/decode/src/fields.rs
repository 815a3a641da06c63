//! The members of an event that have a meaning to the decoder, and where in the event they stand.

/// A known member. One word of bits tells which of them an event has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Field {
    MessageId,
    AnonymousId,
    UserId,
    Type,
    Event,
    Name,
    OriginalTimestamp,
    Timestamp,
    SentAt,
    ReceivedAt,
    Properties,
    Traits,
    WriteKey,
    Context,
    Device,
    DeviceId,
    DeviceType,
    DeviceModel,
    App,
    AppName,
    AppVersion,
    Os,
    OsName,
    Page,
    PageUrl,
    PageReferrer,
    Locale,
    Ip,
    UserAgent,
    SessionId,
    /// Any other member.
    Other,
}

pub(crate) const FIELDS: usize = Field::Other as usize;

/// A set of known members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields(u32);

impl Fields {
    /// The members between two of them in the order of [`Field`].
    const fn between(first: Field, last: Field) -> Self {
        Self((1 << (last as u8 + 1)) - (1 << first as u8))
    }

    pub(crate) fn has(self, field: Field) -> bool {
        self.0 >> field as u8 & 1 == 1
    }

    /// Adds a member; [`Field::Other`] is never in.
    pub(crate) fn add(&mut self, field: Field) {
        self.0 |= 1 << field as u8 & !(1 << Field::Other as u8);
    }

    pub(crate) fn remove(&mut self, fields: Self) {
        self.0 &= !fields.0;
    }
}

impl Field {
    /// The member and all known members that can stand in its value.
    pub(crate) fn tree(self) -> Fields {
        match self {
            Self::Context => Fields::between(Self::Context, Self::SessionId),
            Self::Device => Fields::between(Self::Device, Self::DeviceModel),
            Self::App => Fields::between(Self::App, Self::AppVersion),
            Self::Os => Fields::between(Self::Os, Self::OsName),
            Self::Page => Fields::between(Self::Page, Self::PageReferrer),
            leaf => Fields::between(leaf, leaf),
        }
    }

    /// Where known members stand inside its value when that is an object; `None` for a value that is kept whole.
    pub(crate) fn inside(self) -> Option<Place> {
        match self {
            Self::Context => Some(Place::Context),
            Self::Device => Some(Place::Device),
            Self::App => Some(Place::App),
            Self::Os => Some(Place::Os),
            Self::Page => Some(Place::Page),
            _ => None,
        }
    }
}

/// An object in which known members stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Top,
    Context,
    Device,
    App,
    Os,
    Page,
}

impl Place {
    /// The member of this name (its escapes resolved).
    pub(crate) fn field(self, name: &[u8]) -> Field {
        match (self, name) {
            (Self::Top, b"messageId") => Field::MessageId,
            (Self::Top, b"anonymousId") => Field::AnonymousId,
            (Self::Top, b"userId") => Field::UserId,
            (Self::Top, b"type") => Field::Type,
            (Self::Top, b"event") => Field::Event,
            (Self::Top, b"name") => Field::Name,
            (Self::Top, b"originalTimestamp") => Field::OriginalTimestamp,
            (Self::Top, b"timestamp") => Field::Timestamp,
            (Self::Top, b"sentAt") => Field::SentAt,
            (Self::Top, b"receivedAt") => Field::ReceivedAt,
            (Self::Top, b"properties") => Field::Properties,
            (Self::Top, b"traits") => Field::Traits,
            (Self::Top, b"writeKey") => Field::WriteKey,
            (Self::Top, b"context") => Field::Context,
            (Self::Context, b"device") => Field::Device,
            (Self::Context, b"app") => Field::App,
            (Self::Context, b"os") => Field::Os,
            (Self::Context, b"page") => Field::Page,
            (Self::Context, b"locale") => Field::Locale,
            (Self::Context, b"ip") => Field::Ip,
            (Self::Context, b"userAgent") => Field::UserAgent,
            (Self::Context, b"sessionId") => Field::SessionId,
            (Self::Device, b"id") => Field::DeviceId,
            (Self::Device, b"type") => Field::DeviceType,
            (Self::Device, b"model") => Field::DeviceModel,
            (Self::App, b"name") => Field::AppName,
            (Self::App, b"version") => Field::AppVersion,
            (Self::Os, b"name") => Field::OsName,
            (Self::Page, b"url") => Field::PageUrl,
            (Self::Page, b"referrer") => Field::PageReferrer,
            _ => Field::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_hold_what_stands_inside() {
        let tree = Field::Context.tree();
        for field in [Field::Context, Field::Device, Field::DeviceId, Field::PageReferrer, Field::SessionId] {
            assert!(tree.has(field));
        }
        assert!(!tree.has(Field::WriteKey) && !tree.has(Field::Other));
        assert!(Field::Os.tree().has(Field::OsName) && !Field::Os.tree().has(Field::AppVersion));
        let mut all = Fields::default();
        all.add(Field::Other);
        assert_eq!(all, Fields::default());
        all.add(Field::SessionId);
        all.remove(tree);
        assert_eq!(all, Fields::default());
    }
}
