//! The demo's second half: a release of the shop's app sends one device id for all. The damage is shown, a rule that knows
//! better is previewed, brought into force for the events of that release, and both stores are right again.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::Plan;
use super::dataset::{BAD_APP_VERSION, BAD_DEVICE, rfc3339};
use crate::client::Client;
use crate::history::events_path;

/// What the second half shows of the wrong device.
#[derive(Debug, Default)]
pub struct Damage {
    /// Events of the last hour under the one id.
    pub events: usize,
    /// People that they are of.
    pub people: usize,
    /// Events of the last hour under an id that should have more.
    pub left: usize,
}

/// What is wrong with the last hour of the one device, and of a device that it took events from.
pub async fn damage(client: &Client, device: &str) -> Result<Damage> {
    let query = [("last", Some("65m")), ("limit", Some("1000"))];
    let (page, own) =
        (client.get(&events_path(BAD_DEVICE, &query)).await?, client.get(&events_path(device, &query)).await?);
    let events = |page: &Value| page["events"].as_array().cloned().unwrap_or_default();
    let (events, own) = (events(&page), events(&own));
    let people: std::collections::BTreeSet<&str> =
        events.iter().filter_map(|event| event["user_id"].as_str()).collect();
    Ok(Damage { events: events.len(), people: people.len(), left: own.len() })
}

fn reason(hour_us: i64) -> String {
    format!("demo: shop {BAD_APP_VERSION} sends {BAD_DEVICE} for every device (hour until {})", rfc3339(hour_us))
}

/// The correction of what the hours of the plan have left wrong; `None` when an earlier run has corrected all of them.
pub async fn request(client: &Client, plan: &Plan) -> Result<Option<Value>> {
    let list = client.get("/v1/corrections").await?;
    let known = |hour: &i64| {
        let reason = reason(*hour);
        list["corrections"].as_array().into_iter().flatten().any(|correction| correction["reason"] == reason.as_str())
    };
    let Some(first) = plan.hours.iter().find(|hour| !known(hour)) else { return Ok(None) };
    let last = plan.hours.last().context("a plan has an hour")?;
    Ok(Some(json!({
        "change": {"insert": {
            "step": {
                "plugin": "rewrite-device-id@0.1.0",
                "config": {"rules": [{
                    "app": "shop", "app_version": BAD_APP_VERSION, "from": BAD_DEVICE, "to_path": "properties.hw_id",
                }]},
            },
            "before": "pii-scrub",
        }},
        // The hour was posted after it had ended.
        "range": {"from": rfc3339(*first)},
        "filter": {"app": ["shop"], "app_version": [BAD_APP_VERSION]},
        "reason": reason(*last),
    })))
}

/// Shows what a correction would change.
pub async fn preview(client: &Client, request: &Value) -> Result<Value> {
    let mut body = request.clone();
    if let Some(members) = body.as_object_mut() {
        members.remove("reason");
    }
    client.post_json("/v1/previews", &body).await
}

/// Brings it into force, and waits until both stores have applied it.
pub async fn correct(client: &Client, request: &Value, show: bool) -> Result<Value> {
    let published = client.post_json("/v1/corrections", request).await?;
    let id = published["id"].as_u64().context("the server did not say which correction it is")?;
    crate::correction::wait(client, id, show).await
}
