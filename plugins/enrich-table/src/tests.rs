//! The goldens, and the table that ships for the demo.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_sdk::Instance;
use millrace_sdk::columns::{Batch, Column, Returned};
use millrace_sdk::golden::{CaseTable, MemoryTables, Row};
use millrace_sdk::tables::Tables as _;

use super::EnrichTable;

#[test]
fn goldens_hold() {
    millrace_sdk::golden::check::<EnrichTable>("cases");
}

/// The sample of countries, as the host would read it.
fn sample() -> MemoryTables {
    let path = "tables/country-by-ip.csv";
    let mut reader = csv::Reader::from_path(path).unwrap();
    let rows: Vec<Row> = reader.deserialize().map(Result::unwrap).collect();
    assert!(rows.len() > 200, "{}", rows.len());
    for row in &rows {
        let country = row["country"].as_str().unwrap();
        assert!(country.len() == 2 && country.bytes().all(|byte| byte.is_ascii_uppercase()), "{row:?}");
        assert!(!row["holder"].as_str().unwrap().is_empty(), "{row:?}");
    }
    let table = CaseTable { cidr: Some("network".to_owned()), rows, ..CaseTable::default() };
    // Refuses what is no network, and one that stands there twice.
    MemoryTables::new(&BTreeMap::from([("countries".to_owned(), table)])).unwrap()
}

#[test]
fn the_sample_has_the_addresses_of_the_demo_scrubbed_or_not() {
    let config = r#"{"table": "countries", "key": "ip", "columns": {"country": "ip_country"}}"#;
    let plugin = Instance::<EnrichTable>::with_tables(config, Arc::new(sample())).unwrap();
    assert_eq!(plugin.manifest().tables, ["countries"]);
    let ips = ["192.0.2.17", "192.0.2.0", "198.51.100.254", "203.0.113.77", "203.0.113.0", "2001:db8:1::", "8.8.8.8"];
    let batch = Batch { rows: 7, columns: vec![Column::text(ips.map(Some))] };
    let output = plugin.transform(batch).unwrap();
    let countries = [Some("NL"), Some("NL"), Some("US"), Some("DE"), Some("DE"), Some("FR"), None];
    assert_eq!(output.columns, [Returned::Column(Column::text(countries))]);
}

#[test]
fn before_the_table_is_there_the_plugin_describes_itself() {
    let config = r#"{"table": "countries", "key": "ip", "columns": {"country": "ip_country"}}"#;
    let plugin = Instance::<EnrichTable>::new(config).unwrap();
    let manifest = plugin.manifest();
    assert_eq!((manifest.tables.len(), manifest.adds.len(), manifest.codes.len()), (1, 1, 0));
    assert!(sample().columns("countries").is_some_and(|columns| columns.len() == 3));
}

#[test]
fn whole_numbers_that_an_earlier_step_added_are_keys() {
    let config = r#"{"table": "shops", "key": "shop", "key_type": "int64", "columns": {"city": "shop_city"}}"#;
    let shops = serde_json::from_str(r#"{"shops": {"key": "id", "rows": [{"id": 1, "city": "Bern"}, {"id": 2}]}}"#);
    let tables = MemoryTables::new(&shops.unwrap()).unwrap();
    let plugin = Instance::<EnrichTable>::with_tables(config, Arc::new(tables)).unwrap();
    let columns = vec![Column::int64([Some(2), Some(1), None, Some(9)])];
    let output = plugin.transform(Batch { rows: 4, columns }).unwrap();
    assert_eq!(output.columns, [Returned::Column(Column::text([None, Some("Bern"), None, None]))]);
}

#[test]
fn without_a_table_it_does_nothing() {
    let plugin = Instance::<EnrichTable>::new(r#"{"columns": {}}"#).unwrap();
    assert!(plugin.manifest().tables.is_empty() && plugin.manifest().reads.is_empty());
    let output = plugin.transform(Batch { rows: 2, columns: Vec::new() }).unwrap();
    assert_eq!((output.columns, output.sources), (Vec::new(), None));
}
