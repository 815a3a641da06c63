//! One column during a call: what came in, and what goes out so far.
//!
//! Output is built lazily and in runs. Rows that nobody writes are not copied one by one: `next` is the first input row
//! that is not accounted for, and everything from there to the row that is written next is copied as one span. A column
//! that no row wrote in a batch that lost and gained no row is never built at all.

use std::ops::Range;

use crate::bits::Bits;

/// Values of one kind, row after row.
pub trait Store: Default {
    /// How many rows there are.
    fn rows(&self) -> usize;
    /// Appends a value that stands where a null is.
    fn push_blank(&mut self);
    /// Appends `rows` of `from`.
    fn copy_rows(&mut self, from: &Self, rows: Range<usize>);
    /// Appends the last value once more.
    fn repeat_last(&mut self);
    /// Leaves the first `rows` rows.
    fn truncate(&mut self, rows: usize);
    /// Makes room for about what `like` holds.
    fn reserve(&mut self, like: &Self);
}

impl<T: Copy + Default> Store for Vec<T> {
    fn rows(&self) -> usize {
        self.len()
    }

    fn push_blank(&mut self) {
        self.push(T::default());
    }

    fn copy_rows(&mut self, from: &Self, rows: Range<usize>) {
        self.extend_from_slice(&from[rows]);
    }

    fn repeat_last(&mut self) {
        self.extend(self.last().copied());
    }

    fn truncate(&mut self, rows: usize) {
        self.truncate(rows);
    }

    fn reserve(&mut self, like: &Self) {
        self.reserve(like.len());
    }
}

/// A growing buffer of text or bytes, and slices of it.
pub trait Buffer: Default {
    /// A part of it.
    type Slice: ?Sized + ToOwned<Owned = Self>;
    /// Length in bytes.
    fn len(&self) -> usize;
    /// The bytes in `range`.
    fn slice(&self, range: Range<usize>) -> &Self::Slice;
    /// Appends a slice.
    fn push(&mut self, slice: &Self::Slice);
    /// Appends a copy of the bytes in `range`.
    fn repeat(&mut self, range: Range<usize>);
    /// Shortens it.
    fn truncate(&mut self, len: usize);
    /// Makes room for `bytes` more.
    fn reserve(&mut self, bytes: usize);
}

impl Buffer for String {
    type Slice = str;

    fn len(&self) -> usize {
        self.len()
    }

    fn slice(&self, range: Range<usize>) -> &str {
        &self[range]
    }

    fn push(&mut self, slice: &str) {
        self.push_str(slice);
    }

    fn repeat(&mut self, range: Range<usize>) {
        self.extend_from_within(range);
    }

    fn truncate(&mut self, len: usize) {
        self.truncate(len);
    }

    fn reserve(&mut self, bytes: usize) {
        self.reserve(bytes);
    }
}

impl Buffer for Vec<u8> {
    type Slice = [u8];

    fn len(&self) -> usize {
        self.len()
    }

    fn slice(&self, range: Range<usize>) -> &[u8] {
        &self[range]
    }

    fn push(&mut self, slice: &[u8]) {
        self.extend_from_slice(slice);
    }

    fn repeat(&mut self, range: Range<usize>) {
        self.extend_from_within(range);
    }

    fn truncate(&mut self, len: usize) {
        self.truncate(len);
    }

    fn reserve(&mut self, bytes: usize) {
        self.reserve(bytes);
    }
}

/// Text values in one buffer.
#[derive(Debug)]
pub struct Texts<B> {
    /// One more than there are rows; the last is the length of the buffer, except while a value is being written.
    pub(crate) offsets: Vec<u32>,
    pub(crate) bytes: B,
}

impl<B: Default> Default for Texts<B> {
    fn default() -> Self {
        Self { offsets: vec![0], bytes: B::default() }
    }
}

impl<B: Buffer> Texts<B> {
    pub(crate) fn get(&self, row: usize) -> &B::Slice {
        self.bytes.slice(self.offsets[row] as usize..self.offsets[row + 1] as usize)
    }

    /// Ends the value that was appended to the buffer.
    pub(crate) fn close(&mut self) {
        self.offsets.push(offset(self.bytes.len()));
    }
}

/// A position in a buffer as the boundary counts it. In a guest no buffer can be longer; natively a batch that large is
/// a mistake of the caller that must not pass as wrong text.
fn offset(len: usize) -> u32 {
    match u32::try_from(len) {
        Ok(offset) => offset,
        Err(_) => panic!("a text column of one batch grew to {len} bytes, the boundary counts in 32 bits"),
    }
}

impl<B: Buffer> Store for Texts<B> {
    fn rows(&self) -> usize {
        self.offsets.len() - 1
    }

    fn push_blank(&mut self) {
        self.close();
    }

    fn copy_rows(&mut self, from: &Self, rows: Range<usize>) {
        let (start, end) = (from.offsets[rows.start], from.offsets[rows.end]);
        let base = offset(self.bytes.len());
        self.bytes.push(from.bytes.slice(start as usize..end as usize));
        // One check for the run: no offset in it is larger than the last.
        offset(self.bytes.len());
        let ends = &from.offsets[rows.start + 1..=rows.end];
        self.offsets.extend(ends.iter().map(|end| end.wrapping_sub(start).wrapping_add(base)));
    }

    fn repeat_last(&mut self) {
        let rows = self.rows();
        self.bytes.repeat(self.offsets[rows - 1] as usize..self.offsets[rows] as usize);
        self.close();
    }

    fn truncate(&mut self, rows: usize) {
        self.offsets.truncate(rows + 1);
        self.bytes.truncate(self.offsets[rows] as usize);
    }

    fn reserve(&mut self, like: &Self) {
        self.offsets.reserve(like.rows());
        // Written values are often a little longer than what they replace.
        self.bytes.reserve(like.bytes.len() + like.bytes.len() / 8);
    }
}

/// A column of a batch: input, output, or both.
#[derive(Debug, Default)]
pub struct Slot<S> {
    pub(crate) input: Option<S>,
    pub(crate) input_validity: Option<Vec<u8>>,
    out: S,
    out_valid: Bits,
    /// The first input row that is not in `out`, not dropped, and not staged.
    next: usize,
    /// The last row of `out` is the value of the row at hand.
    staged: bool,
    pub(crate) changed: bool,
}

impl<S: Store> Slot<S> {
    pub(crate) fn with_input(input: S, validity: Option<Vec<u8>>) -> Self {
        Self { input: Some(input), input_validity: validity, ..Self::default() }
    }

    pub(crate) fn input_is_valid(&self, row: usize) -> bool {
        self.input_validity.as_ref().is_none_or(|bits| bits[row / 8] >> (row % 8) & 1 == 1)
    }

    /// Where the value of `row` stands now; `None` if it is null.
    pub(crate) fn current(&self, row: usize) -> Option<(&S, usize)> {
        if self.staged {
            let last = self.out.rows() - 1;
            return self.out_valid.get(last).then_some((&self.out, last));
        }
        let input = self.input.as_ref()?;
        self.input_is_valid(row).then_some((input, row))
    }

    /// Makes `out` ready for a value of the row at hand, which the caller must push next. Answers whether the row had
    /// none yet.
    pub(crate) fn stage(&mut self, row: usize) -> bool {
        if self.staged {
            let rows = self.out.rows() - 1;
            self.out.truncate(rows);
            self.out_valid.truncate(rows);
            return false;
        }
        self.flush(row);
        self.staged = true;
        self.changed = true;
        true
    }

    /// Pushes the staged value with `push`, or a null.
    pub(crate) fn put(&mut self, push: Option<impl FnOnce(&mut S)>) {
        self.out_valid.push(push.is_some());
        match push {
            Some(push) => push(&mut self.out),
            None => self.out.push_blank(),
        }
    }

    /// Ends the row at hand, which was staged and is kept.
    pub(crate) fn commit(&mut self, row: usize) {
        self.staged = false;
        self.next = row + 1;
    }

    /// Puts a copy of the row at hand out and goes on with it.
    pub(crate) fn emit(&mut self, row: usize) {
        if self.staged {
            let valid = self.out_valid.get(self.out.rows() - 1);
            self.out.repeat_last();
            self.out_valid.push(valid);
        } else {
            self.flush(row);
            self.copy(row..row + 1);
        }
    }

    /// Ends the row at hand; of `out` stays what stood there before it plus what it emitted: `kept` rows.
    pub(crate) fn discard(&mut self, row: usize, kept: usize) {
        if !self.staged {
            self.flush(row);
        }
        self.out.truncate(kept);
        self.out_valid.truncate(kept);
        self.staged = false;
        self.next = row + 1;
        self.changed = true;
    }

    /// Copies all rows before `row` that are not accounted for.
    fn flush(&mut self, row: usize) {
        if self.next < row {
            self.copy(self.next..row);
            self.next = row;
        }
    }

    fn copy(&mut self, rows: Range<usize>) {
        match &self.input {
            Some(input) => {
                if self.out.rows() == 0 {
                    self.out.reserve(input);
                }
                self.out_valid.extend(self.input_validity.as_deref(), rows.clone());
                self.out.copy_rows(input, rows);
            }
            None => rows.for_each(|_| {
                self.out.push_blank();
                self.out_valid.push(false);
            }),
        }
    }

    /// The values and validity out of a batch of `rows` rows.
    pub(crate) fn finish(mut self, rows: usize) -> (S, Option<Vec<u8>>) {
        self.flush(rows);
        debug_assert_eq!(self.out.rows(), self.out_valid.len());
        (self.out, self.out_valid.into_validity())
    }
}

impl<B: Buffer> Slot<Texts<B>> {
    /// Stages the text that `write` appends to the output; it is given the value that `row` has now. Answers as
    /// [`Self::stage`] does.
    pub(crate) fn write_with(&mut self, row: usize, write: impl FnOnce(&B::Slice, &mut B)) -> bool {
        // What was staged lies where the new value goes.
        let staged = self.staged.then(|| {
            let last = self.out.rows() - 1;
            if self.out_valid.get(last) { self.out.get(last).to_owned() } else { B::default() }
        });
        let first = self.stage(row);
        let start = self.out.bytes.len();
        match (&staged, &self.input) {
            (Some(now), _) => write(now.slice(0..now.len()), &mut self.out.bytes),
            (None, Some(input)) if self.input_is_valid(row) => write(input.get(row), &mut self.out.bytes),
            _ => write(B::default().slice(0..0), &mut self.out.bytes),
        }
        assert!(self.out.bytes.len() >= start, "a value may only be appended to the output");
        self.out.close();
        self.out_valid.push(true);
        first
    }
}
