//! Secrets that plugin configurations name.
//!
//! A pinned configuration holds `{"$secret": "name@version"}`, never the value. The values are files
//! `<dir>/<name>@<version>` that only the owner reads; their content, less a newline at the end, is the secret. A secret
//! is as immutable as a plugin: a new value gets a new version, or replays would not give the same rows.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Longest secret, in bytes.
pub const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// A secret that can't be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The name is none.
    #[error("{0:?} is no secret's name: use letters, digits, - and _, then @ and a version, as in pii@1")]
    Name(String),
    /// The file can't be read or written.
    #[error("secret {name}: {path}: {error}")]
    File {
        /// The secret.
        name: String,
        /// Where its value should be.
        path: PathBuf,
        /// What went wrong.
        error: std::io::Error,
    },
    /// The value is no text, empty or too long.
    #[error("secret {0}: the value must be UTF-8 text of 1 byte to 64 KiB")]
    Value(String),
    /// The configuration is no JSON.
    #[error("the configuration is no JSON: {0}")]
    Config(#[from] serde_json::Error),
}

/// A directory of secrets.
#[derive(Clone, Debug)]
pub struct Secrets {
    dir: PathBuf,
}

impl Secrets {
    /// Secrets in `dir`, which need not exist while none is asked for.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Replaces every `{"$secret": "name@version"}` in a JSON document by the secret's value.
    pub fn resolve(&self, config: &str) -> Result<String, SecretError> {
        let mut config: Value = serde_json::from_str(config)?;
        self.resolve_value(&mut config)?;
        Ok(config.to_string())
    }

    fn resolve_value(&self, value: &mut Value) -> Result<(), SecretError> {
        let named = match value {
            Value::Object(members) if members.len() == 1 => members.get("$secret").and_then(Value::as_str),
            _ => None,
        };
        if let Some(name) = named {
            *value = Value::String(self.get(name)?);
            return Ok(());
        }
        match value {
            Value::Object(members) => members.values_mut().try_for_each(|member| self.resolve_value(member)),
            Value::Array(items) => items.iter_mut().try_for_each(|item| self.resolve_value(item)),
            _ => Ok(()),
        }
    }

    /// The value of one secret.
    pub fn get(&self, name: &str) -> Result<String, SecretError> {
        let path = self.path(name)?;
        let read = || -> std::io::Result<Vec<u8>> {
            if fs::metadata(&path)?.len() > SECRET_BYTES_MAX {
                return Ok(Vec::new());
            }
            fs::read(&path)
        };
        let bytes = read().map_err(|error| SecretError::File { name: name.to_owned(), path: path.clone(), error })?;
        let text = String::from_utf8(bytes).map_err(|_| SecretError::Value(name.to_owned()))?;
        match text.strip_suffix('\n').unwrap_or(&text) {
            "" => Err(SecretError::Value(name.to_owned())),
            value => Ok(value.to_owned()),
        }
    }

    /// Makes a random secret of this name unless there is one.
    pub fn ensure(&self, name: &str) -> Result<(), SecretError> {
        let path = self.path(name)?;
        let write = || -> std::io::Result<()> {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
            if path.exists() {
                return Ok(());
            }
            // Two random UUIDs: 244 random bits.
            let value = format!("{}{}\n", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
            let unfinished = path.with_extension("tmp");
            let mut file =
                fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
            file.write_all(value.as_bytes())?;
            file.sync_all()?;
            fs::rename(&unfinished, &path)?;
            fs::File::open(&self.dir)?.sync_all()
        };
        write().map_err(|error| SecretError::File { name: name.to_owned(), path: path.clone(), error })
    }

    fn path(&self, name: &str) -> Result<PathBuf, SecretError> {
        let legal = |part: &str| {
            (1..=64).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        match name.split_once('@') {
            Some((base, version)) if legal(base) && legal(version) => Ok(Path::new(&self.dir).join(name)),
            _ => Err(SecretError::Name(name.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_resolved_wherever_they_stand() {
        let dir = tempfile::tempdir().unwrap();
        let secrets = Secrets::new(dir.path().join("secrets"));
        secrets.ensure("pii@1").unwrap();
        let value = secrets.get("pii@1").unwrap();
        secrets.ensure("pii@1").unwrap();
        assert_eq!(secrets.get("pii@1").unwrap(), value, "a secret never changes");
        let resolved = secrets.resolve(r#"{"a":[{"key":{"$secret":"pii@1"}}],"b":1}"#).unwrap();
        assert_eq!(resolved, format!(r#"{{"a":[{{"key":"{value}"}}],"b":1}}"#));
    }

    #[test]
    fn a_name_can_not_leave_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let secrets = Secrets::new(dir.path());
        for bad in ["", "pii", "../x@1", "a/b@1", "@1", "a@", "a@b@c"] {
            assert!(matches!(secrets.get(bad), Err(SecretError::Name(_))), "{bad:?}");
        }
        assert!(matches!(secrets.get("none@1"), Err(SecretError::File { .. })));
    }
}
