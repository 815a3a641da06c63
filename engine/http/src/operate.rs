//! `/v1/status`, `/v1/dead-letters`, `/healthz`, `/readyz`, `/metrics`.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use millrace_pipeline::progress::PartitionState;
use millrace_pipeline::status::Status;
use serde::Deserialize;
use serde_json::json;

use crate::Api;
use crate::error::ApiError;

/// `GET /v1/status`.
pub(crate) async fn status(State(api): State<Api>) -> Result<Json<Status>, ApiError> {
    api.engine.status().await.map(Json).map_err(ApiError::internal)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeadLettersQuery {
    #[serde(default)]
    partition: u32,
    #[serde(default)]
    from: u64,
    limit: Option<usize>,
}

/// Most dead letters in one answer.
const DEAD_LETTERS_MAX: usize = 1000;

/// `GET /v1/dead-letters?partition=&from=&limit=`: the records of a partition that reached no store, and why. They carry
/// nothing of the events.
pub(crate) async fn dead_letters(
    State(api): State<Api>,
    query: Result<Query<DeadLettersQuery>, QueryRejection>,
) -> Result<Json<serde_json::Value>, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::bad_request("bad_query", error.body_text()))?;
    let limit = query.limit.unwrap_or(100);
    if !(1..=DEAD_LETTERS_MAX).contains(&limit) {
        return Err(ApiError::bad_request("bad_limit", format!("limit must be 1 to {DEAD_LETTERS_MAX}")));
    }
    let page = api.engine.history().dead_letters(query.partition, query.from, limit).await;
    let page = page.map_err(crate::history::read_error)?;
    Ok(Json(json!({"partition": query.partition, "dead_letters": page.letters, "next": page.next})))
}

/// `GET /healthz`: the process answers.
pub(crate) async fn health() -> Json<serde_json::Value> {
    Json(json!({"status": "ok"}))
}

/// `GET /readyz`: the log takes events and both stores go on. A store that retries is behind, not unready: ingest does
/// not depend on it.
pub(crate) async fn ready(State(api): State<Api>) -> Result<Json<serde_json::Value>, ApiError> {
    let status = api.engine.status().await.map_err(ApiError::internal)?;
    let mut reasons: Vec<String> = status.paused.into_iter().collect();
    reasons.extend(status.log.problem);
    reasons.extend(status.ended);
    for (name, store) in &status.stores {
        for job in &store.jobs {
            if let Some(problem) = &job.problem {
                reasons.push(format!("{name}, revision {}: {problem}", job.revision));
            }
        }
        for partition in &store.partitions {
            if let PartitionState::Stopped { reason } = &partition.state {
                reasons.push(format!("{name}, partition {}: {reason}", partition.partition));
            }
        }
    }
    if reasons.is_empty() {
        return Ok(Json(json!({"status": "ready"})));
    }
    let message = "something needs an operator";
    Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", message).with_detail(json!({"reasons": reasons})))
}

/// `GET /metrics`, in the OpenMetrics text format.
pub(crate) async fn metrics(State(api): State<Api>) -> Result<Response, ApiError> {
    let text = api.engine.metrics_text().await.map_err(ApiError::internal)?;
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, content_type)], text).into_response())
}
