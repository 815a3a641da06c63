//! The lookup tables of a case, in memory: small, and found by going through them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Row, typed_column};
use crate::columns::{AddedColumn, Column, ColumnType, Values};
use crate::tables::Tables;

/// A lookup table, as a case writes it: `{"key": "code", "rows": [{"code": "DE", "name": "Germany"}]}`, or with
/// `"cidr": "network"` in place of the key for networks (`203.0.113.0/24`, `2001:db8::/32`), of which the most specific
/// one is found.
///
/// The types of the columns are those of their values; whole numbers are int64 unless another of the column is not whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseTable {
    /// The column whose value is equal to the key: text or whole numbers, each once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The column of networks that an address lies in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr: Option<String>,
    /// The rows. A value that is left out is null.
    pub rows: Vec<Row>,
}

impl CaseTable {
    /// Its rows, an object a line: what a host can read.
    pub fn to_ndjson(&self) -> String {
        self.rows.iter().map(|row| Value::Object(row.clone()).to_string() + "\n").collect()
    }
}

/// The tables of a case, ready to be asked.
#[derive(Debug, Default)]
pub struct MemoryTables(BTreeMap<String, MemoryTable>);

#[derive(Debug)]
struct MemoryTable {
    columns: Vec<(AddedColumn, Vec<Value>)>,
    index: Index,
}

#[derive(Debug)]
enum Index {
    Text(Vec<String>),
    Int(Vec<i64>),
    Networks(Vec<Network>),
}

/// A network: an address of which the first `bits` count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    /// As a number that has its first bit on top, for IPv4 too.
    address: u128,
    is_v6: bool,
    bits: u32,
}

impl MemoryTables {
    /// Takes the tables of a case; the error names table and row.
    pub fn new(tables: &BTreeMap<String, CaseTable>) -> Result<Self, String> {
        let tables = tables.iter().map(|(name, table)| {
            let table = MemoryTable::new(table).map_err(|error| format!("lookup table {name:?}: {error}"))?;
            Ok::<_, String>((name.clone(), table))
        });
        Ok(Self(tables.collect::<Result<_, _>>()?))
    }

    fn table(&self, name: &str) -> Result<&MemoryTable, String> {
        self.0.get(name).ok_or_else(|| format!("there is no table {name:?}"))
    }
}

impl Tables for MemoryTables {
    fn columns(&self, name: &str) -> Option<Vec<AddedColumn>> {
        Some(self.0.get(name)?.columns.iter().map(|(column, _)| column.clone()).collect())
    }

    fn lookup(&self, name: &str, keys: &Column, wanted: &[&str]) -> Result<Vec<Column>, String> {
        let table = self.table(name)?;
        let rows = table.index.find(keys)?;
        let answer = wanted.iter().map(|wanted| {
            let known = table.columns.iter().find(|(column, _)| column.name == *wanted);
            let (column, values) = known.ok_or_else(|| format!("table {name:?} has no column {wanted:?}"))?;
            let values: Vec<Option<&Value>> =
                rows.iter().map(|row| row.and_then(|row| values.get(row)).filter(|value| !value.is_null())).collect();
            typed_column(wanted, column.ty, &values)
        });
        answer.collect()
    }
}

impl MemoryTable {
    fn new(table: &CaseTable) -> Result<Self, String> {
        let (key, is_cidr) = match (&table.key, &table.cidr) {
            (Some(key), None) => (key, false),
            (None, Some(cidr)) => (cidr, true),
            _ => return Err("give either \"key\" or \"cidr\", the column that is looked up".to_owned()),
        };
        let mut names: Vec<&String> = Vec::new();
        for name in table.rows.iter().flat_map(Row::keys) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let columns: Vec<_> = names.into_iter().map(|name| column_of(name, &table.rows)).collect::<Result<_, _>>()?;
        let keys = columns.iter().find(|(column, _)| column.name == *key).map(|(_, values)| values.as_slice());
        let index =
            Index::new(keys.unwrap_or_default(), is_cidr).map_err(|error| format!("column {key:?}: {error}"))?;
        Ok(Self { columns, index })
    }
}

fn column_of(name: &str, rows: &[Row]) -> Result<(AddedColumn, Vec<Value>), String> {
    let values: Vec<Value> = rows.iter().map(|row| row.get(name).cloned().unwrap_or_default()).collect();
    let present: Vec<_> = values.iter().map(|value| Some(value).filter(|value| !value.is_null())).collect();
    let ty = super::type_of(&present);
    typed_column(name, ty, &present)?;
    Ok((AddedColumn { name: name.to_owned(), ty }, values))
}

impl Index {
    fn new(keys: &[Value], is_cidr: bool) -> Result<Self, String> {
        fn each<T: PartialEq>(keys: &[Value], key: impl Fn(&Value) -> Result<T, String>) -> Result<Vec<T>, String> {
            let mut all: Vec<T> = Vec::with_capacity(keys.len());
            for (row, value) in keys.iter().enumerate() {
                let value = key(value).map_err(|error| format!("row {row}: {error}"))?;
                if let Some(first) = all.iter().position(|known| *known == value) {
                    return Err(format!("rows {first} and {row} have the same key"));
                }
                all.push(value);
            }
            Ok(all)
        }
        let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| format!("{value} is no text"));
        Ok(match keys.first() {
            _ if is_cidr => Self::Networks(each(keys, |value| Network::parse(&text(value)?))?),
            Some(Value::Number(_)) => {
                Self::Int(each(keys, |value| value.as_i64().ok_or_else(|| format!("{value} is no whole number")))?)
            }
            _ => Self::Text(each(keys, text)?),
        })
    }

    /// The row of each key.
    fn find(&self, keys: &Column) -> Result<Vec<Option<usize>>, String> {
        let rows = 0..keys.rows();
        match (self, &keys.values) {
            (Self::Text(known), Values::Text(_)) => {
                Ok(rows.map(|row| keys.str(row).and_then(|key| known.iter().position(|known| known == key))).collect())
            }
            (Self::Int(known), Values::Int64(_)) => {
                Ok(rows.map(|row| keys.int(row).and_then(|key| known.iter().position(|known| *known == key))).collect())
            }
            (Self::Networks(known), Values::Text(_)) => {
                Ok(rows.map(|row| keys.str(row).and_then(|key| most_specific(known, key))).collect())
            }
            (known, found) => {
                let expected = if matches!(known, Self::Int(_)) { ColumnType::Int64 } else { ColumnType::String };
                Err(format!("the keys are {}, those of the table are {expected}", found.kind()))
            }
        }
    }
}

/// The row of the smallest network that an address lies in.
fn most_specific(networks: &[Network], address: &str) -> Option<usize> {
    let address = Network::of(address.parse().ok()?);
    let hits = networks.iter().enumerate().filter(|(_, network)| network.has(address));
    hits.max_by_key(|(_, network)| network.bits).map(|(row, _)| row)
}

impl Network {
    /// The network of one address. An IPv4 address within IPv6 is an IPv4 address.
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self { address: u128::from(v4.to_bits()) << 96, is_v6: false, bits: 32 },
            IpAddr::V6(v6) => Self { address: v6.to_bits(), is_v6: true, bits: 128 },
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let fault = || format!("{text:?} is no network: use address/bits, as in 203.0.113.0/24");
        let (address, bits) = text.split_once('/').ok_or_else(fault)?;
        let network = Self::of(address.parse().map_err(|_| fault())?);
        let bits = bits.parse::<u32>().ok().filter(|bits| *bits <= network.bits).ok_or_else(fault)?;
        let network = Self { bits, ..network };
        if network.address & !network.mask() != 0 {
            return Err(format!("{text:?} has bits behind its first {bits}"));
        }
        Ok(network)
    }

    fn mask(self) -> u128 {
        u128::MAX.checked_shl(128 - self.bits).unwrap_or(0)
    }

    fn has(self, other: Self) -> bool {
        self.is_v6 == other.is_v6 && (self.address ^ other.address) & self.mask() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tables(table: Value) -> Result<MemoryTables, String> {
        MemoryTables::new(&BTreeMap::from([("t".to_owned(), serde_json::from_value(table).unwrap())]))
    }

    fn find(tables: &MemoryTables, keys: &[Option<&str>], wanted: &str) -> Vec<Option<String>> {
        let keys = Column::text(keys.iter().copied());
        let found = tables.lookup("t", &keys, &[wanted]).unwrap();
        (0..keys.rows()).map(|row| found[0].str(row).map(str::to_owned)).collect()
    }

    #[test]
    fn the_most_specific_network_is_found_in_both_families() {
        let tables = tables(json!({"cidr": "network", "rows": [
            {"network": "10.0.0.0/8", "name": "eight"},
            {"network": "10.1.0.0/16", "name": "sixteen"},
            {"network": "10.1.2.3/32", "name": "one"},
            {"network": "2001:db8::/32", "name": "six"},
            {"network": "::/0", "name": "rest"},
        ]}))
        .unwrap();
        let keys =
            ["10.9.9.9", "10.1.9.9", "10.1.2.3", "2001:db8::1", "2002::", "11.0.0.0", "::ffff:10.1.2.3", "x", ""];
        let mut keys: Vec<_> = keys.into_iter().map(Some).collect();
        keys.push(None);
        let names = find(&tables, &keys, "name");
        let expected = [
            Some("eight"),
            Some("sixteen"),
            Some("one"),
            Some("six"),
            Some("rest"),
            None,
            Some("one"),
            None,
            None,
            None,
        ];
        assert_eq!(names.iter().map(Option::as_deref).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn columns_have_the_types_of_their_values() {
        let tables = tables(json!({"key": "code", "rows": [
            {"code": "DE", "people": 84, "share": 1, "eu": true},
            {"code": "CH", "share": 0.5, "eu": false, "note": null},
        ]}))
        .unwrap();
        let mut types: Vec<_> =
            tables.columns("t").unwrap().into_iter().map(|column| (column.name, column.ty.to_string())).collect();
        types.sort();
        let types: Vec<_> = types.iter().map(|(name, ty)| (name.as_str(), ty.as_str())).collect();
        let expected =
            [("code", "string"), ("eu", "bool"), ("note", "string"), ("people", "int64"), ("share", "float64")];
        assert_eq!(types, expected);
        let keys = Column::text([Some("CH"), Some("FR"), Some("DE"), None]);
        let found = tables.lookup("t", &keys, &["share", "people", "eu", "code"]).unwrap();
        assert_eq!(found[0], Column::float64([Some(0.5), None, Some(1.0), None]));
        assert_eq!(found[1], Column::int64([None, None, Some(84), None]));
        assert_eq!(found[2], Column::bool([Some(false), None, Some(true), None]));
        assert_eq!(found[3], Column::text([Some("CH"), None, Some("DE"), None]));
        assert!(tables.columns("other").is_none());
    }

    #[test]
    fn whole_numbers_are_keys_too() {
        let tables = tables(json!({"key": "id", "rows": [{"id": 7, "name": "seven"}]})).unwrap();
        let found = tables.lookup("t", &Column::int64([Some(7), Some(8), None]), &["name"]).unwrap();
        assert_eq!(found[0], Column::text([Some("seven"), None, None]));
        let error = tables.lookup("t", &Column::text([Some("7")]), &["name"]).unwrap_err();
        assert_eq!(error, "the keys are text, those of the table are int64");
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let error = |table: Value| tables(table).unwrap_err();
        assert!(error(json!({"rows": []})).contains("give either \"key\" or \"cidr\""));
        assert!(error(json!({"key": "a", "cidr": "b", "rows": []})).contains("give either"));
        assert!(error(json!({"key": "a", "rows": [{"a": "x"}, {"b": 1}]})).contains("row 1: null is no text"));
        assert!(
            error(json!({"key": "a", "rows": [{"a": "x"}, {"a": "x"}]})).contains("rows 0 and 1 have the same key")
        );
        assert!(error(json!({"key": "a", "rows": [{"a": "x", "b": 1}, {"a": "y", "b": "z"}]})).contains("can't hold"));
        for network in ["10.0.0.0", "10.0.0.0/33", "10.0.0.1/8", "x/8", "::/129"] {
            let message = error(json!({"cidr": "n", "rows": [{"n": network}]}));
            assert!(message.starts_with("lookup table \"t\": column \"n\": row 0: "), "{message}");
        }
        let none = MemoryTables::default().lookup("t", &Column::text([]), &[]).unwrap_err();
        assert_eq!(none, "there is no table \"t\"");
    }
}
