//! Opening a data file to read it.

use std::fs::File;
use std::io::{self, BufReader, Read};

use bytes::Bytes;
use deltalake::logstore::object_store::{ObjectStoreExt as _, path::Path};
use millrace_rows::StoreError;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::Result;
use parquet::file::reader::{ChunkReader, Length};
use tokio::runtime::Handle;

use crate::error::{broken, unavailable};
use crate::table::Table;

/// The bytes of a data file. A local one is read where it lies; of any other the whole is in memory.
pub(crate) enum Input {
    Local(File),
    Remote(Bytes),
}

/// A part of them, read from its start on.
pub(crate) enum Part {
    Local(BufReader<File>),
    Remote(bytes::buf::Reader<Bytes>),
}

impl Read for Part {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Local(file) => file.read(into),
            Self::Remote(bytes) => bytes.read(into),
        }
    }
}

impl Length for Input {
    fn len(&self) -> u64 {
        match self {
            Self::Local(file) => file.len(),
            Self::Remote(bytes) => bytes.len() as u64,
        }
    }
}

impl ChunkReader for Input {
    type T = Part;

    fn get_read(&self, start: u64) -> Result<Part> {
        Ok(match self {
            Self::Local(file) => Part::Local(file.get_read(start)?),
            Self::Remote(bytes) => Part::Remote(bytes.get_read(start)?),
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        match self {
            Self::Local(file) => file.get_bytes(start, length),
            Self::Remote(bytes) => bytes.get_bytes(start, length),
        }
    }
}

/// The bytes of a data file, by its path relative to the table. Blocks.
///
/// # Errors
/// When it can't be read.
pub(crate) fn bytes_of(table: &Table, runtime: &Handle, path: &str) -> std::result::Result<Input, StoreError> {
    let input = match &table.local {
        Some(root) => File::open(root.join(path)).map(Input::Local).map_err(|error| error.to_string()),
        None => {
            let (store, at) = (table.log_store.object_store(None), Path::from(path));
            let bytes = runtime.block_on(async { store.get(&at).await?.bytes().await });
            bytes.map(Input::Remote).map_err(|error| error.to_string())
        }
    };
    input.map_err(|error| unavailable(format!("{path}: {error}")))
}

/// Opens a data file by its path relative to the table. Blocks.
///
/// # Errors
/// When it can't be read, or is no parquet file.
pub(crate) fn open(
    table: &Table,
    runtime: &Handle,
    path: &str,
) -> std::result::Result<ParquetRecordBatchReaderBuilder<Input>, StoreError> {
    let input = bytes_of(table, runtime, path)?;
    ParquetRecordBatchReaderBuilder::try_new(input).map_err(|error| broken(format!("{path}: {error}")))
}
