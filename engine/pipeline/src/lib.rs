//! millrace-pipeline
