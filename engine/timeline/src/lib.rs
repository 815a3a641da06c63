//! millrace-timeline
