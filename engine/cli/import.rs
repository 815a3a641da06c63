//! `millrace import FILE`: NDJSON, or CSV with a mapping, through `/v1/import`.
//!
//! The file's digest names the import, so a killed one is run again by the same command and goes on where it was.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use flate2::bufread::MultiGzDecoder;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::client::Client;
use crate::table::thousands;

/// What to import.
#[derive(Args)]
pub struct ImportArgs {
    /// The file; .gz is unpacked as it is read.
    file: PathBuf,
    /// Its format; by its name when not given.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// For CSV: which column becomes what, as path=column: --map anonymousId=user_id --map timestamp=time. Columns that are not
    /// named go into properties under their own names.
    #[arg(long = "map", value_name = "PATH=COLUMN")]
    map: Vec<String>,
    /// For CSV: the same value in every event, as path=value: --set type=track.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    set: Vec<String>,
}

/// Format of a file of events.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One JSON event a line.
    Ndjson,
    /// Comma-separated, with a head line.
    Csv,
}

/// `millrace import`. The exit code tells whether every line was taken.
pub async fn import(client: &Client, args: &ImportArgs, json: bool) -> Result<ExitCode> {
    let format = args.format.map_or_else(|| format_of(&args.file), Ok)?;
    let mapping = match format {
        Format::Csv => Some(Mapping::parse(&args.map, &args.set)?),
        Format::Ndjson if args.map.is_empty() && args.set.is_empty() => None,
        Format::Ndjson => bail!("--map and --set are for CSV: events in NDJSON have their names already"),
    };
    let id = digest(&args.file, mapping.as_ref()).with_context(|| format!("reading {}", args.file.display()))?;
    let position = client.get(&format!("/v1/import/{id}")).await?;
    let done = position["lines"].as_u64().unwrap_or(0);

    let bar = ProgressBar::new(std::fs::metadata(&args.file)?.len());
    bar.set_style(ProgressStyle::with_template(
        "{bar:30} {percent:>3}%  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left",
    )?);
    let file = bar.wrap_read(File::open(&args.file)?);
    let lines: Box<dyn Read + Send> = match mapping {
        None => unpack(&args.file, file),
        Some(mapping) => Box::new(CsvLines::new(unpack(&args.file, file), mapping)?),
    };
    let rest = skip_lines(lines, done).with_context(|| format!("reading {}", args.file.display()))?;
    let summary = client.post_stream(&format!("/v1/import?id={id}&first_line={done}"), rest).await;
    bar.finish_and_clear();
    let summary = summary?;
    client.drain().await?;

    let rejected = summary["rejected_total"].as_u64().unwrap_or(0);
    if json {
        println!("{summary}");
    } else {
        let count = |key: &str| thousands(summary[key].as_u64().unwrap_or(0));
        println!("{} new events", count("accepted"));
        if done > 0 {
            println!("{} lines were there from an earlier run", thousands(done));
        }
        if summary["duplicates"].as_u64().unwrap_or(0) > 0 {
            println!("{} were in the log already", count("duplicates"));
        }
        for line in summary["rejected"].as_array().into_iter().flatten() {
            println!("line {}: {}", line["line"], line["message"].as_str().unwrap_or(""));
        }
        if rejected > 0 {
            println!("{} lines are no events and were left out", count("rejected_total"));
        }
    }
    Ok(if rejected == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn format_of(file: &Path) -> Result<Format> {
    let name = file.to_string_lossy().to_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("ndjson" | "jsonl" | "json") => Ok(Format::Ndjson),
        Some("csv") => Ok(Format::Csv),
        _ => Err(anyhow!("{}: give --format ndjson or --format csv; the name does not tell", file.display())),
    }
}

fn unpack(path: &Path, file: impl Read + Send + 'static) -> Box<dyn Read + Send> {
    match path.extension() {
        Some(extension) if extension == "gz" => Box::new(MultiGzDecoder::new(BufReader::new(file))),
        _ => Box::new(file),
    }
}

/// Digest of the file and of what is made of it.
fn digest(file: &Path, mapping: Option<&Mapping>) -> io::Result<String> {
    let mut digest = Sha256::new();
    io::copy(&mut File::open(file)?, &mut digest)?;
    if let Some(mapping) = mapping {
        digest.update(format!("{mapping:?}"));
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What is left after the first `lines` lines.
fn skip_lines(lines: Box<dyn Read + Send>, count: u64) -> io::Result<impl Read + Send> {
    let mut reader = BufReader::new(lines);
    for _ in 0..count {
        if reader.skip_until(b'\n')? == 0 {
            break;
        }
    }
    Ok(reader)
}

/// How a CSV row becomes an event.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mapping {
    /// Path in the event, column of the row.
    columns: Vec<(Vec<String>, String)>,
    /// Path in the event, constant.
    constants: Vec<(Vec<String>, String)>,
}

impl Mapping {
    fn parse(map: &[String], set: &[String]) -> Result<Self> {
        let parse = |flag: &str, pairs: &[String]| {
            pairs
                .iter()
                .map(|pair| match pair.split_once('=') {
                    Some((path, value)) if !path.is_empty() && !value.is_empty() => {
                        Ok((path.split('.').map(str::to_owned).collect(), value.to_owned()))
                    }
                    _ => Err(anyhow!("{flag} {pair}: it must be of the form path=value, as in timestamp=time")),
                })
                .collect::<Result<Vec<(Vec<String>, String)>>>()
        };
        Ok(Self { columns: parse("--map", map)?, constants: parse("--set", set)? })
    }

    /// The event of one row.
    fn event(&self, head: &csv::StringRecord, row: &csv::StringRecord) -> Value {
        let mut event = Value::Object(Map::new());
        for (path, value) in &self.constants {
            put(&mut event, path, value);
        }
        for (column, value) in head.iter().zip(row) {
            let mut mapped = false;
            for (path, _) in self.columns.iter().filter(|(_, name)| name == column) {
                put(&mut event, path, value);
                mapped = true;
            }
            if !mapped {
                put(&mut event, &["properties".to_owned(), column.to_owned()], value);
            }
        }
        event
    }
}

/// Sets the value at a path; an empty cell is an absent value.
fn put(event: &mut Value, path: &[String], value: &str) {
    if value.is_empty() {
        return;
    }
    let mut at = event;
    for part in path {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[part.as_str()];
    }
    *at = json!(value);
}

/// CSV read as lines of JSON.
struct CsvLines {
    reader: csv::Reader<Box<dyn Read + Send>>,
    head: csv::StringRecord,
    mapping: Mapping,
    line: io::Cursor<Vec<u8>>,
}

impl CsvLines {
    fn new(file: Box<dyn Read + Send>, mapping: Mapping) -> Result<Self> {
        let mut reader = csv::ReaderBuilder::new().flexible(false).from_reader(file);
        let head = reader.headers()?.clone();
        for (path, column) in &mapping.columns {
            if !head.iter().any(|name| name == column) {
                bail!(
                    "--map {}={column}: the file has no column {column}; it has {}",
                    path.join("."),
                    head.iter().collect::<Vec<_>>().join(", ")
                );
            }
        }
        Ok(Self { reader, head, mapping, line: io::Cursor::default() })
    }
}

impl Read for CsvLines {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.line.read(out)?;
        if read > 0 || out.is_empty() {
            return Ok(read);
        }
        let mut row = csv::StringRecord::new();
        if !self.reader.read_record(&mut row).map_err(io::Error::other)? {
            return Ok(0);
        }
        let mut line = self.mapping.event(&self.head, &row).to_string().into_bytes();
        line.push(b'\n');
        self.line = io::Cursor::new(line);
        self.line.read(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convert(csv: &str, map: &[&str], set: &[&str]) -> Result<String> {
        let owned = |pairs: &[&str]| pairs.iter().map(|pair| (*pair).to_owned()).collect::<Vec<_>>();
        let mapping = Mapping::parse(&owned(map), &owned(set))?;
        let mut text = String::new();
        CsvLines::new(Box::new(io::Cursor::new(csv.to_owned())), mapping)?.read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn columns_go_where_the_mapping_says_and_the_rest_into_properties() {
        let csv = "who,what,plan\nu1,\"say \"\"hi\"\"\",\nu2,go,pro\n";
        let text = convert(csv, &["anonymousId=who", "event=what"], &["type=track", "context.app.name=shop"]).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            lines,
            [
                json!({"type": "track", "context": {"app": {"name": "shop"}}, "anonymousId": "u1", "event": "say \"hi\""}),
                json!({"type": "track", "context": {"app": {"name": "shop"}}, "anonymousId": "u2", "event": "go",
                       "properties": {"plan": "pro"}}),
            ]
        );
    }

    #[test]
    fn a_mapping_that_does_not_fit_is_refused() {
        assert!(convert("a\n1\n", &["event=b"], &[]).unwrap_err().to_string().contains("no column b"));
        assert!(convert("a\n1\n", &["event"], &[]).is_err());
        assert!(convert("a,b\n1\n", &[], &[]).is_err(), "a short row is an error, not a shifted event");
    }

    #[test]
    fn skipping_leaves_the_rest() {
        let mut rest = String::new();
        let lines = || Box::new(io::Cursor::new("a\nb\nc")) as Box<dyn Read + Send>;
        skip_lines(lines(), 2).unwrap().read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "c");
        rest.clear();
        skip_lines(lines(), 9).unwrap().read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
    }
}
