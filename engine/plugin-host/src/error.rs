//! What goes wrong, and what to do about it.

use std::time::Duration;

use crate::output::Failure;

/// Why a host could not be set up or a plugin was refused. Nothing of the plugin ran.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The host itself can't be set up.
    #[error("plugin host: {message}")]
    Host {
        /// What is wrong.
        message: String,
    },
    /// Larger than [`crate::HostOptions::module_bytes_max`].
    #[error("the plugin has {bytes} bytes and this host takes {max}: build it in release mode and strip it")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// A file that is no WebAssembly.
    #[error("this is {found} and not a WebAssembly component: upload the .wasm file that the build made")]
    NotWasm {
        /// What it looks like.
        found: &'static str,
    },
    /// A core module, the older form of WebAssembly.
    #[error(
        "this is a core WebAssembly module and not a component: link it with wasm-component-ld, or make a component of it \
         with wasm-tools component new"
    )]
    CoreModule,
    /// Damaged, or using a feature that is off because it would make results depend on the machine.
    #[error("the plugin is damaged or uses a WebAssembly feature that is not allowed: {0}")]
    Invalid(String),
    /// Compiling it was ended.
    #[error("the plugin could not be compiled: {0}")]
    Compile(String),
    /// It asks for something that the host does not give.
    #[error(
        "the plugin imports {import:?}, and a transform may only import millrace:transform/host@1 and tables@1: it has no \
         clock, files, network or randomness (build it for wasm32-unknown-unknown, or with your tool's option that leaves WASI \
         out)"
    )]
    ForbiddenImport {
        /// The import.
        import: String,
    },
    /// It does not export what the world asks for.
    #[error("the plugin does not fit the world millrace:transform/transform-plugin@1: {0}")]
    Boundary(String),
}

/// Why a plugin has no manifest under a configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The configuration is no JSON or too long.
    #[error("the configuration is not usable: {0}")]
    Config(String),
    /// The plugin refused the configuration, in its own words.
    #[error("the plugin refused its configuration: {0}")]
    Refused(String),
    /// `describe` trapped or met a limit.
    #[error("describe ended with {code}: {message}")]
    Failed {
        /// The host's code, as in dead letters.
        code: &'static str,
        /// More about it; may hold text of the plugin.
        message: String,
    },
    /// The manifest breaks a rule of the world.
    #[error("the plugin's manifest is not valid: {0}")]
    Invalid(String),
    /// Limits that this host can't give.
    #[error("{0}")]
    Limits(String),
    /// The host's fault or the backstop: nothing is known about the plugin. Try again.
    #[error("the host could not run the plugin: {0}")]
    Host(String),
}

/// Why a chain was refused.
#[derive(Debug, thiserror::Error)]
#[error("step {} ({step}): {problem}", index + 1)]
pub struct ChainError {
    /// Position of the step in the chain, from 0.
    pub index: usize,
    /// `name@version`, or the start of the digest of a plugin that has no valid manifest.
    pub step: String,
    /// What is wrong.
    pub problem: ChainProblem,
}

/// What is wrong with a step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainProblem {
    /// Its manifest can't be had.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Its manifest does not fit what stands before it.
    #[error("{0}")]
    Columns(String),
}

/// Why a chain stopped without deciding a batch. Nothing of the batch may be used. What is told here by `Display` holds
/// no data of events.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainStop {
    /// More rows of one batch ended in a trap, an error or a limit than [`crate::HostOptions::bad_rows_max`]: the plugin
    /// is broken, not the rows. Correct the chain.
    #[error("step {step}: more than {max} rows of one batch ended in a trap, an error or a limit")]
    TooManyBadRows {
        /// The step at which it was one too many.
        step: String,
        /// The bound.
        max: usize,
        /// The rows decided until then, with protected text.
        failures: Vec<Failure>,
    },
    /// A row failed at a step whose failures are to halt the chain rather than to make dead letters. Correct the chain, or
    /// what it depends on.
    #[error("step {step}: the record at offset {offset} failed with {code}, and the step is to halt then")]
    Halted {
        /// The step.
        step: String,
        /// The record.
        offset: u64,
        /// The plugin's code, or the host's.
        code: String,
        /// The rows decided until then that ended in a trap, an error or a limit, with protected text.
        failures: Vec<Failure>,
    },
    /// A call took longer than [`crate::HostOptions::backstop`]. The machine stands still or the fuel limit is far too
    /// high; running the batch again is safe.
    #[error("step {step}: a call took longer than {after:?}")]
    Backstop {
        /// The step.
        step: String,
        /// The time that it had.
        after: Duration,
    },
    /// `describe` no longer gives what it gave when the chain was built, which only a plugin that is not deterministic
    /// can do.
    #[error("step {step}: describe failed for a configuration that it had accepted ({code})")]
    Describe {
        /// The step.
        step: String,
        /// The host's code.
        code: &'static str,
        /// More about it, protected.
        message: String,
    },
    /// The host failed: out of memory or of address space. Running the batch again is safe.
    #[error("step {step}: the host could not run the plugin: {message}")]
    Host {
        /// The step.
        step: String,
        /// What failed.
        message: String,
    },
    /// The batch is not what the decoder makes.
    #[error("not a decoded batch: {0}")]
    Input(String),
}
