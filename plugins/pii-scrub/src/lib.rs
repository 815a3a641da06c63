//! pii-scrub
