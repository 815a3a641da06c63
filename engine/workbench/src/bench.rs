//! What an event costs in a plugin, beside an empty plugin in the same run: nanoseconds alone say little on a machine that
//! others share.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::record_batch::RecordBatch;
use millrace_plugin_host::{Chain, ChainOutput, Manifest, Plugin};
use millrace_rows::schema::OFFSET;
use millrace_sdk::golden::Case;

use crate::empty;
use crate::rows::{Input, RowsError};
use crate::usage::Usage;
use crate::workbench::{RunError, Workbench};

/// Most events of a benchmark; they are all in memory.
pub const EVENTS_MAX: usize = 262_144;
/// Fewer rounds have no median worth the name.
const ROUNDS_MIN: usize = 3;

/// How to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BenchOptions {
    /// Events of a round; the input is repeated or cut. Default 16,384, at most [`EVENTS_MAX`].
    pub events: usize,
    /// Events of a batch. Default 4,096, which is what the host sends in one call at the most.
    pub batch_events: usize,
    /// Rounds, after two to warm up. Default 15.
    pub rounds: usize,
    /// No round begins after so long, but the first three. Default 20 s.
    pub time_max: Duration,
}

impl Default for BenchOptions {
    fn default() -> Self {
        Self { events: 16_384, batch_events: 4_096, rounds: 15, time_max: Duration::from_secs(20) }
    }
}

/// Nanoseconds an event, over the batches of all rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timing {
    /// The median batch.
    pub median: f64,
    /// The fastest.
    pub fastest: f64,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Bench {
    /// The plugin's manifest.
    pub manifest: Manifest,
    /// Events of a round.
    pub events: usize,
    /// Events of a batch.
    pub batch_events: usize,
    /// Rounds measured.
    pub rounds: usize,
    /// The plugin: sending, its work, checking what it returns. Without what the host does with a batch in any case.
    pub plugin: Timing,
    /// An empty plugin that reads and writes the same columns: the cost of the boundary.
    pub empty: Timing,
    /// The plugin's median as a multiple of the empty one's.
    pub ratio: f64,
    /// What a round cost and how near its calls came to the limits. Its `fuel_row_max` is not measured here.
    pub usage: Usage,
    /// Rows that came out of a round.
    pub rows_out: u64,
    /// Rows that the plugin dropped.
    pub dropped: u64,
    /// Rows that failed.
    pub failed: u64,
    /// Calls that the host threw away and made again in parts, all of which is in the times.
    pub discarded: u64,
}

/// Nanoseconds an event of each batch, for each of the three.
#[derive(Default)]
struct Samples {
    frame: Vec<f64>,
    empty: Vec<f64>,
    plugin: Vec<f64>,
}

impl Workbench {
    /// Measures a plugin with what `setup`, a case of which the rows don't matter, gives it beside rows.
    ///
    /// # Errors
    /// [`RunError`] when it can't be run on `input`.
    pub fn bench(
        &self,
        plugin: &Plugin,
        setup: &Case,
        input: &Input,
        options: &BenchOptions,
    ) -> Result<Bench, RunError> {
        if input.rows() == 0 || options.events == 0 {
            return Err(RunError::NoRows);
        }
        let events = options.events.min(EVENTS_MAX);
        let manifest = self.manifest(plugin, setup)?;
        let chain = self.chain(plugin, setup, &input.added)?;
        let empty = empty::component(&manifest).map_err(RunError::Empty)?;
        let empty = self.load(&empty).map_err(|error| RunError::Empty(error.to_string()))?;
        let empty = self.chain(&empty, setup, &input.added)?;
        let frame = self.frame(&input.added)?;
        let batches = repeat(&input.batch, events, options.batch_events.max(1))?;

        let mut bench = Bench {
            manifest,
            events,
            batch_events: options.batch_events,
            rounds: 0,
            plugin: Timing::default(),
            empty: Timing::default(),
            ratio: 0.0,
            usage: Usage::default(),
            rows_out: 0,
            dropped: 0,
            failed: 0,
            discarded: 0,
        };
        for batch in &batches {
            bench.count(&chain.run(batch.clone())?);
        }
        let chains = Chains { frame: &frame, empty: &empty, plugin: &chain };
        chains.round(&batches, &mut Samples::default())?;
        let mut samples = Samples::default();
        let start = Instant::now();
        let rounds = options.rounds.max(ROUNDS_MIN);
        while bench.rounds < rounds && (bench.rounds < ROUNDS_MIN || start.elapsed() < options.time_max) {
            chains.round(&batches, &mut samples)?;
            bench.rounds += 1;
        }
        let frame = Timing::of(samples.frame);
        bench.plugin = Timing::of(samples.plugin).over(frame);
        bench.empty = Timing::of(samples.empty).over(frame);
        // An empty plugin that takes no time at all is a clock that is too coarse.
        bench.ratio = bench.plugin.median / bench.empty.median.max(0.1);
        Ok(bench)
    }
}

impl Bench {
    fn count(&mut self, output: &ChainOutput) {
        self.usage.whole(output);
        self.usage.calls(output);
        self.rows_out += output.rows.num_rows() as u64;
        for step in &output.steps {
            self.dropped += step.rows_dropped;
            self.discarded += step.discarded;
        }
        self.failed += output.dead.len() as u64;
    }
}

impl Timing {
    fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |index: usize| samples.get(index).copied().unwrap_or(0.0);
        Self { median: at(samples.len() / 2), fastest: at(0) }
    }

    /// Without what the host does in any case.
    fn over(self, frame: Self) -> Self {
        Self { median: (self.median - frame.median).max(0.0), fastest: (self.fastest - frame.fastest).max(0.0) }
    }
}

/// The three that are measured.
struct Chains<'a> {
    /// No step.
    frame: &'a Chain,
    empty: &'a Chain,
    plugin: &'a Chain,
}

impl Chains<'_> {
    /// One round. The three take turns at every batch, so that whatever else the machine does meets them alike.
    fn round(&self, batches: &[RecordBatch], samples: &mut Samples) -> Result<(), RunError> {
        let Samples { frame, empty, plugin } = samples;
        for batch in batches {
            for (chain, times) in [(self.frame, &mut *frame), (self.empty, &mut *empty), (self.plugin, &mut *plugin)] {
                let input = batch.clone();
                let start = Instant::now();
                black_box(chain.run(black_box(input))?);
                times.push(start.elapsed().as_nanos() as f64 / batch.num_rows() as f64);
            }
        }
        Ok(())
    }
}

/// `events` rows in batches, `rows` over and over, each a record of its own.
fn repeat(rows: &RecordBatch, events: usize, batch_events: usize) -> Result<Vec<RecordBatch>, RowsError> {
    let offsets = rows.schema().index_of(OFFSET)?;
    let mut batches = Vec::with_capacity(events.div_ceil(batch_events));
    let mut start = 0;
    while start < events {
        let end = (start + batch_events).min(events);
        // Bounded by EVENTS_MAX, so it fits.
        let indices: UInt32Array = (start..end).map(|event| (event % rows.num_rows()) as u32).collect();
        let taken = take_record_batch(rows, &indices)?;
        let mut columns = taken.columns().to_vec();
        columns[offsets] = Arc::new(Int64Array::from_iter_values((start..end).map(|offset| offset as i64))) as ArrayRef;
        batches.push(RecordBatch::try_new(taken.schema(), columns)?);
        start = end;
    }
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::AsArray as _;
    use arrow::datatypes::Int64Type;

    #[test]
    fn rows_are_repeated_as_records_of_their_own() {
        let rows =
            vec![serde_json::from_str(r#"{"ip": "a"}"#).unwrap(), serde_json::from_str(r#"{"ip": "b"}"#).unwrap()];
        let input = Input::of_rows(&rows, &["ip".to_owned()]).unwrap();
        let batches = repeat(&input.batch, 5, 3).unwrap();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [3, 2]);
        let text =
            |batch: usize, row: usize| batches[batch].column_by_name("ip").unwrap().as_string::<i32>().value(row);
        assert_eq!([text(0, 0), text(0, 1), text(0, 2), text(1, 0), text(1, 1)], ["a", "b", "a", "b", "a"]);
        let offsets = batches[1].column_by_name(OFFSET).unwrap().as_primitive::<Int64Type>();
        assert_eq!(offsets.values(), &[3, 4]);
    }

    #[test]
    fn the_median_is_the_middle_batch_without_the_frame() {
        let timing = Timing::of(vec![5.0, 4.0, 9.0]).over(Timing::of(vec![7.0, 1.0, 2.0]));
        assert_eq!(timing, Timing { median: 3.0, fastest: 3.0 });
    }
}
