//! millrace-history
