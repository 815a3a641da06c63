//! millrace-decode
