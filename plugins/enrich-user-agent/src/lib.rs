//! enrich-user-agent
