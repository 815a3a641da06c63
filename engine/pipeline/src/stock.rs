//! The plugins that ship with Millrace, as components.

/// Removes personal data.
pub const PII_SCRUB: &[u8] = include_bytes!("../../../plugins/pii-scrub/pii-scrub.wasm");
/// Adds browser, operating system and device class.
pub const ENRICH_USER_AGENT: &[u8] = include_bytes!("../../../plugins/enrich-user-agent/enrich-user-agent.wasm");
/// Adds columns from a lookup table.
pub const ENRICH_TABLE: &[u8] = include_bytes!("../../../plugins/enrich-table/enrich-table.wasm");
/// Leaves out the events of bots.
pub const DROP_BOTS: &[u8] = include_bytes!("../../../plugins/drop-bots/drop-bots.wasm");
/// Corrects device ids by rule.
pub const REWRITE_DEVICE_ID: &[u8] = include_bytes!("../../../plugins/rewrite-device-id/rewrite-device-id.wasm");

/// A stock plugin, and the least configuration under which it describes itself.
pub struct Stock {
    /// The component.
    pub wasm: &'static [u8],
    /// JSON.
    pub config: &'static str,
}

/// All of them.
pub const ALL: [Stock; 5] = [
    Stock { wasm: PII_SCRUB, config: "{}" },
    Stock { wasm: ENRICH_USER_AGENT, config: "{}" },
    Stock { wasm: ENRICH_TABLE, config: r#"{"columns": {}}"# },
    Stock { wasm: DROP_BOTS, config: "{}" },
    Stock { wasm: REWRITE_DEVICE_ID, config: r#"{"rules": []}"# },
];
