//! `/v1/status`, `/healthz`, `/readyz`, `/metrics`.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use millrace_pipeline::progress::PartitionState;
use millrace_pipeline::status::Status;
use serde_json::json;

use crate::Api;
use crate::error::ApiError;

/// `GET /v1/status`.
pub(crate) async fn status(State(api): State<Api>) -> Result<Json<Status>, ApiError> {
    api.engine.status().await.map(Json).map_err(ApiError::internal)
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
    for (name, store) in &status.stores {
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
