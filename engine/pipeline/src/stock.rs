//! The plugins that ship with Millrace, as components.

/// Removes personal data.
pub const PII_SCRUB: &[u8] = include_bytes!("../../../plugins/pii-scrub/pii-scrub.wasm");
/// Adds browser, operating system and device class.
pub const ENRICH_USER_AGENT: &[u8] = include_bytes!("../../../plugins/enrich-user-agent/enrich-user-agent.wasm");
/// Corrects device ids by rule.
pub const REWRITE_DEVICE_ID: &[u8] = include_bytes!("../../../plugins/rewrite-device-id/rewrite-device-id.wasm");

/// All of them.
pub const ALL: [&[u8]; 3] = [PII_SCRUB, ENRICH_USER_AGENT, REWRITE_DEVICE_ID];
