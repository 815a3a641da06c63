//! The event that an author's function gets, and the batch it is a row of.

use crate::columns::{Batch, Column, Output, Returned, RowOutcome};
use crate::kind::sealed::Kind as _;
use crate::kind::{AnySlot, Kind, TextKind, each_kind};
use crate::schema::{Code, ColMut, Handle, Layout, Spec, Use};
use crate::store::Buffer;

/// What becomes of an event. Codes are handles that [`Schema::code`](crate::Schema::code) gave, or the names that
/// `#[transform]` made of those declared there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome<C = Code> {
    /// It goes on, as it is now.
    Keep,
    /// Only what [`Event::emit`] put out goes on; at least one row must have been.
    Emitted,
    /// It is left out on purpose, and whatever it emitted with it.
    Drop(C),
    /// It could not be transformed. Its log record becomes a dead letter and reaches no store.
    Fail(C),
}

/// The batch while it is transformed.
#[derive(Debug)]
pub(crate) struct State {
    slots: Vec<AnySlot>,
    /// Slots that have an output.
    writable: Vec<usize>,
    /// Slots that were written for the row at hand.
    staged: Vec<usize>,
    rows: usize,
    /// The first row that was not visited.
    cursor: usize,
    /// Rows out so far, those of the row at hand not counted.
    kept: usize,
    /// Rows that the row at hand emitted.
    emitted: usize,
    /// Present once a row was dropped, failed or multiplied.
    sources: Option<Vec<u32>>,
    dropped: Vec<RowOutcome>,
    failed: Vec<RowOutcome>,
    error: Option<String>,
}

impl State {
    pub(crate) fn new(layout: &Layout, batch: Batch) -> Result<Self, String> {
        let specs = &layout.specs;
        let rows = batch.rows as usize;
        let sent = specs.iter().filter(|spec| spec.is_sent()).count();
        if batch.columns.len() != sent {
            return Err(format!("{} columns were sent, the manifest reads {sent}", batch.columns.len()));
        }
        let mut found = look_up(layout, &batch)?;
        let mut columns = batch.columns.into_iter();
        let slots = specs
            .iter()
            .enumerate()
            .map(|(slot, spec)| {
                let column = match spec.usage {
                    Use::Add => None,
                    Use::Read | Use::Update => columns.next(),
                    Use::Lookup => found.get_mut(slot).and_then(Option::take),
                };
                AnySlot::new(spec, rows, column)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let writable = (0..specs.len()).filter(|slot| matches!(specs[*slot].usage, Use::Update | Use::Add)).collect();
        Ok(Self {
            slots,
            writable,
            staged: Vec::new(),
            rows,
            cursor: 0,
            kept: 0,
            emitted: 0,
            sources: None,
            dropped: Vec::new(),
            failed: Vec::new(),
            error: None,
        })
    }

    pub(crate) fn finish(mut self, specs: &[Spec]) -> Result<Output, String> {
        self.keep_until(self.rows);
        if let Some(error) = self.error {
            return Err(error);
        }
        let moved = self.sources.is_some();
        let (mut written, mut added) = (Vec::new(), Vec::new());
        for (slot, spec) in self.slots.into_iter().zip(specs) {
            let changed = moved || each_kind!(&slot, slot => slot.changed);
            match spec.usage {
                Use::Read | Use::Lookup => {}
                Use::Update if !changed => written.push(Returned::Unchanged),
                Use::Update => written.push(Returned::Column(slot.finish(self.rows))),
                Use::Add => added.push(Returned::Column(slot.finish(self.rows))),
            }
        }
        written.append(&mut added);
        Ok(Output { columns: written, sources: self.sources, dropped: self.dropped, failed: self.failed })
    }

    /// Counts the rows from the cursor to `row` as kept untouched.
    fn keep_until(&mut self, row: usize) {
        if let Some(sources) = &mut self.sources {
            sources.extend(self.cursor as u32..row as u32);
        }
        self.kept += row - self.cursor;
        self.cursor = row;
    }

    /// From here on rows out are not rows in.
    fn sources(&mut self) -> &mut Vec<u32> {
        let row = self.cursor as u32;
        self.sources.get_or_insert_with(|| (0..row).collect())
    }

    fn visit(&mut self, row: usize, f: impl FnOnce(&mut Event<'_>) -> Outcome) {
        assert!(row >= self.cursor && row < self.rows, "rows must be visited in ascending order, once each");
        self.keep_until(row);
        let outcome = f(&mut Event { state: self, row });
        match outcome {
            Outcome::Keep => {
                for slot in self.staged.drain(..) {
                    each_kind!(&mut self.slots[slot], slot => slot.commit(row));
                }
                self.kept += self.emitted + 1;
                if let Some(sources) = &mut self.sources {
                    sources.push(row as u32);
                }
            }
            Outcome::Emitted => {
                if self.emitted == 0 {
                    self.error.get_or_insert_with(|| "an event ended as emitted, but emitted no row".to_owned());
                }
                self.kept += self.emitted;
                self.discard(row);
            }
            Outcome::Drop(Code(code)) | Outcome::Fail(Code(code)) => {
                let emitted = self.emitted;
                let sources = self.sources();
                sources.truncate(sources.len() - emitted);
                let list = if matches!(outcome, Outcome::Drop(_)) { &mut self.dropped } else { &mut self.failed };
                list.push(RowOutcome { row: row as u32, code });
                self.discard(row);
            }
        }
        self.emitted = 0;
        self.cursor = row + 1;
    }

    fn discard(&mut self, row: usize) {
        self.staged.clear();
        for slot in &self.writable {
            each_kind!(&mut self.slots[*slot], slot => slot.discard(row, self.kept));
        }
    }
}

/// Makes the lookups of a batch whose columns are as many as were declared: what was found, by slot.
fn look_up(layout: &Layout, batch: &Batch) -> Result<Vec<Option<Column>>, String> {
    let mut found = Vec::new();
    if layout.lookups.is_empty() {
        return Ok(found);
    }
    found.resize_with(layout.specs.len(), || None);
    for lookup in &layout.lookups {
        // A key that is itself looked up was declared first, so it is there.
        let before = || layout.specs[..lookup.key].iter().filter(|spec| spec.is_sent()).count();
        let keys = found[lookup.key].as_ref().or_else(|| batch.columns.get(before()));
        let keys = keys.ok_or("a lookup has no key")?;
        if keys.rows() != batch.rows as usize {
            return Err(format!("a key column has {} rows, the batch {}", keys.rows(), batch.rows));
        }
        let wanted: Vec<&str> = lookup.wanted.iter().map(|(column, _)| column.as_str()).collect();
        let columns = lookup.table.lookup(keys, &wanted)?;
        for ((_, slot), column) in lookup.wanted.iter().zip(columns) {
            found[*slot] = Some(column);
        }
    }
    Ok(found)
}

/// One event: a row of the batch at hand.
///
/// Values are reached through the handles that [`Schema`](crate::Schema) gave. A value that was set is read back as it
/// was set.
#[derive(Debug)]
pub struct Event<'a> {
    state: &'a mut State,
    row: usize,
}

impl Event<'_> {
    /// The value of a column; `None` if it is null.
    #[inline]
    pub fn get<H: Handle>(&self, column: H) -> Option<<H::Kind as crate::kind::sealed::Kind>::Ref<'_>> {
        let slot = slot::<H::Kind>(&self.state.slots[column.slot()]);
        slot.current(self.row).map(|(store, row)| H::Kind::get(store, row))
    }

    /// Sets a column.
    pub fn set<T: Kind + ?Sized>(&mut self, column: ColMut<T>, value: T::Ref<'_>) {
        let slot = self.stage(column);
        slot.put(Some(|store: &mut T::Store| T::push(store, value)));
    }

    /// Sets a column to null.
    pub fn set_null<T: Kind + ?Sized>(&mut self, column: ColMut<T>) {
        self.stage(column).put(None::<fn(&mut T::Store)>);
    }

    /// Sets a column, or makes it null.
    pub fn set_opt<T: Kind + ?Sized>(&mut self, column: ColMut<T>, value: Option<T::Ref<'_>>) {
        match value {
            Some(value) => self.set(column, value),
            None => self.set_null(column),
        }
    }

    /// Sets a text column to what `write` appends to the buffer that it gets, which is the output itself: nothing is
    /// copied again. `write` also gets the value that the column has now, empty if that is null. It must only append.
    pub fn set_with<T: TextKind + ?Sized>(&mut self, column: ColMut<T>, write: impl FnOnce(&T, &mut T::Buffer)) {
        let State { slots, staged, .. } = &mut *self.state;
        if slot_mut::<T>(&mut slots[column.slot]).write_with(self.row, write) {
            staged.push(column.slot);
        }
    }

    /// Sets a column to the value of another, without a copy in between.
    pub fn copy<H: Handle>(&mut self, from: H, to: ColMut<H::Kind>) {
        let (from, row) = (from.slot(), self.row);
        if from == to.slot {
            return;
        }
        let State { slots, staged, .. } = &mut *self.state;
        let Ok([from, into]) = slots.get_disjoint_mut([from, to.slot]) else { panic!("{MIXED_UP}") };
        let value = slot::<H::Kind>(from).current(row).map(|(store, row)| H::Kind::get(store, row));
        let into = slot_mut::<H::Kind>(into);
        if into.stage(row) {
            staged.push(to.slot);
        }
        into.put(value.map(|value| |store: &mut _| H::Kind::push(store, value)));
    }

    /// Puts a copy of the event, as it is now, out as a row and goes on with it. Most rows of one event: 100.
    pub fn emit(&mut self) {
        let row = self.row;
        let state = &mut *self.state;
        state.sources().push(row as u32);
        state.emitted += 1;
        for slot in &state.writable {
            each_kind!(&mut state.slots[*slot], slot => slot.emit(row));
        }
    }

    /// The same event, lent for a while: what `#[transform]` wraps.
    #[doc(hidden)]
    #[inline]
    pub fn reborrow(&mut self) -> Event<'_> {
        Event { state: self.state, row: self.row }
    }

    /// Its place in the batch.
    pub(crate) fn row(&self) -> usize {
        self.row
    }

    fn stage<T: Kind + ?Sized>(&mut self, column: ColMut<T>) -> &mut crate::store::Slot<T::Store> {
        let State { slots, staged, .. } = &mut *self.state;
        let slot = slot_mut::<T>(&mut slots[column.slot]);
        if slot.stage(self.row) {
            staged.push(column.slot);
        }
        slot
    }
}

fn slot<T: Kind + ?Sized>(any: &AnySlot) -> &crate::store::Slot<T::Store> {
    match T::slot(any) {
        Some(slot) => slot,
        None => panic!("{MIXED_UP}"),
    }
}

fn slot_mut<T: Kind + ?Sized>(any: &mut AnySlot) -> &mut crate::store::Slot<T::Store> {
    match T::slot_mut(any) {
        Some(slot) => slot,
        None => panic!("{MIXED_UP}"),
    }
}

const MIXED_UP: &str = "a column handle was used with a plugin that did not declare it";

/// All events of one call, for plugins that gain from looking at whole columns first.
///
/// Look at what you need with [`Rows::column`], then [`visit`](Rows::visit) the rows that need work, in ascending
/// order; rows that are not visited go on untouched and cost nothing.
#[derive(Debug)]
pub struct Rows<'a> {
    pub(crate) state: &'a mut State,
}

impl Rows<'_> {
    /// How many events there are.
    pub fn len(&self) -> usize {
        self.state.rows
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.state.rows == 0
    }

    /// A column as it was sent.
    pub fn column<H: Handle>(&self, column: H) -> View<'_, H::Kind> {
        View { slot: slot::<H::Kind>(&self.state.slots[column.slot()]) }
    }

    /// Transforms the event at `row`. Rows must be visited in ascending order, once each.
    pub fn visit(&mut self, row: usize, transform: impl FnOnce(&mut Event<'_>) -> Outcome) {
        self.state.visit(row, transform);
    }

    /// Transforms every event.
    pub fn each(&mut self, mut transform: impl FnMut(&mut Event<'_>) -> Outcome) {
        for row in self.state.cursor..self.state.rows {
            self.state.visit(row, &mut transform);
        }
    }
}

/// A whole column as it was sent.
#[derive(Debug)]
pub struct View<'a, T: Kind + ?Sized> {
    slot: &'a crate::store::Slot<T::Store>,
}

impl<'a, T: Kind + ?Sized> View<'a, T> {
    /// The value at `row`; `None` if it is null.
    #[inline]
    pub fn get(&self, row: usize) -> Option<T::Ref<'a>> {
        let input = self.slot.input.as_ref()?;
        self.slot.input_is_valid(row).then(|| T::get(input, row))
    }
}

impl<'a, T: TextKind + ?Sized> View<'a, T> {
    /// All values, one after the other; what stands at null rows has no meaning. Empty for an added column.
    pub fn all(&self) -> Option<&'a T> {
        self.slot.input.as_ref().map(|texts| texts.bytes.slice(0..texts.bytes.len()))
    }

    /// Where each value starts in [`all`](Self::all), and where the last one ends.
    pub fn offsets(&self) -> &'a [u32] {
        self.slot.input.as_ref().map_or(&[], |texts| &texts.offsets)
    }
}
