//! What the demo prints.

use std::path::Path;

use serde_json::Value;

use super::Outcome;
use super::correction::Damage;
use super::dataset::{BAD_APP_VERSION, BAD_DEVICE};
use super::funnel::{STEPS, Table, Week};
use crate::table::{lay_out, thousands};

pub fn imported(summary: &Value, lines: u64, took_ms: u64) -> String {
    let new = summary["accepted"].as_u64().unwrap_or(0);
    if new == 0 {
        return format!("   all {} were there from an earlier run", thousands(lines));
    }
    let rate = new * 1000 / took_ms.max(1);
    format!("   {} events in {:.1} s, {} a second, each on disk", thousands(new), took_ms as f64 / 1e3, thousands(rate))
}

pub fn pipeline(pipeline: &Value) -> String {
    let steps = pipeline["steps"].as_array().into_iter().flatten();
    let steps: Vec<&str> = steps.filter_map(|step| step["plugin"].as_str()).collect();
    format!("   revision {} is in force, and nothing stopped for it: {}", pipeline["revision"], steps.join(" → "))
}

pub fn rows(table: &Table, sent: u64) -> String {
    format!("   {} events sent, {} rows in the Delta table", thousands(sent), thousands(table.rows))
}

pub fn damage(damage: &Damage, device: &str) -> String {
    format!(
        "7  a release went wrong: shop {BAD_APP_VERSION} sends {BAD_DEVICE} for every device\n   {BAD_DEVICE} has {} events \
         of {} people in the last hour; {device} is left with {}\n",
        thousands(damage.events as u64),
        thousands(damage.people as u64),
        thousands(damage.left as u64),
    )
}

pub fn corrected(correction: &Value, took_ms: u64) -> String {
    format!(
        "   correction {} is applied in both stores, {:.1} s after it was asked for; ingest went on\n",
        correction["id"],
        took_ms as f64 / 1e3
    )
}

pub fn indented(text: &str) -> String {
    text.lines().map(|line| format!("   {line}\n")).collect()
}

/// The weeks of both in which the funnels differ.
pub fn funnels(before: &[Week], after: &[Week]) -> String {
    let named = |week: &Week, suffix: &str| Week { name: format!("{} {suffix}", week.name), ..week.clone() };
    let both = before.iter().zip(after).filter(|(before, after)| before.reached != after.reached);
    let weeks: Vec<Week> = both.flat_map(|(before, after)| [named(before, "before"), named(after, "after")]).collect();
    if weeks.is_empty() { "   no week differs\n".to_owned() } else { funnel(&weeks) }
}

pub fn stores(outcome: &Outcome) -> String {
    format!(
        "   {} events sent; {} rows in the Delta table, {} in the device history, {} dead letters, {} duplicates",
        thousands(outcome.events_sent),
        thousands(outcome.delta_rows),
        thousands(outcome.history_rows),
        thousands(outcome.dead_letters),
        thousands(outcome.duplicates),
    )
}

pub fn funnel(weeks: &[Week]) -> String {
    let mut head = vec!["week"];
    head.extend(STEPS);
    head.push("bought");
    let rows: Vec<Vec<String>> = weeks
        .iter()
        .map(|week| {
            let bought = *week.reached.last().unwrap_or(&0) as f64 / week.reached[0].max(1) as f64;
            let counts = week.reached.iter().map(|count| thousands(*count));
            std::iter::once(week.name.clone()).chain(counts).chain([format!("{:.1}%", bought * 100.0)]).collect()
        })
        .collect();
    lay_out(&head, &rows)
}

pub fn scrubbed(before: &Value, after: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let rows = [
        ("properties", &before["properties"], &after["properties"]),
        ("ip", &before["context"]["ip"], &after["ip"]),
        ("url", &before["context"]["page"]["url"], &after["url"]),
    ]
    .map(|(column, sent, stored)| {
        format!("   {column:<11}sent    {}\n   {:<11}stored  {}\n", text(sent), "", text(stored))
    });
    rows.concat()
}

pub fn where_next(url: Option<&str>, data_dir: &Path, delta: &Path, device: &str) -> String {
    let mut next = "Where to look next\n".to_owned();
    let data_dir = data_dir.display();
    next.push_str(&match url {
        Some(url) => format!(
            "  curl '{url}/v1/devices/{device}/events?last=1h'\n  \
               curl '{url}/v1/status'          curl '{url}/metrics'\n  \
               millrace history {device} --last 2h --url {url}\n"
        ),
        // Its server is about to end.
        None => format!(
            "  millrace history {device} --last 2h --data-dir {data_dir}\n  \
               millrace status --data-dir {data_dir}\n"
        ),
    });
    next.push_str(&format!("  duckdb, polars, Spark:  delta table at {}\n", delta.display()));
    next.push_str(&format!("  data directory:         {data_dir}\n"));
    next
}
