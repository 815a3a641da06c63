//! `/v1/tokens`, `/v1/audit`, and what only those see who may read raw data: `/v1/diagnostics`, `/v1/samples`.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use millrace_log::LogError;
use millrace_pipeline::samples::{SAMPLE_EVENTS_MAX, SampleError};
use millrace_pipeline::tokens::{NewToken, Principal, Scope, TokenError};
use millrace_timeline::access::TokenEntry;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Api;
use crate::error::ApiError;
use crate::plugins::catalogue_error;
use crate::row_json::rfc3339;

/// Most entries in one answer.
const ENTRIES_MAX: usize = 1000;

/// The body of `POST /v1/tokens`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenBody {
    name: String,
    scopes: Vec<Scope>,
    app: Option<String>,
    requests_per_second: Option<u32>,
}

fn show_token(id: &str, token: &TokenEntry) -> Value {
    json!({
        "id": id,
        "name": token.name,
        "scopes": token.scopes,
        "app": token.app,
        "requests_per_second": token.requests_per_second,
        "created_at": rfc3339(token.created_at_us),
        "revoked_at": token.revoked_at_us.map(rfc3339),
    })
}

/// `POST /v1/tokens`. The answer has the token's text, once.
pub(crate) async fn create_token(
    State(api): State<Api>,
    Extension(principal): Extension<Principal>,
    body: Result<Json<TokenBody>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let Json(TokenBody { name, scopes, app, requests_per_second }) =
        body.map_err(|error| ApiError::bad_request("bad_body", error.body_text()))?;
    let tokens = api.engine.tokens();
    // The first token closes the door for all who have none: it must be one that can open it again.
    if !tokens.any_in_force() && !scopes.contains(&Scope::Admin) {
        let message = "the first token must have the scope admin: from then on nobody gets in without one";
        return Err(ApiError::bad_request("first_token", message));
    }
    let names: Vec<&str> = scopes.iter().map(|scope| scope.name()).collect();
    let detail = format!("{name}: {}", names.join(", "));
    let new = NewToken { name, scopes, app, requests_per_second };
    let (id, text) = tokens.create(new).await.map_err(|error| match error {
        TokenError::Bad(message) => ApiError::bad_request("bad_token", message),
        TokenError::Catalogue(error) => catalogue_error(error),
    })?;
    tokens.audit(&principal, "token.create", id.clone(), Some(detail)).await;
    Ok((StatusCode::CREATED, Json(json!({"id": id, "token": text}))))
}

/// `GET /v1/tokens`.
pub(crate) async fn list_tokens(State(api): State<Api>) -> Json<Value> {
    let shown: Vec<Value> = api.engine.tokens().list().iter().map(|(id, token)| show_token(id, token)).collect();
    Json(json!({"tokens": shown}))
}

/// `DELETE /v1/tokens/{id}`.
pub(crate) async fn revoke_token(
    State(api): State<Api>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let tokens = api.engine.tokens();
    let active = |(other, token): &(String, std::sync::Arc<TokenEntry>)| *other != id && token.revoked_at_us.is_none();
    let admin = |token: &TokenEntry| token.scopes.iter().any(|scope| scope == Scope::Admin.name());
    let others: Vec<_> = tokens.list().into_iter().filter(active).collect();
    // Without an admin nobody could make tokens again; without any token the door stands open.
    if !others.is_empty() && !others.iter().any(|(_, token)| admin(token)) {
        let message = "this is the last token with the scope admin: make another one first, or revoke the others";
        return Err(ApiError::new(StatusCode::CONFLICT, "last_admin", message));
    }
    let token = tokens.revoke(&id).await.map_err(catalogue_error)?;
    tokens.audit(&principal, "token.revoke", id.clone(), Some(token.name.clone())).await;
    Ok(Json(show_token(&id, &token)))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitQuery {
    limit: Option<usize>,
    plugin: Option<String>,
}

fn limit(query: Result<Query<LimitQuery>, QueryRejection>) -> Result<(usize, Option<String>), ApiError> {
    let Query(LimitQuery { limit, plugin }) =
        query.map_err(|error| ApiError::bad_request("bad_query", error.body_text()))?;
    match limit.unwrap_or(100) {
        limit @ 1..=ENTRIES_MAX => Ok((limit, plugin)),
        _ => Err(ApiError::bad_request("bad_limit", format!("limit must be 1 to {ENTRIES_MAX}"))),
    }
}

/// `GET /v1/audit?limit=`: who did what, newest first.
pub(crate) async fn audit(
    State(api): State<Api>,
    query: Result<Query<LimitQuery>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let (limit, _) = limit(query)?;
    let trail = api.engine.catalogue().audit_trail(limit).await.map_err(catalogue_error)?;
    let shown: Vec<Value> = trail
        .iter()
        .map(|entry| {
            json!({
                "at": rfc3339(entry.at_us), "who": entry.who, "action": entry.action, "subject": entry.subject,
                "detail": entry.detail,
            })
        })
        .collect();
    Ok(Json(json!({"audit": shown})))
}

/// `GET /v1/diagnostics?plugin=&limit=`: what plugins logged and why rows failed, newest first.
pub(crate) async fn diagnostics(
    State(api): State<Api>,
    query: Result<Query<LimitQuery>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let (limit, plugin) = limit(query)?;
    let entries = api.engine.diagnostics().newest(plugin.as_deref(), limit);
    let shown: Vec<Value> = entries
        .iter()
        .map(|entry| {
            let mut shown = json!(entry);
            shown["at"] = json!(rfc3339(entry.at_us));
            if let Some(members) = shown.as_object_mut() {
                members.remove("at_us");
            }
            shown
        })
        .collect();
    Ok(Json(json!({"diagnostics": shown})))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SamplesQuery {
    #[serde(default)]
    partition: u32,
    from: Option<u64>,
    limit: Option<usize>,
}

/// `GET /v1/samples?partition=&from=&limit=`: decoded events with personal data masked, for authors' tests. Without
/// `from` those at the log's end.
pub(crate) async fn samples(
    State(api): State<Api>,
    query: Result<Query<SamplesQuery>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let Query(SamplesQuery { partition, from, limit }) =
        query.map_err(|error| ApiError::bad_request("bad_query", error.body_text()))?;
    let limit = limit.unwrap_or(100);
    if !(1..=SAMPLE_EVENTS_MAX).contains(&limit) {
        return Err(ApiError::bad_request("bad_limit", format!("limit must be 1 to {SAMPLE_EVENTS_MAX}")));
    }
    let failed = |error: SampleError| match error {
        SampleError::Log(error @ (LogError::Gap { .. } | LogError::NoSuchPartition { .. })) => {
            ApiError::bad_request("bad_place", error.to_string())
        }
        other => ApiError::internal(other),
    };
    let from = match from {
        Some(from) => from,
        None => api.engine.sample_start(partition, limit as u64).await.map_err(failed)?,
    };
    let sample = api.engine.sample(partition, from, limit).await.map_err(failed)?;
    Ok(Json(json!({"partition": partition, "from": from, "rows": sample.rows, "next": sample.next})))
}
