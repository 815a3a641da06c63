//! The export of a catalogue: one JSON object a line, readable and complete.
//!
//! ```text
//! {"millrace_catalogue": 1}
//! {"key": ["revision", 1], "json": {…}}            a value that is JSON
//! {"key": ["blob", "9f…", 0], "base64": "AGFz…"}    any other value
//! {"entries": 7, "sha256": "…"}                     count of entries, digest of all lines before this one
//! ```
//! A restore reads the whole file and checks it before it writes a first key, and it writes the entries in an order in
//! which nothing points to what is not there yet.

use std::io::BufRead;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use foundationdb_tuple::Element;
use millrace_keyspace::{Batch, Write};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::catalogue::{Catalogue, CatalogueError, FORMAT, from_json};
use crate::revision::{Revision, Timeline};

/// Longest line that a restore reads, in bytes: a plugin chunk in base64 and its key fit many times.
const LINE_BYTES_MAX: u64 = 4 * 1024 * 1024;

impl Catalogue {
    /// Writes every entry to `out` and returns their number: the entries of one moment, and with them the bytes that they
    /// point to. What is deleted meanwhile may be missing from those.
    ///
    /// # Errors
    /// When the keyspace or `out` fails.
    pub async fn export(&self, out: &mut (impl std::io::Write + Send)) -> Result<u64, CatalogueError> {
        let mut digest = Sha256::new();
        let mut entries = 0;
        let mut write = |line: Value| -> Result<(), CatalogueError> {
            let mut line = line.to_string();
            line.push('\n');
            digest.update(&line);
            Ok(out.write_all(line.as_bytes())?)
        };
        write(json!({"millrace_catalogue": FORMAT}))?;
        let (before, behind) = self.scan_without_blobs().await?;
        let blobs = self.scan_blobs(None).await?;
        for (key, value) in before.into_iter().chain(blobs).chain(behind) {
            let tuple: Vec<Element<'_>> = self.space.unpack(&key).map_err(|error| CatalogueError::Unreadable {
                what: millrace_keyspace::display_key(&key),
                detail: error.to_string(),
            })?;
            let key = tuple.iter().map(element_to_json).collect::<Result<Vec<_>, _>>()?;
            let blob = key.first().is_some_and(|kind| kind == "blob");
            write(match serde_json::from_slice::<Value>(&value) {
                Ok(value) if !blob => json!({"key": key, "json": value}),
                _ => json!({"key": key, "base64": BASE64.encode(&value)}),
            })?;
            entries += 1;
        }
        let sha256: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(out, "{}", json!({"entries": entries, "sha256": sha256}))?;
        out.flush()?;
        Ok(entries)
    }

    /// Replaces an empty catalogue by an export and returns the number of entries.
    ///
    /// # Errors
    /// [`CatalogueError::Restore`] when the file is cut, changed or of another format, or when the catalogue holds
    /// revisions already.
    pub async fn restore(&self, file: impl BufRead + Send) -> Result<u64, CatalogueError> {
        let entries = read_export(file)?;
        if self.timeline().await?.head() > 0 {
            return Err(CatalogueError::Restore(
                "this catalogue holds a timeline already; restore into a data directory without one".into(),
            ));
        }
        let count = entries.len() as u64;
        // Bytes before the pointers to them, and revisions last: what an interrupted restore leaves is a catalogue
        // without a timeline, which can be restored again.
        let rank = |key: &[Value]| match key.first().and_then(Value::as_str) {
            Some("revision") => 2,
            Some("plugin" | "table") => 1,
            _ => 0,
        };
        let mut entries = entries;
        entries.sort_by_key(|(key, _)| rank(key));
        for (key, value) in entries {
            let tuple = key.iter().map(json_to_element).collect::<Result<Vec<_>, _>>()?;
            let key = Bytes::from(self.space.pack(&tuple));
            self.keyspace().commit(Batch { compares: vec![], writes: vec![Write::Put(key, value)] }).await?;
        }
        Ok(count)
    }
}

/// Reads and checks a whole export.
fn read_export(mut file: impl BufRead) -> Result<Vec<(Vec<Value>, Bytes)>, CatalogueError> {
    let wrong = |line: usize, detail: &str| CatalogueError::Restore(format!("line {line}: {detail}"));
    let mut digest = Sha256::new();
    let mut entries = Vec::new();
    let mut revisions: Vec<Revision> = Vec::new();
    for number in 1.. {
        let mut line = Vec::new();
        std::io::Read::take(&mut file, LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\n") {
            return Err(wrong(number, "the file ends before its last line: it was cut"));
        }
        let mut value: Value = serde_json::from_slice(&line).map_err(|error| wrong(number, &error.to_string()))?;
        if number == 1 {
            match value.get("millrace_catalogue").and_then(Value::as_u64) {
                Some(version) if version == u64::from(FORMAT) => {}
                Some(version) => return Err(wrong(1, &format!("format {version}, this build reads {FORMAT}"))),
                None => return Err(wrong(1, "this is no catalogue export")),
            }
        } else if let Some(count) = value.get("entries") {
            let sha256: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            if count.as_u64() != Some(entries.len() as u64) || value["sha256"].as_str() != Some(&sha256) {
                return Err(wrong(number, "count or digest differs: the file was changed"));
            }
            revisions.sort_by_key(|revision| revision.id);
            Timeline::new(revisions)?;
            return Ok(entries);
        } else {
            let Value::Array(key) = value["key"].take() else { return Err(wrong(number, "an entry without a key")) };
            let bytes = match (value.get("json"), value.get("base64").and_then(Value::as_str)) {
                (Some(json), None) => Bytes::from(json.to_string()),
                (None, Some(text)) => BASE64.decode(text).map_err(|error| wrong(number, &error.to_string()))?.into(),
                _ => return Err(wrong(number, "an entry has either json or base64")),
            };
            if key.first().is_some_and(|kind| kind == "revision") {
                revisions.push(from_json(&bytes, "revision")?);
            }
            entries.push((key, bytes));
        }
        digest.update(&line);
    }
    Err(CatalogueError::Restore("empty file".into()))
}

fn element_to_json(element: &Element<'_>) -> Result<Value, CatalogueError> {
    match element {
        Element::String(text) => Ok(json!(text)),
        Element::Int(number) => Ok(json!(number)),
        other => Err(CatalogueError::Unreadable { what: "key".into(), detail: format!("{other:?} in a key") }),
    }
}

fn json_to_element(value: &Value) -> Result<Element<'static>, CatalogueError> {
    match value {
        Value::String(text) => Ok(Element::String(text.clone().into())),
        Value::Number(number) if number.is_i64() => Ok(Element::Int(number.as_i64().unwrap_or_default())),
        other => Err(CatalogueError::Restore(format!("{other} can't stand in a key"))),
    }
}
