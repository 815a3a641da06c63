//! Lookups: one call for a batch and a key, values as the table has them, and plugins that follow a table's columns.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests, with helpers that are none themselves")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use millrace_sdk::columns::{AddedColumn, Batch, Column, ColumnType, Returned};
use millrace_sdk::golden::{CaseTable, MemoryTables};
use millrace_sdk::tables::{Table, Tables};
use millrace_sdk::{Col, ColMut, Event, Instance, NoConfig, Outcome, Rows, Schema, Transform};
use serde_json::json;

fn shop() -> MemoryTables {
    let tables: BTreeMap<String, CaseTable> = serde_json::from_value(json!({
        "countries": {"cidr": "network", "rows": [
            {"network": "203.0.113.0/24", "code": "DE"},
            {"network": "198.51.100.0/24", "code": "CH"},
            {"network": "192.0.2.0/24", "code": "XX"},
        ]},
        "currencies": {"key": "code", "rows": [
            {"code": "DE", "currency": "EUR", "rate": 1.0},
            {"code": "CH", "currency": "CHF", "rate": 0.95},
        ]},
    }))
    .unwrap();
    MemoryTables::new(&tables).unwrap()
}

/// The shop's tables, and the calls that were made.
#[derive(Debug)]
struct Counted(MemoryTables, Mutex<Vec<String>>);

impl Tables for Counted {
    fn columns(&self, name: &str) -> Option<Vec<AddedColumn>> {
        self.0.columns(name)
    }

    fn lookup(&self, name: &str, keys: &Column, wanted: &[&str]) -> Result<Vec<Column>, String> {
        self.1.lock().unwrap().push(format!("{name} {} {wanted:?}", keys.rows()));
        self.0.lookup(name, keys, wanted)
    }
}

/// A country by address, and what is paid with there: a key that is itself looked up.
struct Currency {
    amount: ColMut<f64>,
    code: Col<str>,
    currency: Col<[u8]>,
    rate: Col<f64>,
    paid_in: ColMut<[u8]>,
}

impl Transform for Currency {
    type Config = NoConfig;
    const NAME: &'static str = "currency";
    const VERSION: &'static str = "1.0.0";

    fn configure(_: NoConfig, schema: &mut Schema) -> Result<Self, String> {
        let amount = schema.update("amount");
        let ip: Col<str> = schema.read("ip");
        let code = schema.lookup("countries", ip, "code");
        Ok(Self {
            amount,
            code,
            currency: schema.lookup("currencies", code, "currency"),
            rate: schema.lookup("currencies", code, "rate"),
            paid_in: schema.add("paid_in"),
        })
    }

    fn transform(&self, event: &mut Event<'_>) -> Outcome {
        if event.get(self.code) == Some("XX") {
            // A null is copied, too.
            event.set(self.paid_in, b"nothing");
        }
        event.copy(self.currency, self.paid_in);
        if let (Some(amount), Some(rate)) = (event.get(self.amount), event.get(self.rate)) {
            event.set(self.amount, amount * rate);
        }
        Outcome::Keep
    }
}

#[test]
fn a_batch_costs_one_call_for_a_table_and_a_key() {
    let tables = Arc::new(Counted(shop(), Mutex::default()));
    let plugin = Instance::<Currency>::with_tables("{}", tables.clone()).unwrap();
    assert_eq!(plugin.manifest().tables, ["countries", "currencies"]);
    assert_eq!(plugin.manifest().reads, ["amount", "ip"]);
    assert_eq!(plugin.manifest().writes, ["amount"]);
    let ips = [Some("203.0.113.7"), Some("198.51.100.1"), None, Some("192.0.2.1"), Some("no address")];
    let batch = Batch {
        rows: 5,
        columns: vec![Column::float64([Some(2.0), Some(2.0), Some(2.0), None, Some(1.0)]), Column::text(ips)],
    };
    let output = plugin.transform(batch).unwrap();
    let expected = [
        Returned::Column(Column::float64([Some(2.0), Some(1.9), Some(2.0), None, Some(1.0)])),
        Returned::Column(Column::text([Some("EUR"), Some("CHF"), None, None, None])),
    ];
    assert_eq!(output.columns, expected);
    let calls = [r#"countries 5 ["code"]"#, r#"currencies 5 ["currency", "rate"]"#];
    assert_eq!(*tables.1.lock().unwrap(), calls);
}

#[test]
fn a_table_that_is_missing_is_the_hosts_to_refuse_and_its_rows_fail() {
    let plugin = Instance::<Currency>::new("{}").unwrap();
    assert_eq!(plugin.manifest().tables, ["countries", "currencies"]);
    let columns = vec![Column::float64([None]), Column::text([None])];
    let error = plugin.transform(Batch { rows: 1, columns }).unwrap_err();
    assert_eq!(error, "lookup table \"countries\": there is no table \"countries\"");
}

/// Declares what the configuration says.
struct Declares;

impl Transform for Declares {
    type Config = String;
    const NAME: &'static str = "declares";
    const VERSION: &'static str = "1.0.0";

    fn configure(config: String, schema: &mut Schema) -> Result<Self, String> {
        let ip: Col<str> = schema.read("ip");
        match config.as_str() {
            "column" => _ = schema.lookup::<str>("countries", ip, "cod"),
            "type" => _ = schema.lookup::<i64>("countries", ip, "code"),
            "added key" => {
                let key: ColMut<str> = schema.add("key");
                let _ = schema.lookup::<str>("countries", key, "code");
            }
            "twice" => {
                let [first, second] = [0, 1].map(|_| schema.lookup::<str>("countries", ip, "code"));
                let bytes = schema.lookup::<[u8]>("countries", ip, "code");
                assert_eq!(format!("{first:?}{second:?}{bytes:?}"), "Col(1)Col(1)Col(2)");
            }
            other => panic!("{other}"),
        }
        Ok(Self)
    }

    fn transform(&self, _: &mut Event<'_>) -> Outcome {
        Outcome::Keep
    }
}

#[test]
fn what_a_table_does_not_have_is_refused_with_the_configuration() {
    let error = |config: &str| {
        let config = format!("{config:?}");
        Instance::<Declares>::with_tables(&config, Arc::new(shop())).map(|_| ()).unwrap_err()
    };
    assert_eq!(error("column"), "lookup table \"countries\" has no column \"cod\"; it has code, network");
    assert_eq!(
        error("type"),
        "column \"code\" of lookup table \"countries\" is of type string, the plugin reads int64"
    );
    assert_eq!(error("added key"), "the key of a lookup in \"countries\" is a column that this plugin adds");
    Instance::<Declares>::with_tables("\"twice\"", Arc::new(shop())).unwrap();
}

/// Adds every column of a table, by a key that it computes.
struct Follows {
    ip: Col<str>,
    table: Table,
    added: Vec<ColMut<str>>,
}

impl Transform for Follows {
    type Config = NoConfig;
    const NAME: &'static str = "follows";
    const VERSION: &'static str = "1.0.0";

    fn configure(_: NoConfig, schema: &mut Schema) -> Result<Self, String> {
        let table = schema.table("currencies");
        let columns = table.columns().unwrap_or_default();
        let text = columns.iter().filter(|column| column.ty == ColumnType::String);
        let added = text.map(|column| schema.add(&column.name)).collect();
        Ok(Self { ip: schema.read("ip"), table, added })
    }

    fn transform(&self, _: &mut Event<'_>) -> Outcome {
        Outcome::Keep
    }

    fn transform_batch(&self, rows: &mut Rows<'_>) -> Result<(), String> {
        let view = rows.column(self.ip);
        let keys: Vec<_> = (0..rows.len()).map(|row| view.get(row).map(str::to_uppercase)).collect();
        let keys = Column::text(keys.iter().map(Option::as_deref));
        let found = self.table.lookup(&keys, &["code", "currency"])?;
        for row in 0..rows.len() {
            rows.visit(row, |event| {
                for (to, from) in self.added.iter().zip(&found) {
                    event.set_opt(*to, from.str(row));
                }
                Outcome::Keep
            });
        }
        Ok(())
    }
}

#[test]
fn a_plugin_can_follow_a_tables_columns_and_compute_keys() {
    let plugin = Instance::<Follows>::with_tables("", Arc::new(shop())).unwrap();
    let adds: Vec<_> = plugin.manifest().adds.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(adds, ["code", "currency"]);
    assert_eq!(plugin.manifest().tables, ["currencies"]);
    let batch = Batch { rows: 3, columns: vec![Column::text([Some("de"), Some("fr"), None])] };
    let output = plugin.transform(batch).unwrap();
    assert_eq!(output.columns[1], Returned::Column(Column::text([Some("EUR"), None, None])));
    // Before the table is there, the plugin can be described.
    assert!(Instance::<Follows>::new("").unwrap().manifest().adds.is_empty());
}

/// An answer that is not as asked must not become wrong rows.
#[derive(Debug)]
struct Short;

impl Tables for Short {
    fn columns(&self, _: &str) -> Option<Vec<AddedColumn>> {
        None
    }

    fn lookup(&self, _: &str, _: &Column, wanted: &[&str]) -> Result<Vec<Column>, String> {
        Ok(wanted.iter().map(|_| Column::text([None])).collect())
    }
}

#[test]
fn an_answer_of_another_length_or_type_is_an_error() {
    let plugin = Instance::<Currency>::with_tables("{}", Arc::new(Short)).unwrap();
    let run = |rows: u32| {
        let columns = vec![Column::float64((0..rows).map(|_| Some(1.0))), Column::text((0..rows).map(|_| Some("x")))];
        plugin.transform(Batch { rows, columns }).unwrap_err()
    };
    assert_eq!(run(2), "lookup table \"countries\": the answer is not as asked");
    assert_eq!(run(1), "column \"currencies.rate\" is not as declared: it holds text, the plugin declares float64");
}
