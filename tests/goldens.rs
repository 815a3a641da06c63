//! The golden cases of the stock plugins, run over the components in the real host: those that are committed, or those in
//! `MILLRACE_PLUGINS_DIR` (`plugins/build --check` builds them). The plugins' own tests run the same cases natively.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking too")]

mod common;

use std::path::PathBuf;

use millrace_plugin_host::{HostOptions, Limits};
use millrace_sdk::golden::{Case, paths};
use millrace_workbench::Workbench;

#[test]
fn components_do_what_the_cases_say() {
    let sources = PathBuf::from("plugins");
    let built = std::env::var_os("MILLRACE_PLUGINS_DIR").map_or_else(|| sources.clone(), PathBuf::from);
    let options = HostOptions { cache_dir: Some(common::compiled_dir()), ..HostOptions::default() };
    let workbench = Workbench::new(options, Limits::default()).expect("a host");
    for name in ["pii-scrub", "enrich-user-agent", "rewrite-device-id", "enrich-table", "drop-bots"] {
        let path = built.join(name).join(format!("{name}.wasm"));
        let wasm = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let plugin = workbench.load(&wasm).expect("the component loads");
        let cases = paths(&sources.join(name).join("cases")).expect("cases");
        for path in &cases {
            let run = workbench.run_case(&plugin, &Case::load(path).expect("a case"));
            let run = run.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(run.passed(), "{}: {:#?}", path.display(), run.verdict);
        }
        println!("{name}: {} cases", cases.len());
        assert!(cases.len() >= 2, "{name} has cases");
    }
}
