//! Rows as JSON: times as RFC 3339, the JSON columns as JSON.

use chrono::{DateTime, SecondsFormat};
use millrace_rows::canonical::Value;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

/// Columns whose text is a JSON document.
const JSON_COLUMNS: [&str; 3] = ["properties", "context", "envelope"];

/// One row of the history.
pub(crate) struct RowJson(pub(crate) Vec<(String, Value)>);

impl Serialize for RowJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            match value {
                Value::String(text) if JSON_COLUMNS.contains(&name.as_str()) => {
                    match RawValue::from_string(text.clone()) {
                        Ok(json) => map.serialize_entry(name, &json)?,
                        // A plugin may have written something else: better as text than not at all.
                        Err(_) => map.serialize_entry(name, text)?,
                    }
                }
                Value::String(text) => map.serialize_entry(name, text)?,
                Value::Timestamp(us) => map.serialize_entry(name, &rfc3339(*us))?,
                Value::Int64(number) => map.serialize_entry(name, number)?,
                Value::Float64(number) => map.serialize_entry(name, number)?,
                Value::Bool(truth) => map.serialize_entry(name, truth)?,
            }
        }
        map.end()
    }
}

/// A time as text, with as many digits of a second as it has.
pub(crate) fn rfc3339(us: i64) -> String {
    DateTime::from_timestamp_micros(us)
        .map_or_else(|| us.to_string(), |t| t.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_columns_are_json_and_times_are_readable() {
        let row = RowJson(vec![
            ("device_id".into(), Value::String("d\"1".into())),
            ("event_time".into(), Value::Timestamp(1_700_000_000_123_000)),
            ("envelope".into(), Value::String("not json".into())),
            ("properties".into(), Value::String(r#"{"a":1.50}"#.into())),
        ]);
        assert_eq!(
            serde_json::to_string(&row).unwrap(),
            r#"{"device_id":"d\"1","event_time":"2023-11-14T22:13:20.123Z","envelope":"not json","properties":{"a":1.50}}"#
        );
    }
}
