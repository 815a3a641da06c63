//! A loaded plugin, and the checks that let it in.

use std::fmt;
use std::sync::Arc;

use wasmtime::Engine;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, InstancePre};

use crate::abi;
use crate::cache::hex;
use crate::call::{self, CallFailure, CallState, Entry, Stop};
use crate::error::{LoadError, ManifestError};
use crate::host::{HOST_INTERFACE, PluginHost, TYPES_INTERFACE};
use crate::limits::{CONFIG_BYTES_MAX, Limits};
use crate::manifest::Manifest;
use crate::tables::{TABLES_INTERFACE, Tables};

/// A plugin, compiled and ready. Cheap to clone.
#[derive(Clone)]
pub struct Plugin {
    inner: Arc<PluginInner>,
}

struct PluginInner {
    host: PluginHost,
    entry: Entry,
    digest: [u8; 32],
    bytes: usize,
}

impl Plugin {
    pub(crate) fn new(
        host: PluginHost,
        pre: InstancePre<CallState>,
        digest: [u8; 32],
        bytes: usize,
    ) -> Result<Self, LoadError> {
        let component = pre.component();
        let index = |name: &str| {
            component
                .get_export_index(None, name)
                .ok_or_else(|| LoadError::Boundary(format!("it does not export the function {name:?}")))
        };
        let entry = Entry { describe: index("describe")?, transform: index("transform")?, pre };
        Ok(Self { inner: Arc::new(PluginInner { host, entry, digest, bytes }) })
    }

    /// SHA-256 of the plugin's bytes.
    pub fn digest(&self) -> [u8; 32] {
        self.inner.digest
    }

    /// The digest in hexadecimal.
    pub fn digest_hex(&self) -> String {
        hex(&self.inner.digest)
    }

    /// Size of the plugin as it was uploaded.
    pub fn wasm_bytes(&self) -> usize {
        self.inner.bytes
    }

    /// Runs `describe` under a configuration and checks what it says.
    ///
    /// # Errors
    /// [`ManifestError`] tells whether the configuration, the plugin or the host is at fault.
    pub fn manifest(&self, config_json: &str, limits: &Limits) -> Result<Manifest, ManifestError> {
        self.manifest_with(config_json, limits, &Tables::default())
    }

    /// Like [`Self::manifest`], for a plugin that may ask for the columns of lookup tables.
    ///
    /// # Errors
    /// [`ManifestError`] tells whether the configuration, the plugin or the host is at fault.
    pub fn manifest_with(
        &self,
        config_json: &str,
        limits: &Limits,
        tables: &Tables,
    ) -> Result<Manifest, ManifestError> {
        limits.check(self.host().options().memory_bytes_max).map_err(ManifestError::Limits)?;
        if config_json.len() > CONFIG_BYTES_MAX {
            return Err(ManifestError::Config(format!("it has more than {CONFIG_BYTES_MAX} bytes")));
        }
        serde_json::from_str::<serde::de::IgnoredAny>(config_json)
            .map_err(|e| ManifestError::Config(format!("it is no JSON: {e}")))?;
        let described = call::describe(self.host(), &self.inner.entry, limits, tables, config_json);
        let manifest = described.map_err(|failure| match failure {
            CallFailure::Guest(call::HostCode::GuestError, message) => ManifestError::Refused(message),
            CallFailure::Guest(code, message) | CallFailure::Stop(Stop::Describe(code, message)) => {
                ManifestError::Failed { code: code.as_str(), message }
            }
            CallFailure::Stop(Stop::Backstop) => ManifestError::Host("describe took too long".to_owned()),
            CallFailure::Stop(Stop::Host(message)) => ManifestError::Host(message),
        })?;
        Manifest::from_guest(manifest).map_err(ManifestError::Invalid)
    }

    pub(crate) fn host(&self) -> &PluginHost {
        &self.inner.host
    }

    pub(crate) fn entry(&self) -> &Entry {
        &self.inner.entry
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin").field("sha256", &self.digest_hex()).finish_non_exhaustive()
    }
}

/// Tells a component from what people upload by mistake, by its first bytes.
pub(crate) fn check_is_component(wasm: &[u8]) -> Result<(), LoadError> {
    match wasm {
        [0, b'a', b's', b'm', _, 0, 1, 0, ..] => Ok(()),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Err(LoadError::CoreModule),
        [0, b'a', b's', b'm', ..] => Err(LoadError::Invalid("its header is of no known version".to_owned())),
        [] => Err(LoadError::NotWasm { found: "empty" }),
        [b'P', b'K', ..] => Err(LoadError::NotWasm { found: "a zip archive" }),
        [0x1f, 0x8b, ..] => Err(LoadError::NotWasm { found: "a gzip file" }),
        [0x7f, b'E', b'L', b'F', ..] => Err(LoadError::NotWasm { found: "a native program" }),
        [b'(', ..] => Err(LoadError::NotWasm { found: "WebAssembly in text form" }),
        _ => Err(LoadError::NotWasm { found: "some other file" }),
    }
}

/// Checks imports and the types of the two exports. Other exports are allowed: tools of other languages add some.
pub(crate) fn check_world(engine: &Engine, component: &Component) -> Result<(), LoadError> {
    let ty = component.component_type();
    for (name, item) in ty.imports(engine) {
        let forbidden = |import: String| Err(LoadError::ForbiddenImport { import });
        let allowed: &[&str] = if same_interface(name, HOST_INTERFACE) {
            &["log"]
        } else if same_interface(name, TABLES_INTERFACE) {
            &["columns", "lookup"]
        } else if same_interface(name, TYPES_INTERFACE) {
            &[]
        } else {
            return forbidden(name.to_owned());
        };
        let ComponentItem::ComponentInstance(instance) = item.ty else { return forbidden(name.to_owned()) };
        for (function, item) in instance.exports(engine) {
            if !matches!(item.ty, ComponentItem::Type(_)) && !allowed.contains(&function) {
                return forbidden(format!("{name}#{function}"));
            }
        }
    }
    let instance_type = ty.instance_type();
    for name in ["describe", "transform"] {
        let missing = || LoadError::Boundary(format!("it does not export the function {name:?}"));
        let item = ty.get_export(engine, name).ok_or_else(missing)?;
        let ComponentItem::ComponentFunc(function) = item.ty else { return Err(missing()) };
        if function.async_() {
            return Err(LoadError::Boundary(format!("function {name:?} is asynchronous")));
        }
        if name == "describe" {
            function.typecheck::<abi::DescribeParams<'_>, abi::DescribeResult>(&instance_type)
        } else {
            function.typecheck::<abi::TransformParams<'_>, abi::TransformResult>(&instance_type)
        }
        .map_err(|e| LoadError::Boundary(format!("function {name:?}: {e:#}")))?;
    }
    Ok(())
}

/// Whether `name` is `ours` in a version with the same major number.
fn same_interface(name: &str, ours: &str) -> bool {
    let (Some((name, version)), Some((our_name, our_version))) = (name.split_once('@'), ours.split_once('@')) else {
        return false;
    };
    name == our_name && version.split('.').next() == our_version.split('.').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_apart_by_their_first_bytes() {
        assert!(check_is_component(b"\0asm\x0d\0\x01\0").is_ok());
        assert!(matches!(check_is_component(b"\0asm\x01\0\0\0"), Err(LoadError::CoreModule)));
        for (bytes, word) in [(&b"PK\x03\x04"[..], "zip"), (b"", "empty"), (b"(component)", "text"), (b"x", "other")] {
            assert!(check_is_component(bytes).unwrap_err().to_string().contains(word), "{word}");
        }
    }

    #[test]
    fn an_interface_fits_by_name_and_major_version() {
        assert!(same_interface("millrace:transform/host@1.4.0", HOST_INTERFACE));
        assert!(!same_interface("millrace:transform/host@2.0.0", HOST_INTERFACE));
        assert!(!same_interface("millrace:transform/host", HOST_INTERFACE));
        assert!(!same_interface("wasi:clocks/wall-clock@0.2.0", HOST_INTERFACE));
    }
}
