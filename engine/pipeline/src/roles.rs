//! What a process does of all that a deployment does. One process does everything; where several share a log and a
//! keyspace, each can be given a part, and be sized for it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A part of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Takes events in.
    Ingest,
    /// Keeps the stores up to date, works off jobs, maintains the table.
    Process,
    /// Answers questions about histories, and runs what reads a lot: previews, `verify`.
    Query,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ingest, Self::Process, Self::Query];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Process => "process",
            Self::Query => "query",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.name() == text.trim());
        found.ok_or_else(|| format!("{text:?} is no role: use {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// The roles of a process; not empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "Vec<Role>")]
pub struct Roles(Vec<Role>);

impl Roles {
    /// Whether it is one of them.
    pub fn has(&self, role: Role) -> bool {
        self.0.contains(&role)
    }
}

impl Default for Roles {
    /// All of them.
    fn default() -> Self {
        Self(Role::ALL.to_vec())
    }
}

/// How roles are written: as a list, or as names with commas between them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Form {
    Text(String),
    List(Vec<Role>),
}

impl TryFrom<Form> for Roles {
    type Error = String;

    fn try_from(form: Form) -> Result<Self, String> {
        match form {
            Form::Text(text) => text.parse(),
            Form::List(roles) => roles.try_into(),
        }
    }
}

impl TryFrom<Vec<Role>> for Roles {
    type Error = String;

    fn try_from(mut roles: Vec<Role>) -> Result<Self, String> {
        roles.sort_unstable();
        roles.dedup();
        if roles.is_empty() { Err("a process has at least one role".into()) } else { Ok(Self(roles)) }
    }
}

impl From<Roles> for Vec<Role> {
    fn from(roles: Roles) -> Self {
        roles.0
    }
}

/// Names with commas between them.
impl FromStr for Roles {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',').map(Role::from_str).collect::<Result<Vec<_>, _>>()?.try_into()
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(|role| role.name()).collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_there_and_back() {
        let roles: Roles = "query, ingest,query".parse().unwrap();
        assert_eq!(roles.to_string(), "ingest,query");
        assert!(roles.has(Role::Ingest) && !roles.has(Role::Process));
        assert_eq!(Roles::default().to_string(), "ingest,process,query");
        assert!("".parse::<Roles>().is_err());
        assert!("ingest,worker".parse::<Roles>().unwrap_err().contains("\"worker\""));
    }
}
