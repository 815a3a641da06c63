//! rewrite-device-id
