//! What the installed base sends, one file an event, and the row that it becomes in the file beside it. A change to a
//! row here is a change of the semantics version. `MILLRACE_BLESS=1` writes the rows anew.

mod common;

use std::fs;
use std::path::Path;

use common::{LOG, receipt, record, row_json};
use millrace_decode::Decoder;
use millrace_log::Receipt;

#[test]
fn what_the_installed_base_sends_becomes_these_rows() {
    let folder = Path::new("tests/sdks");
    let bless = std::env::var_os("MILLRACE_BLESS").is_some();
    let mut events: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    events.sort();
    assert!(events.len() >= 12, "the events are gone from {}", folder.display());
    for path in events {
        let name = path.file_stem().unwrap().to_str().unwrap();
        // Raw producers write to the log themselves: no receipt.
        let receipt = (!name.starts_with("raw-")).then(|| Receipt {
            app: Some("shop".into()),
            client_ip: Some("203.0.113.7".into()),
            message_id: Some("given-by-ingest".into()),
            kind: Some("track".into()),
            ..receipt()
        });
        let decoded = Decoder::default().decode(&[record(41, &fs::read(&path).unwrap(), receipt)], 3, LOG);
        assert_eq!(decoded.dead, [], "{name}");
        let row = format!("{:#}\n", row_json(&decoded.batch, 0));
        let golden = path.with_extension("row");
        if bless {
            fs::write(&golden, &row).unwrap();
        }
        assert_eq!(fs::read_to_string(&golden).unwrap_or_default(), row, "{name}");
    }
}
