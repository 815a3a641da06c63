//! `/v1/gaps`: records that retention took before a store had them, and the decision to go on without them.

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::{Extension, Json};
use millrace_pipeline::gaps::GapError;
use millrace_pipeline::tokens::Principal;
use millrace_timeline::gaps::GapEntry;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Api;
use crate::error::ApiError;
use crate::pipeline::checked_reason;
use crate::row_json::rfc3339;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Accept {
    partition: u32,
    /// Only this store.
    store: Option<String>,
    #[serde(default)]
    reason: String,
}

fn shown(gap: &GapEntry) -> Value {
    json!({
        "store": gap.store, "partition": gap.partition, "from": gap.from, "to": gap.to,
        "at": rfc3339(gap.at_us), "who": gap.who, "reason": gap.reason,
    })
}

/// `GET /v1/gaps`: the gaps that were accepted. Those that a partition stands before are in `/v1/status`.
pub(crate) async fn list(State(api): State<Api>) -> Json<Value> {
    let gaps = api.engine.accepted_gaps();
    Json(json!({"gaps": gaps.iter().map(shown).collect::<Vec<_>>()}))
}

/// `POST /v1/gaps`: `{"partition": 0, "store": "delta", "reason": "…"}`. Answers once the stores have moved on.
pub(crate) async fn accept(
    State(api): State<Api>,
    Extension(principal): Extension<Principal>,
    body: Result<Json<Accept>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(Accept { partition, store, reason }) =
        body.map_err(|error| ApiError::bad_request("bad_body", error.body_text()))?;
    let reason = checked_reason(&reason)?.to_owned();
    let accepted = api.engine.accept_gap(partition, store.as_deref(), &principal.name, &reason).await;
    let accepted = accepted.map_err(|error| match error {
        GapError::Bad(_) => ApiError::bad_request("bad_store", error.to_string()),
        GapError::NoGap { .. } => ApiError::new(StatusCode::CONFLICT, "no_gap", error.to_string()),
        GapError::NotMoved { .. } => ApiError::busy(error.to_string()),
        GapError::Log(ref log) if log.is_temporary() => ApiError::busy(error.to_string()),
        GapError::Log(_) => ApiError::bad_request("bad_partition", error.to_string()),
        GapError::Catalogue(_) => ApiError::internal(error),
    })?;
    for gap in &accepted {
        let subject = format!("{}, partition {}, offsets {} to {}", gap.store, gap.partition, gap.from, gap.to - 1);
        api.engine.tokens().audit(&principal, "gap.accept", subject, Some(reason.clone())).await;
    }
    Ok(Json(json!({"accepted": accepted.iter().map(shown).collect::<Vec<_>>()})))
}
