//! What a revision pins: everything that can change a row is in here, and nothing outside is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::tables::TableRef;

/// Version of all that the host itself contributes to a row: the decoder and its settings, the checks after the chain,
/// the wasm features and fuel costs of the runtime. A change to a golden row means that this number goes up.
pub const SEMANTICS_VERSION: u32 = 1;

/// An ordered list of steps, pinned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainSpec {
    /// [`SEMANTICS_VERSION`] of the build that made the revision.
    pub semantics: u32,
    /// The steps, first to last. None: rows are stored as they were decoded.
    pub steps: Vec<StepSpec>,
}

/// One step of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepSpec {
    /// The plugin, by name, version and content.
    pub plugin: PluginRef,
    /// Its configuration, as the JSON text that the plugin gets.
    pub config: String,
    /// Its limits in each call, as the plugin host defines them, all of them: a later default must not change a row.
    pub limits: serde_json::Value,
    /// Whether a row that it fails stops the chain, rather than to become a dead letter.
    #[serde(default, skip_serializing_if = "is_false")]
    pub halts: bool,
    /// Its lookup tables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<TableRef>,
    /// Its manifest under this configuration, as the plugin host defines it. It follows from the rest and is here to be
    /// read; revisions of earlier builds have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<serde_json::Value>,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl ChainSpec {
    /// Whether the other chain gives the same rows by the same means: whatever is in both but manifests, which follow from
    /// the rest.
    pub fn does_the_same_as(&self, other: &Self) -> bool {
        let rest = |chain: &Self| {
            let steps = chain.steps.iter().map(|step| StepSpec { manifest: None, ..step.clone() }).collect();
            Self { semantics: chain.semantics, steps }
        };
        rest(self) == rest(other)
    }
}

/// A plugin by name, version and content. The first two are for people; the digest decides.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginRef {
    /// Its name.
    pub name: String,
    /// Its semantic version.
    pub version: String,
    /// SHA-256 of the component, in lower-case hexadecimal digits.
    pub sha256: String,
}

impl fmt::Display for PluginRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

/// A plugin as people write it: `name@version`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PluginName {
    /// Its name.
    pub name: String,
    /// Its semantic version.
    pub version: String,
}

impl fmt::Display for PluginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

impl FromStr for PluginName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('@') {
            Some((name, version)) if !name.is_empty() && !version.is_empty() => {
                Ok(Self { name: name.to_owned(), version: version.to_owned() })
            }
            _ => Err(format!("{text:?} is not of the form name@version, as in pii-scrub@0.1.0")),
        }
    }
}
