//! The table's columns: what a new table gets, what an existing one must have, what a slice may add.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use arrow::datatypes::Schema;
use deltalake::kernel::{DataType, PrimitiveType, StructField, StructType};
use millrace_rows::ColumnType;
use millrace_rows::schema::{self, AddedColumn, BASE, EVENT_DATE, LINEAGE};

use crate::options::LOG_RETENTION_MIN;
use crate::stats::STATS_COLUMNS;

/// Metadata of a field under which other tools keep rules that a writer must enforce. We enforce none.
const RULES: [&str; 3] = ["delta.invariants", "delta.generationExpression", "delta.identity.start"];

fn delta_type(ty: ColumnType) -> DataType {
    DataType::Primitive(match ty {
        ColumnType::String => PrimitiveType::String,
        ColumnType::Timestamp => PrimitiveType::Timestamp,
        ColumnType::Int64 => PrimitiveType::Long,
        ColumnType::Float64 => PrimitiveType::Double,
        ColumnType::Bool => PrimitiveType::Boolean,
    })
}

fn column_type(ty: &DataType) -> Option<ColumnType> {
    match ty {
        DataType::Primitive(PrimitiveType::String) => Some(ColumnType::String),
        DataType::Primitive(PrimitiveType::Timestamp) => Some(ColumnType::Timestamp),
        DataType::Primitive(PrimitiveType::Long) => Some(ColumnType::Int64),
        DataType::Primitive(PrimitiveType::Double) => Some(ColumnType::Float64),
        DataType::Primitive(PrimitiveType::Boolean) => Some(ColumnType::Bool),
        _ => None,
    }
}

/// The fields of a new table.
pub(crate) fn new_table() -> Vec<StructField> {
    let columns = BASE.iter().chain(LINEAGE).map(|column| StructField::nullable(column.name, delta_type(column.ty)));
    columns.chain([StructField::nullable(EVENT_DATE, DataType::Primitive(PrimitiveType::Date))]).collect()
}

/// The properties of a new table.
pub(crate) fn new_properties(log_retention: Duration) -> [(&'static str, String); 2] {
    [
        ("delta.dataSkippingStatsColumns", STATS_COLUMNS.join(",")),
        ("delta.logRetentionDuration", format!("interval {} seconds", log_retention.as_secs())),
    ]
}

/// Whether a table is one that this crate may write. All that is wrong with it, not only the first.
///
/// # Errors
/// One line for each thing that is wrong.
pub(crate) fn check_table(
    protocol: (i32, i32),
    partitions: &[String],
    properties: &std::collections::HashMap<String, String>,
    log_retention: Duration,
    table: &StructType,
) -> Result<Columns, Vec<String>> {
    let mut wrong = Vec::new();
    if protocol.0 != 1 || protocol.1 > 2 {
        wrong.push(format!(
            "it has protocol reader {} / writer {}; Millrace writes reader 1 / writer 2 and no table features",
            protocol.0, protocol.1
        ));
    }
    if partitions != [EVENT_DATE] {
        wrong.push(format!("it is partitioned by [{}], not by [{EVENT_DATE}]", partitions.join(", ")));
    }
    if let Some(value) = properties.get("delta.setTransactionRetentionDuration") {
        wrong.push(format!(
            "delta.setTransactionRetentionDuration is {value:?}: it would let the cursors expire; unset it"
        ));
    }
    if properties.get("delta.appendOnly").is_some_and(|value| value == "true") {
        wrong.push("delta.appendOnly is true: corrections could not replace rows; unset it".to_owned());
    }
    if log_retention < LOG_RETENTION_MIN {
        wrong.push(format!(
            "delta.logRetentionDuration is {} s; it must be at least {} s",
            log_retention.as_secs(),
            LOG_RETENTION_MIN.as_secs()
        ));
    }
    let expected = new_table();
    for field in &expected {
        match table.field(field.name()) {
            None => wrong.push(format!("column {:?} is missing", field.name())),
            Some(found) if found.data_type() != field.data_type() => {
                wrong.push(format!("column {:?} is {}, not {}", field.name(), found.data_type(), field.data_type()));
            }
            Some(_) => {}
        }
    }
    for field in table.fields() {
        if !field.is_nullable() {
            wrong.push(format!("column {:?} is not nullable", field.name()));
        }
        if let Some(rule) = RULES.iter().find(|rule| field.metadata().contains_key(**rule)) {
            wrong.push(format!("column {:?} has the rule {rule}, which Millrace does not enforce", field.name()));
        }
    }
    if wrong.is_empty() { Ok(Columns::of(table)) } else { Err(wrong) }
}

/// The columns that a commit knows: those of the table and those that staged slices add.
#[derive(Clone, Debug, Default)]
pub(crate) struct Columns {
    /// By name; `None` is a type that no row of ours has.
    types: BTreeMap<String, Option<ColumnType>>,
    /// Names in lower case: Delta's are case-insensitive.
    folded: HashSet<String>,
    /// Columns that the table lacks, in the order in which they came.
    added: Vec<AddedColumn>,
    other: BTreeMap<String, String>,
}

impl Columns {
    pub(crate) fn of(table: &StructType) -> Self {
        let mut columns = Self::default();
        for field in table.fields() {
            let ty = column_type(field.data_type());
            if ty.is_none() {
                columns.other.insert(field.name().clone(), field.data_type().to_string());
            }
            columns.folded.insert(field.name().to_lowercase());
            columns.types.insert(field.name().clone(), ty);
        }
        columns
    }

    /// Columns that staged slices have and the table lacks.
    pub(crate) fn added(&self) -> &[AddedColumn] {
        &self.added
    }

    /// Takes in the schema of a slice's rows.
    ///
    /// # Errors
    /// When the rows can't be rows of this table: which column, and both types.
    pub(crate) fn admit(&mut self, rows: &Schema) -> Result<(), String> {
        for column in BASE.iter().chain(LINEAGE) {
            match rows.field_with_name(column.name) {
                Err(_) => return Err(format!("the slice's rows lack the column {:?}", column.name)),
                Ok(field) if ColumnType::of(field.data_type()) != Some(column.ty) => {
                    return Err(format!(
                        "column {:?} is {} in the slice and {} in the table",
                        column.name,
                        field.data_type(),
                        column.ty
                    ));
                }
                Ok(_) => {}
            }
        }
        for field in rows.fields() {
            let name = field.name();
            let ty = ColumnType::of(field.data_type()).ok_or_else(|| {
                format!("column {name:?} has the type {}, which no column of ours has", field.data_type())
            })?;
            self.admit_column(name, ty)?;
        }
        Ok(())
    }

    /// Takes in one column.
    ///
    /// # Errors
    /// As [`admit`](Self::admit).
    pub(crate) fn admit_column(&mut self, name: &str, ty: ColumnType) -> Result<(), String> {
        match self.types.get(name) {
            Some(Some(known)) if *known == ty => {}
            Some(known) => {
                let table = known.map_or_else(|| self.other[name].clone(), |known| known.to_string());
                return Err(format!(
                    "column {name:?} is {ty} in the slice and {table} in the table: give the column of the plugin \
                     another name, or rebuild the table"
                ));
            }
            None => {
                schema::check_added_name(name)?;
                if !self.folded.insert(name.to_lowercase()) {
                    return Err(format!("column {name:?} differs only in case from a column of the table"));
                }
                self.types.insert(name.to_owned(), Some(ty));
                self.added.push(AddedColumn { name: name.to_owned(), ty });
            }
        }
        Ok(())
    }

    /// The same additions over a table that somebody else changed meanwhile.
    ///
    /// # Errors
    /// When a column that is staged now has another type in the table.
    pub(crate) fn rebase(&self, table: &StructType) -> Result<Self, String> {
        let mut columns = Self::of(table);
        for column in &self.added {
            match columns.types.get(&column.name) {
                Some(Some(known)) if *known == column.ty => {}
                Some(known) => {
                    let found = known.map_or_else(|| columns.other[&column.name].clone(), |known| known.to_string());
                    return Err(format!(
                        "column {:?} is {} in the staged rows and was added as {found} to the table meanwhile",
                        column.name, column.ty
                    ));
                }
                None => {
                    columns.folded.insert(column.name.to_lowercase());
                    columns.types.insert(column.name.clone(), Some(column.ty));
                    columns.added.push(column.clone());
                }
            }
        }
        Ok(columns)
    }

    /// The table's schema with what is added.
    ///
    /// # Errors
    /// Never for columns that [`Self::admit`] took; the library's message if it disagrees.
    pub(crate) fn extend(&self, table: &StructType) -> Result<StructType, String> {
        let added = self.added.iter().map(|column| StructField::nullable(&column.name, delta_type(column.ty)));
        StructType::try_new(table.fields().cloned().chain(added)).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_rows::schema::row_schema;
    use std::collections::HashMap;

    fn table(change: impl FnOnce(&mut Vec<StructField>)) -> StructType {
        let mut fields = new_table();
        change(&mut fields);
        StructType::try_new(fields).unwrap()
    }

    fn check(protocol: (i32, i32), partition: &str, properties: &[(&str, &str)], table: &StructType) -> Vec<String> {
        let properties: HashMap<_, _> = properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        check_table(protocol, &[partition.to_owned()], &properties, LOG_RETENTION_MIN, table).err().unwrap_or_default()
    }

    fn added(name: &str, ty: ColumnType) -> AddedColumn {
        AddedColumn { name: name.into(), ty }
    }

    #[test]
    fn a_table_that_is_not_ours_is_refused_with_every_reason() {
        assert!(check((1, 2), "event_date", &[], &table(|_| {})).is_empty());
        let wrong = check(
            (3, 7),
            "app",
            &[("delta.setTransactionRetentionDuration", "interval 7 days"), ("delta.appendOnly", "true")],
            &table(|fields| {
                fields.retain(|field| field.name() != "device_id");
                fields.retain(|field| field.name() != "_offset");
                fields.push(StructField::nullable("_offset", delta_type(ColumnType::String)));
                fields.push(StructField::not_null("cost", delta_type(ColumnType::Float64)));
            }),
        );
        let expected = [
            "protocol reader 3 / writer 7",
            "partitioned by [app]",
            "setTransactionRetentionDuration",
            "appendOnly",
            "\"device_id\" is missing",
            "\"_offset\" is string, not long",
            "\"cost\" is not nullable",
        ];
        assert_eq!(wrong.len(), expected.len(), "{wrong:#?}");
        for (line, part) in wrong.iter().zip(expected) {
            assert!(line.contains(part), "{line:?} does not say {part:?}");
        }
        let short = check_table((1, 2), &[EVENT_DATE.into()], &HashMap::new(), Duration::from_secs(60), &table(|_| {}))
            .unwrap_err();
        assert!(short[0].contains("logRetentionDuration"), "{short:?}");
    }

    #[test]
    fn new_columns_are_collected_once_and_a_type_that_differs_is_named_with_both_types() {
        let mut columns = Columns::of(&table(|_| {}));
        columns.admit(&row_schema(&[added("browser", ColumnType::String)])).unwrap();
        columns
            .admit(&row_schema(&[added("score", ColumnType::Float64), added("browser", ColumnType::String)]))
            .unwrap();
        assert_eq!(columns.added(), [added("browser", ColumnType::String), added("score", ColumnType::Float64)]);
        let error = columns.admit(&row_schema(&[added("score", ColumnType::Int64)])).unwrap_err();
        assert!(error.contains("\"score\" is int64 in the slice and float64 in the table"), "{error}");

        let wider = columns.extend(&table(|_| {})).unwrap();
        assert_eq!(wider.fields().count(), new_table().len() + 2);
        assert!(Columns::of(&wider).admit(&row_schema(&[added("score", ColumnType::Float64)])).is_ok());
    }

    #[test]
    fn names_that_a_reader_could_confuse_are_refused() {
        let upper = table(|fields| fields.push(StructField::nullable("Browser", delta_type(ColumnType::String))));
        let error = Columns::of(&upper).admit(&row_schema(&[added("browser", ColumnType::String)])).unwrap_err();
        assert!(error.contains("only in case"), "{error}");
        let error = Columns::of(&upper).admit(&row_schema(&[added("event_date", ColumnType::String)])).unwrap_err();
        assert!(error.contains("event_date"), "{error}");
    }

    #[test]
    fn a_column_that_another_writer_added_meanwhile_is_no_longer_added() {
        let mut columns = Columns::of(&table(|_| {}));
        columns.admit(&row_schema(&[added("score", ColumnType::Float64)])).unwrap();
        let with = |ty| table(|fields| fields.push(StructField::nullable("score", delta_type(ty))));
        assert!(columns.rebase(&with(ColumnType::Float64)).unwrap().added().is_empty());
        assert_eq!(columns.rebase(&table(|_| {})).unwrap().added().len(), 1);
        assert!(columns.rebase(&with(ColumnType::String)).unwrap_err().contains("\"score\" is float64"));
    }
}
