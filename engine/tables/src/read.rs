//! Uploads: bytes of some format to columns of our types.
//!
//! CSV has a header; an empty value is null. What the types do not say is inferred: a column of which every value is a
//! whole number in its plain form is int64 (`007` is text: leading zeros mean something), then float64, then bool, else it
//! is text. NDJSON gives its own types. Parquet columns of text, integers, floats, booleans, dates and timestamps are
//! taken.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Cursor;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::{CastOptions, cast_with_options, concat_batches};
use arrow::csv::ReaderBuilder as CsvReader;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::ReaderBuilder as JsonReader;
use arrow::json::reader::infer_json_schema;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use millrace_rows::ColumnType;
use millrace_rows::schema::check_added_name;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::{COLUMNS_MAX, Lookup, MEMORY_BYTES_MAX, ROWS_MAX, TableError, UPLOAD_BYTES_MAX};

/// Rows read at a time.
const BATCH_ROWS: usize = 8192;

/// The format of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated values with a header.
    Csv,
    /// A JSON object a line.
    Ndjson,
    /// Parquet.
    Parquet,
}

impl Format {
    /// Its name in commands and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Ndjson => "ndjson",
            Self::Parquet => "parquet",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Csv, Self::Ndjson, Self::Parquet]
            .into_iter()
            .find(|format| format.name() == text)
            .ok_or_else(|| format!("{text:?} is no table format: use csv, ndjson or parquet"))
    }
}

/// A table as somebody sends it.
#[derive(Clone, Debug)]
pub struct Upload {
    /// The file.
    pub bytes: Bytes,
    /// Its format.
    pub format: Format,
    /// How rows are found.
    pub lookup: Lookup,
    /// Types of columns that should not be inferred.
    pub types: BTreeMap<String, ColumnType>,
}

pub(crate) fn read(upload: &Upload) -> Result<RecordBatch, TableError> {
    if upload.bytes.len() > UPLOAD_BYTES_MAX {
        return Err(TableError::TooLarge { what: "bytes", found: upload.bytes.len(), max: UPLOAD_BYTES_MAX });
    }
    let fault = |detail: String| TableError::Format { format: upload.format, detail };
    let arrow_fault = |error: ArrowError| fault(first_line(&error.to_string()));
    let batches = match upload.format {
        Format::Csv => {
            let schema = csv_schema(&upload.bytes, &upload.types).map_err(fault)?;
            check_schema(&schema, &upload.types)?;
            let reader = CsvReader::new(schema).with_header(true).with_batch_size(BATCH_ROWS);
            collect(reader.build(Cursor::new(upload.bytes.as_ref())).map_err(arrow_fault)?, upload.format)?
        }
        Format::Ndjson => {
            let (inferred, _) = infer_json_schema(Cursor::new(upload.bytes.as_ref()), None).map_err(arrow_fault)?;
            let fields =
                inferred.fields().iter().map(|field| typed(field, &upload.types)).collect::<Result<Vec<_>, _>>()?;
            let schema = Arc::new(Schema::new(fields));
            check_schema(&schema, &upload.types)?;
            let reader = JsonReader::new(schema).with_batch_size(BATCH_ROWS).with_coerce_primitive(true);
            collect(reader.build(Cursor::new(upload.bytes.as_ref())).map_err(arrow_fault)?, upload.format)?
        }
        Format::Parquet => {
            let builder = ParquetRecordBatchReaderBuilder::try_new(upload.bytes.clone())
                .map_err(|error| fault(error.to_string()))?;
            parquet_batches(builder)?
        }
    };
    let schema = match batches.first() {
        Some(batch) => batch.schema(),
        None => return Err(fault("it has no rows".to_owned())),
    };
    let batch = concat(&schema, &batches).map_err(arrow_fault)?;
    let batch = if upload.format == Format::Parquet { recast(&batch, &upload.types)? } else { batch };
    check_schema(&batch.schema(), &upload.types)?;
    Ok(batch)
}

/// The batches of a Parquet file, within the bounds of a table.
pub(crate) fn parquet_batches(builder: ParquetRecordBatchReaderBuilder<Bytes>) -> Result<Vec<RecordBatch>, TableError> {
    let fault = |detail: String| TableError::Format { format: Format::Parquet, detail };
    let rows = usize::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(usize::MAX);
    if rows > ROWS_MAX {
        return Err(TableError::TooLarge { what: "rows", found: rows, max: ROWS_MAX });
    }
    let reader = builder.with_batch_size(BATCH_ROWS).build().map_err(|error| fault(error.to_string()))?;
    collect(reader, Format::Parquet)
}

pub(crate) fn concat(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<RecordBatch, ArrowError> {
    concat_batches(schema, batches)
}

fn collect(
    reader: impl Iterator<Item = Result<RecordBatch, ArrowError>>,
    format: Format,
) -> Result<Vec<RecordBatch>, TableError> {
    let (mut batches, mut rows, mut bytes) = (Vec::new(), 0, 0);
    for batch in reader {
        let batch = batch.map_err(|error| TableError::Format { format, detail: first_line(&error.to_string()) })?;
        rows += batch.num_rows();
        bytes += batch.get_array_memory_size();
        if rows > ROWS_MAX {
            return Err(TableError::TooLarge { what: "rows", found: rows, max: ROWS_MAX });
        }
        if bytes > MEMORY_BYTES_MAX {
            return Err(TableError::TooLarge { what: "bytes in memory", found: bytes, max: MEMORY_BYTES_MAX });
        }
        batches.push(batch);
    }
    Ok(batches)
}

/// Libraries quote the row that they could not read behind the first line; a value has no place in a message.
fn first_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    line[..line.floor_char_boundary(300)].to_owned()
}

/// The inferred field, or of the type that was asked for.
fn typed(field: &Field, types: &BTreeMap<String, ColumnType>) -> Result<Field, TableError> {
    let name = field.name();
    let ty = match (types.get(name), field.data_type()) {
        (Some(ty), _) => *ty,
        (None, DataType::Int64) => ColumnType::Int64,
        (None, DataType::Float64) => ColumnType::Float64,
        (None, DataType::Boolean) => ColumnType::Bool,
        // A column of nulls alone is text.
        (None, DataType::Utf8 | DataType::Null) => ColumnType::String,
        (None, other) => {
            return Err(TableError::Column(format!("column {name:?} holds {other}: a table has plain values only")));
        }
    };
    Ok(Field::new(name, ty.data_type(), true))
}

fn check_schema(schema: &Schema, types: &BTreeMap<String, ColumnType>) -> Result<(), TableError> {
    if schema.fields().len() > COLUMNS_MAX {
        return Err(TableError::TooLarge { what: "columns", found: schema.fields().len(), max: COLUMNS_MAX });
    }
    let mut names = std::collections::HashSet::new();
    for field in schema.fields() {
        if !names.insert(field.name()) {
            return Err(TableError::Column(format!("two columns are called {:?}", field.name())));
        }
        check_name(field.name())?;
    }
    match types.keys().find(|name| !names.contains(name)) {
        Some(name) => {
            Err(TableError::Column(format!("a type is given for column {name:?}, which the file does not have")))
        }
        None => Ok(()),
    }
}

/// Names as columns of a row have them, but those of a row's own columns are free.
fn check_name(name: &str) -> Result<(), TableError> {
    // Behind a letter of ours no name is one of a row's.
    check_added_name(&format!("t{name}"))
        .ok()
        .filter(|()| !name.is_empty())
        .ok_or_else(|| TableError::Column(format!("column {name:?}: names are 1 to 63 characters of a-z 0-9 _")))
}

#[derive(Clone, Copy)]
struct Seen {
    any: bool,
    int: bool,
    float: bool,
    bool: bool,
}

fn csv_schema(bytes: &[u8], types: &BTreeMap<String, ColumnType>) -> Result<SchemaRef, String> {
    let fault = |error: csv::Error| first_line(&error.to_string());
    let mut reader = csv::ReaderBuilder::new().from_reader(bytes);
    let names: Vec<String> = reader.headers().map_err(fault)?.iter().map(str::to_owned).collect();
    let mut seen = vec![Seen { any: false, int: true, float: true, bool: true }; names.len()];
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(fault)? {
        for (seen, value) in seen.iter_mut().zip(&record) {
            if value.is_empty() {
                continue;
            }
            seen.any = true;
            seen.int = seen.int && plain_int(value);
            seen.float = seen.float && plain_float(value);
            seen.bool = seen.bool && matches!(value, "true" | "false");
        }
    }
    let fields = names.iter().zip(seen).map(|(name, seen)| {
        let inferred = match seen {
            Seen { any: false, .. } => ColumnType::String,
            Seen { int: true, .. } => ColumnType::Int64,
            Seen { float: true, .. } => ColumnType::Float64,
            Seen { bool: true, .. } => ColumnType::Bool,
            _ => ColumnType::String,
        };
        Field::new(name, types.get(name).copied().unwrap_or(inferred).data_type(), true)
    });
    Ok(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
}

/// Whether a number written back gives the same text.
fn plain_int(text: &str) -> bool {
    text.parse::<i64>().is_ok_and(|number| number.to_string() == text)
}

fn plain_float(text: &str) -> bool {
    let digits = text.trim_start_matches('-');
    let leading_zero = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.");
    digits.starts_with(|c: char| c.is_ascii_digit()) && !leading_zero && text.parse::<f64>().is_ok_and(f64::is_finite)
}

/// Parquet's many types to our five.
fn recast(batch: &RecordBatch, types: &BTreeMap<String, ColumnType>) -> Result<RecordBatch, TableError> {
    let mut fields = Vec::new();
    let mut columns: Vec<ArrayRef> = Vec::new();
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        let ty = match (types.get(field.name()), field.data_type()) {
            (Some(ty), _) => *ty,
            (None, DataType::Dictionary(_, value)) if matches!(**value, DataType::Utf8 | DataType::LargeUtf8) => {
                ColumnType::String
            }
            (None, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null) => ColumnType::String,
            (None, DataType::Boolean) => ColumnType::Bool,
            (None, DataType::UInt64) => {
                return Err(TableError::Column(format!("column {:?} is uint64: store it as int64", field.name())));
            }
            (None, other) if other.is_integer() => ColumnType::Int64,
            (None, DataType::Float16 | DataType::Float32 | DataType::Float64) => ColumnType::Float64,
            (None, DataType::Date32 | DataType::Timestamp(..)) => ColumnType::Timestamp,
            (None, other) => {
                let name = field.name();
                return Err(TableError::Column(format!(
                    "column {name:?} holds {other}: a table has plain values only"
                )));
            }
        };
        // A value that does not fit is an error, not a null.
        let options = CastOptions { safe: false, ..CastOptions::default() };
        let cast = cast_with_options(column, &ty.data_type(), &options)
            .map_err(|_| TableError::Column(format!("column {:?} has values that are no {ty}", field.name())))?;
        fields.push(Field::new(field.name(), ty.data_type(), true));
        columns.push(cast);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
        .map_err(|error| TableError::Format { format: Format::Parquet, detail: error.to_string() })
}
