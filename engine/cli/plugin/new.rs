//! `millrace plugin new NAME`: a project that builds and passes its test as it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::json;

use super::print;
use super::toolchain::Language;

/// Names that a language's own tools refuse.
const RESERVED: &[&str] = &["alloc", "core", "proc-macro", "std", "test"];
/// Longest name, as of every plugin.
const NAME_CHARS_MAX: usize = 64;

/// Where a server on this machine is, in what is shown.
const SERVER: &str = "http://127.0.0.1:7070";

/// The project to make.
#[derive(Args)]
pub struct NewArgs {
    /// Name of the plugin: 1 to 64 characters of a-z, 0-9 and -, starting with a letter.
    name: String,
    /// Its language.
    #[arg(long, value_enum)]
    lang: Language,
    /// Where to make it; a directory of its name when not given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The language's SDK: the directory sdk/rust, sdk/js or sdk/python of Millrace's sources. It is found by itself within
    /// these.
    #[arg(long, value_name = "DIR")]
    sdk: Option<PathBuf>,
}

/// A file of a project: its path, and its text with `{{…}}` to fill in.
type Template = (&'static str, &'static str);

const RUST: &[Template] = &[
    ("Cargo.toml", include_str!("templates/rust/Cargo.toml.in")),
    ("src/lib.rs", include_str!("templates/rust/lib.rs.in")),
    ("cases/first.json", include_str!("templates/first.json")),
    ("README.md", include_str!("templates/rust/README.md.in")),
    (".gitignore", include_str!("templates/rust/gitignore")),
];

const JS: &[Template] = &[
    ("package.json", include_str!("templates/js/package.json.in")),
    ("src/plugin.js", include_str!("templates/js/plugin.js.in")),
    ("cases/first.json", include_str!("templates/first.json")),
    ("README.md", include_str!("templates/js/README.md.in")),
    (".npmrc", include_str!("templates/js/npmrc")),
    (".gitignore", include_str!("templates/js/gitignore")),
];
const PYTHON: &[Template] = &[
    ("pyproject.toml", include_str!("templates/python/pyproject.toml.in")),
    ("requirements.txt", include_str!("templates/python/requirements.txt.in")),
    ("plugin.py", include_str!("templates/python/plugin.py.in")),
    ("cases/first.json", include_str!("templates/first.json")),
    ("README.md", include_str!("templates/python/README.md.in")),
    (".gitignore", include_str!("templates/python/gitignore")),
];

/// `millrace plugin new`.
pub fn new(args: &NewArgs, json: bool) -> Result<ExitCode> {
    check_name(&args.name)?;
    let dir = args.dir.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    if dir.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("{} is not empty: give --dir, a directory that is empty or not there yet", dir.display());
    }
    let place = resolved(&dir).with_context(|| format!("looking at {}", dir.display()))?;
    let sdk = find_sdk(args, &place)?;
    let values = [
        ("{{name}}", args.name.clone()),
        ("{{sdk}}", args.lang.sdk_line(sdk.as_ref())),
        ("{{workspace}}", workspace_line(&place)),
    ];
    let mut files = Vec::new();
    for (path, text) in templates(args.lang) {
        let text = values.iter().fold((*text).to_owned(), |text, (key, value)| text.replace(key, value));
        let path = dir.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
        }
        // One newline at the end, also where what was filled in last is nothing.
        fs::write(&path, text.trim_end().to_owned() + "\n").with_context(|| format!("writing {}", path.display()))?;
        files.push(path);
    }
    if json {
        print(&format!("{}\n", json!({"dir": dir, "files": files, "sdk": sdk.as_ref().map(|sdk| &sdk.path)})))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text: String = files.iter().map(|file| format!("  {}\n", file.display())).collect();
    if sdk.is_none() {
        text += &format!("\nThe SDK was not found: {}.\n", args.lang.sdk_missing());
    }
    text += &format!("\nNext:\n  cd {}\n", dir.display());
    text.extend(args.lang.next_commands().iter().map(|line| format!("  {line}\n")));
    text.extend(component_commands(&args.name).iter().map(|line| format!("  {line}\n")));
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// From the project to a plugin in force, once its cases hold natively.
fn component_commands(name: &str) -> [String; 6] {
    [
        "millrace plugin build".to_owned(),
        format!("millrace plugin test {name}.wasm --cases cases    # with --bless: writes down what comes out"),
        format!("millrace plugin bench {name}.wasm"),
        format!("millrace plugin push {name}.wasm --url {SERVER}"),
        format!("millrace pipeline show --url {SERVER} > pipeline.toml    # add the step, as README.md says"),
        format!("millrace pipeline set pipeline.toml --reason WHY --url {SERVER}"),
    ]
}

fn templates(language: Language) -> &'static [Template] {
    match language {
        Language::Rust => RUST,
        Language::Js => JS,
        Language::Python => PYTHON,
    }
}

fn check_name(name: &str) -> Result<()> {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_named = (1..=NAME_CHARS_MAX).contains(&name.len()) && name.chars().all(legal);
    if !is_named || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        bail!(
            "{name:?} is no name of a plugin: use 1 to {NAME_CHARS_MAX} characters of a-z, 0-9 and -, starting with a letter"
        );
    }
    if RESERVED.contains(&name) {
        bail!("{name:?} is a name that compilers keep for themselves: choose another");
    }
    Ok(())
}

/// Where a path leads, by way of the part of it that is there.
fn resolved(path: &Path) -> std::io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let is_there = path.ancestors().find(|part| part.exists()).unwrap_or(&path);
    let rest = path.strip_prefix(is_there).unwrap_or(Path::new(""));
    Ok(fs::canonicalize(is_there)?.join(rest))
}

/// Where an SDK is.
pub struct Sdk {
    /// As it is written into the project: relative within Millrace's sources, else absolute.
    pub path: PathBuf,
}

/// The SDK that was given, else that of the sources that the project stands in.
fn find_sdk(args: &NewArgs, place: &Path) -> Result<Option<Sdk>> {
    let marker = args.lang.marker();
    if let Some(given) = &args.sdk {
        let path = fs::canonicalize(given).with_context(|| format!("--sdk {}", given.display()))?;
        if !path.join(marker).is_file() {
            bail!("--sdk {}: it has no {marker}; give {} of Millrace's sources", given.display(), args.lang.sdk_dir());
        }
        return Ok(Some(Sdk { path }));
    }
    let root = place.ancestors().skip(1).find(|dir| is_sources(dir));
    let sdk = root.map(|root| root.join(args.lang.sdk_dir())).filter(|sdk| sdk.join(marker).is_file());
    Ok(sdk.map(|sdk| Sdk { path: relative(&sdk, place) }))
}

/// Whether this is the root of Millrace's sources.
fn is_sources(dir: &Path) -> bool {
    dir.join("sdk/wit/transform.wit").is_file()
}

/// The way from `from` to `to`; both are absolute.
fn relative(to: &Path, from: &Path) -> PathBuf {
    let common = to.components().zip(from.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(common).map(|_| Path::new(".."));
    up.chain(to.components().skip(common).map(|part| Path::new(part.as_os_str()))).collect()
}

/// A crate within `plugins/` is a member of the sources' workspace; elsewhere it is one of its own, or cargo would take it
/// for a forgotten member of a workspace above it.
fn workspace_line(place: &Path) -> String {
    let is_member = place.parent().is_some_and(|plugins| {
        plugins.file_name().is_some_and(|name| name == "plugins") && plugins.parent().is_some_and(is_sources)
    });
    if is_member { String::new() } else { "\n# A workspace of its own, wherever it stands.\n[workspace]".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_plugins() {
        for good in ["a", "drop-bots", "x9", &"a".repeat(64)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "9a", "-a", "A", "a_b", "ü", "a/b", "..", "test", &"a".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_way_to_the_sdk_goes_up_and_down() {
        let way = |to: &str, from: &str| relative(Path::new(to), Path::new(from)).display().to_string();
        assert_eq!(way("/src/sdk/rust", "/src/plugins/checkout"), "../../sdk/rust");
        assert_eq!(way("/src/sdk/rust", "/src/x"), "../sdk/rust");
        assert_eq!(way("/src/sdk/rust", "/src/sdk"), "rust");
    }

    #[test]
    fn no_template_is_left_with_a_place_to_fill_in() {
        for (path, text) in [RUST, JS, PYTHON].concat() {
            let filled =
                ["{{name}}", "{{sdk}}", "{{workspace}}"].iter().fold(text.to_owned(), |t, key| t.replace(key, ""));
            assert!(!filled.contains("{{") && !filled.contains("}}"), "{path}");
        }
    }
}
