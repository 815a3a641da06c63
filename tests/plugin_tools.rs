//! The author's tools, as the real command: golden cases over components, benchmarks, new projects, recorded cases.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking too")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::Server;
use serde_json::{Value, json};

const STOCK: [&str; 5] = ["drop-bots", "enrich-table", "enrich-user-agent", "pii-scrub", "rewrite-device-id"];

fn plugins() -> PathBuf {
    // The command is run elsewhere.
    std::env::current_dir().unwrap().join("plugins")
}

fn component(name: &str) -> String {
    plugins().join(name).join(format!("{name}.wasm")).to_str().unwrap().to_owned()
}

fn plugin(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_millrace"))
        .arg("plugin")
        .args(arguments)
        .current_dir(dir)
        .env("MILLRACE_PIPELINE__COMPILED_DIR", common::compiled_dir())
        .output()
        .expect("the command runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Standard output of a command that ends with 0.
fn done(dir: &Path, arguments: &[&str]) -> String {
    let output = plugin(dir, arguments);
    assert!(output.status.success(), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Standard output of a command that finds a difference.
fn differs(dir: &Path, arguments: &[&str]) -> String {
    let output = plugin(dir, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Standard error of a command that is refused.
fn refused(dir: &Path, arguments: &[&str]) -> String {
    let output = plugin(dir, arguments);
    assert!(!output.status.success(), "{arguments:?} succeeded: {}", text(&output.stdout));
    text(&output.stderr)
}

/// A copy of a plugin's cases.
fn copied_cases(name: &str, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(plugins().join(name).join("cases")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn stock_plugins_pass_their_cases_and_tell_what_they_cost() {
    let dir = tempfile::tempdir().unwrap();
    for name in STOCK {
        let cases = plugins().join(name).join("cases");
        let arguments = ["test", &component(name), "--cases", cases.to_str().unwrap(), "--json"];
        let answer: Value = serde_json::from_str(&done(dir.path(), &arguments)).unwrap();
        assert_eq!(answer["plugin"], format!("{name}@0.1.0"));
        assert_eq!(answer["failed"], 0, "{answer:#}");
        assert_eq!(answer["passed"].as_u64().unwrap() as usize, fs::read_dir(&cases).unwrap().count());
        let usage = &answer["usage"];
        for figure in ["rows", "calls", "fuel_per_row", "fuel_row_max", "memory_bytes"] {
            assert!(usage[figure].as_u64().unwrap() > 0, "{figure}: {usage}");
        }
        for limit in answer["limits"].as_array().unwrap() {
            assert!(limit["used"].as_u64().unwrap() < limit["max"].as_u64().unwrap(), "{limit}");
        }
    }
}

#[test]
fn a_difference_is_told_by_row_and_column_and_can_be_blessed() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let cases = dir.join("cases");
    copied_cases("pii-scrub", &cases);
    let changed = cases.join("ip.json");
    let good: Value = serde_json::from_slice(&fs::read(&changed).unwrap()).unwrap();
    let mut bad = good.clone();
    bad["expect"][0]["keep"][0]["ip"] = json!("203.0.113.77");
    bad["expect"][1] = json!({"drop": "no_such_code"});
    fs::write(&changed, bad.to_string()).unwrap();
    let untouched = fs::read(cases.join("json.json")).unwrap();

    let wasm = component("pii-scrub");
    let test = ["test", &wasm, "--cases", "cases"];
    let shown = differs(dir, &test);
    assert!(!shown.contains('\u{1b}'), "a pipe gets no colours: {shown}");
    let expected = "FAILED   ip";
    assert!(shown.contains(expected) && shown.contains("1 failed, "), "{shown}");
    let difference = "row 0, column ip\n        expected  \"203.0.113.77\"\n        came out  \"203.0.113.0\"\n";
    assert!(shown.contains(difference), "{shown}");
    let outcome = "row 1\n        expected  dropped: no_such_code\n        came out  {\"ip\":\"2001:db8:85a3::\"}\n";
    assert!(shown.contains(outcome), "{shown}");

    let answer: Value = serde_json::from_str(&differs(dir, &[&test[..], &["--json"]].concat())).unwrap();
    let ip = answer["cases"].as_array().unwrap().iter().find(|case| case["name"] == "ip").unwrap();
    let first = json!({"row": 0, "out": 0, "column": "ip", "expected": "203.0.113.77", "came_out": "203.0.113.0"});
    assert_eq!(ip["differences"][0], first);
    assert_eq!(ip["differences"].as_array().unwrap().len(), 2);

    let blessed = done(dir, &[&test[..], &["--bless"]].concat());
    assert!(blessed.contains("blessed  ip") && blessed.contains("is now  \"203.0.113.0\""), "{blessed}");
    let written: Value = serde_json::from_slice(&fs::read(&changed).unwrap()).unwrap();
    assert_eq!(written, good);
    assert_eq!(fs::read(cases.join("json.json")).unwrap(), untouched, "what passed is left as it is");
    done(dir, &test);

    // A configuration that is refused in other words is nothing to bless.
    fs::write(cases.join("wrong.json"), r#"{"config": {"kye": 1}, "config_error": "no such words"}"#).unwrap();
    let shown = differs(dir, &[&test[..], &["--bless"]].concat());
    assert!(shown.contains("refused in other words") && shown.contains("kye"), "{shown}");
}

#[test]
fn what_can_not_be_run_is_said_with_its_place() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let wasm = component("pii-scrub");
    assert!(refused(dir, &["test", &wasm]).contains("--cases"));
    assert!(refused(dir, &["test", &wasm, "--cases", "nowhere"]).contains("nowhere"));
    fs::create_dir(dir.join("cases")).unwrap();
    assert!(refused(dir, &["test", &wasm, "--cases", "cases"]).contains("holds no cases"));
    fs::write(dir.join("cases/a.json"), "{\"rows\": []}").unwrap();
    let message = refused(dir, &["test", &wasm, "--cases", "cases"]);
    assert!(message.contains("a.json") && message.contains("rows"), "{message}");
    fs::write(dir.join("cases/a.json"), r#"{"rows_in": [{"platform": "x"}]}"#).unwrap();
    let message = differs(dir, &["test", &wasm, "--cases", "cases"]);
    assert!(message.contains("row 0 has the column \"platform\", which the plugin does not read"), "{message}");
    fs::write(dir.join("zip.wasm"), "PK\u{3}\u{4}").unwrap();
    let message = refused(dir, &["test", "zip.wasm", "--cases", "cases"]);
    assert!(message.contains("zip.wasm") && message.contains("a zip archive"), "{message}");
    let message = refused(dir, &["test", &wasm, "--cases", "cases", "--plugin-config", "{}"]);
    assert!(message.contains("a golden case has its own"), "{message}");
    let message = refused(dir, &["test", &wasm, "--cases", "cases", "--limits", r#"{"feul": 1}"#]);
    assert!(message.contains("--limits") && message.contains("feul"), "{message}");
}

#[test]
fn limits_that_are_met_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let cases = plugins().join("pii-scrub/cases");
    let arguments =
        ["test", &component("pii-scrub"), "--cases", cases.to_str().unwrap(), "--limits", r#"{"fuel": 5000}"#];
    let shown = differs(dir.path(), &arguments);
    assert!(shown.contains("came out  failed: out_of_fuel"), "{shown}");
    assert!(shown.contains("all fuel consumed"), "what ended it is shown: {shown}");
    let fuel = shown.lines().find(|line| line.starts_with("fuel ")).unwrap();
    assert!(fuel.ends_with("100.0%  met"), "{fuel}");
}

#[test]
fn a_benchmark_tells_figures_against_limits_and_an_empty_plugin() {
    let dir = tempfile::tempdir().unwrap();
    let bench = |arguments: &[&str]| -> Value {
        let wasm = component("enrich-user-agent");
        let arguments = [&["bench", &wasm, "--json"], arguments].concat();
        serde_json::from_str(&done(dir.path(), &arguments)).unwrap()
    };
    let answer = bench(&["--events", "5000"]);
    assert_eq!((&answer["plugin"], &answer["events"]), (&json!("enrich-user-agent@0.1.0"), &json!(5000)));
    assert_eq!(
        (&answer["rows_out"], &answer["failed"], &answer["calls_discarded"]),
        (&json!(5000), &json!(0), &json!(0))
    );
    assert_eq!(answer["usage"]["calls"], 2, "4,096 and the rest");
    assert!(answer["rounds"].as_u64().unwrap() >= 3);
    for figure in ["ratio_to_empty", "fuel_per_event", "output_bytes_per_event"] {
        assert!(answer[figure].as_f64().unwrap() > 0.0, "{figure}: {answer}");
    }
    assert!(answer["ns_per_event"]["median"].as_f64().unwrap() > 0.0);
    assert_eq!(bench(&["--events", "5000"])["fuel_per_event"], answer["fuel_per_event"], "fuel is no matter of luck");

    let cases = plugins().join("enrich-user-agent/cases");
    let of_cases = bench(&["--events", "100", "--cases", cases.to_str().unwrap()]);
    assert_eq!((&of_cases["rows_out"], &of_cases["usage"]["calls"]), (&json!(100), &json!(1)));

    // Configuration and lookup tables of a case, over the demo's events.
    let case = plugins().join("enrich-table/cases/country.json");
    let like = ["bench", &component("enrich-table"), "--events", "200", "--json"];
    let answer = done(dir.path(), &[&like[..], &["--like", case.to_str().unwrap()]].concat());
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((&answer["rows_out"], &answer["failed"]), (&json!(200), &json!(0)), "{answer}");
    assert!(refused(dir.path(), &like).contains("enrich-table"), "without a configuration there is no benchmark");

    let shown = done(dir.path(), &["bench", &component("pii-scrub"), "--events", "200"]);
    assert!(shown.contains("an empty plugin, same columns") && shown.contains("memory_bytes"), "{shown}");
    assert!(refused(dir.path(), &["bench", &component("pii-scrub"), "--events", "0"]).contains("--events"));
}

#[test]
fn new_projects_are_whole_and_replace_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    // A tree like that of the sources: the SDK is found from within.
    let root = temporary.path().join("sources");
    for (sdk, marker) in [("rust", "Cargo.toml"), ("js", "package.json"), ("python", "pyproject.toml")] {
        fs::create_dir_all(root.join("sdk").join(sdk)).unwrap();
        fs::write(root.join("sdk").join(sdk).join(marker), "").unwrap();
    }
    fs::create_dir_all(root.join("sdk/wit")).unwrap();
    fs::write(root.join("sdk/wit/transform.wit"), "").unwrap();
    fs::create_dir(root.join("plugins")).unwrap();
    let projects: [(&str, &str, &[&str]); 3] = [
        ("rust", "../../sdk/rust", &["Cargo.toml", "src/lib.rs"]),
        ("js", "file:../../sdk/js", &["package.json", "src/plugin.js", ".npmrc"]),
        ("python", "../../sdk/python[build]", &["requirements.txt", "pyproject.toml", "plugin.py"]),
    ];
    for (lang, sdk, files) in projects {
        let name = format!("my-{lang}");
        let dir = format!("plugins/{name}");
        let shown = done(&root, &["new", &name, "--lang", lang, "--dir", &dir]);
        assert!(!shown.contains("not found"), "{shown}");
        let readme = fs::read_to_string(root.join(&dir).join("README.md")).unwrap();
        for command in ["plugin build", "plugin test", "plugin bench", "plugin push", "pipeline show", "pipeline set"] {
            let command = format!("millrace {command}");
            assert!(shown.contains(&command) && readme.contains(&command), "{lang}: {command}");
        }
        for file in [files, &["cases/first.json", "README.md", ".gitignore"]].concat() {
            let text = fs::read_to_string(root.join(&dir).join(file)).unwrap_or_else(|e| panic!("{lang} {file}: {e}"));
            assert!(!text.contains("{{"), "{lang} {file}: {text}");
        }
        let depends = fs::read_to_string(root.join(&dir).join(files[0])).unwrap();
        assert!(depends.contains(sdk), "{depends}");
        assert!(!depends.contains("[workspace]"), "within plugins/ it is a member");
        let message = refused(&root, &["new", &name, "--lang", lang, "--dir", &dir]);
        assert!(message.contains("is not empty"), "{message}");
    }
    // Elsewhere the SDK is named, or the manifest says what to do.
    let elsewhere = temporary.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let shown = done(&elsewhere, &["new", "lonely", "--lang", "rust"]);
    assert!(shown.contains("The SDK was not found"), "{shown}");
    let manifest = fs::read_to_string(elsewhere.join("lonely/Cargo.toml")).unwrap();
    assert!(manifest.contains("git = ") && manifest.contains("[workspace]"), "{manifest}");
    let sdk = root.join("sdk/rust");
    done(&elsewhere, &["new", "named", "--lang", "rust", "--sdk", sdk.to_str().unwrap()]);
    let manifest = fs::read_to_string(elsewhere.join("named/Cargo.toml")).unwrap();
    assert!(manifest.contains(&format!("path = {:?}", fs::canonicalize(&sdk).unwrap())), "{manifest}");
    assert!(
        refused(&elsewhere, &["new", "x", "--lang", "js", "--sdk", sdk.to_str().unwrap()]).contains("package.json")
    );
    for name in ["Upper", "9", "a_b", "../up", "std"] {
        assert!(refused(&elsewhere, &["new", name, "--lang", "rust"]).contains("name"), "{name}");
    }
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 2, "what was refused left nothing");
}

/// A project whose build tool copies a file to where the component belongs.
fn project_of(dir: &Path, component: &Path) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("package.json"), r#"{"name": "@scope/my-plugin", "main": "src/plugin.js"}"#).unwrap();
    copying_tool(&dir.join("node_modules/.bin/millrace-js"), "src/plugin.js", component);
}

fn copying_tool(tool: &Path, entry: &str, component: &Path) {
    fs::create_dir_all(tool.parent().unwrap()).unwrap();
    let script = format!("#!/bin/sh\n[ \"$1 $2 $3\" = 'build {entry} -o' ] && cp {} \"$4\"\n", component.display());
    // Written by a child: a file that this process has open for writing while another test starts a child is busy then.
    let written = Command::new("sh")
        .args(["-c", "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\""])
        .arg(tool)
        .arg(script)
        .status()
        .expect("sh runs");
    assert!(written.success());
}

#[test]
fn a_build_puts_a_component_in_place_only_if_a_host_takes_it() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let project = dir.join("project");
    project_of(&project, Path::new(&component("pii-scrub")));
    let shown = done(dir, &["build", "project"]);
    assert!(shown.starts_with("project/my-plugin.wasm, ") && shown.contains("pii-scrub@0.1.0"), "{shown}");
    let built = fs::read(project.join("my-plugin.wasm")).unwrap();
    assert_eq!(built, fs::read(component("pii-scrub")).unwrap());
    let answer: Value = serde_json::from_str(&done(dir, &["build", "project", "-o", "x.wasm", "--json"])).unwrap();
    assert_eq!((&answer["file"], &answer["manifest"]["name"]), (&json!("x.wasm"), &json!("pii-scrub")));
    assert_eq!(fs::read(dir.join("x.wasm")).unwrap(), built);
    let python = dir.join("python");
    copying_tool(&python.join(".venv/bin/millrace-py"), "visits.py", Path::new(&component("drop-bots")));
    let manifest = "[project]\nname = \"visits\"\n[tool.millrace]\nmodule = \"visits.py\"\n";
    fs::write(python.join("pyproject.toml"), manifest).unwrap();
    assert!(done(&python, &["build"]).starts_with("visits.wasm, "));
    // A plugin that needs a configuration fits all the same.
    project_of(&project, Path::new(&component("rewrite-device-id")));
    let shown = done(dir, &["build", "project"]);
    assert!(shown.contains("without a configuration it says"), "{shown}");

    let built = fs::read(project.join("my-plugin.wasm")).unwrap();
    fs::write(dir.join("core.wasm"), b"\0asm\x01\0\0\0").unwrap();
    project_of(&project, &dir.join("core.wasm"));
    let message = refused(dir, &["build", "project"]);
    assert!(message.contains("no host would take it") && message.contains("not a component"), "{message}");
    project_of(&project, Path::new("/nonexistent"));
    assert!(refused(dir, &["build", "project"]).contains("the build failed"));
    assert_eq!(fs::read(project.join("my-plugin.wasm")).unwrap(), built, "a good component stays");
}

#[test]
fn a_build_says_what_is_missing() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let message = refused(dir, &["build"]);
    assert!(message.contains("Cargo.toml, package.json, pyproject.toml"), "{message}");
    fs::write(dir.join("package.json"), r#"{"name": "p"}"#).unwrap();
    assert!(refused(dir, &["build"]).contains("npm install"));
    fs::rename(dir.join("package.json"), dir.join("pyproject.toml")).unwrap();
    assert!(refused(dir, &["build"]).contains("pyproject.toml"), "it is no TOML");
    fs::remove_file(dir.join("pyproject.toml")).unwrap();
    fs::write(dir.join("package.json"), r#"{"name": "p"}"#).unwrap();
    fs::write(dir.join("Cargo.toml"), "[package]\nname = \"p\"\n").unwrap();
    assert!(refused(dir, &["build"]).contains("more than one"));
    fs::remove_file(dir.join("package.json")).unwrap();
    assert!(refused(dir, &["build"]).contains("crate-type"));
}

#[test]
fn a_case_is_recorded_from_a_stored_stream_with_personal_data_masked() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let server = Server::start(dir);
    let events: Vec<Value> = (0..3).map(|n| common::event(&format!("event-{n}"), "phone-1", n)).collect();
    let (status, answer) = server.post("/v1/batch", json!({"batch": events}).to_string().as_bytes()).unwrap();
    assert_eq!(status, 200, "{answer}");
    let wasm = component("pii-scrub");
    let record = |partition: &str, more: &[&str]| {
        let place = ["--from-partition", partition, "--from-offset", "0", "--url", &server.url];
        plugin(dir, &[&["test", &wasm, "--record", "cases", "--limit", "2"], &place[..], more].concat())
    };
    // One device is in one partition; the others have no events.
    let full: Vec<String> = (0..4).map(|n| n.to_string()).filter(|n| record(n, &[]).status.success()).collect();
    let [partition] = &full[..] else { panic!("{full:?}") };
    let empty = if partition == "0" { "1" } else { "0" };
    assert!(text(&record(empty, &[]).stderr).contains("has no events from offset 0 on"));

    let path = dir.join(format!("cases/partition-{partition}-offset-0.json"));
    let written = fs::read_to_string(&path).unwrap();
    assert!(!written.contains("ada@example.com"), "{written}");
    let case: Value = serde_json::from_str(&written).unwrap();
    assert_eq!((case["rows_in"].as_array().unwrap().len(), case["expect"].as_array().unwrap().len()), (2, 2));
    assert!(case["rows_in"][0]["properties"].as_str().unwrap().contains("[email]"), "{written}");
    assert!(case["rows_in"][0].get("user_agent").is_none(), "the scrubber does not read it: {written}");
    done(dir, &["test", &wasm, "--cases", "cases"]);

    // What is there is kept unless told otherwise.
    assert!(text(&record(partition, &[]).stderr).contains("is there already"));
    assert!(record(partition, &["--bless"]).status.success());
    assert!(record(partition, &["--name", "other"]).status.success());
    assert!(dir.join("cases/other.json").is_file());
    assert!(text(&record(partition, &["--name", "../out"]).stderr).contains("--name"));
    assert!(text(&record(partition, &["--name", "y", "--plugin-config", "{\"a\":1}"]).stderr).contains("refused"));
    assert!(server.stop().success());

    // The same from the data directory, when no server has it open.
    let data = dir.to_str().unwrap();
    let offline = ["--from-partition", partition, "--from-offset", "1", "--data-dir", data, "--json"];
    let answer = done(dir, &[&["test", &wasm, "--record", "cases"], &offline[..]].concat());
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((&answer["usage"]["rows"], &answer["failed"]), (&json!(2), &json!(0)));
    assert_eq!(answer["recorded"], format!("cases/partition-{partition}-offset-1.json"));
}
