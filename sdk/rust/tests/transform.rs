//! Plugins that `#[transform]` makes, run natively: they are what an author would write by hand.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests, with helpers that are none themselves")]
#![deny(warnings)]

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_sdk::columns::{Batch, Column, ColumnType, Returned, RowOutcome};
use millrace_sdk::golden::{CaseTable, MemoryTables};
use millrace_sdk::{Instance, Transform};
use serde_json::json;

/// All that an attribute can say.
mod checkout {
    use millrace_sdk::prelude::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct Config {
        staging: String,
    }

    #[transform(
        reads(event, url, ip, type, properties, os as system, ua_browser_major: i64),
        writes(url, event_time, context, device_id: [u8]),
        adds(is_checkout: bool, total: f64, items: i64, note: str),
        codes(internal, no_total),
        lookups(country: str = countries[ip].code, currency: [u8] = "money-by-code"[country].currency),
        error = unreadable,
        config = Config
    )]
    pub fn checkout(event: &mut Event, config: &Config) -> Result<Outcome> {
        let Some(url) = event.url() else { return Ok(Outcome::Keep) };
        if url.starts_with(&config.staging) {
            return Ok(Outcome::Drop(Code::Internal));
        }
        let path = url.split('?').next().unwrap_or(url).to_owned();
        event.set_url(path);
        let is_checkout = event.event() == Some("checkout");
        event.set_is_checkout(is_checkout);
        if !is_checkout {
            event.clear_device_id();
            event.set_note(event.system().map(|system| format!("{system} {:?}", event.r#type())));
            return Ok(Outcome::Keep);
        }
        let total = event.property("cart.total").ok_or(Code::NoTotal)?;
        event.set_total(total.as_f64());
        let items = event.properties().and_then(|doc| doc.get("cart.items")).map(|items| items.elements().count());
        event.set_items(items.map(u32::try_from).transpose()?);
        event.set_context_with(|now, out| {
            out.extend_from_slice(now);
            out.push(b' ');
        });
        event.set_event_time(event.event_time().map(|time| Timestamp(time.0 + 1)));
        let note = event.currency().map(|currency| String::from_utf8_lossy(currency).into_owned());
        event.set_note(note);
        for _ in 0..event.ua_browser_major().unwrap_or(0) {
            event.emit();
        }
        if event.property("fail").is_some() {
            let reason = event.property("fail").and_then(|reason| reason.as_str()).unwrap_or_default().into_owned();
            return Err(match reason.as_str() {
                "typed" => Code::NoTotal.because("as the event says"),
                _ => Error::msg("as the event says"),
            });
        }
        Ok(if event.note().is_some_and(|note| note == "CHF") { Outcome::Emitted } else { Outcome::Keep })
    }
}

use checkout::Checkout;

fn tables() -> Arc<MemoryTables> {
    let tables: BTreeMap<String, CaseTable> = serde_json::from_value(json!({
        "countries": {"cidr": "network", "rows": [
            {"network": "203.0.113.0/24", "code": "DE"}, {"network": "198.51.100.0/24", "code": "CH"},
        ]},
        "money-by-code": {"key": "code", "rows": [
            {"code": "DE", "currency": "EUR"}, {"code": "CH", "currency": "CHF"},
        ]},
    }))
    .unwrap();
    Arc::new(MemoryTables::new(&tables).unwrap())
}

fn checkout() -> Instance<Checkout> {
    Instance::with_tables(r#"{"staging": "https://staging."}"#, tables()).unwrap()
}

/// A row of the columns that are read.
#[derive(Clone, Copy, Default)]
struct Row<'a> {
    event: Option<&'a str>,
    url: Option<&'a str>,
    ip: Option<&'a str>,
    properties: Option<&'a str>,
    copies: Option<i64>,
}

fn run(rows: &[Row<'_>]) -> millrace_sdk::columns::Output {
    let text = |value: fn(&Row<'_>) -> Option<&'static str>| Column::text(rows.iter().map(value));
    let columns = vec![
        Column::text(rows.iter().map(|row| row.event)),
        Column::text(rows.iter().map(|row| row.url)),
        Column::text(rows.iter().map(|row| row.ip)),
        text(|_| Some("track")),
        Column::text(rows.iter().map(|row| row.properties)),
        text(|_| Some("Linux")),
        Column::int64(rows.iter().map(|row| row.copies)),
        Column::int64(rows.iter().map(|_| Some(1))),
        text(|_| Some("{}")),
        text(|_| Some("phone")),
    ];
    checkout().transform(Batch { rows: rows.len() as u32, columns }).unwrap()
}

#[test]
fn the_manifest_is_what_the_attribute_says() {
    let plugin = checkout();
    let manifest = plugin.manifest();
    assert_eq!((manifest.name.as_str(), manifest.version.as_str()), ("millrace-sdk", env!("CARGO_PKG_VERSION")));
    let reads =
        ["event", "url", "ip", "type", "properties", "os", "ua_browser_major", "event_time", "context", "device_id"];
    assert_eq!(manifest.reads, reads);
    assert_eq!(manifest.writes, ["url", "event_time", "context", "device_id"]);
    let adds: Vec<_> = manifest.adds.iter().map(|column| (column.name.as_str(), column.ty)).collect();
    let expected = [
        ("is_checkout", ColumnType::Bool),
        ("total", ColumnType::Float64),
        ("items", ColumnType::Int64),
        ("note", ColumnType::String),
    ];
    assert_eq!(adds, expected);
    assert_eq!(manifest.codes, ["internal", "no_total", "unreadable"]);
    assert_eq!(manifest.tables, ["countries", "money-by-code"]);
}

#[test]
fn events_become_what_the_function_says() {
    let cart = Some(r#"{"cart": {"total": 4.5, "items": [1, 2]}}"#);
    let shop = Row { event: Some("checkout"), url: Some("https://shop.example/pay?card=1"), ..Row::default() };
    let output = run(&[
        Row { properties: cart, ip: Some("203.0.113.9"), ..shop },
        Row { url: Some("https://staging.shop.example/"), ..shop },
        Row { event: Some("view"), ..shop },
        Row { properties: Some("{}"), ..shop },
        Row { properties: cart, ip: Some("198.51.100.1"), copies: Some(2), ..shop },
        Row { url: None, ..shop },
    ]);
    assert_eq!(output.dropped, [RowOutcome { row: 1, code: 0 }]);
    assert_eq!(output.failed, [RowOutcome { row: 3, code: 1 }]);
    assert_eq!(output.sources, Some(vec![0, 2, 4, 4, 5]));
    let path = Some("https://shop.example/pay");
    let expected = [
        Column::text([path, path, path, path, None]),
        Column::int64([Some(2), Some(1), Some(2), Some(2), Some(1)]),
        Column::text([Some("{} "), Some("{}"), Some("{} "), Some("{} "), Some("{}")]),
        Column::text([Some("phone"), None, Some("phone"), Some("phone"), Some("phone")]),
        Column::bool([Some(true), Some(false), Some(true), Some(true), None]),
        Column::float64([Some(4.5), None, Some(4.5), Some(4.5), None]),
        Column::int64([Some(2), None, Some(2), Some(2), None]),
        Column::text([Some("EUR"), Some("Linux Some(\"track\")"), Some("CHF"), Some("CHF"), None]),
    ];
    assert_eq!(output.columns, expected.map(Returned::Column));
}

#[test]
fn errors_fail_under_their_code_and_take_what_was_emitted_with_them() {
    let fails = |reason: &str| format!(r#"{{"cart": {{"total": 1}}, "fail": "{reason}"}}"#);
    let (typed, plain) = (fails("typed"), fails("plain"));
    let row = Row { event: Some("checkout"), url: Some("https://x/"), copies: Some(3), ..Row::default() };
    let output = run(&[Row { properties: Some(&typed), ..row }, Row { properties: Some(&plain), ..row }]);
    assert_eq!(output.failed, [RowOutcome { row: 0, code: 1 }, RowOutcome { row: 1, code: 2 }]);
    assert_eq!(output.sources, Some(Vec::new()));
}

#[test]
fn a_configuration_is_checked() {
    let error = |config: &str| Instance::<Checkout>::with_tables(config, tables()).map(|_| ()).unwrap_err();
    assert!(error("{}").contains("missing field `staging`"), "{}", error("{}"));
    assert!(error(r#"{"staging": "x", "stage": 1}"#).contains("unknown field `stage`"));
    let nothing = Instance::<least::Nothing>::new(r#"{"x": 1}"#).map(|_| ()).unwrap_err();
    assert!(nothing.contains("unknown field `x`"), "{nothing}");
}

/// The least that one can say.
mod least {
    use millrace_sdk::prelude::*;

    #[transform]
    pub fn nothing(_: &mut Event) -> Result<Outcome> {
        Ok(Outcome::Keep)
    }
}

#[test]
fn the_least_plugin_keeps_everything() {
    let plugin = Instance::<least::Nothing>::new("{}").unwrap();
    assert_eq!(least::Nothing::NAME, "millrace-sdk");
    assert_eq!(plugin.manifest().codes, ["error"]);
    let output = plugin.transform(Batch { rows: 3, columns: Vec::new() }).unwrap();
    assert_eq!((output.columns, output.sources), (Vec::new(), None));
}

/// Names that mean something to the code around them.
mod names {
    use millrace_sdk::prelude::*;

    use super::*;

    #[transform(reads(schema: str, config: str, event, columns: i64), adds(code: str, outcome: bool), codes(ok, none))]
    fn names(event: &mut Event) -> Result<Outcome> {
        event.set_code(event.schema().or(event.config()).or(event.event()).map(str::to_owned));
        event.set_outcome(event.columns() == Some(1));
        match event.columns() {
            Some(2) => Ok(Outcome::Drop(Code::Ok)),
            Some(3) => Ok(Outcome::Fail(Code::None)),
            _ => Ok(Outcome::Keep),
        }
    }

    #[test]
    fn columns_may_be_called_as_the_generated_code_is() {
        let plugin = Instance::<Names>::new("{}").unwrap();
        let text = |value: &str| Column::text([None, Some(value), None]);
        let columns = vec![text("s"), text("c"), text("e"), Column::int64([Some(1), Some(2), Some(3)])];
        let output = plugin.transform(Batch { rows: 3, columns }).unwrap();
        assert_eq!(output.columns[1], Returned::Column(Column::bool([Some(true)])));
        assert_eq!(output.dropped, [RowOutcome { row: 1, code: 0 }]);
        assert_eq!(output.failed, [RowOutcome { row: 2, code: 1 }]);
    }
}
