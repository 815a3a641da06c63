//! millrace-delta
