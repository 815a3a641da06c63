//! `/v1/previews` and `/v1/corrections`: a candidate chain for records that are in the log already.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use millrace_pipeline::correction::id::CorrectionId;
use millrace_pipeline::correction::preview::{PREVIEW_RECORDS, PREVIEW_RECORDS_MAX, PREVIEWS_MAX};
use millrace_pipeline::correction::range::OFFSET_MAX;
use millrace_pipeline::correction::{
    Bound, ChangeSource, CorrectionError, CorrectionSource, Matches, Plan, RangeSource,
};
use millrace_pipeline::tokens::Principal;
use millrace_pipeline::verify::{STORES, VerifyError, VerifyOptions};
use millrace_timeline::Filter;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Api;
use crate::error::ApiError;
use crate::pipeline::{NewStep, checked_reason, pipeline_error};
use crate::row_json::rfc3339;

/// Times that a plan is made anew because the timeline changed under it.
const TRIES_MAX: usize = 3;

/// The body of `POST /v1/previews` and `POST /v1/corrections`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    change: Change,
    #[serde(default)]
    range: RangeBody,
    #[serde(default)]
    filter: Filter,
    /// Needed by a correction.
    #[serde(default)]
    reason: String,
    /// For corrections: made ahead, and not in force until it is published.
    #[serde(default)]
    stage: bool,
    /// For previews: most records that are looked at, from the range's end.
    records: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Change {
    Chain(Vec<NewStep>),
    Replace(Replace),
    Insert(Insert),
    Remove(String),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Replace {
    step: String,
    by: String,
    config: Option<Value>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Insert {
    step: NewStep,
    before: Option<String>,
}

/// Bounds are read by [`bound`], which says what is wrong with one.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RangeBody {
    from: Option<Value>,
    to: Option<Value>,
    last: Option<u64>,
    #[serde(default)]
    partitions: BTreeSet<u32>,
}

/// An offset as a number, or a time as RFC 3339.
fn bound(name: &str, value: &Value) -> Result<Bound, ApiError> {
    let bound = match value {
        Value::Number(number) => number.as_u64().map(Bound::Offset),
        Value::String(text) => {
            chrono::DateTime::parse_from_rfc3339(text).ok().map(|time| Bound::Time(time.timestamp_micros()))
        }
        _ => None,
    };
    bound.ok_or_else(|| {
        let what = "is neither an offset, a whole number from 0 to";
        let message = format!("range.{name}: {value} {what} {OFFSET_MAX}, nor a time as in \"2026-11-03T10:00:00Z\"");
        ApiError::bad_request("bad_range", message)
    })
}

fn bad_change(message: impl std::fmt::Display) -> ApiError {
    ApiError::bad_request("bad_change", message.to_string())
}

impl Request {
    fn source(self) -> Result<CorrectionSource, ApiError> {
        let change = match self.change {
            Change::Chain(steps) => ChangeSource::Chain(
                (1..).zip(steps).map(|(number, step)| step.source(number)).collect::<Result<Vec<_>, _>>()?,
            ),
            Change::Replace(Replace { step, by, config }) => ChangeSource::Replace {
                step: step.parse().map_err(bad_change)?,
                by: by.parse().map_err(bad_change)?,
                config,
            },
            Change::Insert(Insert { step, before }) => ChangeSource::Insert { step: step.alone()?, before },
            Change::Remove(plugin) => ChangeSource::Remove(plugin.parse().map_err(bad_change)?),
        };
        let RangeBody { from, to, last, partitions } = self.range;
        let range = RangeSource {
            from: from.as_ref().map(|value| bound("from", value)).transpose()?,
            to: to.as_ref().map(|value| bound("to", value)).transpose()?,
            last,
            partitions,
            filter: self.filter,
        };
        Ok(CorrectionSource { change, range })
    }
}

fn correction_error(error: CorrectionError) -> ApiError {
    let refused = |code: &'static str, error: CorrectionError| {
        ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, code, error.to_string())
    };
    match error {
        CorrectionError::Range(_) => refused("bad_range", error),
        CorrectionError::BelowHorizon { partition, from, first } => {
            refused("below_horizon", error).with_detail(json!({"partition": partition, "from": from, "first": first}))
        }
        CorrectionError::TimeBelowHorizon { partition, from_us, first, first_us } => refused("below_horizon", error)
            .with_detail(json!({
                "partition": partition, "from": rfc3339(from_us), "first": first, "first_at": rfc3339(first_us),
            })),
        CorrectionError::AllBelowHorizon { partition, first } => {
            refused("below_horizon", error).with_detail(json!({"partition": partition, "first": first}))
        }
        CorrectionError::Step(_) => refused("bad_pipeline", error),
        CorrectionError::Filter(_) => refused("bad_filter", error),
        CorrectionError::Nothing(_) => refused("nothing_to_do", error),
        CorrectionError::Replay(_) => refused("replay_failed", error),
        CorrectionError::AlreadyStaged(_) => ApiError::new(StatusCode::CONFLICT, "already_staged", error.to_string()),
        CorrectionError::NotStaged(_) => ApiError::new(StatusCode::CONFLICT, "not_staged", error.to_string()),
        CorrectionError::NotReady { .. } => ApiError::new(StatusCode::CONFLICT, "not_ready", error.to_string()),
        CorrectionError::StagedFiles(_) => ApiError::busy(error.to_string()),
        CorrectionError::Pipeline(error) => pipeline_error(error),
    }
}

fn parsed(body: Result<Json<Request>, JsonRejection>) -> Result<Request, ApiError> {
    body.map(|Json(request)| request).map_err(|error| ApiError::bad_request("bad_body", error.body_text()))
}

/// The correction in a path.
fn correction_id(path: Result<Path<String>, PathRejection>) -> Result<CorrectionId, ApiError> {
    let bad = |error: String| ApiError::bad_request("bad_id", error);
    let Path(id) = path.map_err(|error| bad(error.body_text()))?;
    id.parse().map_err(bad)
}

/// `POST /v1/previews`. [`PREVIEWS_MAX`] at a time.
pub(crate) async fn preview(
    State(api): State<Api>,
    body: Result<Json<Request>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let request = parsed(body)?;
    let records = request.records.unwrap_or(PREVIEW_RECORDS);
    if !(1..=PREVIEW_RECORDS_MAX).contains(&records) {
        return Err(ApiError::bad_request("bad_records", format!("records must be 1 to {PREVIEW_RECORDS_MAX}")));
    }
    let source = request.source()?;
    let Ok(_place) = api.previews.try_acquire() else {
        let message =
            format!("{PREVIEWS_MAX} previews are under way, as many as there can be: try again when one is done");
        return Err(ApiError::new(StatusCode::CONFLICT, "busy", message));
    };
    let plan = api.engine.plan_correction(source).await.map_err(correction_error)?;
    let preview = api.engine.preview(&plan, records).await.map_err(correction_error)?;
    Ok(Json(json!(preview)))
}

/// `POST /v1/corrections`.
pub(crate) async fn correct(
    State(api): State<Api>,
    Extension(principal): Extension<Principal>,
    body: Result<Json<Request>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let request = parsed(body)?;
    let reason = checked_reason(&request.reason)?.to_owned();
    let stage = request.stage;
    let source = request.source()?;
    let mut tries = 0;
    let (mut facts, mut notes);
    let id = loop {
        let plan = api.engine.plan_correction(source.clone()).await.map_err(correction_error)?;
        (facts, notes) = (json!(plan.facts), plan.notes());
        let matches = api.engine.look_for_matches(&plan).await.map_err(correction_error)?;
        notes.extend(note_of(matches, &plan)?);
        tries += 1;
        let done = match stage {
            true => api.engine.stage(plan, &principal.name, &reason).await.map(CorrectionId::Staged),
            false => {
                let corrected = api.engine.correct(&plan, &principal.name, &reason).await;
                corrected.map(|corrected| CorrectionId::Published(corrected.id))
            }
        };
        match done {
            // Another revision came first: the chains to edit may be others now.
            Err(CorrectionError::Pipeline(error)) if error.is_conflict() && tries < TRIES_MAX => {}
            other => break other.map_err(correction_error)?,
        }
    };
    let action = if stage { "correction.stage" } else { "correction.publish" };
    api.engine.tokens().audit(&principal, action, format!("correction {id}"), Some(reason)).await;
    let mut answer = shown(&api, id).unwrap_or_else(|| json!({"id": id}));
    if let (Some(answer), Some(facts)) = (answer.as_object_mut(), facts.as_object_mut()) {
        answer.append(facts);
        if !notes.is_empty() {
            answer.insert("notes".to_owned(), json!(notes));
        }
    }
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

/// What to say of a correction whose filter matched nothing that was looked at. One that is about no record is refused.
fn note_of(matches: Matches, plan: &Plan) -> Result<Option<String>, ApiError> {
    match matches {
        Matches::Some => Ok(None),
        // Without a filter it is about all that comes.
        Matches::NoneYet if plan.filter.is_empty() => Ok(None),
        Matches::NoneYet => Ok(Some("no event that the log has by now matches the filter".to_owned())),
        Matches::NoneOf(read) => Ok(Some(format!(
            "none of the last {read} events of the range matches the filter; the others were not looked at"
        ))),
        Matches::None => {
            let what = match plan.filter.is_empty() {
                true => "no event of the range is one that the change is about",
                false => "no event of the range matches the filter",
            };
            let message = format!("nothing to do: {what}");
            Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "nothing_to_do", message))
        }
    }
}

/// `POST /v1/corrections/{id}/publish`: brings a staged correction into force.
pub(crate) async fn publish(
    State(api): State<Api>,
    Extension(principal): Extension<Principal>,
    id: Result<Path<String>, PathRejection>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let CorrectionId::Staged(staged) = correction_id(id)? else {
        let message = "only what is staged is published: its name is staged-…";
        return Err(ApiError::new(StatusCode::CONFLICT, "not_staged", message));
    };
    let id = api.engine.publish_staged(staged).await.map_err(correction_error)?.id;
    let subject = format!("correction {id}, {staged} before");
    api.engine.tokens().audit(&principal, "correction.publish", subject, None).await;
    Ok((StatusCode::ACCEPTED, Json(shown(&api, CorrectionId::Published(id)).unwrap_or_else(|| json!({"id": id})))))
}

fn shown(api: &Api, id: CorrectionId) -> Option<Value> {
    list_of(api).into_iter().find(|correction| correction["id"] == json!(id))
}

fn list_of(api: &Api) -> Vec<Value> {
    let shown = api.engine.corrections().into_iter().map(|correction| {
        let created_at = rfc3339(correction.created_at_us);
        let mut shown = json!(correction);
        if let Some(members) = shown.as_object_mut() {
            members.remove("created_at_us");
            members.insert("created_at".to_owned(), json!(created_at));
        }
        shown
    });
    shown.collect()
}

/// `GET /v1/corrections`: newest first.
pub(crate) async fn list(State(api): State<Api>) -> Json<Value> {
    Json(json!({"corrections": list_of(&api)}))
}

/// `GET /v1/corrections/{id}`.
pub(crate) async fn one(
    State(api): State<Api>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let id = correction_id(id)?;
    shown(&api, id).map(Json).ok_or_else(|| no_such(id))
}

/// `DELETE /v1/corrections/{id}`: cancels a staged correction. One that is published is in force.
pub(crate) async fn cancel(
    State(api): State<Api>,
    Extension(principal): Extension<Principal>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let id = correction_id(id)?;
    if let CorrectionId::Staged(staged) = id {
        api.engine.cancel_staged(staged).await.map_err(correction_error)?;
        api.engine.tokens().audit(&principal, "correction.cancel", format!("correction {id}"), None).await;
        return Ok(Json(json!({"id": id, "state": "cancelled"})));
    }
    shown(&api, id).ok_or_else(|| no_such(id))?;
    Err(ApiError::new(
        StatusCode::CONFLICT,
        "published",
        format!("correction {id} is in force; to undo it, correct back to the chain that was in force before"),
    ))
}

fn no_such(id: CorrectionId) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", format!("there is no correction {id}"))
}

/// Dead letters by partition, step and code.
pub(crate) type Groups = BTreeMap<(String, String), Group>;

/// Dead letters of one step and code.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// How many.
    pub(crate) count: u64,
    /// By partition, how many, and from the first's offset to past the last's.
    pub(crate) partitions: BTreeMap<u32, (u64, u64, u64)>,
}

/// `GET /v1/dead-letters/groups`: which steps failed how many records, with which codes, and where.
pub(crate) async fn dead_letter_groups(State(api): State<Api>) -> Result<Json<Value>, ApiError> {
    const PAGE: usize = 10_000;
    let mut groups = Groups::new();
    for partition in 0..api.engine.log().partitions() {
        let mut from = Some(0);
        while let Some(at) = from {
            let page = api.engine.history().dead_letters(partition, at, PAGE).await;
            let page = page.map_err(crate::history::read_error)?;
            for letter in page.letters {
                let group = groups.entry((letter.step, letter.code)).or_default();
                group.count += 1;
                let seen = group.partitions.entry(partition).or_insert((0, letter.offset, 0));
                *seen = (seen.0 + 1, seen.1.min(letter.offset), letter.offset + 1);
            }
            from = page.next;
        }
    }
    let shown = groups.into_iter().map(|((step, code), group)| {
        let partitions = group.partitions.into_iter().map(
            |(partition, (count, from, to))| json!({"partition": partition, "count": count, "from": from, "to": to}),
        );
        json!({"step": step, "code": code, "count": group.count, "partitions": partitions.collect::<Vec<_>>()})
    });
    Ok(Json(json!({"groups": shown.collect::<Vec<_>>()})))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct VerifyBody {
    store: Option<String>,
    from: Option<u64>,
    to: Option<u64>,
    all: bool,
    full: bool,
}

/// `POST /v1/verify`: answers once everything has been compared.
pub(crate) async fn verify(
    State(api): State<Api>,
    body: Result<Json<VerifyBody>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(body) = body.map_err(|error| ApiError::bad_request("bad_body", error.body_text()))?;
    let Ok(_one) = api.verifying.try_lock() else {
        return Err(ApiError::new(StatusCode::CONFLICT, "busy", "another verification is under way"));
    };
    let VerifyBody { store, from, to, all, full } = body;
    let options = VerifyOptions { store, from, to, all, full };
    let report = api.engine.verifier().run(&options, |_| ()).await.map_err(|error| match error {
        VerifyError::Bad(_) => ApiError::bad_request("bad_range", error.to_string()),
        other => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "verify_failed", other.to_string()),
    })?;
    Ok(Json(json!(report)))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RebuildBody {
    store: String,
}

/// `POST /v1/rebuilds`: `{"store": "delta"}`. Answers once it is durably noted; `/v1/status` has what is left.
pub(crate) async fn rebuild(
    State(api): State<Api>,
    Extension(principal): Extension<Principal>,
    body: Result<Json<RebuildBody>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let Json(RebuildBody { store }) = body.map_err(|error| ApiError::bad_request("bad_body", error.body_text()))?;
    if !STORES.contains(&store.as_str()) {
        let message = format!("there is no store {store:?}: it is one of {}", STORES.join(", "));
        return Err(ApiError::bad_request("bad_store", message));
    }
    api.engine.rebuild(&store).await.map_err(|error| ApiError::busy(error.to_string()))?;
    api.engine.tokens().audit(&principal, "store.rebuild", store.clone(), None).await;
    Ok((StatusCode::ACCEPTED, Json(json!({"store": store, "state": "rebuilding"}))))
}

/// `POST /v1/compactions`: puts small files of the table together. Answers once it is done.
pub(crate) async fn compact(
    State(api): State<Api>,
    Extension(principal): Extension<Principal>,
) -> Result<Json<Value>, ApiError> {
    let compacted = api.engine.maintainer().compact().await.map_err(|error| ApiError::busy(error.to_string()))?;
    api.engine.tokens().audit(&principal, "table.compact", "delta", None).await;
    Ok(Json(json!({
        "commits": compacted.commits,
        "files_removed": compacted.files_removed,
        "files_added": compacted.files_added,
        "bytes_removed": compacted.bytes_removed,
    })))
}
