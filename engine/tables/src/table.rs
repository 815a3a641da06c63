//! A table in memory, and its stored form.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{Int64Type, Schema};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use millrace_rows::ColumnType;
use millrace_rows::schema::AddedColumn;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};

use crate::index::{Index, RowRange, Segments, int_place, ip_place};
use crate::read::{Upload, concat, parquet_batches, read};
use crate::{TableError, UPLOAD_BYTES_MAX};

/// Key of the stored file's metadata under which the lookup stands as JSON.
pub const LOOKUP_METADATA: &str = "millrace.lookup";

/// How rows are found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Lookup {
    /// By the exact value of a column of text or integers.
    Key(String),
    /// By the network, in a column of `address/bits`, that an IP address lies in.
    Cidr(String),
    /// By the range, from one column to another, both ends included, that an IP address or an integer lies in.
    Range {
        /// Column of the first value.
        from: String,
        /// Column of the last value.
        to: String,
    },
}

/// A table, ready for lookups. It never changes, and is shared by every chain that pins it.
pub struct Table {
    batch: RecordBatch,
    columns: Vec<AddedColumn>,
    lookup: Lookup,
    index: Index,
    /// Place of the column that an exact lookup compares with.
    own_key: usize,
}

impl fmt::Debug for Table {
    /// Leaves the rows out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("lookup", &self.lookup).field("rows", &self.rows()).finish_non_exhaustive()
    }
}

impl Table {
    /// Reads an upload, types it and builds the index.
    ///
    /// # Errors
    /// [`TableError`] names the column or the rows that do not fit.
    pub fn from_upload(upload: &Upload) -> Result<Self, TableError> {
        Self::new(read(upload)?, upload.lookup.clone())
    }

    /// Reads a stored table.
    ///
    /// # Errors
    /// [`TableError::Stored`] when the bytes are not what [`Self::to_stored`] wrote.
    pub fn open(stored: Bytes) -> Result<Self, TableError> {
        let fault = |detail: String| TableError::Stored(detail);
        let builder = ParquetRecordBatchReaderBuilder::try_new(stored).map_err(|error| fault(error.to_string()))?;
        let metadata = builder.metadata().file_metadata().key_value_metadata();
        let lookup = metadata
            .into_iter()
            .flatten()
            .find(|pair| pair.key == LOOKUP_METADATA)
            .and_then(|pair| pair.value.as_deref())
            .ok_or_else(|| fault(format!("it has no {LOOKUP_METADATA}")))?;
        let lookup: Lookup = serde_json::from_str(lookup).map_err(|error| fault(error.to_string()))?;
        let schema = builder.schema().clone();
        let batches = parquet_batches(builder).map_err(|error| fault(error.to_string()))?;
        Self::new(concat(&schema, &batches).map_err(|error| fault(error.to_string()))?, lookup)
    }

    /// The bytes to store: see the crate's documentation.
    ///
    /// # Errors
    /// [`TableError::TooLarge`] past [`UPLOAD_BYTES_MAX`].
    pub fn to_stored(&self) -> Result<Vec<u8>, TableError> {
        let fault = |error: &dyn fmt::Display| TableError::Stored(error.to_string());
        let lookup = serde_json::to_string(&self.lookup).map_err(|error| fault(&error))?;
        let level = ZstdLevel::try_new(3).map_err(|error| fault(&error))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .set_key_value_metadata(Some(vec![KeyValue::new(LOOKUP_METADATA.to_owned(), lookup)]))
            .build();
        let mut bytes = Vec::new();
        let mut writer =
            ArrowWriter::try_new(&mut bytes, self.batch.schema(), Some(properties)).map_err(|error| fault(&error))?;
        writer.write(&self.batch).map_err(|error| fault(&error))?;
        writer.close().map_err(|error| fault(&error))?;
        if bytes.len() > UPLOAD_BYTES_MAX {
            return Err(TableError::TooLarge { what: "bytes", found: bytes.len(), max: UPLOAD_BYTES_MAX });
        }
        Ok(bytes)
    }

    fn new(batch: RecordBatch, lookup: Lookup) -> Result<Self, TableError> {
        // What a file says of itself beside its columns is no part of the table.
        let schema = Arc::new(Schema::new(batch.schema_ref().fields().clone()));
        let batch = RecordBatch::try_new(schema, batch.columns().to_vec())
            .map_err(|error| TableError::Column(error.to_string()))?;
        let columns = batch
            .schema()
            .fields()
            .iter()
            .map(|field| {
                let ty = ColumnType::of(field.data_type());
                let ty =
                    ty.ok_or_else(|| TableError::Column(format!("column {:?} has no usable type", field.name())))?;
                Ok(AddedColumn { name: field.name().clone(), ty })
            })
            .collect::<Result<Vec<_>, TableError>>()?;
        let place = |name: &str| {
            columns.iter().position(|column| column.name == name).ok_or_else(|| {
                let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
                TableError::Column(format!("there is no column {name:?}; there are {}", names.join(", ")))
            })
        };
        let (index, own_key) = match &lookup {
            Lookup::Key(column) => {
                let key = place(column)?;
                (Index::of_keys(batch.column(key), columns[key].ty, column)?, key)
            }
            Lookup::Cidr(column) => {
                let key = place(column)?;
                (networks(batch.column(key), &columns[key])?, key)
            }
            Lookup::Range { from, to } => {
                let (from, to) = (place(from)?, place(to)?);
                (ranges(&batch, &columns, from, to)?, from)
            }
        };
        Ok(Self { batch, columns, lookup, index, own_key })
    }

    /// All columns with their types, in the table's order.
    pub fn columns(&self) -> &[AddedColumn] {
        &self.columns
    }

    /// How rows are found.
    pub fn lookup(&self) -> &Lookup {
        &self.lookup
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.batch.num_rows()
    }

    /// Memory of the columns, in bytes; the index has about 8 bytes a row more, for ranges 40.
    pub fn memory_bytes(&self) -> usize {
        self.batch.get_array_memory_size()
    }

    /// The type that keys must have.
    pub fn key_type(&self) -> ColumnType {
        self.index.key_type()
    }

    /// Place of the column of this name.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// The row of each key; null for a key that is null, that no row has, or that is no address where one is asked for.
    ///
    /// # Errors
    /// When the keys are not of [`Self::key_type`].
    pub fn find(&self, keys: &dyn Array) -> Result<UInt32Array, TableError> {
        let expected = self.key_type();
        if *keys.data_type() != expected.data_type() {
            let found =
                ColumnType::of(keys.data_type()).map_or_else(|| keys.data_type().to_string(), |t| t.to_string());
            return Err(TableError::Column(format!("keys are of type {found}, the table's are {expected}")));
        }
        Ok(self.index.find(keys, self.batch.column(self.own_key)))
    }

    /// Bytes of text that [`Self::take`] would give, and 8 a row for other types.
    pub fn take_bytes(&self, rows: &UInt32Array, column: usize) -> u64 {
        match self.batch.column(column).as_string_opt::<i32>() {
            Some(texts) => {
                rows.iter().flatten().map(|row| u64::from(texts.value_length(row as usize).cast_unsigned())).sum()
            }
            None => 8 * rows.len() as u64,
        }
    }

    /// The values of a column at `rows`, null where a row is.
    ///
    /// # Errors
    /// When the values do not fit into one array, of 2 GiB of text.
    pub fn take(&self, rows: &UInt32Array, column: usize) -> Result<ArrayRef, TableError> {
        take(self.batch.column(column), rows, None).map_err(|error| TableError::Column(error.to_string()))
    }
}

fn key_error(row: usize, column: &str, what: &str) -> TableError {
    TableError::Key(format!("row {}, column {column:?}: {what}", row + 1))
}

fn networks(keys: &ArrayRef, column: &AddedColumn) -> Result<Index, TableError> {
    let Some(texts) = keys.as_string_opt::<i32>() else {
        return Err(TableError::Column(format!("column {:?} is {}: networks are text", column.name, column.ty)));
    };
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for row in 0..texts.len() {
        let network = (!texts.is_null(row)).then(|| network(texts.value(row))).flatten();
        let Some((start, end, is_v6)) = network else {
            return Err(key_error(row, &column.name, "no network: write 203.0.113.0/24 or 2001:db8::/32"));
        };
        if is_v6 { &mut v6 } else { &mut v4 }.push(RowRange { start, end, row: row as u32 });
    }
    Ok(Index::Ip { v4: Segments::of(v4)?, v6: Segments::of(v6)? })
}

/// First and last address of a network; an address without `/bits` is one of its own.
fn network(text: &str) -> Option<(u128, u128, bool)> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse::<u32>().ok()?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    // What lies within IPv6's space of IPv4 addresses is a network of IPv4, as such addresses are looked up.
    let (address, bits) = match (address.to_canonical(), bits) {
        (v4 @ IpAddr::V4(_), Some(bits)) if address.is_ipv6() => (v4, Some(bits.checked_sub(96)?)),
        (canonical, bits) => (canonical, bits),
    };
    let (place, is_v6, length) = match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), false, 32),
        IpAddr::V6(v6) => (v6.to_bits(), true, 128),
    };
    let host_bits = u32::checked_sub(length, bits.unwrap_or(length))?;
    let mask = if host_bits == 128 { u128::MAX } else { (1 << host_bits) - 1 };
    Some((place & !mask, place | mask, is_v6))
}

fn ranges(batch: &RecordBatch, columns: &[AddedColumn], from: usize, to: usize) -> Result<Index, TableError> {
    let (from_column, to_column) = (&columns[from], &columns[to]);
    let empty = |row: usize| key_error(row, &to_column.name, "the range ends before it begins");
    match (from_column.ty, to_column.ty) {
        (ColumnType::String, ColumnType::String) => {
            let (mut v4, mut v6) = (Vec::new(), Vec::new());
            let [starts, ends] = [from, to].map(|column| batch.column(column).as_string::<i32>());
            for row in 0..batch.num_rows() {
                let end = |texts: &arrow::array::StringArray, column: &AddedColumn| {
                    let address = (!texts.is_null(row)).then(|| texts.value(row).parse::<IpAddr>().ok()).flatten();
                    address.map(ip_place).ok_or_else(|| key_error(row, &column.name, "no IP address"))
                };
                let ((start, is_v6), (end, ends_v6)) = (end(starts, from_column)?, end(ends, to_column)?);
                if is_v6 != ends_v6 || end < start {
                    return Err(empty(row));
                }
                if is_v6 { &mut v6 } else { &mut v4 }.push(RowRange { start, end, row: row as u32 });
            }
            Ok(Index::Ip { v4: Segments::of(v4)?, v6: Segments::of(v6)? })
        }
        (ColumnType::Int64, ColumnType::Int64) => {
            let [starts, ends] = [from, to].map(|column| batch.column(column).as_primitive::<Int64Type>());
            let mut list = Vec::with_capacity(batch.num_rows());
            for row in 0..batch.num_rows() {
                if starts.is_null(row) || ends.is_null(row) {
                    return Err(key_error(row, &from_column.name, "the range has no beginning or no end"));
                }
                let (start, end) = (int_place(starts.value(row)), int_place(ends.value(row)));
                if end < start {
                    return Err(empty(row));
                }
                list.push(RowRange { start, end, row: row as u32 });
            }
            Ok(Index::IntRange(Segments::of(list)?))
        }
        (from_type, to_type) => Err(TableError::Column(format!(
            "columns {:?} ({from_type}) and {:?} ({to_type}) make no ranges: both must be IP addresses as text, or int64",
            from_column.name, to_column.name
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow::array::{Int64Array, StringArray};
    use proptest::prelude::*;

    use super::*;
    use crate::Format;

    fn upload(bytes: &[u8], format: Format, lookup: Lookup) -> Result<Table, TableError> {
        let bytes = Bytes::copy_from_slice(bytes);
        Table::from_upload(&Upload { bytes, format, lookup, types: BTreeMap::new() })
    }

    fn csv(text: &str, lookup: Lookup) -> Result<Table, TableError> {
        upload(text.as_bytes(), Format::Csv, lookup)
    }

    fn texts(table: &Table, keys: &dyn Array, column: &str) -> Vec<Option<String>> {
        let rows = table.find(keys).unwrap();
        let values = table.take(&rows, table.column(column).unwrap()).unwrap();
        values.as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect()
    }

    fn some(texts: &[Option<&str>]) -> Vec<Option<String>> {
        texts.iter().map(|text| text.map(str::to_owned)).collect()
    }

    #[test]
    fn exact_keys_of_text_and_of_numbers() {
        let table = csv("code,name,population\nDE,Germany,83\nFR,France,\n", Lookup::Key("code".into())).unwrap();
        let types: Vec<_> = table.columns().iter().map(|column| column.ty).collect();
        assert_eq!(types, [ColumnType::String, ColumnType::String, ColumnType::Int64]);
        let keys = StringArray::from(vec![Some("FR"), None, Some("fr"), Some("DE"), Some("FR")]);
        let found = some(&[Some("France"), None, None, Some("Germany"), Some("France")]);
        assert_eq!(texts(&table, &keys, "name"), found);
        let table = csv("id,name\n7,seven\n-1,minus\n", Lookup::Key("id".into())).unwrap();
        let keys = Int64Array::from(vec![Some(-1), None, Some(8), Some(7)]);
        assert_eq!(texts(&table, &keys, "name"), some(&[Some("minus"), None, None, Some("seven")]));
        let wrong = table.find(&StringArray::from(vec!["7"])).unwrap_err().to_string();
        assert!(wrong.contains("keys are of type string, the table's are int64"), "{wrong}");
    }

    #[test]
    fn addresses_find_the_most_specific_network() {
        let text = "network,country\n203.0.0.0/8,outer\n203.0.113.0/24,inner\n2001:db8::/32,six\n198.51.100.7,one\n\
                    ::ffff:192.0.2.0/120,mapped\n";
        let table = csv(text, Lookup::Cidr("network".into())).unwrap();
        let keys = StringArray::from(vec![
            "203.0.113.9",
            "203.1.0.0",
            "204.0.0.0",
            "2001:db8:1::",
            "::ffff:203.0.113.1",
            "198.51.100.7",
            "198.51.100.8",
            "no address",
            "192.0.2.55",
        ]);
        let expected =
            [Some("inner"), Some("outer"), None, Some("six"), Some("inner"), Some("one"), None, None, Some("mapped")];
        assert_eq!(texts(&table, &keys, "country"), some(&expected));
    }

    #[test]
    fn ranges_of_addresses_and_of_integers() {
        let lookup = || Lookup::Range { from: "first".into(), to: "last".into() };
        let table = csv("first,last,name\n10.0.0.0,10.0.0.9,a\n10.0.0.20,10.0.0.20,b\n", lookup()).unwrap();
        let keys = StringArray::from(vec!["10.0.0.9", "10.0.0.10", "10.0.0.20"]);
        assert_eq!(texts(&table, &keys, "name"), some(&[Some("a"), None, Some("b")]));
        let table = csv("first,last,name\n-5,5,a\n6,6,b\n", lookup()).unwrap();
        assert_eq!(texts(&table, &Int64Array::from(vec![-6, -5, 6]), "name"), some(&[None, Some("a"), Some("b")]));
    }

    #[test]
    fn types_are_inferred_without_losing_anything_and_can_be_given() {
        let text = "k,zip,n,f,b,mixed,none\na,007,1,1.5,true,1,\nb,12345,-2,2,false,x,\n";
        let table = csv(text, Lookup::Key("k".into())).unwrap();
        let types: Vec<_> = table.columns().iter().map(|column| column.ty.name()).collect();
        assert_eq!(types, ["string", "string", "int64", "float64", "bool", "string", "string"]);
        let types = BTreeMap::from([("n".to_owned(), ColumnType::String)]);
        let given = Upload {
            bytes: Bytes::copy_from_slice(text.as_bytes()),
            format: Format::Csv,
            lookup: Lookup::Key("k".into()),
            types,
        };
        let table = Table::from_upload(&given).unwrap();
        assert_eq!(texts(&table, &StringArray::from(vec!["b"]), "n"), some(&[Some("-2")]));
    }

    #[test]
    fn what_does_not_fit_is_named_without_a_value() {
        let key = || Lookup::Key("k".into());
        for (text, lookup, word) in [
            ("k,v\na,1\na,2\n", key(), "rows 1 and 2 have the same key"),
            ("k,v\n,1\n", key(), "row 1 has no value"),
            ("a,v\nx,1\n", key(), "there is no column \"k\"; there are a, v"),
            ("k,K\na,1\n", key(), "names are 1 to 63 characters"),
            ("k,k\na,1\n", key(), "two columns"),
            ("k\n", key(), "no rows"),
            ("k,v\na\n", key(), "csv"),
            ("k\n300.1.1.1/8\n", Lookup::Cidr("k".into()), "row 1, column \"k\": no network"),
            ("k\n10.0.0.0/33\n", Lookup::Cidr("k".into()), "no network"),
            ("a,b\n5,4\n", Lookup::Range { from: "a".into(), to: "b".into() }, "ends before it begins"),
            ("a,b\n5,secret\n", Lookup::Range { from: "a".into(), to: "b".into() }, "make no ranges"),
            ("k\n1.5\n", key(), "a key is a string or int64"),
        ] {
            let error = csv(text, lookup).unwrap_err().to_string();
            assert!(error.contains(word), "{text:?}: {error}");
            assert!(!error.contains("secret") && !error.contains("300.1"), "{error}");
        }
        for (bytes, format) in [(&b"\xff\xfe"[..], Format::Csv), (b"{", Format::Ndjson), (b"PAR1", Format::Parquet)] {
            assert!(upload(bytes, format, key()).is_err());
        }
        let nested = upload(b"{\"k\":\"a\",\"v\":[1]}", Format::Ndjson, key()).unwrap_err().to_string();
        assert!(nested.contains("plain values only"), "{nested}");
    }

    #[test]
    fn every_format_and_the_stored_form_give_the_same_table() {
        let from_csv = csv("k,n,f,b\na,1,0.5,true\nb,,,\n", Lookup::Key("k".into())).unwrap();
        let json = b"{\"k\":\"a\",\"n\":1,\"f\":0.5,\"b\":true}\n{\"k\":\"b\"}\n";
        let from_json = upload(json, Format::Ndjson, Lookup::Key("k".into())).unwrap();
        let stored = from_csv.to_stored().unwrap();
        assert_eq!(stored, from_csv.to_stored().unwrap(), "the same bytes for the same table");
        let opened = Table::open(stored.clone().into()).unwrap();
        let from_parquet = upload(&stored, Format::Parquet, Lookup::Key("k".into())).unwrap();
        for table in [&opened, &from_parquet] {
            assert_eq!((&table.batch, &table.columns), (&from_csv.batch, &from_csv.columns));
        }
        assert_eq!(opened.lookup(), &Lookup::Key("k".into()));
        // JSON names come in the order of the first line's, as far as the reader keeps it.
        for column in from_csv.columns() {
            let place = from_json.column(&column.name).unwrap();
            assert_eq!(from_json.batch.column(place), from_csv.batch.column(from_csv.column(&column.name).unwrap()));
        }
        assert!(matches!(Table::open(b"PAR1".to_vec().into()), Err(TableError::Stored(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_read_without_a_panic(bytes: Vec<u8>) {
            for format in [Format::Csv, Format::Ndjson, Format::Parquet] {
                let _ = upload(&bytes, format, Lookup::Key("k".into()));
            }
        }
    }
}
