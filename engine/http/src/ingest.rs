//! `POST /v1/batch`, `/v1/track` and the others: the Segment wire format.
//!
//! `200 {"success": true}` means that every event of the request is on disk in the log (or was before). A request with a
//! bad event in it is answered 400 and names the bad ones; the good ones are in the log all the same, and a client that
//! sends everything again does not double them, for they have their `messageId`.

use std::io::Read as _;

use axum::Json;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use millrace_decode::split_batch;
use millrace_pipeline::ingest::{Accepted, Envelope, IngestError, NewEvent};
use millrace_pipeline::tokens::Principal;
use serde_json::{Value, json};

use crate::Api;
use crate::error::ApiError;

/// Event types and the paths that take them: the documented one and the short one that browser libraries use.
pub(crate) const KINDS: &[(&str, &[&str])] = &[
    ("track", &["/v1/track", "/v1/t"]),
    ("page", &["/v1/page", "/v1/p"]),
    ("screen", &["/v1/screen", "/v1/s"]),
    ("identify", &["/v1/identify", "/v1/i"]),
    ("group", &["/v1/group", "/v1/g"]),
    ("alias", &["/v1/alias", "/v1/a"]),
];

/// Most bad events that an answer names one by one.
const REJECTED_NAMED_MAX: usize = 20;
/// Bytes past the limit that are read of a body that is too large.
const DISCARDED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// `POST /v1/batch`.
pub(crate) async fn batch(State(api): State<Api>, request: Request) -> Result<Response, ApiError> {
    let (client_ip, app) = sender(&request);
    let body = read_body(request, api.limits.body_bytes).await?;
    let batch = split_batch(&body).map_err(|error| {
        ApiError::bad_request("bad_batch", error.to_string()).with_detail(json!({"code": error.code}))
    })?;
    if batch.events.len() > api.limits.batch_events {
        let message = format!("{} events in one batch: the limit is {}", batch.events.len(), api.limits.batch_events);
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "batch_too_large", message));
    }
    let context_bytes = batch.context.as_ref().map_or(0, |context| context.raw().len()) * batch.events.len();
    if context_bytes > api.limits.body_bytes {
        let message = format!(
            "the context around the batch is kept with each of its events, {context_bytes} bytes in all: the limit is {}; \
             send fewer events at a time, or put the context into the events that need it",
            api.limits.body_bytes
        );
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "context_too_large", message));
    }
    let envelope = Envelope {
        kind: None,
        sent_at_us: batch.sent_at_us,
        context: batch.context.map(|context| body.slice_ref(context.raw().as_bytes())),
        client_ip,
        app,
    };
    let events = batch
        .events
        .iter()
        .map(|event| NewEvent { payload: body.slice_ref(event.payload), takes_received_at: false, id: None })
        .collect();
    answer(&api.engine.ingest().accept(&envelope, events).await)
}

/// `POST /v1/track` and the other single events.
pub(crate) async fn single(api: Api, kind: &'static str, request: Request) -> Result<Response, ApiError> {
    let (client_ip, app) = sender(&request);
    let payload = read_body(request, api.limits.body_bytes).await?;
    if payload.is_empty() {
        return Err(ApiError::bad_request("empty_body", "the body must be one event as a JSON object"));
    }
    let envelope = Envelope { kind: Some(kind), sent_at_us: None, context: None, client_ip, app };
    let event = NewEvent { payload, takes_received_at: false, id: None };
    answer(&api.engine.ingest().accept(&envelope, vec![event]).await)
}

/// Turns the outcomes of a request's events into one answer.
fn answer(results: &[Result<Accepted, IngestError>]) -> Result<Response, ApiError> {
    let accepted = results.iter().filter(|result| result.is_ok()).count();
    let mut rejected = Vec::new();
    let mut rejected_total = 0usize;
    for (index, result) in results.iter().enumerate() {
        match result {
            Ok(_) => {}
            // The client sends again what is not in the log; that outweighs whatever else is wrong with the request.
            Err(IngestError::Unavailable(reason)) => {
                return Err(ApiError::busy(reason.clone()).with_detail(json!({"accepted": accepted})));
            }
            Err(IngestError::Bad(error)) => {
                rejected_total += 1;
                if rejected.len() < REJECTED_NAMED_MAX {
                    rejected.push(json!({"index": index, "code": error.code, "message": error.to_string()}));
                }
            }
        }
    }
    if rejected_total == 0 {
        return Ok(Json(json!({"success": true})).into_response());
    }
    let all_too_large = results.len() == 1
        && matches!(&results[0], Err(IngestError::Bad(error)) if error.code == millrace_decode::codes::TOO_LARGE);
    let status = if all_too_large { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::BAD_REQUEST };
    let message = format!("{rejected_total} of {} events are bad and were not stored; the others were", results.len());
    let detail: Value = json!({"accepted": accepted, "rejected_total": rejected_total, "rejected": rejected});
    Err(ApiError::new(status, "events_rejected", message).with_detail(detail))
}

/// The body, decompressed, within `limit_bytes`.
async fn read_body(request: Request, limit_bytes: usize) -> Result<Bytes, ApiError> {
    let gzip = is_gzip(request.headers())?;
    let body = collect(request.into_body(), limit_bytes).await?;
    if !gzip {
        return Ok(body);
    }
    // Bounded by the limit, and short: not worth a blocking thread.
    let mut inflated = Vec::new();
    flate2::read::MultiGzDecoder::new(body.as_ref())
        .take(limit_bytes as u64 + 1)
        .read_to_end(&mut inflated)
        .map_err(|error| ApiError::bad_request("bad_gzip", format!("the body is no gzip stream: {error}")))?;
    if inflated.len() > limit_bytes { Err(ApiError::too_large(limit_bytes)) } else { Ok(inflated.into()) }
}

/// Reads a body of at most `limit_bytes`. Of a larger one some more is read and thrown away: a client that is still
/// sending when the connection closes never sees the answer that says why.
pub(crate) async fn collect(body: Body, limit_bytes: usize) -> Result<Bytes, ApiError> {
    let mut stream = body.into_data_stream();
    let mut kept = BytesMut::new();
    let mut read_bytes = 0;
    while let Some(data) = stream.next().await {
        let data = data.map_err(|error| {
            ApiError::bad_request("body_interrupted", format!("the body could not be read: {error}"))
        })?;
        read_bytes += data.len();
        if read_bytes <= limit_bytes {
            kept.extend_from_slice(&data);
        } else if read_bytes > limit_bytes + DISCARDED_BYTES_MAX {
            break;
        } else {
            kept.clear();
        }
    }
    if read_bytes > limit_bytes { Err(ApiError::too_large(limit_bytes)) } else { Ok(kept.freeze()) }
}

pub(crate) fn is_gzip(headers: &HeaderMap) -> Result<bool, ApiError> {
    match headers.get(header::CONTENT_ENCODING).map(|value| value.as_bytes()) {
        None | Some(b"identity") => Ok(false),
        Some(b"gzip") => Ok(true),
        Some(_) => Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_encoding",
            "Content-Encoding must be gzip or identity",
        )),
    }
}

/// The sender's address, and the app that its token stands for.
fn sender(request: &Request) -> (Option<String>, Option<String>) {
    let connection = request.extensions().get::<ConnectInfo<std::net::SocketAddr>>();
    let principal = request.extensions().get::<Principal>();
    let client_ip = connection.map(|ConnectInfo(address)| address.ip().to_string());
    (client_ip, principal.and_then(|principal| principal.app.clone()))
}
