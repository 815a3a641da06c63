//! Tokens: who may do what.
//!
//! A token is `millrace_<id>_<secret>`: 8 hexadecimal digits by which it is found, and 64 with 244 random bits. The
//! catalogue has the SHA-256 of the secret, which is as good as a password hash for a secret that nobody can guess; it is
//! compared in constant time. Without any token in force everybody may do everything, and the server listens on loopback
//! only.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use millrace_timeline::access::{AuditEntry, TokenEntry};
use millrace_timeline::catalogue::hex_sha256;
use millrace_timeline::{Catalogue, CatalogueError};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

use crate::Clock;

/// Most tokens, those taken back included.
pub const TOKENS_MAX: usize = 10_000;
/// Longest name of a token, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
const PREFIX: &str = "millrace_";

/// What a token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// To send events. Apps have it, so it allows nothing else.
    #[serde(rename = "ingest")]
    Ingest,
    /// To read device histories and dead letters.
    #[serde(rename = "history:read")]
    HistoryRead,
    /// To read what may hold raw personal data: plugins' texts, samples of the log.
    #[serde(rename = "raw:read")]
    RawRead,
    /// To upload, deprecate and delete plugins and lookup tables.
    #[serde(rename = "plugins:write")]
    PluginsWrite,
    /// To bring chains into force, to pause and to resume.
    #[serde(rename = "pipeline:write")]
    PipelineWrite,
    /// Everything, tokens and the audit trail too.
    #[serde(rename = "admin")]
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Ingest, Self::HistoryRead, Self::RawRead, Self::PluginsWrite, Self::PipelineWrite, Self::Admin];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::HistoryRead => "history:read",
            Self::RawRead => "raw:read",
            Self::PluginsWrite => "plugins:write",
            Self::PipelineWrite => "pipeline:write",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.name() == text)
            .ok_or_else(|| format!("{text:?} is no scope: use {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// Somebody who was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// For the audit trail: the token's name and id, or how they came in without one.
    pub name: String,
    /// The token's id; `None` where there is none.
    pub token: Option<String>,
    /// App that its events belong to.
    pub app: Option<String>,
    /// Requests a second that it may make, if it has a limit of its own.
    pub requests_per_second: Option<u32>,
    scopes: Vec<Scope>,
}

impl Principal {
    /// Somebody who may do everything: on this machine, or while there are no tokens.
    pub fn trusted(name: &str) -> Self {
        Self { name: name.to_owned(), token: None, app: None, requests_per_second: None, scopes: vec![Scope::Admin] }
    }

    /// Whether it may do what `scope` allows.
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&Scope::Admin) || self.scopes.contains(&scope)
    }

    /// Whether it may look at the state of things: every token may but those of apps, which are in everybody's hands.
    pub fn may_observe(&self) -> bool {
        self.scopes.iter().any(|scope| *scope != Scope::Ingest)
    }
}

/// A token to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    /// What people call it.
    pub name: String,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// App that its events belong to.
    pub app: Option<String>,
    /// Requests a second.
    pub requests_per_second: Option<u32>,
}

/// Why a token was not made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Bad(String),
    /// The catalogue.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
}

/// The tokens of a deployment, in memory as in the catalogue.
pub struct Tokens {
    catalogue: Catalogue,
    clock: Clock,
    known: RwLock<HashMap<String, Arc<TokenEntry>>>,
}

impl Tokens {
    /// The tokens that the catalogue has.
    pub async fn load(catalogue: Catalogue, clock: Clock) -> Result<Self, CatalogueError> {
        let known = catalogue.tokens().await?.into_iter().map(|(id, token)| (id, Arc::new(token))).collect();
        Ok(Self { catalogue, clock, known: RwLock::new(known) })
    }

    /// Takes over tokens that another worker made or took back.
    ///
    /// # Errors
    /// When the catalogue can't be read.
    pub(crate) async fn follow(&self) -> Result<(), CatalogueError> {
        let stored = self.catalogue.tokens().await?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for (id, token) in stored {
            // One that is taken back stays so, whatever was read before that.
            if known.get(&id).is_none_or(|known| known.revoked_at_us.is_none() && **known != token) {
                known.insert(id, Arc::new(token));
            }
        }
        Ok(())
    }

    fn insert(&self, id: &str, token: TokenEntry) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), Arc::new(token));
    }

    /// Whether any token is in force: then nobody gets in without one.
    pub fn any_in_force(&self) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.values().any(|token| token.revoked_at_us.is_none())
    }

    /// Every token by id, oldest first.
    pub fn list(&self) -> Vec<(String, Arc<TokenEntry>)> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<_> = known.iter().map(|(id, token)| (id.clone(), token.clone())).collect();
        list.sort_by(|a, b| (a.1.created_at_us, &a.0).cmp(&(b.1.created_at_us, &b.0)));
        list
    }

    /// Makes a token, and gives its id and its text, which nobody can read again.
    ///
    /// # Errors
    /// [`TokenError::Bad`] when what is asked for makes no sense.
    pub async fn create(&self, new: NewToken) -> Result<(String, String), TokenError> {
        let NewToken { name, mut scopes, app, requests_per_second } = new;
        let printable =
            |text: &str| !text.is_empty() && text.len() <= NAME_BYTES_MAX && !text.contains(char::is_control);
        if !printable(&name) {
            return Err(TokenError::Bad(format!("a token's name is 1 to {NAME_BYTES_MAX} bytes of printable text")));
        }
        scopes.sort_unstable();
        scopes.dedup();
        if scopes.is_empty() {
            return Err(TokenError::Bad(format!("give it a scope: {}", Scope::ALL.map(Scope::name).join(", "))));
        }
        if app.as_deref().is_some_and(|app| !printable(app) || !scopes.contains(&Scope::Ingest)) {
            return Err(TokenError::Bad("an app goes with the scope ingest, and is short printable text".to_owned()));
        }
        if requests_per_second == Some(0) {
            return Err(TokenError::Bad("requests_per_second must be more than 0".to_owned()));
        }
        if self.known.read().unwrap_or_else(PoisonError::into_inner).len() >= TOKENS_MAX {
            return Err(TokenError::Bad(format!("there are {TOKENS_MAX} tokens, which is the limit")));
        }
        let id = uuid::Uuid::new_v4().simple().to_string()[..8].to_owned();
        let secret = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        let token = TokenEntry {
            name,
            sha256: hex_sha256(secret.as_bytes()),
            scopes: scopes.iter().map(|scope| scope.name().to_owned()).collect(),
            app,
            requests_per_second,
            created_at_us: (self.clock)(),
            revoked_at_us: None,
        };
        self.catalogue.put_token(&id, &token).await?;
        self.insert(&id, token);
        Ok((id.clone(), format!("{PREFIX}{id}_{secret}")))
    }

    /// Takes a token back, at once.
    ///
    /// # Errors
    /// When there is no such token.
    pub async fn revoke(&self, id: &str) -> Result<TokenEntry, CatalogueError> {
        let token = self.catalogue.revoke_token(id, (self.clock)()).await?;
        self.insert(id, token.clone());
        Ok(token)
    }

    /// Who a token stands for; `None` for one that is none, or that was taken back.
    pub fn verify(&self, text: &str) -> Option<Principal> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let token = self.known.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()?;
        let right: bool = hex_sha256(secret.as_bytes()).as_bytes().ct_eq(token.sha256.as_bytes()).into();
        (right && token.revoked_at_us.is_none()).then(|| Principal {
            name: format!("{} ({id})", token.name),
            token: Some(id.to_owned()),
            app: token.app.clone(),
            requests_per_second: token.requests_per_second,
            // A scope of a later version allows nothing here.
            scopes: token.scopes.iter().filter_map(|scope| scope.parse().ok()).collect(),
        })
    }

    /// Writes down what somebody did. That it was done can't be undone, so a failure is only told.
    pub async fn audit(&self, who: &Principal, action: &str, subject: impl Into<String>, detail: Option<String>) {
        let entry = AuditEntry {
            at_us: (self.clock)(),
            who: who.name.clone(),
            action: action.to_owned(),
            subject: subject.into(),
            detail,
        };
        tracing::info!(who = entry.who, action, subject = entry.subject, "audit");
        if let Err(error) = self.catalogue.audit(&entry).await {
            tracing::error!(%error, "the audit trail could not be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_keyspace::embedded::{EmbeddedKeyspace, Options};

    use super::*;

    fn new(name: &str, scopes: &[Scope]) -> NewToken {
        NewToken { name: name.into(), scopes: scopes.to_vec(), app: None, requests_per_second: None }
    }

    #[tokio::test]
    async fn a_token_opens_what_it_is_for_until_it_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let keyspace = Arc::new(EmbeddedKeyspace::open(dir.path(), Options::default()).await.unwrap());
        let catalogue = Catalogue::open(keyspace, "test").await.unwrap();
        let load = || Tokens::load(catalogue.clone(), Arc::new(|| 7));
        let tokens = load().await.unwrap();
        assert!(!tokens.any_in_force());
        let (id, text) = tokens.create(new("ci", &[Scope::PluginsWrite])).await.unwrap();
        assert!(text.starts_with(&format!("millrace_{id}_")));
        // Another process that reads the same catalogue knows it too.
        for tokens in [&tokens, &load().await.unwrap()] {
            assert!(tokens.any_in_force());
            let principal = tokens.verify(&text).unwrap();
            assert!(principal.may(Scope::PluginsWrite) && principal.may_observe());
            assert!(!principal.may(Scope::PipelineWrite) && !principal.may(Scope::RawRead));
        }
        let other = format!("{}0", &text[..text.len() - 1]);
        for wrong in ["", "millrace_", "millrace_x_y", &text[1..], &format!("{text}0"), &format!("millrace_{id}_")] {
            assert_eq!(tokens.verify(wrong), None, "{wrong}");
        }
        assert!(other == text || tokens.verify(&other).is_none());
        let stored = format!("{:?}", tokens.list());
        assert!(!stored.contains(text.rsplit('_').next().unwrap()), "the secret is stored nowhere");
        tokens.revoke(&id).await.unwrap();
        assert_eq!(tokens.verify(&text), None);
        assert!(!tokens.any_in_force());
    }

    #[tokio::test]
    async fn a_token_without_sense_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let keyspace = Arc::new(EmbeddedKeyspace::open(dir.path(), Options::default()).await.unwrap());
        let tokens = Tokens::load(Catalogue::open(keyspace, "test").await.unwrap(), Arc::new(|| 7)).await.unwrap();
        for bad in [
            new("", &[Scope::Admin]),
            new("a\nb", &[Scope::Admin]),
            new("none", &[]),
            NewToken { app: Some("shop".into()), ..new("reader", &[Scope::HistoryRead]) },
            NewToken { requests_per_second: Some(0), ..new("still", &[Scope::Ingest]) },
        ] {
            assert!(matches!(tokens.create(bad).await, Err(TokenError::Bad(_))));
        }
        let app = NewToken { app: Some("shop".into()), ..new("shop", &[Scope::Ingest]) };
        let (_, text) = tokens.create(app).await.unwrap();
        let principal = tokens.verify(&text).unwrap();
        assert_eq!(principal.app.as_deref(), Some("shop"));
        assert!(
            !principal.may_observe() && !principal.may(Scope::HistoryRead),
            "an app's token is in everybody's hands"
        );
    }
}
