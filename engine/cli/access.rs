//! `millrace token …` and `millrace audit`: who may do what, and who did what.

use anyhow::Result;
use clap::Subcommand;
use serde_json::{Value, json};

use crate::client::{Client, path_part};
use crate::table::lay_out;

/// `millrace token`.
#[derive(Subcommand)]
pub enum TokenCommand {
    /// Makes a token and prints it, once. The first one must have the scope admin; from then on nobody gets in without.
    Create {
        /// What people call it.
        name: String,
        /// What it allows: ingest, history:read, raw:read, plugins:write, pipeline:write, admin. Can be given several times.
        #[arg(long = "scope", value_name = "SCOPE", required = true)]
        scopes: Vec<String>,
        /// For ingest: the app that its events belong to.
        #[arg(long, value_name = "APP")]
        app: Option<String>,
        /// Requests a second that it may make.
        #[arg(long, value_name = "N")]
        requests_per_second: Option<u32>,
    },
    /// Lists all tokens; what they are is stored nowhere.
    List,
    /// Takes a token back, at once.
    Revoke {
        /// Its id.
        id: String,
    },
}

/// `millrace token`.
pub async fn token(client: &Client, command: TokenCommand, json: bool) -> Result<()> {
    match command {
        TokenCommand::Create { name, scopes, app, requests_per_second } => {
            let body = json!({
                "name": name, "scopes": scopes, "app": app, "requests_per_second": requests_per_second,
            });
            let made = client.post_json("/v1/tokens", &body).await?;
            match made["token"].as_str() {
                Some(token) if !json => println!("{token}"),
                _ => println!("{made}"),
            }
        }
        TokenCommand::List => {
            let list = client.get("/v1/tokens").await?;
            if json {
                println!("{list}");
            } else {
                print!("{}", table(&list["tokens"], &["id", "name", "scopes", "app", "created_at", "revoked_at"]));
            }
        }
        TokenCommand::Revoke { id } => {
            let revoked = client.delete(&format!("/v1/tokens/{}", path_part(&id))).await?;
            if json {
                println!("{revoked}");
            } else {
                println!("token {id} ({}) is revoked", revoked["name"].as_str().unwrap_or(""));
            }
        }
    }
    Ok(())
}

/// `millrace audit`.
pub async fn audit(client: &Client, limit: usize, json: bool) -> Result<()> {
    let trail = client.get(&format!("/v1/audit?limit={limit}")).await?;
    if json {
        println!("{trail}");
    } else {
        print!("{}", table(&trail["audit"], &["at", "who", "action", "subject", "detail"]));
    }
    Ok(())
}

/// Objects as a table of some of their members.
pub fn table(list: &Value, columns: &[&str]) -> String {
    let text = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => printable(text),
        Value::Array(items) => items
            .iter()
            .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join(" "),
        other => other.to_string(),
    };
    let rows: Vec<Vec<String>> = list
        .as_array()
        .into_iter()
        .flatten()
        .map(|item| columns.iter().map(|column| text(&item[*column])).collect())
        .collect();
    lay_out(columns, &rows)
}

/// Text of others without what would steer a terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}
