//! The body of a batch request: `{"batch": [...], "sentAt": ..., "context": {...}, "writeKey": ...}`.
//!
//! A body comes from one client with the events of many hours in it, so one event that is broken must not take the
//! others with it. The events are found by the structure alone (strings, and brackets that match), and each is then
//! for [`crate::scan`] to accept or refuse. Where the structure itself breaks (a string without an end, a bracket that
//! does not match) nobody can tell where the next event starts, and the body is refused.

use std::borrow::Cow;

use crate::error::{EventError, codes};
use crate::event::{BatchContext, utf8};
use crate::json::{DEPTH_MAX, Scanner, plain_end, unescape};
use crate::time::{parse_epoch_millis, parse_rfc3339};

/// Most events in one body.
pub const BATCH_EVENTS_MAX: usize = 10_000;

/// The parts of a batch request's body. Members that are not named here are not looked at.
pub struct Batch<'a> {
    /// The events, in their order.
    pub events: Vec<BatchEvent<'a>>,
    /// `sentAt` in µs since 1970 UTC; `None` also when it can't be read.
    pub sent_at_us: Option<i64>,
    /// `context`, unless it is absent or null.
    pub context: Option<BatchContext<'a>>,
    /// `writeKey`, if it is a string.
    pub write_key: Option<Cow<'a, str>>,
}

/// One event of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchEvent<'a> {
    /// Where it starts in the body, in bytes: what [`EventError::within`] needs.
    pub position: usize,
    /// Its bytes, verbatim, without the white space around it. Not checked.
    pub payload: &'a [u8],
}

/// Takes the body of a batch request apart. Of members that are there twice the last counts.
///
/// # Errors
/// [`codes::INVALID_JSON`] where the structure breaks, [`codes::NOT_AN_OBJECT`], [`codes::MISSING_BATCH`],
/// [`codes::TOO_MANY_EVENTS`], and those of [`BatchContext::scan`]; positions are those in the body.
pub fn split_batch(body: &[u8]) -> Result<Batch<'_>, EventError> {
    let mut splitter = Splitter { bytes: body, at: 0 };
    splitter.skip_space();
    let start = splitter.at;
    if splitter.peek() != Some(b'{') {
        return Err(no_object(body)?);
    }
    splitter.at += 1;
    let (mut events, mut sent_at, mut context, mut write_key) = (None, None, None, None);
    splitter.list(b'}', |splitter| {
        match &*splitter.name()? {
            "batch" if splitter.peek() == Some(b'[') => events = Some(splitter.events()?),
            "batch" => {
                splitter.value()?;
                events = None;
            }
            "sentAt" => sent_at = Some(splitter.value()?),
            "context" => context = Some(splitter.value()?),
            "writeKey" => write_key = Some(splitter.value()?),
            _ => drop(splitter.value()?),
        }
        splitter.skip_space();
        Ok(())
    })?;
    splitter.skip_space();
    if splitter.at < body.len() {
        return Err(EventError::json("something follows the end of the body", splitter.at));
    }
    let missing = || EventError::new(codes::MISSING_BATCH, "the body has no array `batch`", start);
    let context = match context {
        Some(span) => BatchContext::scan(span.payload).map_err(|error| error.within(span.position))?,
        None => None,
    };
    Ok(Batch {
        events: events.ok_or_else(missing)?,
        sent_at_us: sent_at.and_then(|span: BatchEvent<'_>| time(span.payload)),
        context,
        write_key: write_key.and_then(|span: BatchEvent<'_>| string(span.payload)),
    })
}

/// What is wrong with a body that is no object.
fn no_object(body: &[u8]) -> Result<EventError, EventError> {
    let mut scanner = Scanner::new(utf8(body)?);
    scanner.skip_space();
    let start = scanner.at;
    scanner.value(0)?;
    scanner.end()?;
    Ok(EventError::new(codes::NOT_AN_OBJECT, "the body must be an object with the events in `batch`", start))
}

/// The text of a string, if this is one.
fn string(value: &[u8]) -> Option<Cow<'_, str>> {
    let text = std::str::from_utf8(value).ok()?;
    let mut scanner = Scanner::new(text);
    scanner.value(0).and_then(|_| scanner.end()).ok()?;
    text.strip_prefix('"')?.strip_suffix('"').map(unescape)
}

fn time(value: &[u8]) -> Option<i64> {
    match value.first()? {
        b'"' => parse_rfc3339(&string(value)?),
        _ => parse_epoch_millis(std::str::from_utf8(value).ok()?),
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

/// Follows the structure of JSON and nothing else.
struct Splitter<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Splitter<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(is_space) {
            self.at += 1;
        }
    }

    /// Passes what is separated by commas up to `close`, of which `item` passes one at a time.
    fn list(&mut self, close: u8, mut item: impl FnMut(&mut Self) -> Result<(), EventError>) -> Result<(), EventError> {
        self.skip_space();
        if self.peek() == Some(close) {
            self.at += 1;
            return Ok(());
        }
        loop {
            item(self)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(byte) if byte == close => {
                    self.at += 1;
                    return Ok(());
                }
                Some(_) => return Err(EventError::json("expected a comma or the matching bracket", self.at)),
                None => return Err(EventError::json("the body ends too early", self.at)),
            }
        }
    }

    /// Passes a name of the body's members with its colon and the white space behind it.
    fn name(&mut self) -> Result<Cow<'a, str>, EventError> {
        self.skip_space();
        let start = self.at;
        if self.peek() != Some(b'"') {
            return Err(EventError::json("expected a member's name in quotes", start));
        }
        let name = self.span(|byte| byte == b':')?;
        if self.peek() != Some(b':') {
            return Err(EventError::json("expected a colon behind the member's name", self.at));
        }
        self.at += 1;
        self.skip_space();
        string(name.payload).ok_or_else(|| EventError::json("a member's name is broken", start))
    }

    /// Passes the value of a member of the body.
    fn value(&mut self) -> Result<BatchEvent<'a>, EventError> {
        let span = self.span(|byte| byte == b',')?;
        if span.payload.is_empty() {
            return Err(EventError::json("expected a value", span.position));
        }
        Ok(span)
    }

    fn events(&mut self) -> Result<Vec<BatchEvent<'a>>, EventError> {
        self.at += 1;
        let mut events = Vec::new();
        self.list(b']', |splitter| {
            let event = splitter.span(|byte| byte == b',')?;
            if events.len() == BATCH_EVENTS_MAX {
                return Err(EventError::new(
                    codes::TOO_MANY_EVENTS,
                    "a batch has at most 10000 events",
                    event.position,
                ));
            }
            events.push(event);
            Ok(())
        })?;
        Ok(events)
    }

    /// Passes everything up to a byte that `ends` outside of strings and brackets, or to a closing bracket that was not
    /// opened inside.
    fn span(&mut self, ends: impl Fn(u8) -> bool) -> Result<BatchEvent<'a>, EventError> {
        self.skip_space();
        let start = self.at;
        // The brackets that are open, the innermost in bit 0: 1 for an object. Below the deepest level that an event
        // may have they are only counted: such an event is refused anyway, it is only a matter of where it ends.
        let (mut levels, mut depth): (u64, usize) = (0, 0);
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => {
                    if depth < DEPTH_MAX as usize {
                        levels = levels << 1 | u64::from(byte == b'{');
                    }
                    depth += 1;
                }
                b'}' | b']' => {
                    if depth == 0 {
                        break;
                    }
                    if depth <= DEPTH_MAX as usize {
                        if (levels & 1 == 1) != (byte == b'}') {
                            return Err(EventError::json("a closing bracket does not match the open one", self.at));
                        }
                        levels >>= 1;
                    }
                    depth -= 1;
                }
                _ if depth == 0 && ends(byte) => break,
                _ => {}
            }
            self.at += 1;
        }
        if depth > 0 {
            return Err(EventError::json("the body ends inside an array or object", self.at));
        }
        let mut end = self.at;
        while end > start && is_space(self.bytes[end - 1]) {
            end -= 1;
        }
        Ok(BatchEvent { position: start, payload: &self.bytes[start..end] })
    }

    /// Passes a string. `at` is at the opening quote.
    fn string(&mut self) -> Result<(), EventError> {
        let start = self.at;
        self.at += 1;
        loop {
            self.at = plain_end(self.bytes, self.at);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.at += 2,
                Some(_) => self.at += 1,
                None => return Err(EventError::json("a string has no end", start)),
            }
        }
    }
}
