//! Writing what is left of an object when some of its members are taken.

use std::fmt::Write;
use std::ops::Range;

use arrow::array::StringBuilder;

use super::{Document, Member};
use crate::fields::{Field, Fields};
use crate::json::Shape;

/// What is left of a member when the taken ones are gone.
enum Left {
    Nothing,
    Whole,
    Part,
}

/// Writes one object, member by member, as the next value of a column.
pub(crate) struct RestWriter<'w> {
    column: &'w mut StringBuilder,
    /// Whether the object was begun.
    begun: bool,
    /// Whether a comma stands between the last byte written and the next member.
    comma: bool,
}

impl<'w> RestWriter<'w> {
    pub(crate) fn new(column: &'w mut StringBuilder) -> Self {
        Self { column, begun: false, comma: false }
    }

    fn push(&mut self, text: &str) {
        // A column never refuses text.
        let _ = self.column.write_str(text);
    }

    fn member(&mut self, text: &str) {
        if !self.begun {
            self.push("{");
        } else if self.comma {
            self.push(",");
        }
        (self.begun, self.comma) = (true, true);
        self.push(text);
    }

    /// Ends the object, and with it the column's value: null when no member was written.
    pub(crate) fn finish(mut self) {
        if self.begun {
            self.push("}");
            self.column.append_value("");
        } else {
            self.column.append_null();
        }
    }
}

impl Document<'_> {
    /// Writes those members in `range` (of one object) that are not in `taken`, verbatim and in their order. Of an
    /// object that is taken in part, the rest is written. Known members that are null, or that a later one of the same
    /// name supersedes, are left out.
    pub(crate) fn write_rest(&self, range: Range<usize>, taken: Fields, out: &mut RestWriter<'_>) {
        for index in self.siblings(range) {
            self.write_member(index, taken, out);
        }
    }

    /// As [`Document::write_rest`], but leaves out also those for whose name (or known member) `skip` says so.
    pub(crate) fn write_rest_unless(
        &self,
        range: Range<usize>,
        taken: Fields,
        out: &mut RestWriter<'_>,
        skip: impl Fn(Field, &str) -> bool,
    ) {
        for index in self.siblings(range) {
            let member = &self.members[index];
            if !skip(member.field, &self.name(member)) {
                self.write_member(index, taken, out);
            }
        }
    }

    fn write_member(&self, index: usize, taken: Fields, out: &mut RestWriter<'_>) {
        let Member { start, value, end, next, .. } = self.members[index];
        match self.left(index, taken) {
            Left::Nothing => {}
            Left::Whole => out.member(&self.text[start as usize..end as usize]),
            Left::Part => {
                // The name and the opening brace, then the members that are left.
                out.member(&self.text[start as usize..=value as usize]);
                out.comma = false;
                self.write_rest(index + 1..next as usize, taken, out);
                out.push("}");
                out.comma = true;
            }
        }
    }

    fn left(&self, index: usize, taken: Fields) -> Left {
        let member = &self.members[index];
        if member.field == Field::Other {
            return Left::Whole;
        }
        if member.superseded || taken.has(member.field) || member.shape == Shape::Null {
            return Left::Nothing;
        }
        let (mut some, mut all) = (false, true);
        for child in self.siblings(index + 1..member.next as usize) {
            match self.left(child, taken) {
                Left::Nothing => all = false,
                Left::Whole => some = true,
                Left::Part => (some, all) = (true, false),
            }
        }
        match (some, all) {
            (_, true) => Left::Whole,
            (true, false) => Left::Part,
            (false, false) => Left::Nothing,
        }
    }
}
