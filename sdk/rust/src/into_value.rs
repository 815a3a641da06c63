//! What a column can be set to.

use std::borrow::Cow;

use crate::event::Event;
use crate::kind::{Kind, Timestamp};
use crate::schema::ColMut;

/// What a column of a kind can be set to: its own values, what becomes one without a loss, and `Option`s of these, where
/// `None` makes the column null. The setters of [`#[transform]`](macro@crate::transform) take it.
#[diagnostic::on_unimplemented(
    message = "a column of kind `{K}` can't be set to `{Self}`",
    label = "not a value of kind `{K}`",
    note = "kinds take: `str` text, `[u8]` and `json` text and bytes, `i64` whole numbers that fit, `f64` numbers that fit, \
            `bool`, `Timestamp`; and `Option`s of these"
)]
pub trait IntoValue<K: Kind + ?Sized> {
    /// Sets `column` of `event`.
    fn set(self, event: &mut Event<'_>, column: ColMut<K>);
}

impl<K: Kind + ?Sized, V: IntoValue<K>> IntoValue<K> for Option<V> {
    #[inline]
    fn set(self, event: &mut Event<'_>, column: ColMut<K>) {
        match self {
            Some(value) => value.set(event, column),
            None => event.set_null(column),
        }
    }
}

macro_rules! into_value {
    ($kind:ty: $($value:ty),+ => |$from:ident| $into:expr) => {
        $(impl IntoValue<$kind> for $value {
            #[inline]
            fn set(self, event: &mut Event<'_>, column: ColMut<$kind>) {
                let $from = self;
                event.set(column, $into);
            }
        })+
    };
}

into_value!(str: &str, &&str => |text| text);
into_value!(str: String, &String, Cow<'_, str>, &Cow<'_, str>, Box<str> => |text| &text);
into_value!([u8]: &[u8] => |bytes| bytes);
into_value!([u8]: Vec<u8>, &Vec<u8>, Cow<'_, [u8]> => |bytes| &bytes);
into_value!([u8]: &str, &&str, String, &String, Cow<'_, str>, &Cow<'_, str> => |text| text.as_bytes());
into_value!(i64: i64 => |number| number);
into_value!(i64: i32, i16, i8, u32, u16, u8 => |number| i64::from(number));
into_value!(f64: f64 => |number| number);
into_value!(f64: f32, i32, i16, i8, u32, u16, u8 => |number| f64::from(number));
into_value!(bool: bool => |flag| flag);
into_value!(Timestamp: Timestamp => |time| time);

impl<const N: usize> IntoValue<[u8]> for &[u8; N] {
    #[inline]
    fn set(self, event: &mut Event<'_>, column: ColMut<[u8]>) {
        event.set(column, self);
    }
}
