//! A piece of a chain: a step that is tried without the steps before it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking too")]

mod support;

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{Field, Int64Type, Schema};
use arrow::record_batch::RecordBatch;
use millrace_plugin_host::{Chain, Limits};
use millrace_rows::ColumnType;
use millrace_rows::schema::AddedColumn;
use support::{Guest, Row, batch, host, step};

#[test]
fn a_step_by_itself_gets_the_columns_of_the_steps_before_it() {
    let host = host();
    let guest = Guest { reads: vec!["score"], writes: vec!["score"], ..Guest::default() };
    let added = vec![AddedColumn { name: "score".to_owned(), ty: ColumnType::Int64 }];
    // Unchanged: both columns of `$COLUMNS` are zero.
    let plugin = host.load(&guest.wasm()).unwrap();
    assert!(Chain::new(&host, vec![step(plugin.clone(), Limits::default())]).is_err());
    let chain = Chain::after(&host, added.clone(), vec![step(plugin, Limits::default())]).unwrap();
    assert_eq!(chain.added(), added);
    let base = batch(&[Row::new(0, "a"), Row::new(1, "b")]);
    assert!(chain.run(base.clone()).is_err(), "the column is missing");
    let at = base.num_columns() - 3;
    let (mut fields, mut columns) = (base.schema().fields().to_vec(), base.columns().to_vec());
    fields.insert(at, Arc::new(Field::new("score", ColumnType::Int64.data_type(), true)));
    columns.insert(at, Arc::new(Int64Array::from(vec![7, 8])) as ArrayRef);
    let input = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    let output = chain.run(input).unwrap();
    assert_eq!(output.rows.schema(), chain.schema());
    assert_eq!(output.rows.column_by_name("score").unwrap().as_primitive::<Int64Type>().values(), &[7, 8]);
}
