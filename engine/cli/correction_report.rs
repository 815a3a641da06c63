//! Previews and reports of verification, for people.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::access::printable;
use crate::table::{counted, lay_out, thousands};

/// What `verify` found, for people.
pub fn show_report(report: &Value) -> String {
    let number = |value: &Value| thousands(value.as_u64().unwrap_or(0));
    let mut out = String::new();
    let _ = writeln!(out, "{} windows of the log, {} events", number(&report["windows"]), number(&report["records"]));
    let names = [
        "rows_checked",
        "dead_letters_checked",
        "pending",
        "unverifiable",
        "missing",
        "verified_before",
        "differences",
    ];
    let rows: Vec<Vec<String>> = report["stores"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(store, found)| std::iter::once(store.clone()).chain(names.map(|name| number(&found[name]))).collect())
        .collect();
    out += &lay_out(
        &["store", "rows", "dead letters", "pending", "unverifiable", "missing", "verified before", "differences"],
        &rows,
    );
    for difference in report["first"].as_array().into_iter().flatten() {
        let text = |key: &str| difference[key].as_str().unwrap_or("");
        let _ = writeln!(
            out,
            "{}: partition {}, offset {}, row {}: {}",
            text("store"),
            difference["partition"],
            difference["offset"],
            difference["sub"],
            printable(text("what"))
        );
    }
    out += &conclusion(report);
    out.push('\n');
    out
}

/// What a report comes to.
fn conclusion(report: &Value) -> String {
    let most = |name: &str| {
        let stores = report["stores"].as_object().into_iter().flatten();
        stores.filter_map(|(_, found)| found[name].as_u64()).max().unwrap_or(0)
    };
    if report["differences"] != json!(0) {
        return "THE STORES DIFFER".to_owned();
    }
    match (most("compared"), most("pending"), most("verified_before")) {
        (0, 0, 0) => "nothing was compared: the stores have nothing that the log still has".to_owned(),
        (0, 0, before) => {
            format!("nothing new; {} offsets were verified before (--all looks at everything)", thousands(before))
        }
        (0, ..) => "nothing was compared: corrections or rebuilds are not done".to_owned(),
        (_, 0, _) => "the stores hold what the log says".to_owned(),
        _ => "the stores hold what the log says, but for what is pending".to_owned(),
    }
}

/// What a preview found, for people.
pub fn show_preview(preview: &Value, colour: bool) -> String {
    let paint = |code: &str, text: String| if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text };
    let count = |key: &str| preview[key].as_u64().unwrap_or(0);
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{} of {} change{}{}",
        thousands(count("records_changed")),
        counted(count("records"), "event"),
        if count("records_changed") == 1 { "s" } else { "" },
        if preview["truncated"] == json!(true) { "; the range has more that were not looked at" } else { "" }
    );
    for note in preview["notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let _ = writeln!(out, "note: {}", paint("33", printable(note)));
    }
    for (key, sign, code) in [("rows_added", "+", "32"), ("rows_removed", "-", "31"), ("rows_changed", "~", "33")] {
        let text = format!("{sign} {} {}", counted(count(key), "row"), key.trim_start_matches("rows_"));
        let _ = writeln!(out, "  {}", paint(code, text));
    }
    let counts = |key: &str| preview[key].as_object().into_iter().flatten();
    for (column, rows) in counts("columns") {
        let _ = writeln!(out, "      {column}: {}", counted(rows.as_u64().unwrap_or(0), "row"));
    }
    for (key, what, code) in
        [("dead_letters_made", "dead letters made", "31"), ("dead_letters_cured", "dead letters cured", "32")]
    {
        for (why, events) in counts(key) {
            let text = format!("{what}: {} ({})", thousands(events.as_u64().unwrap_or(0)), printable(why));
            let _ = writeln!(out, "  {}", paint(code, text));
        }
    }
    let dates: Vec<&String> = counts("dates").map(|(date, _)| date).collect();
    if let (Some(first), Some(last)) = (dates.first(), dates.last()) {
        let bound = if preview["devices_at_least"] == json!(true) { "at least " } else { "" };
        let devices = counted(count("devices"), "device");
        let span = if first == last {
            format!("1 date, {first}")
        } else {
            format!("{} dates, {first} to {last}", dates.len())
        };
        let _ = writeln!(out, "  {bound}{devices}, {span}");
    }
    for sample in preview["samples"].as_array().into_iter().flatten() {
        let place = format!("partition {}, offset {}, row {}", sample["partition"], sample["offset"], sample["sub"]);
        let _ = writeln!(out, "  {place}: {}", sample["change"].as_str().unwrap_or(""));
        for (column, values) in sample["columns"].as_object().into_iter().flatten() {
            let shown = |index: usize| values[index].as_str().map_or("null".to_owned(), printable);
            // A row that is not there on one side has no values there.
            if sample["change"] != "added" {
                let _ = writeln!(out, "      {}", paint("31", format!("- {column}: {}", shown(0))));
            }
            if sample["change"] != "removed" {
                let _ = writeln!(out, "      {}", paint("32", format!("+ {column}: {}", shown(1))));
            }
        }
    }
    let cost = |key: &str, value: &str| preview[key][value].as_f64().unwrap_or(0.0);
    let _ = writeln!(
        out,
        "cost an event: {:.0} ns and {:.0} fuel now, {:.0} ns and {:.0} fuel then; {}; {:.1} s",
        cost("cost_before", "ns_per_event"),
        cost("cost_before", "fuel_per_event"),
        cost("cost_after", "ns_per_event"),
        cost("cost_after", "fuel_per_event"),
        counted(count("revisions"), "revision"),
        preview["seconds"].as_f64().unwrap_or(0.0)
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_only_what_was_compared() {
        let report = |differences: u64, compared: u64, pending: u64, before: u64| {
            let store = json!({"compared": compared, "pending": pending, "verified_before": before});
            json!({"differences": differences, "stores": {"delta": store, "history": {}}})
        };
        for (report, expected) in [
            (report(1, 5, 0, 0), "THE STORES DIFFER"),
            (report(0, 5, 0, 7), "the stores hold what the log says"),
            (report(0, 5, 1, 0), "the stores hold what the log says, but for what is pending"),
            (report(0, 0, 1, 7), "nothing was compared: corrections or rebuilds are not done"),
            (report(0, 0, 0, 7000), "nothing new; 7,000 offsets were verified before (--all looks at everything)"),
            (report(0, 0, 0, 0), "nothing was compared: the stores have nothing that the log still has"),
        ] {
            assert_eq!(conclusion(&report), expected);
            assert!(show_report(&report).ends_with(&format!("{expected}\n")), "{report}");
        }
    }

    #[test]
    fn a_preview_is_shown_without_control_characters() {
        let preview = json!({
            "records": 10, "records_changed": 2, "rows_changed": 2, "columns": {"device_id": 2},
            "dead_letters_made": {"a@1: bad\u{1b}[2J": 1}, "dates": {"2026-11-03": 2}, "devices": 2, "revisions": 1,
            "samples": [{"partition": 0, "offset": 5, "sub": 0, "change": "changed",
                         "columns": {"device_id": ["x", null]}}],
        });
        let text = show_preview(&preview, false);
        assert!(text.contains("2 devices, 1 date, 2026-11-03\n") && text.contains("1 revision;"), "{text}");
        assert!(text.contains("2 of 10 events change") && text.contains("+ device_id: null"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn what_is_only_on_one_side_has_values_there() {
        let sample = |change: &str, values: Value| json!({"partition": 1, "offset": 5, "sub": 0, "change": change, "columns": {"event": values}});
        let preview = json!({
            "records": 1, "records_changed": 1, "rows_added": 1, "rows_removed": 1, "devices": 100_000,
            "devices_at_least": true, "dates": {"2026-11-03": 1, "2026-11-04": 1}, "revisions": 2,
            "notes": ["it also holds for events to come, up to offset 9 of partition 0"],
            "samples": [sample("added", json!([null, "cart"])), sample("removed", json!(["home", null]))],
        });
        let text = show_preview(&preview, false);
        assert!(text.starts_with("1 of 1 event changes\nnote: it also holds"), "{text}");
        assert!(text.contains("+ 1 row added") && text.contains("- 1 row removed"), "{text}");
        assert!(
            text.contains("added\n      + event: cart\n") && text.contains("removed\n      - event: home\n"),
            "{text}"
        );
        assert!(text.contains("at least 100,000 devices, 2 dates") && text.contains("2 revisions;"), "{text}");
        assert!(!text.contains("null"), "{text}");
    }
}
