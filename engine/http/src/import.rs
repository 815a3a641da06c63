//! `POST /v1/import`: an NDJSON file, one event a line, streamed.
//!
//! `?id=` names the file by its digest. Lines are appended in chunks, and after each chunk the position is kept in the
//! catalogue, so an import that was killed is sent again, from the start or from `GET /v1/import/{id}` on with
//! `first_line=`, and doubles nothing: lines before the position are skipped, and those of the chunk that was under way
//! are known to the de-duplication window by hash(file digest, line number).

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use bytes::{Buf as _, Bytes, BytesMut};
use futures::StreamExt as _;
use millrace_pipeline::ingest::{Accepted, Envelope, IngestError, NewEvent, import_record_id};
use millrace_pipeline::tokens::Principal;
use millrace_timeline::catalogue::ImportPosition;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Api;
use crate::error::ApiError;

/// Most lines appended at a time.
const CHUNK_LINES: usize = 1000;
/// Bytes of lines after which a chunk is appended.
const CHUNK_BYTES: usize = 1024 * 1024;
/// Longest line: an event and what JSON may add around it. A longer one is refused and skipped.
const LINE_BYTES_MAX: usize = 1024 * 1024;
/// Most refused lines that the answer names one by one.
const REJECTED_NAMED_MAX: usize = 100;
/// Longest id of an import.
const ID_BYTES_MAX: usize = 128;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImportQuery {
    id: Option<String>,
    #[serde(default)]
    first_line: u64,
}

/// What came of an import.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Summary {
    /// Lines of the file up to the last one that was looked at.
    lines: u64,
    /// Lines that are new in the log.
    accepted: u64,
    /// Lines that were there before, and those before the position where an earlier try had come to.
    duplicates: u64,
    /// Lines that are no events.
    rejected_total: u64,
    /// The first of them.
    rejected: Vec<Value>,
}

/// `GET /v1/import/{id}`.
pub(crate) async fn position(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<ImportPosition>, ApiError> {
    check_id(&id)?;
    api.engine.catalogue().import_position(&id).await.map(Json).map_err(ApiError::internal)
}

/// `POST /v1/import`.
pub(crate) async fn import(
    State(api): State<Api>,
    Extension(principal): Extension<Principal>,
    Query(query): Query<ImportQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    if crate::ingest::is_gzip(&headers)? {
        let message = "send the file as it is, without Content-Encoding";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", message));
    }
    let id = query.id;
    let _under_way = match &id {
        Some(id) => {
            check_id(id)?;
            Some(UnderWay::begin(&api, id)?)
        }
        None => None,
    };
    let done = match &id {
        Some(id) => api.engine.catalogue().import_position(id).await.map_err(ApiError::internal)?.lines,
        None => 0,
    };
    if query.first_line > done {
        let message = format!("the import has come to line {done}: first_line can't be past it");
        return Err(ApiError::new(StatusCode::CONFLICT, "lines_missing", message).with_detail(json!({"lines": done})));
    }
    let summary = Summary { lines: query.first_line, ..Summary::default() };
    let app = principal.app;
    let mut run = Run { api, id, app, done, summary, chunk: Vec::new(), chunk_bytes: 0 };
    let mut lines = Lines::default();
    let mut stream = body.into_data_stream();
    while let Some(data) = stream.next().await {
        let data = data.map_err(|error| {
            ApiError::bad_request("body_interrupted", format!("the body could not be read: {error}"))
                .with_detail(json!({"lines": run.done}))
        })?;
        lines.push(&data);
        while let Some(line) = lines.next() {
            run.line(line).await?;
        }
    }
    if let Some(line) = lines.finish() {
        run.line(line).await?;
    }
    run.flush().await?;
    Ok(Json(json!(run.summary)))
}

fn check_id(id: &str) -> Result<(), ApiError> {
    let legal = (1..=ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if legal {
        return Ok(());
    }
    Err(ApiError::bad_request("bad_import_id", "an import's id is 1 to 128 letters, digits and -: the file's digest"))
}

/// Holds an import's id while it runs, so that the same file is not imported twice at a time.
struct UnderWay {
    api: Api,
    id: String,
}

impl UnderWay {
    fn begin(api: &Api, id: &str) -> Result<Self, ApiError> {
        let mut imports = api.imports.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !imports.insert(id.to_owned()) {
            let message = "this file is being imported by another request";
            return Err(ApiError::new(StatusCode::CONFLICT, "import_under_way", message));
        }
        Ok(Self { api: api.clone(), id: id.to_owned() })
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.api.imports.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&self.id);
    }
}

/// A line of the file, or the fact that it was too long to keep.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Whole(Bytes),
    TooLong,
}

/// Cuts a stream of bytes into lines, holding no more than one of at most [`LINE_BYTES_MAX`].
#[derive(Default)]
struct Lines {
    buffer: BytesMut,
    /// Bytes at the start of the buffer that hold no line end.
    searched: usize,
    /// The line under way is too long: its bytes are thrown away until it ends.
    skipping: bool,
}

impl Lines {
    fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    fn next(&mut self) -> Option<Line> {
        match self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
            Some(found) => {
                let line = self.buffer.split_to(self.searched + found).freeze();
                self.buffer.advance(1);
                self.searched = 0;
                let too_long = std::mem::take(&mut self.skipping) || line.len() > LINE_BYTES_MAX;
                Some(if too_long { Line::TooLong } else { Line::Whole(line) })
            }
            None => {
                self.searched = self.buffer.len();
                if self.searched > LINE_BYTES_MAX {
                    self.buffer.clear();
                    self.searched = 0;
                    self.skipping = true;
                }
                None
            }
        }
    }

    /// What is left when the stream has ended: a last line without an end.
    fn finish(self) -> Option<Line> {
        match (self.skipping, self.buffer.is_empty()) {
            (true, _) => Some(Line::TooLong),
            (false, true) => None,
            (false, false) => Some(Line::Whole(self.buffer.freeze())),
        }
    }
}

/// An import under way.
struct Run {
    api: Api,
    id: Option<String>,
    /// App that the token stands for.
    app: Option<String>,
    /// Lines that are dealt with durably.
    done: u64,
    summary: Summary,
    /// Lines to append: number and bytes.
    chunk: Vec<(u64, Bytes)>,
    chunk_bytes: usize,
}

impl Run {
    async fn line(&mut self, line: Line) -> Result<(), ApiError> {
        let number = self.summary.lines;
        self.summary.lines += 1;
        if number < self.done {
            self.summary.duplicates += 1;
            return Ok(());
        }
        match line {
            Line::TooLong => self.reject(number, "too_large", "the line is longer than 1 MiB"),
            Line::Whole(bytes) if bytes.trim_ascii().is_empty() => {}
            Line::Whole(bytes) => {
                self.chunk_bytes += bytes.len();
                self.chunk.push((number, bytes));
            }
        }
        if self.chunk.len() >= CHUNK_LINES || self.chunk_bytes >= CHUNK_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Appends the chunk and keeps the position.
    async fn flush(&mut self) -> Result<(), ApiError> {
        let chunk = std::mem::take(&mut self.chunk);
        self.chunk_bytes = 0;
        let events = chunk
            .iter()
            .map(|(number, line)| NewEvent {
                payload: line.slice_ref(line.trim_ascii()),
                takes_received_at: true,
                id: self.id.as_deref().map(|id| import_record_id(id, *number)),
            })
            .collect();
        let results =
            self.api.engine.ingest().accept(&Envelope { app: self.app.clone(), ..Envelope::default() }, events).await;
        for ((number, _), result) in chunk.iter().zip(results) {
            match result {
                Ok(Accepted::New) => self.summary.accepted += 1,
                Ok(Accepted::Duplicate) => self.summary.duplicates += 1,
                Err(IngestError::Bad(error)) => self.reject(*number, error.code, &error.to_string()),
                Err(IngestError::Unavailable(reason)) => {
                    return Err(ApiError::busy(reason).with_detail(json!({"lines": self.done})));
                }
            }
        }
        if self.summary.lines > self.done {
            self.done = self.summary.lines;
            if let Some(id) = &self.id {
                let position = ImportPosition { lines: self.done };
                self.api.engine.catalogue().set_import_position(id, position).await.map_err(ApiError::internal)?;
            }
        }
        Ok(())
    }

    fn reject(&mut self, line: u64, code: &str, message: &str) {
        self.summary.rejected_total += 1;
        if self.summary.rejected.len() < REJECTED_NAMED_MAX {
            // People count lines from 1.
            self.summary.rejected.push(json!({"line": line + 1, "code": code, "message": message}));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(data: &[u8], sizes: &[usize]) -> Vec<Line> {
        let (mut lines, mut found, mut rest) = (Lines::default(), Vec::new(), data);
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at((*size).min(rest.len()));
            lines.push(now);
            while let Some(line) = lines.next() {
                found.push(line);
            }
            rest = later;
        }
        found.extend(lines.finish());
        found
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_the_stream_is_cut(
            lines in proptest::collection::vec("[a-z]{0,9}", 0..20), sizes in proptest::collection::vec(1..20usize, 1..9), ended: bool,
        ) {
            let mut text = lines.join("\n");
            if ended && !lines.is_empty() {
                text.push('\n');
            }
            let expected: Vec<_> = text.split_inclusive('\n')
                .map(|line| Line::Whole(Bytes::copy_from_slice(line.trim_end_matches('\n').as_bytes()))).collect();
            prop_assert_eq!(cut(text.as_bytes(), &sizes), expected);
        }
    }

    #[test]
    fn a_line_too_long_is_skipped_and_its_neighbours_are_not() {
        let mut data = b"first\n".to_vec();
        data.extend(vec![b'x'; LINE_BYTES_MAX * 3]);
        data.extend(b"\nlast");
        let whole = |text: &'static [u8]| Line::Whole(Bytes::from_static(text));
        for size in [7, 4096, data.len()] {
            assert_eq!(cut(&data, &[size]), [whole(b"first"), Line::TooLong, whole(b"last")]);
        }
    }
}
