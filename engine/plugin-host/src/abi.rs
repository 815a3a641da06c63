//! The types of `sdk/wit/transform.wit` as wasmtime lowers and lifts them.
//!
//! What goes in borrows Arrow buffers, so that a column is one `memcpy` into the guest. What comes out is copied into
//! vectors once, and those become Arrow buffers without another copy. It can't be read lazily out of the guest's memory:
//! wasmtime runs the guest's `post-return`, which frees the lists, before a call returns.

use wasmtime::component::{ComponentType, Lift, Lower, WasmList, WasmStr};

/// Parameters and result of `describe`, copied out in full.
pub(crate) type DescribeParams<'a> = (&'a str,);
pub(crate) type DescribeResult = (Result<Manifest, String>,);
/// The same result where only its success matters: its lists are never read, so nothing of it is copied.
pub(crate) type DescribeIgnored = (Result<IgnoredManifest, String>,);
pub(crate) type TransformParams<'a> = (Batch<'a>,);
pub(crate) type TransformResult = (Result<Output, String>,);

#[derive(ComponentType, Lift, Lower, Clone, Copy, Debug, PartialEq, Eq)]
#[component(enum)]
#[repr(u8)]
pub(crate) enum ColumnType {
    #[component(name = "string")]
    String,
    #[component(name = "timestamp")]
    Timestamp,
    #[component(name = "int64")]
    Int64,
    #[component(name = "float64")]
    Float64,
    #[component(name = "bool")]
    Bool,
}

impl From<ColumnType> for millrace_rows::ColumnType {
    fn from(ty: ColumnType) -> Self {
        match ty {
            ColumnType::String => Self::String,
            ColumnType::Timestamp => Self::Timestamp,
            ColumnType::Int64 => Self::Int64,
            ColumnType::Float64 => Self::Float64,
            ColumnType::Bool => Self::Bool,
        }
    }
}

#[derive(ComponentType, Lift, Lower, Debug)]
#[component(record)]
pub(crate) struct AddedColumn {
    pub(crate) name: String,
    pub(crate) ty: ColumnType,
}

#[derive(ComponentType, Lift, Debug)]
#[component(record)]
pub(crate) struct Manifest {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) reads: Vec<String>,
    pub(crate) writes: Vec<String>,
    pub(crate) adds: Vec<AddedColumn>,
    pub(crate) tables: Vec<String>,
    pub(crate) codes: Vec<String>,
}

#[derive(ComponentType, Lift)]
#[component(record)]
#[expect(dead_code, reason = "the fields are the type, and nobody reads them")]
pub(crate) struct IgnoredManifest {
    name: WasmStr,
    version: WasmStr,
    reads: WasmList<WasmStr>,
    writes: WasmList<WasmStr>,
    adds: WasmList<AddedColumn>,
    tables: WasmList<WasmStr>,
    codes: WasmList<WasmStr>,
}

#[derive(ComponentType, Lower, Clone, Copy, Debug)]
#[component(record)]
pub(crate) struct TextIn<'a> {
    pub(crate) offsets: &'a [u32],
    pub(crate) bytes: &'a [u8],
}

#[derive(ComponentType, Lower, Clone, Copy, Debug)]
#[component(variant)]
pub(crate) enum ValuesIn<'a> {
    #[component(name = "text")]
    Text(TextIn<'a>),
    #[component(name = "int64")]
    Int64(&'a [i64]),
    #[component(name = "float64")]
    Float64(&'a [f64]),
    #[component(name = "bool")]
    Bool(&'a [u8]),
}

#[derive(ComponentType, Lower, Clone, Copy, Debug)]
#[component(record)]
pub(crate) struct ColumnIn<'a> {
    pub(crate) values: ValuesIn<'a>,
    pub(crate) validity: Option<&'a [u8]>,
}

#[derive(ComponentType, Lower, Clone, Copy, Debug)]
#[component(record)]
pub(crate) struct Batch<'a> {
    pub(crate) rows: u32,
    pub(crate) columns: &'a [ColumnIn<'a>],
}

#[derive(ComponentType, Lift, Lower, Debug)]
#[component(record)]
pub(crate) struct Text {
    pub(crate) offsets: Vec<u32>,
    pub(crate) bytes: Vec<u8>,
}

#[derive(ComponentType, Lift, Lower, Debug)]
#[component(variant)]
pub(crate) enum Values {
    #[component(name = "text")]
    Text(Text),
    #[component(name = "int64")]
    Int64(Vec<i64>),
    #[component(name = "float64")]
    Float64(Vec<f64>),
    #[component(name = "bool")]
    Bool(Vec<u8>),
}

impl Values {
    /// How many there are, as far as the guest says.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.offsets.len().saturating_sub(1),
            Self::Int64(values) => values.len(),
            Self::Float64(values) => values.len(),
            Self::Bool(values) => values.len(),
        }
    }
}

#[derive(ComponentType, Lift, Lower, Debug)]
#[component(record)]
pub(crate) struct Column {
    pub(crate) values: Values,
    pub(crate) validity: Option<Vec<u8>>,
}

#[derive(ComponentType, Lift, Debug)]
#[component(variant)]
pub(crate) enum Returned {
    #[component(name = "unchanged")]
    Unchanged,
    #[component(name = "column")]
    Column(Column),
}

#[derive(ComponentType, Lift, Clone, Copy, Debug, PartialEq, Eq)]
#[component(record)]
pub(crate) struct Outcome {
    pub(crate) row: u32,
    pub(crate) code: u32,
}

#[derive(ComponentType, Lift, Debug)]
#[component(record)]
pub(crate) struct Output {
    pub(crate) columns: Vec<Returned>,
    pub(crate) sources: Option<Vec<u32>>,
    pub(crate) dropped: Vec<Outcome>,
    pub(crate) failed: Vec<Outcome>,
}
