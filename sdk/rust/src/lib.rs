//! millrace-sdk
