//! What an analyst asks of the table: the checkout funnel by week, computed with Arrow over the Delta table's files.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context as _, Result};
use arrow::array::{Array, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use chrono::{DateTime, Datelike, IsoWeek};
use millrace_delta::reader::{ScanRequest, TableReader};
use serde::Serialize;

use super::duplicates::Seen;

/// The steps of the funnel, in their order.
pub const STEPS: [&str; 6] = ["product_view", "add_to_cart", "cart", "shipping_details", "payment_details", "purchase"];

/// Devices of one week by the step that they reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Week {
    /// ISO week, as in 2026-W07.
    #[serde(rename = "week")]
    pub name: String,
    /// Devices that went through this step and all before it, in order.
    pub reached: [u64; STEPS.len()],
}

/// The table as the demo looks at it.
#[derive(Debug, Default)]
pub struct Table {
    /// Rows in all.
    pub rows: u64,
    /// Rows that share (partition, offset, sub) or event_id with another.
    pub duplicates: u64,
    /// The funnel.
    pub weeks: Vec<Week>,
}

/// Reads the whole table once, in bounded batches.
pub async fn read_table(location: &Path) -> Result<Table> {
    let location = location.to_str().context("the table's path is no UTF-8")?;
    let reader = TableReader::open(location, &HashMap::new())?;
    let columns = ["event_id", "event", "event_time", "device_id", "_partition", "_offset", "_sub"];
    let scan = reader.scan(ScanRequest::columns(columns)).await?;
    tokio::task::spawn_blocking(move || {
        let mut seen = Seen::default();
        let mut devices: HashMap<(IsoWeek, String), Vec<(i64, usize)>> = HashMap::new();
        for batch in scan {
            let batch = batch?;
            count(&mut seen, &batch)?;
            let (event, device) = (text(&batch, "event")?, text(&batch, "device_id")?);
            let times = column(&batch, "event_time")?.as_primitive::<TimestampMicrosecondType>();
            for row in 0..batch.num_rows() {
                let step = STEPS.iter().position(|step| event.is_valid(row) && *step == event.value(row));
                let time = DateTime::from_timestamp_micros(times.value(row));
                if let (Some(step), Some(time), true) = (step, time, device.is_valid(row)) {
                    let device = (time.iso_week(), device.value(row).to_owned());
                    devices.entry(device).or_default().push((times.value(row), step));
                }
            }
        }
        Ok(Table {
            rows: seen.rows,
            duplicates: seen.duplicates,
            weeks: funnel(devices.into_iter().map(|((week, _), clicks)| (week, clicks))),
        })
    })
    .await?
}

/// Counts the rows of a batch.
fn count(seen: &mut Seen, batch: &RecordBatch) -> Result<()> {
    let ids = text(batch, "event_id")?;
    let number = |name| -> Result<&Int64Array> { Ok(column(batch, name)?.as_primitive::<Int64Type>()) };
    let (partition, offset, sub) = (number("_partition")?, number("_offset")?, number("_sub")?);
    for row in 0..batch.num_rows() {
        seen.add((partition.value(row), offset.value(row), sub.value(row)), ids.value(row));
    }
    Ok(())
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a dyn Array> {
    Ok(batch.column_by_name(name).with_context(|| format!("no column {name}"))?.as_ref())
}

fn text<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a StringArray> {
    column(batch, name)?.as_string_opt().with_context(|| format!("column {name} is no text"))
}

/// The funnel: for each week, how many devices went through a step after all those before it. A device is given as a week
/// and (time, step) in any order.
fn funnel(devices: impl Iterator<Item = (IsoWeek, Vec<(i64, usize)>)>) -> Vec<Week> {
    let mut weeks: BTreeMap<IsoWeek, [u64; STEPS.len()]> = BTreeMap::new();
    for (week, mut clicks) in devices {
        clicks.sort_unstable();
        let reached = weeks.entry(week).or_default();
        let mut next = 0;
        for (_, step) in clicks {
            if step == next {
                reached[step] += 1;
                next += 1;
            }
        }
    }
    let name = |week: IsoWeek| format!("{}-W{:02}", week.year(), week.week());
    weeks.into_iter().map(|(week, reached)| Week { name: name(week), reached }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_steps_in_order_count_and_a_device_counts_once() {
        let week = |day: i64| DateTime::from_timestamp(day * 86_400, 0).unwrap().iso_week();
        let devices = [
            // All the way, with a detour; out of order in the input.
            (week(0), vec![(5, 5), (0, 0), (1, 1), (2, 2), (2, 0), (3, 3), (4, 4)]),
            // The cart before anything was put into it.
            (week(0), vec![(0, 0), (1, 2), (2, 1)]),
            // A purchase out of nowhere, a week later.
            (week(7), vec![(0, 5)]),
        ];
        let weeks = funnel(devices.into_iter());
        assert_eq!(
            weeks,
            [
                Week { name: "1970-W01".into(), reached: [2, 2, 1, 1, 1, 1] },
                Week { name: "1970-W02".into(), reached: [0; 6] },
            ]
        );
    }
}
