//! `millrace status`: the log, what is in force, how far each store has come.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::Value;

use crate::client::Client;
use crate::table::{lay_out, thousands};

/// `millrace status`.
pub async fn status(client: &Client, json: bool) -> Result<()> {
    let status = client.get("/v1/status").await?;
    if json {
        println!("{status}");
    } else {
        print!("{}", show(&status));
    }
    Ok(())
}

/// The answer of `/v1/status` for people.
pub fn show(status: &Value) -> String {
    let mut out = String::new();
    let chain: Vec<&str> = status["chain"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let chain = if chain.is_empty() { "no steps".to_owned() } else { chain.join(" → ") };
    // Writing to a String does not fail.
    let _ = writeln!(out, "chain     {chain}  (revision {})", status["revision"]);
    if let Some(reason) = status["paused"].as_str() {
        let _ = writeln!(out, "PAUSED    {reason}");
    }
    if let Some(problem) = status["log"]["problem"].as_str() {
        let _ = writeln!(out, "LOG       {problem}");
    }
    let mut rows = Vec::new();
    let (mut jobs, mut problems) = (Vec::new(), Vec::new());
    for (name, store) in status["stores"].as_object().into_iter().flatten() {
        problems.extend(store["problem"].as_str().map(|problem| format!("{name}: {problem}")));
        for job in store["jobs"].as_array().into_iter().flatten() {
            let left = job["left"].as_object().into_iter().flatten();
            let offsets = left.filter_map(|(_, range)| range["end"].as_u64()?.checked_sub(range["start"].as_u64()?));
            let left = thousands(offsets.sum());
            jobs.push(format!("{name} makes events again for revision {}: {left} left", job["revision"]));
            problems.extend(
                job["problem"].as_str().map(|problem| format!("{name}, revision {}: {problem}", job["revision"])),
            );
        }
        for partition in store["partitions"].as_array().into_iter().flatten() {
            let number = |key: &str| thousands(partition[key].as_u64().unwrap_or(0));
            rows.push(vec![
                name.clone(),
                partition["partition"].to_string(),
                number("log_end"),
                number("cursor"),
                number("lag_events"),
                format!("{:.1}", partition["lag_seconds"].as_f64().unwrap_or(0.0)),
                partition["state"].as_str().unwrap_or("").to_owned(),
            ]);
            problems.extend(
                partition["reason"]
                    .as_str()
                    .map(|reason| format!("{name}, partition {}: {reason}", partition["partition"])),
            );
        }
    }
    let head = ["store", "partition", "log end", "cursor", "behind", "seconds", "state"];
    out.push_str(&lay_out(&head, &rows));
    for job in jobs {
        let _ = writeln!(out, "{job}");
    }
    problems.dedup();
    for problem in problems {
        let _ = writeln!(out, "! {problem}");
    }
    out
}
