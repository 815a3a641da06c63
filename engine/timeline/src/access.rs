//! Tokens, the audit trail, and the pause: who may do what, who did what, and whether the chain stands.

use millrace_keyspace::{Batch, Compare, KeyspaceError, Write};
use serde::{Deserialize, Serialize};

use crate::catalogue::{Catalogue, CatalogueError, from_json, to_json};

/// Most entries of the audit trail; the oldest go first.
pub const AUDIT_ENTRIES_MAX: u64 = 10_000;

/// A token: what it allows, and the digest of its secret. The secret itself is shown once and stored nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenEntry {
    /// What people call it.
    pub name: String,
    /// SHA-256 of the secret, in hexadecimal digits.
    pub sha256: String,
    /// What it allows, by name.
    pub scopes: Vec<String>,
    /// For events that come in by it: the app they belong to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// Requests a second that it may make; none: the server's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<u32>,
    /// When it was made, µs since 1970 UTC.
    pub created_at_us: i64,
    /// When it was taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at_us: Option<i64>,
}

/// Something that somebody did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When, µs since 1970 UTC.
    pub at_us: i64,
    /// Who: a token's name, or how they came in without one.
    pub who: String,
    /// What was done, as in `plugin.upload`.
    pub action: String,
    /// To what.
    pub subject: String,
    /// More about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Why the chain stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseEntry {
    /// Since when, µs since 1970 UTC.
    pub at_us: i64,
    /// Who paused it: a token's name, or `millrace` for the engine itself.
    pub who: String,
    /// Why, for people; nothing of an event.
    pub reason: String,
}

impl Catalogue {
    /// Stores a new token.
    pub async fn put_token(&self, id: &str, token: &TokenEntry) -> Result<(), CatalogueError> {
        let key = self.key(&("token", id));
        let batch = Batch {
            compares: vec![Compare { key: key.clone(), expected: None }],
            writes: vec![Write::Put(key, to_json(token)?)],
        };
        Ok(self.keyspace().commit(batch).await?)
    }

    /// Every token, those taken back too, by id.
    pub async fn tokens(&self) -> Result<Vec<(String, TokenEntry)>, CatalogueError> {
        let pairs = self.scan(&self.space.subspace(&("token",))).await?;
        pairs
            .iter()
            .map(|(key, value)| {
                let (_, id): (String, String) = self.unpack(key)?;
                Ok((id, from_json(value, "token")?))
            })
            .collect()
    }

    /// Takes a token back. It stays listed.
    pub async fn revoke_token(&self, id: &str, now_us: i64) -> Result<TokenEntry, CatalogueError> {
        let key = self.key(&("token", id));
        let Some(stored) = self.keyspace().get(&key).await? else {
            return Err(CatalogueError::NoSuchToken(id.to_owned()));
        };
        let token: TokenEntry = from_json(&stored, "token")?;
        let token = TokenEntry { revoked_at_us: token.revoked_at_us.or(Some(now_us)), ..token };
        let batch = Batch {
            compares: vec![Compare { key: key.clone(), expected: Some(stored) }],
            writes: vec![Write::Put(key, to_json(&token)?)],
        };
        self.keyspace().commit(batch).await?;
        Ok(token)
    }

    /// Writes down what was done.
    pub async fn audit(&self, entry: &AuditEntry) -> Result<(), CatalogueError> {
        let next = self.key(&("audit-next",));
        loop {
            let stored = self.keyspace().get(&next).await?;
            let number: u64 = stored.as_deref().map_or(Ok(0), |value| from_json(value, "audit trail"))?;
            let mut writes = vec![
                Write::Put(next.clone(), to_json(&(number + 1))?),
                Write::Put(self.key(&("audit", number)), to_json(entry)?),
            ];
            if let Some(oldest) = number.checked_sub(AUDIT_ENTRIES_MAX) {
                writes.push(Write::Delete(self.key(&("audit", oldest))));
            }
            let compares = vec![Compare { key: next.clone(), expected: stored }];
            match self.keyspace().commit(Batch { compares, writes }).await {
                Err(KeyspaceError::Conflict { .. }) => {}
                other => return Ok(other?),
            }
        }
    }

    /// The newest entries of the audit trail, newest first.
    pub async fn audit_trail(&self, most: usize) -> Result<Vec<AuditEntry>, CatalogueError> {
        let pairs = self.scan(&self.space.subspace(&("audit",))).await?;
        pairs.iter().rev().take(most).map(|(_, value)| from_json(value, "audit trail")).collect()
    }

    /// Why the chain stands, if it does.
    pub async fn pause(&self) -> Result<Option<PauseEntry>, CatalogueError> {
        self.get(&("pause",), "pause").await
    }

    /// Notes that the chain stands, or that it goes on.
    pub async fn set_pause(&self, pause: Option<&PauseEntry>) -> Result<(), CatalogueError> {
        let key = self.key(&("pause",));
        let write = match pause {
            Some(pause) => Write::Put(key, to_json(pause)?),
            None => Write::Delete(key),
        };
        Ok(self.keyspace().commit(Batch { compares: vec![], writes: vec![write] }).await?)
    }
}
