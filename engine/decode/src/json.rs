//! The JSON grammar (RFC 8259): walks over values, checks every byte of them and builds nothing.
//!
//! The walk keeps no stack of calls: nesting is one bit a level in a word, which is also what bounds it to
//! [`DEPTH_MAX`]. Strings are passed eight bytes at a time.

use std::borrow::Cow;

use crate::error::{EventError, codes};

/// Deepest nesting of arrays and objects. The outermost object of an event is level 1.
pub const DEPTH_MAX: u32 = 64;

/// What a value is, as far as its reader must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A string whose text is the bytes between its quotes.
    Text,
    /// A string with escapes.
    EscapedText,
    /// A number without fraction and exponent.
    Integer,
    /// Any other number.
    Number,
    Null,
    Bool,
    Object,
    Array,
}

/// A place in JSON text. `bytes` must be UTF-8: the scanner cuts only at ASCII bytes.
pub(crate) struct Scanner<'a> {
    bytes: &'a [u8],
    /// The next byte to look at.
    pub(crate) at: usize,
    /// Positions of `\uD800` to `\uDFFF` that are not half of a pair, at the backslash. RFC 8259 allows them and calls
    /// the outcome unpredictable; what becomes of them is the caller's business.
    pub(crate) lone_surrogates: Vec<u32>,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { bytes: text.as_bytes(), at: 0, lone_surrogates: Vec::new() }
    }

    #[inline]
    pub(crate) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// The bytes between two positions that were passed.
    #[inline]
    pub(crate) fn slice(&self, start: usize, end: usize) -> &'a [u8] {
        &self.bytes[start..end]
    }

    #[inline]
    pub(crate) fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// Passes `byte`, or fails with `message`.
    #[inline]
    pub(crate) fn expect(&mut self, byte: u8, message: &'static str) -> Result<(), EventError> {
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(EventError::json(message, self.at))
        }
    }

    /// Passes white space to the end of the text.
    pub(crate) fn end(&mut self) -> Result<(), EventError> {
        self.skip_space();
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(EventError::json("something follows the end of the value", self.at)),
        }
    }

    /// Passes a key, its colon and the white space around it. `at` is at what should be the key's quote; it is left at
    /// the value. Returns the end of the key (behind its quote) and whether it has escapes.
    #[inline]
    pub(crate) fn key(&mut self) -> Result<(usize, bool), EventError> {
        self.expect(b'"', "expected a member's name in quotes")?;
        let escaped = self.string()?;
        let end = self.at;
        self.skip_space();
        self.expect(b':', "expected a colon behind the member's name")?;
        self.skip_space();
        Ok((end, escaped))
    }

    /// Passes one value that lies inside `depth` arrays and objects. `at` is at its first byte.
    #[inline]
    pub(crate) fn value(&mut self, depth: u32) -> Result<Shape, EventError> {
        let shape = match self.peek() {
            Some(b'{') => Shape::Object,
            Some(b'[') => Shape::Array,
            _ => return self.scalar(),
        };
        self.nested(depth)?;
        Ok(shape)
    }

    #[inline]
    fn scalar(&mut self) -> Result<Shape, EventError> {
        match self.peek() {
            Some(b'"') => {
                self.at += 1;
                Ok(if self.string()? { Shape::EscapedText } else { Shape::Text })
            }
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal(b"true", Shape::Bool),
            Some(b'f') => self.literal(b"false", Shape::Bool),
            Some(b'n') => self.literal(b"null", Shape::Null),
            Some(_) => Err(EventError::json("expected a value", self.at)),
            None => Err(EventError::json("the text ends where a value should be", self.at)),
        }
    }

    /// Passes an array or object with all that is in it.
    fn nested(&mut self, outer: u32) -> Result<(), EventError> {
        let mut depth = outer;
        // Bit 0 tells of the innermost level: 1 for an object, 0 for an array.
        let mut levels: u64 = 0;
        loop {
            // At the first byte of a value.
            let open = self.peek();
            if let Some(b'{' | b'[') = open {
                if depth >= DEPTH_MAX {
                    return Err(EventError::new(codes::TOO_DEEP, "arrays and objects are nested too deep", self.at));
                }
                depth += 1;
                self.at += 1;
                self.skip_space();
                let object = open == Some(b'{');
                levels = levels << 1 | u64::from(object);
                if self.peek() != Some(if object { b'}' } else { b']' }) {
                    if object {
                        self.key()?;
                    }
                    continue;
                }
                // Empty: fall through to its end.
            } else {
                self.scalar()?;
                self.skip_space();
            }
            // Behind a value, or at the end of an empty container.
            loop {
                let object = levels & 1 == 1;
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        self.skip_space();
                        if object {
                            self.key()?;
                        }
                        break;
                    }
                    Some(b'}') if object => {}
                    Some(b']') if !object => {}
                    _ if object => return Err(EventError::json("expected a comma or }", self.at)),
                    _ => return Err(EventError::json("expected a comma or ]", self.at)),
                }
                self.at += 1;
                depth -= 1;
                levels >>= 1;
                if depth == outer {
                    return Ok(());
                }
                self.skip_space();
            }
        }
    }

    #[inline]
    fn literal(&mut self, literal: &'static [u8], shape: Shape) -> Result<Shape, EventError> {
        if self.bytes[self.at..].starts_with(literal) {
            self.at += literal.len();
            Ok(shape)
        } else {
            Err(EventError::json("expected a value", self.at))
        }
    }

    #[inline]
    fn number(&mut self) -> Result<Shape, EventError> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            // No digit follows a leading zero; what does is refused as whatever should follow the number.
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        let mut shape = Shape::Integer;
        if self.peek() == Some(b'.') {
            shape = Shape::Number;
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            shape = Shape::Number;
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(shape)
    }

    /// Passes one digit or more.
    #[inline]
    fn digits(&mut self) -> Result<(), EventError> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start { Err(EventError::json("expected a digit", start)) } else { Ok(()) }
    }

    /// Passes a string of which the opening quote is passed already. Returns whether it has escapes.
    #[inline]
    fn string(&mut self) -> Result<bool, EventError> {
        let mut escaped = false;
        loop {
            self.at = plain_end(self.bytes, self.at);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return Err(EventError::json("a control character in a string is not escaped", self.at)),
                None => return Err(EventError::json("the text ends inside a string", self.at)),
            }
        }
    }

    /// Passes one escape, or the two of a surrogate pair. `at` is at the backslash.
    fn escape(&mut self) -> Result<(), EventError> {
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(())
            }
            Some(b'u') => {
                let Some(unit) = hex_unit(self.bytes, self.at + 2) else {
                    return Err(EventError::json("\\u is not followed by four hexadecimal digits", self.at));
                };
                let paired = is_high(unit)
                    && self.bytes[self.at + 6..].starts_with(b"\\u")
                    && hex_unit(self.bytes, self.at + 8).is_some_and(is_low);
                if paired {
                    self.at += 12;
                    return Ok(());
                }
                if is_high(unit) || is_low(unit) {
                    // Texts that are scanned for their members are shorter than 4 GiB.
                    self.lone_surrogates.push(self.at as u32);
                }
                self.at += 6;
                Ok(())
            }
            _ => Err(EventError::json("no such escape in a string", self.at)),
        }
    }
}

fn is_high(unit: u16) -> bool {
    (0xd800..0xdc00).contains(&unit)
}

fn is_low(unit: u16) -> bool {
    (0xdc00..0xe000).contains(&unit)
}

/// The number that four hexadecimal digits at `at` stand for.
fn hex_unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 4)?;
    digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)? as u16))
}

/// `text` with every lone surrogate escape at `positions` replaced by the escape of U+FFFD, which is as long: every
/// position in the text stays what it was.
pub(crate) fn replace_lone_surrogates(text: &str, positions: &[u32]) -> String {
    let mut replaced = String::with_capacity(text.len());
    let mut done = 0;
    for position in positions.iter().map(|position| *position as usize) {
        replaced.push_str(&text[done..position]);
        replaced.push_str("\\ufffd");
        done = position + 6;
    }
    replaced.push_str(&text[done..]);
    replaced
}

/// The text of a string, given what is between its quotes. It must have passed the scanner.
pub(crate) fn unescape(raw: &str) -> Cow<'_, str> {
    let Some(first) = raw.find('\\') else { return Cow::Borrowed(raw) };
    let mut text = String::with_capacity(raw.len());
    text.push_str(&raw[..first]);
    let mut rest = &raw[first..];
    while let Some(escape) = rest.as_bytes().get(1) {
        let plain = match escape {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let (unit, low) = (hex_unit(rest.as_bytes(), 2), hex_unit(rest.as_bytes(), 8));
                let (code, length) = match (unit, low) {
                    (Some(high), Some(low)) if is_high(high) && is_low(low) && rest[6..].starts_with("\\u") => {
                        (0x1_0000 + (u32::from(high - 0xd800) << 10 | u32::from(low - 0xdc00)), 12)
                    }
                    (unit, _) => (unit.map_or(0xfffd, u32::from), 6),
                };
                text.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                rest = &rest[length..];
                let next = rest.find('\\').unwrap_or(rest.len());
                text.push_str(&rest[..next]);
                rest = &rest[next..];
                continue;
            }
            other => char::from(*other),
        };
        text.push(plain);
        rest = &rest[2..];
        let next = rest.find('\\').unwrap_or(rest.len());
        text.push_str(&rest[..next]);
        rest = &rest[next..];
    }
    Cow::Owned(text)
}

/// The first position from `at` on of a byte that is not plain in a string: a quote, a backslash, a control character.
/// The length of `bytes` when there is none.
///
/// Eight bytes at a time, in the bits of a word: vector instructions can't be had without unsafe code, and would gain
/// little on strings as short as those of events.
#[inline]
pub(crate) fn plain_end(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*chunk);
        // Taking n from a byte below n borrows, which sets its high bit. A borrow also spoils the byte above, so that
        // only the lowest bit found is certain: it marks the first byte that is not plain.
        let quote = (word ^ (ONES * b'"' as u64)).wrapping_sub(ONES);
        let backslash = (word ^ (ONES * b'\\' as u64)).wrapping_sub(ONES);
        let control = word.wrapping_sub(ONES * 0x20);
        let found = (quote | backslash | control) & !word & HIGHS;
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while at < bytes.len() && !matches!(bytes[at], b'"' | b'\\' | 0..0x20) {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests;
