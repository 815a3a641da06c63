//! `millrace plugin …`: what an author needs from an empty directory to a component that is known to be good.

mod bench;
mod build;
mod new;
mod show;
mod test;
mod toolchain;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow};
use clap::{Args, Subcommand};
use millrace_plugin_host::{HostOptions, Limits, Plugin};
use millrace_sdk::golden::Case;
use millrace_workbench::Workbench;
use serde_json::{Value, json};

use crate::Global;
use crate::client::Client;
use crate::config::Config;
use crate::registry::{self, RegistryCommand};

/// What to do with a plugin.
#[derive(Subcommand)]
pub enum PluginCommand {
    /// Makes a project that builds and passes its test as it is.
    New(new::NewArgs),
    /// Builds a project to a component and checks that the host takes it.
    Build(build::BuildArgs),
    /// Runs a component over golden cases, or records a case from stored events.
    Test(test::TestArgs),
    /// Measures what an event costs in a component.
    Bench(bench::BenchArgs),
    #[command(flatten)]
    Registry(RegistryCommand),
}

/// `millrace plugin`.
pub async fn plugin(global: &Global, config: &Config, command: PluginCommand) -> Result<ExitCode> {
    match command {
        PluginCommand::New(args) => new::new(&args, global.json),
        PluginCommand::Build(args) => {
            let workbench = StepArgs::default().workbench(config)?;
            let built = blocking(move || build::build(&args, &workbench)).await?;
            built.print(global.json)?;
            Ok(ExitCode::SUCCESS)
        }
        PluginCommand::Test(args) => test::test(global, config, args).await,
        PluginCommand::Bench(args) => {
            let workbench = args.step.workbench(config)?;
            let json = global.json;
            blocking(move || bench::bench(&args, &workbench, json)).await
        }
        PluginCommand::Registry(command) => {
            let client = Client::open(global, config, false).await?;
            let result = registry::registry(&client, command, global.json).await;
            client.close().await.and(result)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Runs what compiles and calls plugins on a thread that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

/// Writes to standard output. A pipe that was closed is an error, which ends the command without a word.
fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

/// Under which limits a component is tried.
#[derive(Args, Clone, Default)]
struct StepArgs {
    /// Limits of the step, as in the chain: '{"fuel": 100000000}'. Those not named have their defaults.
    #[arg(long, value_name = "JSON")]
    limits: Option<String>,
}

impl StepArgs {
    fn workbench(&self, config: &Config) -> Result<Workbench> {
        let limits: Limits = match &self.limits {
            Some(limits) => serde_json::from_str(limits).with_context(|| format!("--limits {limits}"))?,
            None => Limits::default(),
        };
        let options = HostOptions {
            cache_dir: compiled_dir(config),
            compiler: Some(config.compiler()?),
            module_bytes_max: config.http.plugin_bytes_max,
            concurrent_calls: 1,
            ..HostOptions::default()
        };
        Ok(Workbench::new(options, limits)?)
    }
}

/// Where compiled plugins are kept, so that the second run of the same component begins at once: the configured
/// directory, else one of this user.
fn compiled_dir(config: &Config) -> Option<PathBuf> {
    let of_user = || Some(cache_dir()?.join("compiled"));
    config.pipeline.compiled_dir.clone().or_else(of_user)
}

/// This user's cache directory for Millrace.
fn cache_dir() -> Option<PathBuf> {
    let named = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let home = || std::env::var_os("HOME").filter(|dir| !dir.is_empty()).map(|home| Path::new(&home).join(".cache"));
    Some(named.or_else(home)?.join("millrace"))
}

/// A component, read from a file and compiled.
struct Loaded {
    file: PathBuf,
    plugin: Plugin,
}

impl Loaded {
    fn open(workbench: &Workbench, file: &Path) -> Result<Self> {
        let wasm = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        let plugin = workbench.load(&wasm).with_context(|| file.display().to_string())?;
        Ok(Self { file: file.to_owned(), plugin })
    }

    /// `name@version` under one configuration, else the name of the file.
    fn name(&self, workbench: &Workbench, setup: Option<&Case>) -> String {
        let manifest = setup.and_then(|case| workbench.manifest(&self.plugin, case).ok());
        let stem = || self.file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        manifest.map_or_else(stem, |manifest| manifest.step_name())
    }
}

/// What a step gets beside rows.
#[derive(Args, Clone, Default)]
struct SetupArgs {
    /// The plugin's configuration: JSON, or @FILE. That of --like when not given, else {}.
    #[arg(long, value_name = "JSON")]
    plugin_config: Option<String>,
    /// Takes configuration and lookup tables of this golden case.
    #[arg(long, value_name = "CASE.json")]
    like: Option<PathBuf>,
}

impl SetupArgs {
    /// As a case without rows, or with those of --like.
    fn setup(&self) -> Result<Case> {
        let like = match &self.like {
            Some(path) => Case::load(path).map_err(|error| anyhow!("{}: {error}", path.display()))?,
            None => empty_setup()?,
        };
        self.over(like)
    }

    /// The setup of a case, but for what is given here.
    fn over(&self, case: Case) -> Result<Case> {
        Ok(match &self.plugin_config {
            Some(text) => Case { config: configuration(text)?, ..case },
            None => case,
        })
    }
}

/// A configuration from the command line: JSON, or `@` and a file of it.
fn configuration(text: &str) -> Result<Value> {
    match text.strip_prefix('@') {
        Some(file) => {
            let text = std::fs::read_to_string(file).with_context(|| format!("reading {file}"))?;
            serde_json::from_str(&text).with_context(|| format!("{file} is no JSON"))
        }
        None => serde_json::from_str(text).with_context(|| format!("--plugin-config {text}: it is no JSON")),
    }
}

/// A case without rows, configuration and tables.
fn empty_setup() -> Result<Case> {
    // By way of JSON, so that members with defaults need not be named.
    Ok(serde_json::from_value(json!({}))?)
}

/// The cases in a directory, by name.
fn cases(dir: &Path) -> Result<Vec<(PathBuf, Case)>> {
    let paths = millrace_sdk::golden::paths(dir).map_err(|error| anyhow!(error))?;
    if paths.is_empty() {
        return Err(anyhow!("{} holds no cases (*.json)", dir.display()));
    }
    let load = |path: PathBuf| {
        let case = Case::load(&path).map_err(|error| anyhow!("{}: {error}", path.display()))?;
        Ok((path, case))
    };
    paths.into_iter().map(load).collect()
}

/// The name of a case: its file's without the ending.
fn case_name(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}
