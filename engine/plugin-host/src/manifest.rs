//! What a plugin says about itself, and the rules that it must keep.

use std::collections::HashSet;

use millrace_rows::schema::{AddedColumn, check_added_name};
use serde::{Deserialize, Serialize};

use crate::abi;
use crate::call::HostCode;

/// Most entries of any list of a manifest.
const ENTRIES_MAX: usize = 256;
/// Longest version text.
const VERSION_BYTES_MAX: usize = 64;

/// A plugin's manifest under one configuration, checked. It is pinned in the revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// 1 to 64 characters of a-z, 0-9 and -, starting with a letter.
    pub name: String,
    /// A semantic version.
    pub version: String,
    /// Columns sent, in this order.
    pub reads: Vec<String>,
    /// Columns returned, in this order.
    pub writes: Vec<String>,
    /// Columns added, returned in this order after those written.
    pub adds: Vec<AddedColumn>,
    /// Lookup tables needed.
    pub tables: Vec<String>,
    /// Codes of drops and failures.
    pub codes: Vec<String>,
}

impl Manifest {
    /// The step's name in dead letters and metrics: `name@version`.
    pub fn step_name(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    pub(crate) fn from_guest(manifest: abi::Manifest) -> Result<Self, String> {
        let abi::Manifest { name, version, reads, writes, adds, tables, codes } = manifest;
        let lists = [reads.len(), writes.len(), adds.len(), tables.len(), codes.len()];
        if lists.iter().any(|length| *length > ENTRIES_MAX) {
            return Err(format!("a list has more than {ENTRIES_MAX} entries"));
        }
        let adds = adds.into_iter().map(|a| AddedColumn { name: a.name, ty: a.ty.into() }).collect();
        let manifest = Self { name, version, reads, writes, adds, tables, codes };
        manifest.check()?;
        Ok(manifest)
    }

    /// The rules that need no knowledge of other steps.
    fn check(&self) -> Result<(), String> {
        let dashed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let snake = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if !named(&self.name, dashed) || !self.name.starts_with(|c: char| c.is_ascii_lowercase()) {
            return Err(format!(
                "name {:?} must be 1 to 64 characters of a-z 0-9 - and start with a letter",
                shown(&self.name)
            ));
        }
        if self.version.len() > VERSION_BYTES_MAX || semver::Version::parse(&self.version).is_err() {
            return Err(format!("version {:?} must be a semantic version like 1.2.3", shown(&self.version)));
        }
        for (list, names) in
            [("reads", &self.reads), ("writes", &self.writes), ("tables", &self.tables), ("codes", &self.codes)]
        {
            unique(list, names.iter())?;
        }
        unique("adds", self.adds.iter().map(|column| &column.name))?;
        for column in &self.adds {
            check_added_name(&column.name)?;
        }
        for code in &self.codes {
            if !named(code, snake) {
                return Err(format!("code {:?} must be 1 to 64 characters of a-z 0-9 _", shown(code)));
            }
            if HostCode::ALL.iter().any(|host| host.as_str() == code) {
                return Err(format!("code {code:?} is one of the host's own: choose another"));
            }
        }
        for table in &self.tables {
            if !named(table, |c| dashed(c) || c == '_') {
                return Err(format!("table {:?} must be 1 to 64 characters of a-z 0-9 - _", shown(table)));
            }
        }
        Ok(())
    }
}

fn named(name: &str, legal: impl Fn(char) -> bool) -> bool {
    (1..=64).contains(&name.len()) && name.chars().all(legal)
}

fn unique<'a>(list: &str, names: impl Iterator<Item = &'a String>) -> Result<(), String> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(format!("{list} names {:?} twice", shown(name)));
        }
    }
    Ok(())
}

/// The start of a guest's text.
fn shown(text: &str) -> &str {
    &text[..text.floor_char_boundary(80)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_rows::ColumnType;

    fn good() -> Manifest {
        Manifest {
            name: "pii-scrub".into(),
            version: "1.2.3-rc.1".into(),
            reads: vec!["ip".into()],
            writes: vec!["ip".into()],
            adds: vec![AddedColumn { name: "country".into(), ty: ColumnType::String }],
            tables: vec!["geo".into()],
            codes: vec!["bad_ip".into()],
        }
    }

    #[test]
    fn a_good_manifest_passes_and_each_rule_refuses() {
        assert_eq!(good().check(), Ok(()));
        assert_eq!(good().step_name(), "pii-scrub@1.2.3-rc.1");
        type Break = (&'static str, fn(&mut Manifest));
        let breaks: [Break; 12] = [
            ("name", |m| m.name = "1x".into()),
            ("name", |m| m.name = String::new()),
            ("name", |m| m.name = "a@b".into()),
            ("version", |m| m.version = "1.2".into()),
            ("version", |m| m.version = format!("1.2.3+{}", "a".repeat(80))),
            ("reads", |m| m.reads.push("ip".into())),
            ("writes", |m| m.writes.push("ip".into())),
            ("adds", |m| m.adds.push(m.adds[0].clone())),
            ("exists in every row", |m| m.adds[0].name = "device_id".into()),
            ("code", |m| m.codes.push("Bad".into())),
            ("host's own", |m| m.codes.push("trap".into())),
            ("table", |m| m.tables.push("a/b".into())),
        ];
        for (word, change) in breaks {
            let mut manifest = good();
            change(&mut manifest);
            let error = manifest.check().unwrap_err();
            assert!(error.contains(word), "{word}: {error}");
        }
    }

    #[test]
    fn long_text_of_a_guest_is_cut() {
        let mut manifest = good();
        manifest.name = "é".repeat(10_000);
        assert!(manifest.check().unwrap_err().len() < 250);
    }
}
