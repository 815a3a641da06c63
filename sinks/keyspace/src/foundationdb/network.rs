//! The client library's network thread: one a process, for ever.
#![allow(unsafe_code, reason = "the client library has to be started, and stopped before the process exits")]

use std::ffi::c_int;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use ::foundationdb::FdbError;
use ::foundationdb::api::{FdbApiBuilder, NetworkAutoStop};
use ::foundationdb::options::NetworkOption;

use super::Tls;
use crate::KeyspaceError;

/// How it was started. It can't be started again in this process, not even after a failure.
struct Started {
    tls: Option<Tls>,
    outcome: Result<(), String>,
}

static STARTED: OnceLock<Started> = OnceLock::new();
/// Stops the thread when it is dropped.
static GUARD: Mutex<Option<NetworkAutoStop>> = Mutex::new(None);

// SAFETY: the declaration is that of the C standard library, which Rust's links to.
unsafe extern "C" {
    safe fn atexit(callback: extern "C" fn()) -> c_int;
}

/// Starts the network thread, or finds it started.
pub(super) fn start(tls: Option<&Tls>) -> Result<(), KeyspaceError> {
    let started = STARTED.get_or_init(|| Started { tls: tls.cloned(), outcome: try_start(tls) });
    match &started.outcome {
        Err(detail) => Err(KeyspaceError::Broken(format!("FoundationDB's client library did not start: {detail}"))),
        Ok(()) if started.tls.as_ref() != tls => Err(KeyspaceError::Broken(
            "this process has a keyspace with other TLS settings: FoundationDB's client library takes one set"
                .to_owned(),
        )),
        Ok(()) => Ok(()),
    }
}

fn try_start(tls: Option<&Tls>) -> Result<(), String> {
    let said = |doing: &str, error: FdbError| format!("{doing}: FoundationDB answered {} ({error})", error.code());
    // Nobody else in this process selects a version, and this runs once: it does not panic.
    let mut network = FdbApiBuilder::default()
        .build()
        .map_err(|error| said("selecting the API version; is the library older than 7.3?", error))?;
    let mut options = Vec::new();
    if let Some(tls) = tls {
        options.push(("the certificate", NetworkOption::TLSCertPath(utf8(&tls.certificate)?)));
        options.push(("the key", NetworkOption::TLSKeyPath(utf8(&tls.key)?)));
        if let Some(ca) = &tls.ca {
            options.push(("the authorities", NetworkOption::TLSCaPath(utf8(ca)?)));
        }
        if let Some(verify) = &tls.verify_peers {
            options.push(("verify_peers", NetworkOption::TLSVerifyPeers(verify.clone().into_bytes())));
        }
    }
    for (name, option) in options {
        network = network.set_option(option).map_err(|error| said(&format!("setting {name} for TLS"), error))?;
    }
    // SAFETY: the guard must be dropped before the process exits. `stop` does that: it is called at an exit, which runs
    // what was registered last first, so before the library's own ends; a process that aborts or is killed need not.
    let guard = unsafe { network.boot() }.map_err(|error| said("starting its network thread", error))?;
    if atexit(stop) != 0 {
        return Err("the process takes no more functions to be called at its exit".to_owned());
    }
    *GUARD.lock().unwrap_or_else(PoisonError::into_inner) = Some(guard);
    Ok(())
}

/// Stops the network thread and waits for its end. Keyspaces that are still there can't do anything any more.
extern "C" fn stop() {
    drop(GUARD.lock().unwrap_or_else(PoisonError::into_inner).take());
}

/// The client library takes paths as text.
pub(super) fn utf8(path: &Path) -> Result<String, String> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| format!("{path:?} is no UTF-8: the client library needs a path that is"))
}
