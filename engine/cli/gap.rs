//! `millrace gap …`: records that retention took before a store had them.

use anyhow::Result;
use clap::Subcommand;
use serde_json::json;

use crate::access::table;
use crate::client::Client;

const COLUMNS: [&str; 7] = ["store", "partition", "from", "to", "at", "who", "reason"];

/// `millrace gap`.
#[derive(Subcommand)]
pub enum GapCommand {
    /// Lets stores go on behind the records that are gone: their rows will be absent. Kept, with who and why.
    Accept {
        /// The partition that stands before the gap; `millrace status` names it.
        #[arg(long, value_name = "N")]
        partition: u32,
        /// Only this store: delta or history.
        #[arg(long, value_name = "STORE")]
        store: Option<String>,
        /// Why.
        #[arg(long)]
        reason: String,
    },
    /// Lists the gaps that were accepted.
    List,
}

impl GapCommand {
    /// Whether the stores must run for it.
    pub fn runs(&self) -> bool {
        matches!(self, Self::Accept { .. })
    }
}

/// `millrace gap`.
pub async fn gap(client: &Client, command: GapCommand, json: bool) -> Result<()> {
    let (answer, member) = match command {
        GapCommand::Accept { partition, store, reason } => {
            let body = json!({"partition": partition, "store": store, "reason": reason});
            (client.post_json("/v1/gaps", &body).await?, "accepted")
        }
        GapCommand::List => (client.get("/v1/gaps").await?, "gaps"),
    };
    if json {
        println!("{answer}");
    } else {
        print!("{}", table(&answer[member], &COLUMNS));
    }
    Ok(())
}
