//! A trial: before a plugin is stored or a chain comes into force it runs over made-up events, whole and at random splits.
//!
//! The events are the same at every trial: common ones, and what plugins stumble over: missing columns, empty texts, long
//! texts, other scripts, JSON that is nested or odd. They hold no personal data, so what a plugin says of them may be told to
//! whoever uploads it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_decode::Decoder;
use millrace_log::{Receipt, Record};
use millrace_plugin_host::{Chain, ChainOutput, ChainStop, Difference};
use millrace_rows::LogId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Events of a trial.
pub const EVENTS: u64 = 256;
/// Splits at which they are run again, beside one by one.
pub const SPLITS: u64 = 4;
/// Events that are run one by one.
const ALONE: usize = 16;
/// Fuel of one call of a trial, where a step has more: some hundred thousand instructions an event.
pub const FUEL_MAX: u64 = 100_000_000;
/// Made-up events that may end in a trap, an error or a limit.
pub const BAD_ROWS_MAX: usize = 8;
/// Longest time of a trial; looked at between two runs, each of which is bounded by the two above.
pub const TIME_MAX: Duration = Duration::from_secs(20);
/// 2026-01-01, in µs.
const NOW_US: i64 = 1_767_225_600_000_000;

/// What a trial found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrialReport {
    /// Events in.
    pub events: u64,
    /// Rows out.
    pub rows: u64,
    /// Events that became dead letters.
    pub dead_letters: u64,
    /// Events that were dropped.
    pub dropped: u64,
    /// Fuel of an event, with its share of each call's beginning.
    pub fuel_per_event: u64,
    /// Time of an event by the clock, in nanoseconds: of one run on a machine that does other things too.
    pub ns_per_event: u64,
}

/// Why a trial failed.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// The chain stopped.
    #[error("{}", stop_message(.0))]
    Stop(ChainStop),
    /// It took too long.
    #[error("it took longer than {TIME_MAX:?} over {EVENTS} made-up events: the plugin is too slow for a stream")]
    Slow,
    /// Rows depended on how the events were batched.
    #[error(
        "{difference} when made-up events were run at another split: an event must give the same rows whatever stands \
         beside it"
    )]
    Split {
        /// Where.
        difference: Difference,
    },
}

impl From<ChainStop> for TrialError {
    fn from(stop: ChainStop) -> Self {
        Self::Stop(stop)
    }
}

/// The first failure's words stand with the reason: these are no real events.
fn stop_message(stop: &ChainStop) -> String {
    let failure = match stop {
        ChainStop::TooManyBadRows { failures, .. } | ChainStop::Halted { failures, .. } => failures.first(),
        _ => None,
    };
    match failure {
        Some(failure) => format!("{stop}; the first with {}: {}", failure.code, failure.message.trim_end()),
        None => stop.to_string(),
    }
}

/// Runs a chain over the made-up events. It blocks.
///
/// # Errors
/// [`TrialError`] when the chain stops or is not deterministic.
pub fn run(chain: &Chain, decoder: &Decoder) -> Result<TrialReport, TrialError> {
    let chain = chain.bounded(FUEL_MAX, BAD_ROWS_MAX);
    let batch = decoder.decode(&records(), 0, LogId([0; 16])).batch;
    let rows = batch.num_rows();
    let began = Instant::now();
    let whole = chain.run(batch.clone())?;
    let took = began.elapsed();
    let cut = |cuts: &[usize]| -> Result<(), TrialError> {
        let mut parts: Vec<ChainOutput> = Vec::new();
        let mut start = 0;
        for end in cuts.iter().copied().chain([rows]).filter(|end| *end <= rows) {
            if start < end {
                if began.elapsed() > TIME_MAX {
                    return Err(TrialError::Slow);
                }
                parts.push(chain.run(batch.slice(start, end - start))?);
                start = end;
            }
        }
        whole.check_same(&parts).map_err(|difference| TrialError::Split { difference })
    };
    for split in 0..SPLITS {
        let mut cuts: Vec<usize> = (0..=split).map(|at| random(split * 100 + at) as usize % rows.max(1)).collect();
        cuts.sort_unstable();
        cut(&cuts)?;
    }
    cut(&(0..ALONE).collect::<Vec<_>>())?;
    let events = rows as u64;
    Ok(TrialReport {
        events,
        rows: whole.rows.num_rows() as u64,
        dead_letters: whole.dead.len() as u64,
        dropped: whole.dropped_records(),
        fuel_per_event: whole.steps.iter().map(|step| step.fuel).sum::<u64>() / events.max(1),
        ns_per_event: u64::try_from(took.as_nanos()).unwrap_or(u64::MAX) / events.max(1),
    })
}

/// A number that looks random and is the same at every trial.
fn random(n: u64) -> u64 {
    xxh3_64_with_seed(&n.to_le_bytes(), 7)
}

fn records() -> Vec<Record> {
    (0..EVENTS)
        .map(|n| Record {
            offset: n,
            id: u128::from(n) + 1,
            appended_at_us: NOW_US,
            checksum: n,
            receipt: (n % 5 != 0).then(|| Receipt { received_at_us: NOW_US, ..Receipt::default() }),
            payload: Bytes::from(event(n).to_string()),
        })
        .collect()
}

fn event(n: u64) -> Value {
    let pick = |choices: &[&str], salt: u64| choices[random(n * 16 + salt) as usize % choices.len()].to_owned();
    let long = "very long ".repeat(200);
    let name = pick(&["product_view", "add_to_cart", "checkout", "purchase", "", "イベント", "a,\"b\"\n", &long], 1);
    let agent = pick(
        &[
            "Mozilla/5.0 (X11; Linux x86_64; rv:125.0) Gecko/20100101 Firefox/125.0",
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_4 like Mac OS X) AppleWebKit/605.1.15 Version/17.4 Mobile/15E148 Safari/604.1",
            "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
            "curl/8.0",
            "",
            "\u{0}\u{1f600}",
        ],
        2,
    );
    let properties = match n % 8 {
        0 => json!({}),
        1 => {
            json!({"total": 42, "currency": "EUR", "items": [{"sku": "a-1", "price": 1.5}, {"sku": "b-2", "price": -0.0}]})
        }
        2 => json!({"total": "not a number", "items": null, "nested": {"a": {"b": {"c": [1, [2, [3]]]}}}}),
        3 => json!({"note": "quote \" backslash \\ line\nbreak \u{2028} 😀"}),
        4 => json!({"big": 9_007_199_254_740_993_i64, "small": 1e-300, "huge": 1e300}),
        5 => json!({"note": long}),
        6 => json!({"": "empty name", "a.b": "dotted name"}),
        _ => json!({"flag": true, "utm": "newsletter"}),
    };
    let url = pick(
        &[
            "https://shop.example/cart?utm_source=mail&utm_medium=email#top",
            "https://shop.example/%E4%BD%A0?a=%zz",
            "/relative",
            "",
            "no url",
        ],
        3,
    );
    let ip = pick(&["203.0.113.77", "198.51.100.1", "2001:db8::1", "no address", ""], 4);
    let mut event = json!({
        "type": pick(&["track", "page", "screen", "identify"], 5),
        "messageId": format!("trial-{n}"),
        "anonymousId": format!("trial-device-{}", n % 17),
        "event": name,
        "timestamp": pick(&["2026-01-01T00:00:00Z", "2025-12-31T23:59:59.999999Z", "1970-01-01", "later"], 6),
        "properties": properties,
        "context": {
            "app": {"name": pick(&["shop", "kiosk"], 7), "version": pick(&["1.0.0", "2.4.1", ""], 8)},
            "ip": ip, "userAgent": agent, "locale": pick(&["de-DE", "en_US", "zh"], 9), "page": {"url": url},
            "os": {"name": pick(&["iOS", "Android"], 10)}, "sessionId": format!("s-{}", n % 31),
        },
    });
    match n % 11 {
        // Next to nothing.
        3 => json!({"anonymousId": "trial-device-0"}),
        7 => {
            event["userId"] = json!(format!("u-{}", n % 13));
            event
        }
        _ => event,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_made_up_event_is_one() {
        let decoded = Decoder::default().decode(&records(), 0, LogId([0; 16]));
        assert_eq!((decoded.batch.num_rows() as u64, decoded.dead.len()), (EVENTS, 0));
    }
}
