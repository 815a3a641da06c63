//! Kinds of columns, and the columns that every event has.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::Type;

use crate::fault::Fault;

/// What a column holds, and how its accessors show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Str,
    Bytes,
    Int,
    Float,
    Bool,
    Timestamp,
    /// Text that is a JSON document.
    Json,
}

const KINDS: &str = "use str, i64, f64, bool, Timestamp, json (JSON text) or [u8] (text of which you want the bytes)";

impl Kind {
    pub(crate) fn parse(ty: &Type) -> Result<Self, Fault> {
        let text = ty.to_token_stream().to_string().replace(' ', "");
        let name = text.rsplit("::").next().unwrap_or(&text);
        let instead = match name {
            "str" => return Ok(Self::Str),
            "[u8]" => return Ok(Self::Bytes),
            "i64" => return Ok(Self::Int),
            "f64" => return Ok(Self::Float),
            "bool" => return Ok(Self::Bool),
            "Timestamp" => return Ok(Self::Timestamp),
            "json" => return Ok(Self::Json),
            "String" | "&str" | "string" | "text" => "`str`",
            "i8" | "i16" | "i32" | "u8" | "u16" | "u32" | "u64" | "usize" | "isize" | "int64" | "int" => "`i64`",
            "f32" | "float64" | "float" => "`f64`",
            "boolean" => "`bool`",
            "&[u8]" | "Vec<u8>" | "bytes" => "`[u8]`",
            "timestamp" | "SystemTime" | "DateTime" => "`Timestamp`",
            "Json" | "JSON" | "Value" => "`json`",
            _ => return Err(Fault::new(ty, format!("`{text}` is no kind of column: {KINDS}"))),
        };
        Err(Fault::new(ty, format!("`{text}` is no kind of column, the kind is {instead}")))
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Str => "str",
            Self::Bytes => "[u8]",
            Self::Int => "i64",
            Self::Float => "f64",
            Self::Bool => "bool",
            Self::Timestamp => "Timestamp",
            Self::Json => "json",
        }
    }

    /// The kind of the handle.
    pub(crate) fn handle(self) -> TokenStream {
        match self {
            Self::Str => quote!(::core::primitive::str),
            Self::Bytes | Self::Json => quote!([::core::primitive::u8]),
            Self::Int => quote!(::core::primitive::i64),
            Self::Float => quote!(::core::primitive::f64),
            Self::Bool => quote!(::core::primitive::bool),
            Self::Timestamp => quote!(::millrace_sdk::Timestamp),
        }
    }

    /// What a getter gives.
    pub(crate) fn value(self) -> TokenStream {
        match self {
            Self::Str => quote!(&::core::primitive::str),
            Self::Bytes => quote!(&[::core::primitive::u8]),
            Self::Json => quote!(::millrace_sdk::json::Value<'_>),
            other => other.handle(),
        }
    }

    /// The buffer that text is written to.
    pub(crate) fn buffer(self) -> Option<TokenStream> {
        match self {
            Self::Str => Some(quote!(::std::string::String)),
            Self::Bytes | Self::Json => Some(quote!(::std::vec::Vec<::core::primitive::u8>)),
            _ => None,
        }
    }

    fn is_text(self) -> bool {
        matches!(self, Self::Str | Self::Bytes | Self::Json)
    }

    /// Whether a column of this kind can be read as `other`.
    pub(crate) fn can_be(self, other: Self) -> bool {
        self == other || self.is_text() && other.is_text()
    }
}

/// A column of every event.
pub(crate) struct Base {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) writable: bool,
}

const fn base(name: &'static str, kind: Kind) -> Base {
    Base { name, kind, writable: true }
}

const fn fixed(name: &'static str, kind: Kind) -> Base {
    Base { name, kind, writable: false }
}

/// The columns that every event has when it gets to a plugin, as `millrace-rows` defines them; a test holds the two together.
pub(crate) const BASE: [Base; 22] = [
    fixed("event_id", Kind::Str),
    base("device_id", Kind::Str),
    base("user_id", Kind::Str),
    base("session_id", Kind::Str),
    base("type", Kind::Str),
    base("event", Kind::Str),
    base("event_time", Kind::Timestamp),
    fixed("received_at", Kind::Timestamp),
    base("time_suspect", Kind::Bool),
    base("app", Kind::Str),
    base("app_version", Kind::Str),
    base("platform", Kind::Str),
    base("os", Kind::Str),
    base("device_model", Kind::Str),
    base("locale", Kind::Str),
    base("ip", Kind::Str),
    base("user_agent", Kind::Str),
    base("url", Kind::Str),
    base("referrer", Kind::Str),
    base("properties", Kind::Json),
    base("context", Kind::Json),
    base("envelope", Kind::Json),
];
