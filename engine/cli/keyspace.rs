//! `[keyspace]` of the configuration: where history and catalogue are.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use millrace_pipeline::keyspace::KeyspaceOptions;
use serde::Deserialize;

/// Without a cluster file: `<data_dir>/keyspace`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keyspace {
    pub cluster_file: Option<PathBuf>,
    pub prefix: String,
    #[serde(deserialize_with = "crate::config::duration")]
    pub timeout: Duration,
    pub tls_certificate: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub tls_ca: Option<PathBuf>,
    pub tls_verify_peers: Option<String>,
}

impl Default for Keyspace {
    fn default() -> Self {
        Self {
            cluster_file: None,
            prefix: "millrace".to_owned(),
            timeout: Duration::from_secs(10),
            tls_certificate: None,
            tls_key: None,
            tls_ca: None,
            tls_verify_peers: None,
        }
    }
}

impl Keyspace {
    /// What one value can't tell by itself.
    pub fn check(&self) -> Result<()> {
        if self.cluster_file.is_none() && *self != Self::default() {
            bail!("[keyspace] is for FoundationDB: give keyspace.cluster_file, or leave the section out");
        }
        if self.cluster_file.is_some() && !cfg!(feature = "foundationdb") {
            bail!("keyspace.cluster_file: this build has no FoundationDB: build with --features foundationdb");
        }
        if self.tls_certificate.is_some() != self.tls_key.is_some() {
            bail!("keyspace.tls_certificate and keyspace.tls_key go together: give both files");
        }
        if self.tls_certificate.is_none() && (self.tls_ca.is_some() || self.tls_verify_peers.is_some()) {
            bail!(
                "keyspace.tls_ca and keyspace.tls_verify_peers need keyspace.tls_certificate and keyspace.tls_key: \
                 FoundationDB's TLS has a certificate on both sides"
            );
        }
        let (least, most) = (Duration::from_millis(100), Duration::from_secs(300));
        if !(least..=most).contains(&self.timeout) {
            bail!("keyspace.timeout = {:?}: it must be {least:?} to {most:?}", self.timeout);
        }
        if !(1..=64).contains(&self.prefix.len()) || self.prefix.contains('\0') {
            bail!("keyspace.prefix = {:?}: it must have 1 to 64 bytes, none of them zero", self.prefix);
        }
        Ok(())
    }

    /// The engine's options; `cache_bytes` is for the embedded keyspace.
    pub fn options(&self, cache_bytes: u64) -> KeyspaceOptions {
        #[cfg(feature = "foundationdb")]
        if let Some(cluster_file) = &self.cluster_file {
            use millrace_keyspace::foundationdb::{Options, Tls};

            let tls = self.tls_certificate.clone().zip(self.tls_key.clone()).map(|(certificate, key)| Tls {
                certificate,
                key,
                ca: self.tls_ca.clone(),
                verify_peers: self.tls_verify_peers.clone(),
            });
            let prefix = self.prefix.clone();
            return KeyspaceOptions::FoundationDb(Options {
                prefix,
                timeout: self.timeout,
                tls,
                ..Options::at(cluster_file)
            });
        }
        KeyspaceOptions::Embedded(millrace_keyspace::embedded::Options { cache_bytes, ..Default::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyspace(text: &str) -> Result<Keyspace> {
        let keyspace: Keyspace = toml::from_str(text)?;
        keyspace.check()?;
        Ok(keyspace)
    }

    #[test]
    fn without_a_cluster_file_it_is_a_directory() {
        let keyspace = keyspace("").unwrap();
        assert!(matches!(keyspace.options(7), KeyspaceOptions::Embedded(options) if options.cache_bytes == 7));
    }

    #[test]
    fn settings_that_do_not_fit_together_are_refused() {
        let cluster = "cluster_file = \"/etc/foundationdb/fdb.cluster\"\n";
        for (text, expected) in [
            ("prefix = \"shop\"", "give keyspace.cluster_file"),
            ("tls_key = \"key.pem\"", "give keyspace.cluster_file"),
            ("cluster = \"x\"", "unknown field"),
        ] {
            let error = format!("{:#}", keyspace(text).unwrap_err());
            assert!(error.contains(expected), "{text}: {error}");
        }
        for (text, expected) in [
            ("tls_key = \"key.pem\"", "go together"),
            ("tls_ca = \"ca.pem\"", "both sides"),
            ("timeout = \"1ms\"", "100ms"),
            ("prefix = \"\"", "1 to 64 bytes"),
        ] {
            let error = format!("{:#}", keyspace(&format!("{cluster}{text}")).unwrap_err());
            let expected = if cfg!(feature = "foundationdb") { expected } else { "build with --features foundationdb" };
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[cfg(feature = "foundationdb")]
    #[test]
    fn a_cluster_file_makes_it_a_cluster() {
        let text =
            "cluster_file = \"f\"\nprefix = \"shop\"\ntimeout = \"3s\"\ntls_certificate = \"c\"\ntls_key = \"k\"";
        let KeyspaceOptions::FoundationDb(options) = keyspace(text).unwrap().options(7) else { panic!() };
        assert_eq!((options.prefix.as_str(), options.timeout), ("shop", Duration::from_secs(3)));
        assert_eq!(options.tls.unwrap().key, PathBuf::from("k"));
    }
}
