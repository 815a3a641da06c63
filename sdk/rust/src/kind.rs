//! The kinds of values a handle can stand for: `str`, `[u8]` (text without the cost of checking it), `i64`,
//! [`Timestamp`], `f64` and `bool`.

use crate::columns::{Column, ColumnType, Text, Values};
use crate::schema::{Spec, Use};
use crate::store::{Slot, Store, Texts};

/// Microseconds since 1970-01-01 UTC: the number is `.0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// A kind of value that a column can hold. It is sealed: the boundary knows no others.
pub trait Kind: sealed::Kind {}

/// A kind of text: `str`, or `[u8]` where a plugin works on bytes and leaves their check to the host.
pub trait TextKind: Kind + sealed::TextKind {}

pub(crate) mod sealed {
    use super::{AnySlot, ColumnType};
    use crate::store::{Buffer, Slot, Store, Texts};

    pub trait Kind {
        type Ref<'a>
        where
            Self: 'a;
        type Store: Store;
        const TYPE: ColumnType;
        const RAW: bool = false;

        fn slot(any: &AnySlot) -> Option<&Slot<Self::Store>>;
        fn slot_mut(any: &mut AnySlot) -> Option<&mut Slot<Self::Store>>;
        fn get(store: &Self::Store, row: usize) -> Self::Ref<'_>;
        fn push(store: &mut Self::Store, value: Self::Ref<'_>);
    }

    pub trait TextKind: Kind<Store = Texts<Self::Buffer>> {
        type Buffer: Buffer<Slice = Self>;
    }
}

/// A column of a batch, whatever its kind.
#[derive(Debug)]
pub enum AnySlot {
    Str(Slot<Texts<String>>),
    Bytes(Slot<Texts<Vec<u8>>>),
    Int(Slot<Vec<i64>>),
    Float(Slot<Vec<f64>>),
    Bool(Slot<Vec<u8>>),
}

/// Runs `$body` on the slot inside, whatever its kind.
macro_rules! each_kind {
    ($any:expr, $slot:ident => $body:expr) => {
        match $any {
            $crate::kind::AnySlot::Str($slot) => $body,
            $crate::kind::AnySlot::Bytes($slot) => $body,
            $crate::kind::AnySlot::Int($slot) => $body,
            $crate::kind::AnySlot::Float($slot) => $body,
            $crate::kind::AnySlot::Bool($slot) => $body,
        }
    };
}
pub(crate) use each_kind;

macro_rules! kind {
    ($kind:ty, $variant:ident, $store:ty, $ty:ident, $reference:ty, $get:expr, $push:expr $(, $raw:expr)?) => {
        impl Kind for $kind {}
        impl sealed::Kind for $kind {
            type Ref<'a> = $reference;
            type Store = $store;
            const TYPE: ColumnType = ColumnType::$ty;
            $(const RAW: bool = $raw;)?

            fn slot(any: &AnySlot) -> Option<&Slot<Self::Store>> {
                if let AnySlot::$variant(slot) = any { Some(slot) } else { None }
            }
            fn slot_mut(any: &mut AnySlot) -> Option<&mut Slot<Self::Store>> {
                if let AnySlot::$variant(slot) = any { Some(slot) } else { None }
            }
            #[inline]
            fn get(store: &Self::Store, row: usize) -> Self::Ref<'_> {
                let get: fn(&Self::Store, usize) -> Self::Ref<'_> = $get;
                get(store, row)
            }
            #[inline]
            fn push(store: &mut Self::Store, value: Self::Ref<'_>) {
                let push: fn(&mut Self::Store, Self::Ref<'_>) = $push;
                push(store, value)
            }
        }
    };
}

kind!(str, Str, Texts<String>, String, &'a str, |s, row| s.get(row), |s, value| {
    s.bytes.push_str(value);
    s.close();
});
kind!(
    [u8],
    Bytes,
    Texts<Vec<u8>>,
    String,
    &'a [u8],
    |s, row| s.get(row),
    |s, value| {
        s.bytes.extend_from_slice(value);
        s.close();
    },
    true
);
kind!(i64, Int, Vec<i64>, Int64, i64, |s, row| s[row], |s, value| s.push(value));
kind!(Timestamp, Int, Vec<i64>, Timestamp, Timestamp, |s, row| Timestamp(s[row]), |s, value| s.push(value.0));
kind!(f64, Float, Vec<f64>, Float64, f64, |s, row| s[row], |s, value| s.push(value));
kind!(bool, Bool, Vec<u8>, Bool, bool, |s, row| s[row] != 0, |s, value| s.push(value.into()));

impl TextKind for str {}
impl sealed::TextKind for str {
    type Buffer = String;
}
impl TextKind for [u8] {}
impl sealed::TextKind for [u8] {
    type Buffer = Vec<u8>;
}

impl AnySlot {
    /// The slot of a column that is sent or was looked up, or of one that is added (`column` is `None`).
    pub(crate) fn new(spec: &Spec, rows: usize, column: Option<Column>) -> Result<Self, String> {
        let Some(column) = column else {
            debug_assert_eq!(spec.usage, Use::Add);
            return Ok(match (spec.ty, spec.raw) {
                (ColumnType::String, false) => Self::Str(Slot::default()),
                (ColumnType::String, true) => Self::Bytes(Slot::default()),
                (ColumnType::Int64 | ColumnType::Timestamp, _) => Self::Int(Slot::default()),
                (ColumnType::Float64, _) => Self::Float(Slot::default()),
                (ColumnType::Bool, _) => Self::Bool(Slot::default()),
            });
        };
        let Column { values, validity } = column;
        let fault = |what: &str| Err(format!("column {:?} is not as declared: {what}", spec.name));
        if validity.as_ref().is_some_and(|bits| bits.len() < rows.div_ceil(8)) {
            return fault("too few validity bits");
        }
        let slot = match (values, spec.ty) {
            (Values::Text(text), ColumnType::String) => {
                let whole = text.offsets.first() == Some(&0)
                    && text.offsets.last().map(|end| *end as usize) == Some(text.bytes.len());
                if !whole {
                    return fault("offsets don't span the text");
                }
                let Text { offsets, bytes } = text;
                if spec.raw {
                    Self::Bytes(Slot::with_input(Texts { offsets, bytes }, validity))
                } else {
                    match String::from_utf8(bytes) {
                        Ok(bytes) => Self::Str(Slot::with_input(Texts { offsets, bytes }, validity)),
                        Err(_) => return fault("text is not UTF-8"),
                    }
                }
            }
            (Values::Int64(values), ColumnType::Int64 | ColumnType::Timestamp) => {
                Self::Int(Slot::with_input(values, validity))
            }
            (Values::Float64(values), ColumnType::Float64) => Self::Float(Slot::with_input(values, validity)),
            (Values::Bool(values), ColumnType::Bool) => Self::Bool(Slot::with_input(values, validity)),
            (values, ty) => return fault(&format!("it holds {}, the plugin declares {ty}", values.kind())),
        };
        let sent = each_kind!(&slot, slot => slot.input.as_ref().map_or(0, Store::rows));
        if sent != rows {
            return fault(&format!("it has {sent} rows, the batch {rows}"));
        }
        Ok(slot)
    }

    pub(crate) fn finish(self, rows: usize) -> Column {
        let (values, validity) = match self {
            Self::Str(slot) => {
                let (texts, validity) = slot.finish(rows);
                (Values::Text(Text { offsets: texts.offsets, bytes: texts.bytes.into_bytes() }), validity)
            }
            Self::Bytes(slot) => {
                let (texts, validity) = slot.finish(rows);
                (Values::Text(Text { offsets: texts.offsets, bytes: texts.bytes }), validity)
            }
            Self::Int(slot) => {
                let (values, validity) = slot.finish(rows);
                (Values::Int64(values), validity)
            }
            Self::Float(slot) => {
                let (values, validity) = slot.finish(rows);
                (Values::Float64(values), validity)
            }
            Self::Bool(slot) => {
                let (values, validity) = slot.finish(rows);
                (Values::Bool(values), validity)
            }
        };
        Column { values, validity }
    }
}
