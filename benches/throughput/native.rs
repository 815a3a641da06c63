//! The stock plugins' own source compiled natively, over the same columns: what WebAssembly is measured against. Columns
//! are copied in and out here too, as any boundary must that gives a plugin buffers of its own.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, BooleanArray, Float64Array, Int64Array, StringArray};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use enrich_user_agent::EnrichUserAgent;
use millrace_sdk::columns::{Batch, Column, Manifest, Output, Returned, Text, Values};
use millrace_sdk::{Instance, Transform};
use pii_scrub::Scrub;
use rewrite_device_id::Rewrite;

use crate::{Result, configs};

/// The three steps.
pub(crate) struct Chain {
    scrub: Instance<Scrub>,
    enrich: Instance<EnrichUserAgent>,
    rewrite: Instance<Rewrite>,
}

impl Chain {
    pub(crate) fn new() -> Result<Self> {
        let [scrub, enrich, rewrite] = configs();
        Ok(Self { scrub: Instance::new(&scrub)?, enrich: Instance::new(&enrich)?, rewrite: Instance::new(&rewrite)? })
    }

    pub(crate) fn run(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let batch = step(&self.scrub, batch)?;
        let batch = step(&self.enrich, &batch)?;
        step(&self.rewrite, &batch)
    }
}

fn step<T: Transform>(plugin: &Instance<T>, batch: &RecordBatch) -> Result<RecordBatch> {
    let manifest = plugin.manifest();
    let mut columns = Vec::with_capacity(manifest.reads.len());
    for name in &manifest.reads {
        columns.push(plain(batch.column_by_name(name).ok_or("no such column")?)?);
    }
    apply(manifest, batch, plugin.transform(Batch { rows: batch.num_rows() as u32, columns })?)
}

fn plain(array: &ArrayRef) -> Result<Column> {
    let validity = array.nulls().map(|nulls| nulls.inner().sliced().to_vec());
    let values = match array.data_type() {
        DataType::Utf8 => {
            let text = array.as_string::<i32>();
            let offsets = text.value_offsets();
            let (first, last) = (offsets[0] as usize, offsets[offsets.len() - 1] as usize);
            let offsets = offsets.iter().map(|offset| *offset as u32 - first as u32).collect();
            Values::Text(Text { offsets, bytes: text.value_data()[first..last].to_vec() })
        }
        DataType::Int64 => Values::Int64(array.as_primitive::<Int64Type>().values().to_vec()),
        DataType::Timestamp(..) => Values::Int64(array.as_primitive::<TimestampMicrosecondType>().values().to_vec()),
        other => return Err(format!("no step reads {other}").into()),
    };
    Ok(Column { values, validity })
}

fn apply(manifest: &Manifest, batch: &RecordBatch, output: Output) -> Result<RecordBatch> {
    if output.sources.is_some() || !output.failed.is_empty() || !output.dropped.is_empty() {
        return Err("the benchmark's events neither fail nor multiply".into());
    }
    let mut fields: Vec<Arc<Field>> = batch.schema().fields().iter().cloned().collect();
    let mut columns = batch.columns().to_vec();
    let names = manifest.writes.iter().chain(manifest.adds.iter().map(|column| &column.name));
    for (name, returned) in names.zip(output.columns) {
        let Returned::Column(column) = returned else { continue };
        let array = arrow(column)?;
        match batch.schema().index_of(name) {
            Ok(index) => columns[index] = array,
            Err(_) => {
                fields.push(Arc::new(Field::new(name, array.data_type().clone(), true)));
                columns.push(array);
            }
        }
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

fn arrow(column: Column) -> Result<ArrayRef> {
    let nulls =
        |rows: usize| column.validity.map(|bits| NullBuffer::new(BooleanBuffer::new(Buffer::from(bits), 0, rows)));
    Ok(match column.values {
        Values::Text(Text { offsets, bytes }) => {
            let rows = offsets.len() - 1;
            let offsets: Vec<i32> = offsets.into_iter().map(|offset| offset as i32).collect();
            let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
            Arc::new(StringArray::try_new(offsets, Buffer::from(bytes), nulls(rows))?)
        }
        Values::Int64(values) => {
            let rows = values.len();
            Arc::new(Int64Array::try_new(values.into(), nulls(rows))?)
        }
        Values::Float64(values) => {
            let rows = values.len();
            Arc::new(Float64Array::try_new(values.into(), nulls(rows))?)
        }
        Values::Bool(values) => {
            let rows = values.len();
            Arc::new(BooleanArray::new(values.iter().map(|value| *value == 1).collect(), nulls(rows)))
        }
    })
}
