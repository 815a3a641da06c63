//! millrace-http
