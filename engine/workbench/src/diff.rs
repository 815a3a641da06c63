//! Where what came out is not what a case expects.

use millrace_sdk::golden::{Expected, Row};
use serde_json::Value;

use crate::case_run::Outcome;

/// One difference, in the first place where an author would look.
#[derive(Clone, Debug, PartialEq)]
pub enum Difference {
    /// As many rows came out as expected, and a value of one is another.
    Value {
        /// The row in.
        row: usize,
        /// Which of the rows that came out of it.
        out: usize,
        /// How many came out of it.
        outs: usize,
        /// The column.
        column: String,
        /// The value that the case expects; null where it names none.
        expected: Value,
        /// The value that came out.
        came_out: Value,
    },
    /// Something else became of the row.
    Outcome {
        /// The row in.
        row: usize,
        /// What the case expects.
        expected: Expected,
        /// What came out.
        came_out: Expected,
        /// What the guest said of it: a panic, an error, its last log lines.
        message: Option<String>,
    },
}

impl Difference {
    /// The row in.
    pub fn row(&self) -> usize {
        match self {
            Self::Value { row, .. } | Self::Outcome { row, .. } => *row,
        }
    }
}

/// All differences, by row. There must be an expectation for each row.
pub(crate) fn differences(expected: &[Expected], outcomes: &[Outcome]) -> Vec<Difference> {
    let mut differences = Vec::new();
    for (row, (expected, outcome)) in expected.iter().zip(outcomes).enumerate() {
        match (expected, &outcome.became) {
            (Expected::Keep(ours), Expected::Keep(theirs)) if ours.len() == theirs.len() => {
                for (out, (expected, came_out)) in ours.iter().zip(theirs).enumerate() {
                    let values = values(expected, came_out).into_iter();
                    differences.extend(values.map(|(column, expected, came_out)| Difference::Value {
                        row,
                        out,
                        outs: theirs.len(),
                        column,
                        expected,
                        came_out,
                    }));
                }
            }
            (ours, theirs) if ours == theirs => {}
            (expected, came_out) => differences.push(Difference::Outcome {
                row,
                expected: expected.clone(),
                came_out: came_out.clone(),
                message: outcome.message.clone(),
            }),
        }
    }
    differences
}

/// Columns whose values differ; a column that is left out is null.
fn values(expected: &Row, came_out: &Row) -> Vec<(String, Value, Value)> {
    let get = |row: &Row, column: &String| row.get(column).cloned().unwrap_or(Value::Null);
    let mut columns: Vec<&String> = expected.keys().chain(came_out.keys()).collect();
    columns.sort();
    columns.dedup();
    let pairs = columns.into_iter().map(|column| (column.clone(), get(expected, column), get(came_out, column)));
    pairs.filter(|(_, expected, came_out)| expected != came_out).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn expected(value: Value) -> Vec<Expected> {
        serde_json::from_value(value).unwrap()
    }

    fn differ(ours: Value, theirs: Value) -> Vec<Difference> {
        let outcomes: Vec<Outcome> =
            expected(theirs).into_iter().map(|became| Outcome { became, message: Some("said".to_owned()) }).collect();
        differences(&expected(ours), &outcomes)
    }

    #[test]
    fn a_null_is_a_column_left_out() {
        let ours = json!([{"keep": [{"ip": null, "url": "u"}]}, {"drop": "a"}, {"fail": "b"}, {"keep": []}]);
        let theirs = json!([{"keep": [{"url": "u"}]}, {"drop": "a"}, {"fail": "b"}, {"keep": []}]);
        assert_eq!(differ(ours, theirs), []);
    }

    #[test]
    fn differences_name_row_and_column() {
        let ours = json!([{"keep": [{"ip": "a"}, {"ip": "b", "n": 1}]}, {"drop": "a"}, {"keep": [{}]}, {"drop": "a"}]);
        let theirs = json!([{"keep": [{"ip": "a"}, {"ip": "c"}]}, {"drop": "b"}, {"keep": [{}, {}]}, {"fail": "trap"}]);
        let differences = differ(ours, theirs);
        let value = |column: &str, expected: Value, came_out: Value| Difference::Value {
            row: 0,
            out: 1,
            outs: 2,
            column: column.to_owned(),
            expected,
            came_out,
        };
        assert_eq!(differences[..2], [value("ip", json!("b"), json!("c")), value("n", json!(1), Value::Null)]);
        let rows: Vec<_> = differences[2..].iter().map(Difference::row).collect();
        assert_eq!(rows, [1, 2, 3]);
        assert!(matches!(&differences[4], Difference::Outcome { message: Some(text), .. } if text == "said"));
    }
}
