//! The demo's change of the chain while it runs: a lookup table of countries, and a step that looks addresses up in it.

use anyhow::Result;
use axum::http::Method;
use serde_json::{Value, json};

use crate::client::Client;

/// A small sample, for the demo: see the page of the plugin.
const COUNTRIES: &[u8] = include_bytes!("../../../plugins/enrich-table/tables/country-by-ip.csv");

/// Uploads the table, and puts the step behind the chain of a new deployment. A chain that somebody else brought into force
/// stays as it is. Gives the pipeline that is in force then.
pub async fn add(client: &Client) -> Result<Value> {
    client.post_stream("/v1/tables/countries?cidr=network&format=csv", COUNTRIES).await?;
    let now = client.get("/v1/pipeline").await?;
    if now["author"] != "default" {
        return Ok(now);
    }
    let mut steps: Vec<Value> = now["steps"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|step| json!({"plugin": step["plugin"], "config": step["config"], "limits": step["limits"]}))
        .collect();
    steps.push(json!({
        "plugin": "enrich-table@0.1.0",
        "config": {"table": "countries", "key": "ip", "columns": {"country": "ip_country"}},
    }));
    let body = json!({"steps": steps, "reason": "demo: country by address"});
    client.send_json(Method::PUT, "/v1/pipeline", &body).await
}
