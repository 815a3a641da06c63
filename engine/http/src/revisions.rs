//! `/v1/revisions`: the timeline, newest first, page by page.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use millrace_pipeline::correction::state_in;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Api;
use crate::error::ApiError;
use crate::pipeline::show_revision;

/// Revisions in an answer unless it is asked for another number.
const REVISIONS: usize = 100;
/// Most revisions in one answer.
const REVISIONS_MAX: usize = 1000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RevisionsQuery {
    /// The revision behind which the page begins: `next` of the page before.
    after: Option<u64>,
    limit: Option<usize>,
    /// With the manifests of plugins as they were pinned: they are most of an answer.
    #[serde(default)]
    manifests: bool,
}

/// `GET /v1/revisions?after=&limit=&manifests=`: newest first, behind revision `after`. `next` is the `after` of the page that
/// follows, or null.
pub(crate) async fn list(
    State(api): State<Api>,
    query: Result<Query<RevisionsQuery>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::bad_request("bad_query", error.body_text()))?;
    let limit = query.limit.unwrap_or(REVISIONS);
    if !(1..=REVISIONS_MAX).contains(&limit) {
        return Err(ApiError::bad_request("bad_limit", format!("limit must be 1 to {REVISIONS_MAX}")));
    }
    let timeline = api.engine.timeline();
    let stores = api.engine.progress().snapshot();
    let older =
        timeline.revisions().iter().rev().filter(|revision| query.after.is_none_or(|after| revision.id < after));
    let page: Vec<_> = older.take(limit).collect();
    let next = page.last().map(|last| last.id).filter(|last| *last > 1);
    let shown = page.into_iter().map(|revision| {
        let mut shown = show_revision(revision);
        if !query.manifests {
            for step in shown["steps"].as_array_mut().into_iter().flatten() {
                step.as_object_mut().and_then(|step| step.remove("manifest"));
            }
        }
        let first = revision.group.unwrap_or(revision.id);
        let together = first..=timeline.taken_in_with(first);
        let state = stores.iter().map(|(name, store)| (*name, state_in(store, together.clone())));
        shown["state"] = json!(state.collect::<BTreeMap<_, _>>());
        let taken_in = stores.iter().map(|(name, store)| (*name, store.applied >= revision.id));
        shown["taken_in"] = json!(taken_in.collect::<BTreeMap<_, _>>());
        let left = stores.iter().filter_map(|(name, store)| Some((*name, store.jobs.get(&revision.id)?)));
        shown["jobs"] = json!(left.collect::<BTreeMap<_, _>>());
        shown
    });
    Ok(Json(json!({"revisions": shown.collect::<Vec<_>>(), "next": next})))
}
