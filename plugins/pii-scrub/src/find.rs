//! What has to be replaced in one value.

use std::borrow::Cow;

use millrace_sdk::json::{Malformed, Path, each};

use crate::card::{self, Cards};
use crate::keyed::Keyed;
use crate::screen::{Hints, screen};
use crate::text::Text;
use crate::{email, ip};

/// Bytes of a value and what takes their place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub start: usize,
    pub end: usize,
    pub by: Cow<'static, str>,
}

/// What is looked for in text.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub emails: bool,
    pub cards: Cards,
    pub ips: bool,
}

/// How a value is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Plain,
    Json,
}

/// Buffers that are used again for every value. They carry nothing from one to the next.
#[derive(Debug, Default)]
pub struct Scratch {
    text: Text,
    spans: Vec<Span>,
}

/// A stretch of decoded text that must go, and its network if it is an IP address.
enum Found {
    Email,
    Card,
    Ip(String),
}

impl Scratch {
    /// What must be replaced in `value`, in order, not overlapping. Addresses and numbers become a mark, or their
    /// pseudonym if there is a `pseudonym`.
    #[inline]
    pub fn find(&mut self, value: &[u8], form: Form, rules: Rules, pseudonym: Option<&Keyed>) -> &[Span] {
        let hints = screen(value);
        if hints.none() && !rules.ips {
            return &[];
        }
        self.look(value, form, rules, pseudonym, hints)
    }

    /// As [`Self::find`], where a first look gave `hints`.
    pub fn look(&mut self, value: &[u8], form: Form, rules: Rules, pseudonym: Option<&Keyed>, hints: Hints) -> &[Span] {
        let escapes = hints.escapes;
        let Self { text, spans } = self;
        spans.clear();
        let json = form == Form::Json;
        let decoded: &[u8] = if escapes {
            text.decode(value, json);
            text.bytes()
        } else {
            value
        };
        let mut numbers = false;
        let mut add = |start: usize, end: usize, found: Found| {
            numbers |= matches!(found, Found::Card);
            let by = match (found, pseudonym) {
                (_, Some(keyed)) => Cow::Owned(keyed.hash(&decoded[start..end])),
                (Found::Email, None) => Cow::Borrowed("[email]"),
                (Found::Card, None) => Cow::Borrowed("[card]"),
                (Found::Ip(network), None) => Cow::Owned(network),
            };
            let (start, end) = if escapes { (text.start(start), text.start(end)) } else { (start, end) };
            spans.push(Span { start, end, by });
        };
        if rules.emails && (hints.at || escapes) {
            email::find(decoded, escapes || !json, |start, end| add(start, end, Found::Email));
        }
        if hints.digits || escapes {
            card::find(decoded, rules.cards, |start, end| add(start, end, Found::Card));
        }
        if rules.ips {
            ip::find(decoded, |start, end, network| add(start, end, Found::Ip(network.to_string())));
        }
        if !spans.is_empty() {
            settle(spans);
            if json && numbers {
                quote_numbers(value, spans);
            }
        }
        spans
    }

    /// As [`Self::find`], for a JSON document of which the scalars at `hidden` become their pseudonyms too.
    pub fn find_in_json(
        &mut self,
        value: &[u8],
        rules: Rules,
        hidden: &[Path],
        keyed: Option<&Keyed>,
    ) -> Result<&[Span], Unscrubbed> {
        let mut wanted = Vec::new();
        let mut nested = false;
        for (path, keyed) in hidden.iter().zip(keyed.into_iter().cycle()) {
            each(value, path, |found| {
                nested |= found.is_nested();
                if !found.is_null() {
                    let hash = match found.as_str() {
                        Some(text) => keyed.hash(text.as_bytes()),
                        None => keyed.hash(found.raw()),
                    };
                    let range = found.range();
                    wanted.push(Span { start: range.start, end: range.end, by: Cow::Owned(format!("\"{hash}\"")) });
                }
            })
            .map_err(|Malformed| Unscrubbed::NotJson)?;
        }
        if nested {
            return Err(Unscrubbed::Nested);
        }
        if wanted.is_empty() {
            return Ok(self.find(value, Form::Json, rules, None));
        }
        let others = self.find(value, Form::Json, rules, None).iter();
        let apart = |span: &&Span| wanted.iter().all(|hidden| span.end <= hidden.start || hidden.end <= span.start);
        let others: Vec<Span> = others.filter(apart).cloned().collect();
        wanted.extend(others);
        settle(&mut wanted);
        self.spans = wanted;
        Ok(&self.spans)
    }
}

/// Why a value could not be scrubbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unscrubbed {
    /// A value was to be hidden in a document that can't be read.
    NotJson,
    /// What was to be hidden is an object or an array.
    Nested,
}

/// Sorts, and joins what overlaps.
fn settle(spans: &mut Vec<Span>) {
    spans.sort_by_key(|span| span.start);
    spans.dedup_by(|next, last| {
        let joined = next.start < last.end;
        if joined {
            last.end = last.end.max(next.end);
        }
        joined
    });
}

/// A number in a JSON document becomes a string as a whole, so that the document stays one. A fraction is left alone.
fn quote_numbers(doc: &[u8], spans: &mut Vec<Span>) {
    let (mut at, mut in_string) = (0, false);
    let mut numbers_end = 0;
    spans.retain_mut(|span| {
        while at < span.start {
            match doc[at] {
                b'\\' => at += 1,
                b'"' => in_string = !in_string,
                _ => {}
            }
            at += 1;
        }
        if in_string {
            return true;
        }
        let number = |byte: &&u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
        let before = doc[..span.start].iter().rev().take_while(number).count();
        let start = span.start - before;
        if start < numbers_end || doc[start..span.start].contains(&b'.') {
            return false;
        }
        // Separators are none in a number: what follows the first token is not part of it.
        let token = doc[span.start..].iter().take_while(number).count();
        span.start = start;
        span.end = span.end.max(start + before + token);
        numbers_end = span.end;
        span.by = Cow::Owned(format!("\"{}\"", span.by));
        true
    });
}

/// Appends `value` to `out`, with each span replaced.
pub fn replace(value: &[u8], spans: &[Span], out: &mut Vec<u8>) {
    let mut at = 0;
    for span in spans {
        out.extend_from_slice(&value[at..span.start]);
        out.extend_from_slice(span.by.as_bytes());
        at = span.end;
    }
    out.extend_from_slice(&value[at..]);
}
