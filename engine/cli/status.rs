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

/// What is in force for the next events of some partitions, where a correction reaches ahead of the log: a line for all of which
/// the same is to be said.
pub fn in_force_ahead(answer: &Value) -> Vec<String> {
    let mut lines: Vec<(String, Vec<String>)> = Vec::new();
    for place in answer["ahead"].as_array().into_iter().flatten() {
        let revisions = place["revisions"].as_array().into_iter().flatten().map(|revision| {
            let chain: Vec<&str> =
                revision["chain"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let chain = if chain.is_empty() { "no steps".to_owned() } else { chain.join(" → ") };
            let of = if revision["filtered"] == Value::Bool(true) { " for events that match its filter" } else { "" };
            format!("revision {}{of}: {chain}", revision["revision"])
        });
        let revisions = revisions.collect::<Vec<_>>().join("; else ");
        let said = match place["until"].as_u64() {
            Some(until) => format!("up to offset {}, {revisions}", until.saturating_sub(1)),
            None => revisions,
        };
        let partition = place["partition"].to_string();
        match lines.iter_mut().find(|(known, _)| *known == said) {
            Some((_, partitions)) => partitions.push(partition),
            None => lines.push((said, vec![partition])),
        }
    }
    let words = |partitions: Vec<String>| match partitions.as_slice() {
        [one] => format!("partition {one}"),
        many => format!("partitions {}", many.join(", ")),
    };
    lines.into_iter().map(|(said, partitions)| format!("{}: {said}", words(partitions))).collect()
}

/// The answer of `/v1/status` for people.
pub fn show(status: &Value) -> String {
    let mut out = String::new();
    let chain: Vec<&str> = status["chain"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let chain = if chain.is_empty() { "no steps".to_owned() } else { chain.join(" → ") };
    // Writing to a String does not fail.
    let _ = writeln!(out, "chain     {chain}  (the timeline has revisions up to {})", status["revision"]);
    for line in in_force_ahead(status) {
        let _ = writeln!(out, "AHEAD     {line}");
    }
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
    problems.extend(status["ended"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned));
    problems.dedup();
    for problem in problems {
        let _ = writeln!(out, "! {problem}");
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_correction_brings_to_events_to_come_is_shown() {
        let place = |partition: u32, until: Value| {
            json!({"partition": partition, "until": until, "revisions": [
                {"revision": 3, "filtered": true, "chain": ["a@1.0.1", "b@1.0.0"]},
                {"revision": 2, "filtered": false, "chain": []},
            ]})
        };
        let status = json!({
            "revision": 3, "chain": ["a@1.0.0"], "ahead": [place(0, json!(50)), place(1, json!(50)), place(2, json!(null))],
        });
        let what = "revision 3 for events that match its filter: a@1.0.1 → b@1.0.0; else revision 2: no steps";
        let text = show(&status);
        assert!(text.contains(&format!("AHEAD     partitions 0, 1: up to offset 49, {what}\n")), "{text}");
        assert!(text.contains(&format!("AHEAD     partition 2: {what}\n")), "{text}");
        assert!(!show(&json!({"revision": 3})).contains("AHEAD"));
    }
}
