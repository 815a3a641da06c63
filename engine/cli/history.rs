//! `millrace history DEVICE`: one device's events, newest first.

use std::collections::BTreeSet;

use anyhow::Result;
use clap::Args;
use millrace_rows::schema::check_added_name;
use serde_json::Value;

use crate::access::printable;
use crate::client::{Client, path_part};
use crate::table::lay_out;

/// What to show of a device.
#[derive(Args)]
pub struct HistoryArgs {
    /// The device's id.
    device: String,
    /// How far back from now: 1h, 30m, 7d.
    #[arg(long, value_name = "DURATION", conflicts_with = "from")]
    last: Option<String>,
    /// First time, RFC 3339 or a date.
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Time after the last.
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Only events of this type: track, page …
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Only events of this name.
    #[arg(long, value_name = "NAME")]
    event: Option<String>,
    /// Most events to show.
    #[arg(long, default_value_t = 100, value_name = "N")]
    limit: usize,
}

/// The columns of the table.
const SHOWN: &[&str] = &["event_time", "type", "event", "platform", "ua_browser", "ip", "ip_country", "properties"];
/// Most events that one request asks for.
const PAGE_EVENTS: usize = 1000;

/// `millrace history`.
pub async fn history(client: &Client, args: &HistoryArgs, json: bool) -> Result<()> {
    let events = fetch(client, args).await?;
    if json {
        for event in &events {
            println!("{event}");
        }
    } else {
        print!("{}{}", show(&events), show_rest(&events));
    }
    Ok(())
}

async fn fetch(client: &Client, args: &HistoryArgs) -> Result<Vec<Value>> {
    let mut events = Vec::new();
    let mut cursor: Option<String> = None;
    while events.len() < args.limit {
        let limit = (args.limit - events.len()).min(PAGE_EVENTS).to_string();
        let query = [
            ("last", args.last.as_deref()),
            ("from", args.from.as_deref()),
            ("to", args.to.as_deref()),
            ("type", args.kind.as_deref()),
            ("event", args.event.as_deref()),
            ("limit", Some(&limit)),
            ("cursor", cursor.as_deref()),
        ];
        let mut page = client.get(&events_path(&args.device, &query)).await?;
        if let Value::Array(page) = page["events"].take() {
            events.extend(page);
        }
        match page["cursor"].take() {
            Value::String(next) => cursor = Some(next),
            _ => break,
        }
    }
    Ok(events)
}

/// The path of a device's events with a query.
pub fn events_path(device: &str, query: &[(&str, Option<&str>)]) -> String {
    let query: Vec<String> =
        query.iter().filter_map(|(key, value)| value.map(|value| format!("{key}={}", path_part(value)))).collect();
    format!("/v1/devices/{}/events?{}", path_part(device), query.join("&"))
}

/// Events as a table.
pub fn show(events: &[Value]) -> String {
    if events.is_empty() {
        return "no events\n".to_owned();
    }
    let text = |event: &Value, column: &str| match &event[column] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let shorten = |text: String| match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    };
    let known = events.iter().any(|event| event["ip_country"].is_string());
    let columns: Vec<&str> = SHOWN.iter().copied().filter(|column| known || *column != "ip_country").collect();
    let rows: Vec<Vec<String>> = events
        .iter()
        .map(|event| columns.iter().map(|column| shorten(printable(&text(event, column)))).collect())
        .collect();
    lay_out(&columns, &rows)
}

/// The columns that plugins added and that the table leaves out, in a line; nothing where there are none.
fn show_rest(events: &[Value]) -> String {
    let columns = events.iter().filter_map(Value::as_object).flatten().filter(|(_, value)| !value.is_null());
    let is_added = |column: &&str| !SHOWN.contains(column) && check_added_name(column).is_ok();
    let added: BTreeSet<&str> = columns.map(|(column, _)| column.as_str()).filter(is_added).collect();
    if added.is_empty() {
        return String::new();
    }
    let added: Vec<&str> = added.into_iter().collect();
    format!("plugins added {}: --json shows all columns\n", added.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_encoded_into_the_path() {
        assert_eq!(
            events_path("a/b?ü", &[("last", Some("1h")), ("to", None), ("event", Some("add to cart"))]),
            "/v1/devices/a%2Fb%3F%C3%BC/events?last=1h&event=add%20to%20cart"
        );
    }

    #[test]
    fn added_columns_that_the_table_leaves_out_are_named() {
        let events = [
            serde_json::json!({"event": "a", "ua_browser": "Firefox", "is_checkout": true, "_offset": 1, "event_date": "d"}),
            serde_json::json!({"event": "b", "channel": "email", "step": null, "url": "u"}),
        ];
        assert_eq!(show_rest(&events), "plugins added channel, is_checkout: --json shows all columns\n");
        assert_eq!(show_rest(&events[..0]), "");
    }

    #[test]
    fn a_terminal_is_not_steered_by_events() {
        let events = [serde_json::json!({"event_time": "t", "event": "\u{1b}[2Jgone"})];
        assert!(!show(&events).contains('\u{1b}'));
    }
}
