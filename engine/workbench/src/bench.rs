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
use crate::workbench::{TrialError, Workbench};

/// Most events of a benchmark; they are all in memory.
pub const EVENTS_MAX: usize = 262_144;
const WARM_UP_ROUNDS: usize = 2;
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

/// Nanoseconds an event, over all rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// The median round.
    pub median: f64,
    /// The fastest.
    pub fastest: f64,
    /// The slowest.
    pub slowest: f64,
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
    /// The plugin's time as a multiple of the empty one's, round by round; the median.
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

/// One round, for each event.
struct Round {
    plugin: f64,
    empty: f64,
}

impl Workbench {
    /// Measures a plugin with what `setup`, a case of which the rows don't matter, gives it beside rows.
    ///
    /// # Errors
    /// [`TrialError`] when it can't be run on `input`.
    pub fn bench(
        &self,
        plugin: &Plugin,
        setup: &Case,
        input: &Input,
        options: &BenchOptions,
    ) -> Result<Bench, TrialError> {
        if input.rows() == 0 || options.events == 0 {
            return Err(TrialError::NoRows);
        }
        let events = options.events.min(EVENTS_MAX);
        let chain = self.chain(plugin, setup, &input.added)?;
        let manifest = chain.manifests()[0].clone();
        let empty = empty::component(&manifest).map_err(TrialError::Empty)?;
        let empty = self.load(&empty).map_err(|error| TrialError::Empty(error.to_string()))?;
        let empty = self.chain(&empty, setup, &input.added)?;
        let frame = self.frame(&input.added)?;
        let batches = repeat(&input.batch, events, options.batch_events.max(1))?;

        let mut bench = Bench {
            manifest,
            events,
            batch_events: options.batch_events,
            rounds: 0,
            plugin: Timing { median: 0.0, fastest: 0.0, slowest: 0.0 },
            empty: Timing { median: 0.0, fastest: 0.0, slowest: 0.0 },
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
        for _ in 1..WARM_UP_ROUNDS {
            round(&chain, &empty, &frame, &batches)?;
        }
        let mut rounds = Vec::with_capacity(options.rounds);
        let start = Instant::now();
        while rounds.len() < options.rounds.max(ROUNDS_MIN)
            && (rounds.len() < ROUNDS_MIN || start.elapsed() < options.time_max)
        {
            rounds.push(round(&chain, &empty, &frame, &batches)?);
        }
        bench.rounds = rounds.len();
        bench.plugin = Timing::of(rounds.iter().map(|round| round.plugin));
        bench.empty = Timing::of(rounds.iter().map(|round| round.empty));
        // An empty plugin that took no time at all would be a clock that stands still.
        bench.ratio = Timing::of(rounds.iter().map(|round| round.plugin / round.empty.max(0.1))).median;
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
    fn of(rounds: impl Iterator<Item = f64>) -> Self {
        let mut rounds: Vec<f64> = rounds.collect();
        rounds.sort_by(f64::total_cmp);
        let at = |index: usize| rounds.get(index).copied().unwrap_or(0.0);
        Self { median: at(rounds.len() / 2), fastest: at(0), slowest: at(rounds.len().saturating_sub(1)) }
    }
}

/// One round. The three take turns at every batch, so that whatever else the machine does meets them alike.
fn round(plugin: &Chain, empty: &Chain, frame: &Chain, batches: &[RecordBatch]) -> Result<Round, TrialError> {
    let mut times = [Duration::ZERO; 3];
    for batch in batches {
        for (chain, time) in [frame, empty, plugin].into_iter().zip(&mut times) {
            let input = batch.clone();
            let start = Instant::now();
            black_box(chain.run(black_box(input))?);
            *time += start.elapsed();
        }
    }
    let events: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let over_frame = |time: Duration| time.saturating_sub(times[0]).as_nanos() as f64 / events as f64;
    Ok(Round { plugin: over_frame(times[2]), empty: over_frame(times[1]) })
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
    fn the_median_is_the_middle_round() {
        let timing = Timing::of([5.0, 1.0, 9.0].into_iter());
        assert_eq!(timing, Timing { median: 5.0, fastest: 1.0, slowest: 9.0 });
    }
}
