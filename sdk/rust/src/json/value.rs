use std::borrow::Cow;
use std::ops::Range;

use serde::Deserialize;

use super::{Malformed, Reader, is, unescape};

/// A value in a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    doc: &'a [u8],
    start: usize,
    end: usize,
}

impl<'a> Value<'a> {
    /// A whole document.
    pub fn of(doc: &'a [u8]) -> Self {
        let start = doc.len() - doc.trim_ascii_start().len();
        Self { doc, start, end: start + doc.trim_ascii().len() }
    }

    pub(super) fn within(doc: &'a [u8], range: Range<usize>) -> Self {
        Self { doc, start: range.start, end: range.end }
    }

    /// Where it stands in the document.
    pub fn range(&self) -> Range<usize> {
        self.start..self.end
    }

    /// Its text in the document: a string with its quotes and escapes.
    pub fn raw(&self) -> &'a [u8] {
        &self.doc[self.range()]
    }

    /// The content of a string; `None` if it is something else.
    pub fn as_str(&self) -> Option<Cow<'a, str>> {
        match self.raw() {
            [b'"', inner @ .., b'"'] => Some(unescape(inner)),
            _ => None,
        }
    }

    /// The content of a string as text of its own, to set a column to: what [`Self::as_str`] gives is lent by the event.
    pub fn to_text(&self) -> Option<String> {
        self.as_str().map(Cow::into_owned)
    }

    /// A whole number that fits; `None` if it is something else, `1.0` and `1e3` too.
    pub fn as_i64(&self) -> Option<i64> {
        self.number()?.parse().ok()
    }

    /// A number; `None` if it is something else, or larger than a double can be.
    pub fn as_f64(&self) -> Option<f64> {
        self.number()?.parse().ok().filter(|number: &f64| number.is_finite())
    }

    fn number(&self) -> Option<&'a str> {
        match self.raw() {
            text @ [b'-' | b'0'..=b'9', ..] => std::str::from_utf8(text).ok(),
            _ => None,
        }
    }

    /// `true` or `false`; `None` if it is something else.
    pub fn as_bool(&self) -> Option<bool> {
        match self.raw() {
            b"true" => Some(true),
            b"false" => Some(false),
            _ => None,
        }
    }

    /// Whether it is `null`.
    pub fn is_null(&self) -> bool {
        self.raw() == b"null"
    }

    /// Whether it is an object or an array.
    pub fn is_nested(&self) -> bool {
        matches!(self.raw(), [b'{' | b'[', ..])
    }

    /// The value at a path from here: see [`get`](super::get).
    pub fn get(&self, path: &str) -> Option<Value<'a>> {
        path.split('.').try_fold(*self, |value, name| match value.raw().first()? {
            b'[' => value.elements().nth(name.parse().ok()?),
            _ => value.member(name),
        })
    }

    /// The member of this name; `None` if there is none, or this is no object.
    pub fn member(&self, name: &str) -> Option<Value<'a>> {
        let mut members = self.members();
        let mut found = None;
        while let Some((key, value)) = members.step() {
            if is(key, name) {
                found = Some(value);
            }
        }
        found
    }

    /// Names and values of an object, in its order; none if it is something else.
    pub fn members(&self) -> Members<'a> {
        Members(Items::of(self, b'{'))
    }

    /// Values of an array, in its order; none if it is something else.
    pub fn elements(&self) -> Elements<'a> {
        Elements(Items::of(self, b'['))
    }

    /// Parses it into a type of the plugin's own.
    pub fn parse<T: Deserialize<'a>>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(self.raw())
    }
}

/// Names and values of an object: see [`Value::members`].
#[derive(Clone, Debug)]
pub struct Members<'a>(Items<'a>);

/// Values of an array: see [`Value::elements`].
#[derive(Clone, Debug)]
pub struct Elements<'a>(Items<'a>);

/// What stands between brackets, up to their end or to what can't be read.
#[derive(Clone, Debug)]
struct Items<'a> {
    reader: Reader<'a>,
    /// What must be passed before the next item; nothing is left once it is `None`.
    before: Option<u8>,
}

impl<'a> Items<'a> {
    fn of(value: &Value<'a>, bracket: u8) -> Self {
        Self { reader: Reader { doc: &value.doc[..value.end], at: value.start }, before: Some(bracket) }
    }

    fn next<T>(&mut self, item: impl FnOnce(&mut Reader<'a>) -> Result<T, Malformed>) -> Option<T> {
        // Taken, and given back only behind an item that could be read. An empty pair of brackets has no item to read.
        let before = self.before.take()?;
        if !self.reader.take(before) {
            return None;
        }
        let item = item(&mut self.reader).ok()?;
        self.before = Some(b',');
        Some(item)
    }
}

impl<'a> Reader<'a> {
    fn value(&mut self) -> Result<Value<'a>, Malformed> {
        self.space();
        let start = self.at;
        self.skip()?;
        Ok(Value::within(self.doc, start..self.at))
    }
}

impl<'a> Members<'a> {
    /// The next name, as it stands between its quotes, and its value.
    fn step(&mut self) -> Option<(&'a [u8], Value<'a>)> {
        self.0.next(|reader| {
            let key = reader.string()?;
            reader.expect(b':')?;
            Ok((key, reader.value()?))
        })
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = (Cow<'a, str>, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        self.step().map(|(key, value)| (unescape(key), value))
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next(Reader::value)
    }
}
