//! `GET /v1/devices/{id}/events`: one device's events, newest first.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use chrono::{DateTime, NaiveDate};
use millrace_history::{EventFilter, PageRequest, ReadError};
use serde::{Deserialize, Serialize};

use crate::Api;
use crate::error::ApiError;
use crate::row_json::RowJson;

/// Events of a page where none is asked for.
const LIMIT_DEFAULT: usize = 100;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EventsQuery {
    last: Option<String>,
    from: Option<String>,
    to: Option<String>,
    r#type: Option<String>,
    event: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

/// The answer. Never by way of a `serde_json::Value`, which would sort the keys of the JSON columns, and round their
/// numbers: they are shown as the rows have them.
#[derive(Serialize)]
pub(crate) struct Page {
    events: Vec<RowJson>,
    cursor: Option<String>,
}

/// `GET /v1/devices/{id}/events`.
pub(crate) async fn events(
    State(api): State<Api>,
    Path(device): Path<String>,
    query: Result<Query<EventsQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Page>, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::bad_request("bad_query", error.body_text()))?;
    let limit = query.limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=millrace_history::PAGE_ROWS_MAX).contains(&limit) {
        let message = format!("limit must be 1 to {}", millrace_history::PAGE_ROWS_MAX);
        return Err(ApiError::bad_request("bad_limit", message));
    }
    let times = range(&query, (api.engine.clock())()).map_err(|message| ApiError::bad_request("bad_time", message))?;
    let request = PageRequest {
        device_id: device,
        times,
        filter: EventFilter { kind: query.r#type, event: query.event },
        limit,
        cursor: query.cursor,
    };
    let page = api.engine.history().page(&request).await.map_err(read_error)?;
    let events = page.rows.into_iter().map(RowJson).collect();
    Ok(Json(Page { events, cursor: page.next }))
}

pub(crate) fn read_error(error: ReadError) -> ApiError {
    match error {
        ReadError::BadCursor(detail) => ApiError::bad_request("bad_cursor", detail),
        ReadError::Unavailable(detail) => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail),
        other => ApiError::internal(other),
    }
}

/// The half-open range of event times, µs, that a query asks for.
fn range(query: &EventsQuery, now_us: i64) -> Result<std::ops::Range<i64>, String> {
    let to_us = match &query.to {
        Some(to) => {
            time(to).ok_or_else(|| format!("to={to:?} is neither RFC 3339 nor a date nor epoch milliseconds"))?
        }
        None => i64::MAX,
    };
    let from_us = match (&query.last, &query.from) {
        (Some(_), Some(_)) => return Err("give last= or from=, not both".into()),
        (Some(last), None) => {
            let last =
                humantime::parse_duration(last).map_err(|error| format!("last={last:?}: {error}; try 1h or 30m"))?;
            now_us.saturating_sub(i64::try_from(last.as_micros()).unwrap_or(i64::MAX)).max(0)
        }
        (None, Some(from)) => {
            time(from).ok_or_else(|| format!("from={from:?} is neither RFC 3339 nor a date nor epoch milliseconds"))?
        }
        (None, None) => 0,
    };
    if from_us >= to_us {
        return Err("the range of times is empty: from must be before to".into());
    }
    Ok(from_us..to_us)
}

fn time(text: &str) -> Option<i64> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.timestamp_micros());
    }
    if let Ok(date) = text.parse::<NaiveDate>() {
        return Some(date.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_micros());
    }
    text.parse::<i64>().ok()?.checked_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_columns_of_a_page_are_as_the_rows_have_them() {
        let text = r#"{"z":1.50,"a":12345678901234567890123}"#;
        let row = RowJson(vec![("properties".into(), millrace_rows::canonical::Value::String(text.into()))]);
        let page = serde_json::to_string(&Page { events: vec![row], cursor: None }).unwrap();
        assert_eq!(page, format!(r#"{{"events":[{{"properties":{text}}}],"cursor":null}}"#));
    }

    fn query(last: Option<&str>, from: Option<&str>, to: Option<&str>) -> EventsQuery {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        EventsQuery { last: owned(last), from: owned(from), to: owned(to), ..EventsQuery::default() }
    }

    #[test]
    fn ranges_of_time() {
        let now = 10_000_000_000;
        assert_eq!(range(&query(None, None, None), now), Ok(0..i64::MAX));
        assert_eq!(range(&query(Some("1h"), None, None), now), Ok(now - 3_600_000_000..i64::MAX));
        assert_eq!(range(&query(None, Some("1970-01-02"), None), now), Ok(86_400_000_000..i64::MAX));
        assert_eq!(range(&query(None, Some("1000"), Some("1970-01-01T00:00:02Z")), now), Ok(1_000_000..2_000_000));
        for bad in [
            query(Some("1h"), Some("0"), None),
            query(Some("soon"), None, None),
            query(None, Some("yesterday"), None),
            query(None, Some("5"), Some("5")),
        ] {
            assert!(range(&bad, now).is_err(), "{bad:?}");
        }
    }
}
