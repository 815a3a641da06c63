//! millrace-plugin-host
