//! The languages that plugins are written in, and what builds them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde::Deserialize;

use super::new::Sdk;

/// The script that makes a component of a crate; `plugins/build` calls the same.
const BUILD_COMPONENT: &str = include_str!("../../../sdk/rust/build-component");
/// With which it ends where a tool is missing. It has said which.
const TOOL_IS_MISSING: i32 = 3;

/// The module of a JavaScript project that names none.
const JS_ENTRY: &str = "src/plugin.js";

/// The module of a Python project that names none.
const PYTHON_ENTRY: &str = "plugin.py";

/// A language with an SDK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Language {
    /// Rust.
    Rust,
    /// JavaScript or TypeScript.
    Js,
    /// Python.
    Python,
}

impl Language {
    const ALL: [Self; 3] = [Self::Rust, Self::Js, Self::Python];

    /// The file that makes a directory a project of this language, and an SDK of it.
    pub fn marker(self) -> &'static str {
        match self {
            Self::Rust => "Cargo.toml",
            Self::Js => "package.json",
            Self::Python => "pyproject.toml",
        }
    }

    /// Its SDK within Millrace's sources.
    pub fn sdk_dir(self) -> &'static str {
        match self {
            Self::Rust => "sdk/rust",
            Self::Js => "sdk/js",
            Self::Python => "sdk/python",
        }
    }

    /// How a project depends on its SDK.
    pub fn sdk_line(self, sdk: Option<&Sdk>) -> String {
        let path = sdk.map(|sdk| sdk.path.display().to_string());
        match (self, path) {
            (Self::Rust, Some(path)) => format!("millrace-sdk = {{ path = {path:?} }}"),
            (Self::Rust, None) => concat!(
                "# Put the address of Millrace's sources here, or the path of their sdk/rust: { path = \"…/sdk/rust\" }.\n",
                "millrace-sdk = { git = \"https://git.example.com/millrace.git\" }"
            )
            .to_owned(),
            (Self::Js, Some(path)) => format!("file:{path}"),
            (Self::Js, None) => "file:PUT-THE-PATH-OF-MILLRACE/sdk/js-HERE".to_owned(),
            (Self::Python, Some(path)) => format!("{path}[build]"),
            (Self::Python, None) => "PUT-THE-PATH-OF-MILLRACE/sdk/python-HERE[build]".to_owned(),
        }
    }

    /// What to do where no SDK was found.
    pub fn sdk_missing(self) -> &'static str {
        match self {
            Self::Rust => {
                "put its address into Cargo.toml, or give --sdk, the directory sdk/rust of Millrace's sources"
            }
            Self::Js => "put its path into package.json, or give --sdk, the directory sdk/js of Millrace's sources",
            Self::Python => {
                "put its path into requirements.txt, or give --sdk, the directory sdk/python of Millrace's sources"
            }
        }
    }

    /// What to do in a new project before it is built.
    pub fn next_commands(self) -> &'static [&'static str] {
        match self {
            Self::Rust => &["cargo test"],
            Self::Js => &["npm install", "npm test"],
            Self::Python => &[
                "python3 -m venv .venv",
                ".venv/bin/pip install -r requirements.txt",
                ".venv/bin/millrace-py test plugin.py --cases cases",
            ],
        }
    }
}

/// A project of an author.
#[derive(Debug)]
pub struct Project {
    dir: PathBuf,
    language: Language,
    /// The package's name, after which the component is called.
    pub name: String,
    /// Of a crate the name of the library, where it is not the package's; of other languages the module to build.
    source: Option<String>,
}

/// What is needed of a package.json.
#[derive(Deserialize)]
struct NodePackage {
    name: String,
    main: Option<String>,
}

/// What is needed of a pyproject.toml.
#[derive(Deserialize)]
struct PythonProject {
    project: NamedPackage,
    #[serde(default)]
    tool: PythonTools,
}

#[derive(Default, Deserialize)]
struct PythonTools {
    #[serde(default)]
    millrace: PythonModule,
}

#[derive(Default, Deserialize)]
struct PythonModule {
    module: Option<String>,
}

/// What is needed of a Cargo.toml.
#[derive(Deserialize)]
struct CargoManifest {
    package: Option<NamedPackage>,
    lib: Option<Library>,
}

#[derive(Deserialize)]
struct NamedPackage {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Library {
    name: Option<String>,
    #[serde(default)]
    crate_type: Vec<String>,
}

impl Project {
    /// The project in a directory, by the file that its language's tools look for.
    pub fn find(dir: &Path) -> Result<Self> {
        let found: Vec<Language> =
            Language::ALL.into_iter().filter(|language| dir.join(language.marker()).is_file()).collect();
        let [language] = found[..] else {
            let markers = Language::ALL.map(Language::marker).join(", ");
            if found.is_empty() {
                bail!("{} is no project of a plugin: there is none of {markers} in it", dir.display());
            }
            bail!("{} has more than one of {markers}: which language is it?", dir.display());
        };
        let path = dir.join(language.marker());
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let (name, source) = match language {
            Language::Rust => crate_names(&text),
            Language::Js => package_names(&text),
            Language::Python => module_names(&text),
        }
        .with_context(|| path.display().to_string())?;
        Ok(Self { dir: dir.to_owned(), language, name, source })
    }

    /// Builds it into `out`; gives the component's path. What the tools say goes to standard error.
    pub fn build(&self, out: &Path) -> Result<PathBuf> {
        let component = out.join(format!("{}.wasm", self.name));
        match self.language {
            Language::Rust => self.build_crate(out)?,
            Language::Js => self.build_package(&component)?,
            Language::Python => self.build_module(&component)?,
        }
        Ok(component)
    }

    fn build_crate(&self, out: &Path) -> Result<()> {
        let library = self.source.as_ref().map_or_else(String::new, |library| format!(":{library}"));
        let mut script = Command::new("bash");
        script.args(["-c", BUILD_COMPONENT, "build-component", "--root"]).arg(&self.dir).arg("--out").arg(out);
        run(script.arg(format!("{}{library}", self.name)), "bash, which runs the build")
    }

    fn build_package(&self, component: &Path) -> Result<()> {
        let tool = Path::new("node_modules/.bin/millrace-js");
        if !self.dir.join(tool).exists() {
            bail!(
                "the JavaScript SDK is not installed in {}: run npm install there (with Node.js 20 or later)",
                self.dir.display()
            );
        }
        let entry = self.source.as_deref().unwrap_or(JS_ENTRY);
        self.run_tool(&self.dir.join(tool), entry, component, "Node.js, which runs the build")
    }

    fn build_module(&self, component: &Path) -> Result<()> {
        let entry = self.source.as_deref().unwrap_or(PYTHON_ENTRY);
        // That of the project, of the environment that is active, or of the system.
        let active = std::env::var_os("VIRTUAL_ENV").map(PathBuf::from);
        let environments = [Some(self.dir.join(".venv")), active].into_iter().flatten();
        let on_path = std::env::var_os("PATH").unwrap_or_default();
        let places = environments.map(|environment| environment.join("bin")).chain(std::env::split_paths(&on_path));
        let Some(tool) = places.map(|place| place.join("millrace-py")).find(|tool| tool.is_file()) else {
            bail!(
                "the Python SDK is not installed: run python3 -m venv .venv and .venv/bin/pip install -r requirements.txt \
                 in {} (with Python 3.11 or later)",
                self.dir.display()
            );
        };
        self.run_tool(&tool, entry, component, "Python, which runs the build")
    }

    /// Runs an SDK's own tool within the project.
    fn run_tool(&self, tool: &Path, entry: &str, component: &Path, what: &str) -> Result<()> {
        let absolute = |path: &Path| std::path::absolute(path).context("finding the current directory");
        let mut command = Command::new(absolute(tool)?);
        command.current_dir(&self.dir).args(["build", entry, "-o"]).arg(absolute(component)?);
        // On standard output it says where the component is, which is no place to stay.
        run(command.stdout(Stdio::null()), what)
    }
}

/// Runs a tool that says by itself what went wrong.
fn run(command: &mut Command, what: &str) -> Result<()> {
    let status = match command.status() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!("{what}, is not installed"),
        status => status.with_context(|| format!("starting {what}"))?,
    };
    match status.code() {
        Some(0) => Ok(()),
        Some(TOOL_IS_MISSING) => bail!("nothing was built: a tool is missing, see above"),
        _ => bail!("the build failed, see above ({status})"),
    }
}

/// Names of package and library.
fn crate_names(text: &str) -> Result<(String, Option<String>)> {
    let manifest: CargoManifest = toml::from_str(text)?;
    let package = manifest.package.context("it has no [package]: name the directory of one crate")?;
    let is_component = manifest.lib.as_ref().is_some_and(|lib| lib.crate_type.iter().any(|ty| ty == "cdylib"));
    if !is_component {
        bail!("its [lib] needs crate-type = [\"cdylib\", \"rlib\"]: the first is the component");
    }
    Ok((package.name, manifest.lib.and_then(|lib| lib.name)))
}

/// Names of package and module to build.
fn package_names(text: &str) -> Result<(String, Option<String>)> {
    let package: NodePackage = serde_json::from_str(text)?;
    // A scope is no part of a file's name.
    let name = package.name.rsplit('/').next().unwrap_or_default();
    Ok((file_name(name)?, package.main))
}

/// Names of project and module to build.
fn module_names(text: &str) -> Result<(String, Option<String>)> {
    let project: PythonProject = toml::from_str(text)?;
    Ok((file_name(&project.project.name)?, project.tool.millrace.module))
}

/// A name that a component's file can have.
fn file_name(name: &str) -> Result<String> {
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) {
        bail!("its name {name:?} can't be that of a file");
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_each_manifest() {
        let lib = "[lib]\ncrate-type = [\"cdylib\", \"rlib\"]\n";
        let names = crate_names(&format!("[package]\nname = \"a-b\"\n{lib}")).unwrap();
        assert_eq!(names, ("a-b".to_owned(), None));
        let named = crate_names(&format!("[package]\nname = \"a-b\"\n{lib}name = \"other\"\n")).unwrap();
        assert_eq!(named.1.as_deref(), Some("other"));
        assert!(crate_names("[package]\nname = \"a\"\n").unwrap_err().to_string().contains("cdylib"));
        assert!(crate_names("[workspace]\nmembers = []\n").unwrap_err().to_string().contains("[package]"));
        let names = package_names(r#"{"name": "@team/visits", "main": "src/visits.ts"}"#).unwrap();
        assert_eq!(names, ("visits".to_owned(), Some("src/visits.ts".to_owned())));
        assert!(package_names(r#"{"name": "@team/.."}"#).is_err());
        let names = module_names("[project]\nname = \"visits\"\n[tool.millrace]\nmodule = \"visits.py\"\n").unwrap();
        assert_eq!(names, ("visits".to_owned(), Some("visits.py".to_owned())));
        assert_eq!(module_names("[project]\nname = \"visits\"\n[tool.other]\nx = 1\n").unwrap().1, None);
    }
}
