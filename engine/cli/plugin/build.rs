//! `millrace plugin build [DIR]`: a project becomes a component, which the host checks before it is put in place.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use indicatif::HumanBytes;
use millrace_plugin_host::{Manifest, ManifestError};
use millrace_workbench::{RunError, Workbench};
use serde_json::json;

use super::toolchain::Project;
use super::{empty_setup, print, show};

/// What to build.
#[derive(Args)]
pub struct BuildArgs {
    /// The project's directory.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Where to write the component; NAME.wasm in the project when not given.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// A component that was built and fits.
pub struct Built {
    file: PathBuf,
    bytes: u64,
    sha256: String,
    /// Under the empty configuration, or why it has none.
    manifest: Result<Manifest, RunError>,
    /// Where the project keeps its cases, if it does.
    cases: Option<PathBuf>,
}

/// `millrace plugin build`.
pub fn build(args: &BuildArgs, workbench: &Workbench) -> Result<Built> {
    let project = Project::find(&args.dir)?;
    let temporary = tempfile::tempdir().context("making a temporary directory")?;
    let component = project.build(temporary.path())?;
    let wasm = fs::read(&component).with_context(|| format!("the build left no {}", component.display()))?;
    let plugin = workbench.load(&wasm).context("the component was built, and no host would take it")?;
    let manifest = workbench.manifest(&plugin, &empty_setup()?);
    if let Err(RunError::Manifest(error @ (ManifestError::Failed { .. } | ManifestError::Invalid(_)))) = &manifest {
        bail!("the component was built, and no host would take it: {error}");
    }
    let within = |name: &str| if args.dir == Path::new(".") { PathBuf::from(name) } else { args.dir.join(name) };
    let file = args.output.clone().unwrap_or_else(|| within(&format!("{}.wasm", project.name)));
    fs::write(&file, &wasm).with_context(|| format!("writing {}", file.display()))?;
    let cases = Some(within("cases")).filter(|dir| dir.is_dir());
    Ok(Built { file, bytes: wasm.len() as u64, sha256: plugin.digest_hex(), manifest, cases })
}

impl Built {
    /// Says where it is and what it does.
    pub fn print(&self, json: bool) -> Result<()> {
        let file = self.file.display();
        let refused = self.manifest.as_ref().err().map(ToString::to_string);
        if json {
            let manifest = self.manifest.as_ref().ok();
            let (bytes, sha256) = (self.bytes, &self.sha256);
            let answer = json!({"file": self.file, "bytes": bytes, "sha256": sha256, "manifest": manifest, "config_error": refused});
            return print(&format!("{answer}\n"));
        }
        let what = match &self.manifest {
            Ok(manifest) => show::manifest(manifest),
            // Most likely it needs a configuration.
            Err(error) => {
                format!("it fits the host; without a configuration it says: {}", show::printable(&error.to_string()))
            }
        };
        let next = match &self.cases {
            Some(cases) => format!("millrace plugin test {file} --cases {}", cases.display()),
            None => format!("millrace plugin bench {file}"),
        };
        print(&format!("{file}, {}\n{what}\n\nNext:\n  {next}\n", HumanBytes(self.bytes)))
    }
}
