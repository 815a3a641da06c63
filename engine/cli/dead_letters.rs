//! `millrace dead-letters`: what reached no store, and the commands that cure it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use serde_json::Value;

use crate::access::printable;
use crate::client::Client;
use crate::table::{lay_out, thousands};

/// The version of a mended plugin that is not there yet, in a command.
const NEW: &str = "NEW";

/// Dead letters of one step and code in a partition: first offset, and past the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    partition: u64,
    from: u64,
    to: u64,
}

/// `millrace dead-letters`.
pub async fn dead_letters(client: &Client, json: bool) -> Result<()> {
    let list = client.get("/v1/dead-letters/groups").await?;
    if json {
        println!("{list}");
        return Ok(());
    }
    // Where the log begins and ends: without that the commands have no range.
    let status = client.get("/v1/status").await.unwrap_or_default();
    print!("{}", show(&list, &bounds(&status)));
    Ok(())
}

/// Bounds of the log's partitions, by number.
fn bounds(status: &Value) -> BTreeMap<u64, (u64, u64)> {
    let partitions = (0..).zip(status["log"]["partitions"].as_array().into_iter().flatten());
    partitions.filter_map(|(n, bounds)| Some((n, (bounds["first"].as_u64()?, bounds["end"].as_u64()?)))).collect()
}

fn show(list: &Value, log: &BTreeMap<u64, (u64, u64)>) -> String {
    let mut rows = Vec::new();
    let mut cures = String::new();
    for group in list["groups"].as_array().into_iter().flatten() {
        let text = |key: &str| printable(group[key].as_str().unwrap_or(""));
        let mut places = Vec::new();
        for place in group["partitions"].as_array().into_iter().flatten() {
            let number = |key: &str| place[key].as_u64().unwrap_or(0);
            let found = Place { partition: number("partition"), from: number("from"), to: number("to") };
            let (partition, from, last) = (found.partition, found.from, found.to.saturating_sub(1));
            let count = thousands(number("count"));
            let offsets = [partition, from, last].map(|number| number.to_string());
            rows.push([text("step"), text("code"), count].into_iter().chain(offsets).collect());
            places.push(found);
        }
        // Writing to a String does not fail.
        let _ = writeln!(cures, "{}: {}\n  {}", text("step"), text("code"), cure(&text("step"), &places, log));
    }
    if rows.is_empty() {
        return "no event failed\n".to_owned();
    }
    let table = lay_out(&["step", "code", "events", "partition", "first", "last"], &rows);
    format!("{table}\nwhat cures them, {NEW} being the version of the mended plugin:\n{cures}")
}

/// The command that cures a group, or why there is none.
fn cure(step: &str, places: &[Place], log: &BTreeMap<u64, (u64, u64)>) -> String {
    // Names of plugins have nothing that a shell would take for its own.
    let plain = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+".contains(c));
    let Some((name, _)) = step.split_once('@').filter(|(name, version)| plain(name) && plain(version)) else {
        return match step {
            "decode" => "no chain cures what is no event: mend what sends it".to_owned(),
            _ => "a chain whose rows pass the engine's own checks: `millrace correct --chain FILE` or `--replace`"
                .to_owned(),
        };
    };
    let left: Vec<Place> = places.iter().copied().filter(|place| !is_gone(place, log)).collect();
    if left.is_empty() {
        return "retention has removed these events from the log: nothing cures them".to_owned();
    }
    let mut command = format!("millrace correct --replace {step}={name}@{NEW}");
    // Of some of several partitions.
    if left.len() < log.len() || (log.is_empty() && left.len() == 1) {
        for place in &left {
            let _ = write!(command, " --partition {}", place.partition);
        }
    }
    if let Some((from, to)) = common_range(&left, log) {
        let _ = write!(command, " --from {from} --to {to}");
    }
    command + " --reason \"…\""
}

/// Whether the log has none of these any more.
fn is_gone(place: &Place, log: &BTreeMap<u64, (u64, u64)>) -> bool {
    log.get(&place.partition).is_some_and(|(first, _)| place.to <= *first)
}

/// The range of offsets that holds all of them, if each partition's log holds that range: elsewhere it would be refused, or
/// reach ahead of the log and hold for events to come.
fn common_range(places: &[Place], log: &BTreeMap<u64, (u64, u64)>) -> Option<(u64, u64)> {
    let from = places.iter().map(|place| place.from).min()?;
    let to = places.iter().map(|place| place.to).max()?;
    let holds = |place: &Place| log.get(&place.partition).is_some_and(|(first, end)| *first <= from && to <= *end);
    places.iter().all(holds).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn place(partition: u64, from: u64, to: u64) -> Place {
        Place { partition, from, to }
    }

    #[test]
    fn each_group_has_one_command_for_all_its_partitions() {
        let log = [(0, (0, 100)), (1, (0, 50)), (2, (40, 90))].into();
        let cure = |places: &[Place]| cure("a-b@1.0.0", places, &log);
        let begins = "millrace correct --replace a-b@1.0.0=a-b@NEW";
        let both = " --partition 0 --partition 1";
        for (places, expected) in [
            (&[place(1, 3, 20)][..], " --partition 1 --from 3 --to 20"),
            (&[place(0, 5, 40), place(1, 3, 20)], &format!("{both} --from 3 --to 40")),
            // The range would reach ahead of partition 1.
            (&[place(0, 5, 60), place(1, 3, 20)], both),
            // It would begin before partition 2 does.
            (&[place(0, 5, 60), place(1, 3, 20), place(2, 45, 60)], ""),
            // All of partition 2 is gone, which is nothing to the others; so is part of it.
            (&[place(0, 5, 40), place(1, 3, 20), place(2, 1, 40)], &format!("{both} --from 3 --to 40")),
            (&[place(2, 1, 60)], " --partition 2"),
        ] {
            assert_eq!(cure(places), format!("{begins}{expected} --reason \"…\""), "{places:?}");
        }
        assert!(cure(&[place(2, 1, 40)]).contains("retention"));
    }

    #[test]
    fn what_no_plugin_has_done_no_plugin_cures() {
        let log = BTreeMap::from([(0, (0, 100))]);
        assert!(cure("decode", &[place(0, 1, 2)], &log).contains("no event"));
        assert!(cure("check", &[place(0, 1, 2)], &log).contains("--chain FILE"));
        assert!(!cure("a@1; rm -rf /", &[place(0, 1, 2)], &log).contains("rm"), "no text of others in a command");
        assert_eq!(
            cure("a@1.0.0", &[place(0, 1, 2)], &BTreeMap::new()),
            "millrace correct --replace a@1.0.0=a@NEW --partition 0 --reason \"…\""
        );
    }

    #[test]
    fn groups_are_listed_with_their_commands() {
        let partition = |n: u64| json!({"partition": n, "count": 2, "from": 3, "to": 9});
        let list = json!({"groups": [
            {"step": "a@1.0.0", "code": "bad", "count": 4, "partitions": [partition(0), partition(1)]},
            {"step": "decode", "code": "not_json", "count": 2, "partitions": [partition(0)]},
        ]});
        let log = bounds(&json!({"log": {"partitions": [{"first": 0, "end": 10}, {"first": 0, "end": 10}]}}));
        let text = show(&list, &log);
        assert_eq!(text.matches("millrace correct").count(), 1, "{text}");
        assert!(
            text.contains("a@1.0.0: bad\n  millrace correct --replace a@1.0.0=a@NEW --from 3 --to 9 --reason"),
            "{text}"
        );
        assert_eq!(show(&json!({"groups": []}), &log), "no event failed\n");
    }
}
