//! One JSON object, read into the list of its members: where each stands in the text, in the order of the text. No map,
//! no copy: the list is reused from event to event.
//!
//! The members of the objects in which the decoder knows members stand in the list too, behind the member whose value
//! they are in. Every other value is one span, checked and kept whole.

mod rest;

use std::borrow::Cow;
use std::ops::Range;

use millrace_rows::check::ID_BYTES_MAX;

use crate::error::EventError;
use crate::fields::{FIELDS, Field, Fields, Place};
use crate::json::{DEPTH_MAX, Scanner, Shape, replace_lone_surrogates, unescape};
use crate::time::{parse_epoch_millis, parse_rfc3339};

pub(crate) use rest::RestWriter;

/// One member. Positions are bytes of the text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    /// First byte: the quote of the name.
    start: u32,
    /// Behind the quote that ends the name.
    name_end: u32,
    /// First byte of the value.
    pub(crate) value: u32,
    /// Behind the value.
    end: u32,
    /// Place in the list of the next member of the same object.
    next: u32,
    field: Field,
    pub(crate) shape: Shape,
    /// A later member of the same object has the same name, and is the one that counts.
    superseded: bool,
}

/// An object and its members. `text` is the input, or a repaired copy in which every byte has the same position.
pub(crate) struct Document<'a> {
    text: Cow<'a, str>,
    members: Vec<Member>,
    /// Where in `members` the known ones are; valid for those in `seen`.
    places: [u32; FIELDS],
    seen: Fields,
    lone_surrogates: Vec<u32>,
}

/// A time as an event gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Time {
    Absent,
    Unreadable,
    /// µs since 1970 UTC.
    At(i64),
}

impl<'a> Document<'a> {
    pub(crate) fn empty() -> Self {
        Self {
            text: Cow::Borrowed(""),
            // An event of the usual SDKs has about forty members that are listed.
            members: Vec::with_capacity(64),
            places: [0; FIELDS],
            seen: Fields::default(),
            lone_surrogates: Vec::new(),
        }
    }

    /// Reads `text`, whose first byte is the `{` at `at`, as an object that stands at `place` inside of `depth` others.
    /// What was read before is forgotten, also after an error. `text` must be shorter than 4 GiB.
    pub(crate) fn read(&mut self, text: &'a str, at: usize, place: Place, depth: u32) -> Result<(), EventError> {
        self.members.clear();
        self.seen = Fields::default();
        self.lone_surrogates.clear();
        let mut scanner = Scanner::new(text);
        scanner.at = at;
        self.object(&mut scanner, place, depth)?;
        scanner.end()?;
        self.lone_surrogates = scanner.lone_surrogates;
        self.text = if self.lone_surrogates.is_empty() {
            Cow::Borrowed(text)
        } else {
            Cow::Owned(replace_lone_surrogates(text, &self.lone_surrogates))
        };
        Ok(())
    }

    /// Reads one object into the list. Calls itself for the objects in which members are known: at most twice deep.
    fn object(&mut self, scanner: &mut Scanner<'a>, place: Place, outer: u32) -> Result<(), EventError> {
        let depth = outer + 1;
        debug_assert!(depth <= DEPTH_MAX, "known members stand near the top");
        scanner.expect(b'{', "expected an object")?;
        scanner.skip_space();
        if scanner.peek() == Some(b'}') {
            scanner.at += 1;
            return Ok(());
        }
        loop {
            let start = scanner.at;
            let (name_end, escaped) = scanner.key()?;
            let field = match scanner.slice(start + 1, name_end - 1) {
                name if escaped => place.field(unescape(&String::from_utf8_lossy(name)).as_bytes()),
                name => place.field(name),
            };
            let index = self.members.len();
            self.note(field, index);
            let value = scanner.at;
            self.members.push(Member {
                start: start as u32,
                name_end: name_end as u32,
                value: value as u32,
                end: 0,
                next: 0,
                field,
                shape: Shape::Object,
                superseded: false,
            });
            let shape = match field.inside() {
                Some(place) if scanner.peek() == Some(b'{') => {
                    self.object(scanner, place, depth)?;
                    Shape::Object
                }
                _ => scanner.value(depth)?,
            };
            let next = self.members.len() as u32;
            let member = &mut self.members[index];
            (member.end, member.next, member.shape) = (scanner.at as u32, next, shape);
            scanner.skip_space();
            match scanner.peek() {
                Some(b',') => {
                    scanner.at += 1;
                    scanner.skip_space();
                }
                Some(b'}') => {
                    scanner.at += 1;
                    return Ok(());
                }
                _ => return Err(EventError::json("expected a comma or }", scanner.at)),
            }
        }
    }

    /// Notes where a known member is. When it is there for the second time, the first one and all in it are forgotten.
    #[inline]
    fn note(&mut self, field: Field, index: usize) {
        if field == Field::Other {
            return;
        }
        if self.seen.has(field) {
            self.members[self.places[field as usize] as usize].superseded = true;
            self.seen.remove(field.tree());
        }
        self.seen.add(field);
        self.places[field as usize] = index as u32;
    }

    /// A known member.
    #[inline]
    pub(crate) fn member(&self, field: Field) -> Option<&Member> {
        self.seen.has(field).then(|| &self.members[self.places[field as usize] as usize])
    }

    /// A known member whose value is not null.
    #[inline]
    pub(crate) fn given(&self, field: Field) -> Option<&Member> {
        self.member(field).filter(|member| member.shape != Shape::Null)
    }

    /// The value of a member, verbatim.
    #[inline]
    pub(crate) fn raw(&self, member: &Member) -> &str {
        &self.text[member.value as usize..member.end as usize]
    }

    /// The value of a known member when it is an object, verbatim.
    pub(crate) fn object_text(&self, field: Field) -> Option<&str> {
        self.member(field).filter(|member| member.shape == Shape::Object).map(|member| self.raw(member))
    }

    /// The text of a known member when it is a string.
    #[inline]
    pub(crate) fn string(&self, field: Field) -> Option<Cow<'_, str>> {
        let member = self.member(field)?;
        let inside = || &self.text[member.value as usize + 1..member.end as usize - 1];
        match member.shape {
            Shape::Text => Some(Cow::Borrowed(inside())),
            Shape::EscapedText => Some(unescape(inside())),
            _ => None,
        }
    }

    /// The text of a known member when it is a string or an integer, and not empty.
    pub(crate) fn label(&self, field: Field) -> Option<Cow<'_, str>> {
        match self.member(field) {
            Some(member) if member.shape == Shape::Integer => Some(Cow::Borrowed(self.raw(member))),
            _ => self.string(field).filter(|text| !text.is_empty()),
        }
    }

    /// A known member as an id. An empty one is as good as none.
    ///
    /// # Errors
    /// `code` when it is of a wrong type, too long, or holds what an id must not hold.
    pub(crate) fn id(&self, field: Field, code: &'static str) -> Result<Option<Cow<'_, str>>, EventError> {
        let Some(member) = self.given(field) else { return Ok(None) };
        let refused = |message| Err(EventError::new(code, message, member.value as usize));
        if !matches!(member.shape, Shape::Text | Shape::EscapedText | Shape::Integer) {
            return refused("an id must be a string or an integer");
        }
        let Some(id) = self.label(field) else { return Ok(None) };
        if id.len() > ID_BYTES_MAX {
            return refused("an id has at most 256 bytes");
        }
        // Control characters have a byte below 0x20, 0x7f or 0xc2.
        if id.bytes().any(|byte| byte < 0x20 || byte == 0x7f || byte == 0xc2) && id.chars().any(char::is_control) {
            return refused("an id must have no control character");
        }
        let inside = |position: &u32| (member.value..member.end).contains(position);
        if self.lone_surrogates.iter().any(inside) {
            return refused("an id must have no half of a surrogate pair");
        }
        Ok(Some(id))
    }

    /// A known member as a time.
    pub(crate) fn time(&self, field: Field) -> Time {
        let Some(member) = self.given(field) else { return Time::Absent };
        let time = match member.shape {
            Shape::Integer | Shape::Number => parse_epoch_millis(self.raw(member)),
            _ => self.string(field).and_then(|text| parse_rfc3339(&text)),
        };
        time.map_or(Time::Unreadable, Time::At)
    }

    /// The places in the list of all members of the object that was read.
    pub(crate) fn all(&self) -> Range<usize> {
        0..self.members.len()
    }

    /// The places in the list of the members of `context`; none when there is none or it is no object.
    pub(crate) fn context(&self) -> Range<usize> {
        match self.member(Field::Context) {
            Some(member) => self.places[Field::Context as usize] as usize + 1..member.next as usize,
            None => 0..0,
        }
    }

    /// The places in the list of the members in `range` that are in the same object as the first.
    fn siblings(&self, mut range: Range<usize>) -> impl Iterator<Item = usize> + '_ {
        std::iter::from_fn(move || {
            let index = range.next()?;
            range.start = self.members[index].next as usize;
            Some(index)
        })
    }

    /// A member's name, its escapes resolved.
    fn name(&self, member: &Member) -> Cow<'_, str> {
        unescape(&self.text[member.start as usize + 1..member.name_end as usize - 1])
    }

    /// The names of those members in `range` (of one object) that are none of the known ones.
    pub(crate) fn other_names(&self, range: Range<usize>) -> impl Iterator<Item = Cow<'_, str>> {
        self.siblings(range)
            .filter(|index| self.members[*index].field == Field::Other)
            .map(|index| self.name(&self.members[index]))
    }
}
