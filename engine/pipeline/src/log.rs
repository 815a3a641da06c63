//! The log that an engine runs on: segment files on this machine, or a topic of Apache Iggy.
//!
//! Nearly all of the engine knows [`EventLog`] alone. What only one of the two has is here: retention that is ours to
//! carry out, numbers for metrics, closing.

use std::ops::Deref;
use std::sync::Arc;

#[cfg(feature = "iggy")]
pub use millrace_log_iggy as iggy;

use millrace_log::embedded::{self, EmbeddedLog, Trimmed};
use millrace_log::{EventLog, LogError};

use crate::engine::EngineOptions;
use crate::status::PartitionBounds;

/// The log, shared by all parts of an engine.
#[derive(Clone)]
pub enum Log {
    /// Segment files in the data directory.
    Embedded(Arc<EmbeddedLog>),
    /// A topic of Iggy.
    #[cfg(feature = "iggy")]
    Iggy(Arc<iggy::IggyLog>),
    /// One that is open already, and stays open when the engine stops: for tests of several engines over one log.
    Shared(Arc<dyn EventLog>),
}

/// What a log says of itself.
pub(crate) enum LogStats {
    Embedded(embedded::Stats),
    #[cfg(feature = "iggy")]
    Iggy(iggy::Stats),
    /// Nothing.
    Shared,
}

impl Log {
    /// Opens the log that the options name.
    pub(crate) async fn open(options: &mut EngineOptions) -> Result<Self, LogError> {
        if let Some(shared) = options.shared_log.take() {
            return Ok(Self::Shared(shared));
        }
        #[cfg(feature = "iggy")]
        if let Some(iggy) = options.iggy.take() {
            return Ok(Self::Iggy(Arc::new(iggy::IggyLog::open(iggy).await?)));
        }
        let embedded = std::mem::take(&mut options.log);
        let dir = options.data_dir.join("log");
        // It reads the disk, and may wait for a lock.
        let opened = tokio::task::spawn_blocking(move || EmbeddedLog::open(dir, embedded)).await;
        let opened = opened.map_err(|panic| LogError::Unusable(format!("opening the log: {panic}")))?;
        Ok(Self::Embedded(Arc::new(opened?)))
    }

    /// The log as all implementations have it.
    pub(crate) fn shared(&self) -> Arc<dyn EventLog> {
        match self {
            Self::Embedded(log) => log.clone(),
            #[cfg(feature = "iggy")]
            Self::Iggy(log) => log.clone(),
            Self::Shared(log) => log.clone(),
        }
    }

    /// Deletes what retention lets go. A server that does it by itself is left to it.
    ///
    /// # Errors
    /// As [`EmbeddedLog::trim`].
    pub async fn trim(&self, now_us: i64) -> Result<Trimmed, LogError> {
        match self {
            Self::Embedded(log) => log.trim(now_us).await,
            #[cfg(feature = "iggy")]
            Self::Iggy(_) => Ok(Trimmed::default()),
            Self::Shared(_) => Ok(Trimmed::default()),
        }
    }

    pub(crate) fn stats(&self) -> LogStats {
        match self {
            Self::Embedded(log) => LogStats::Embedded(log.stats()),
            #[cfg(feature = "iggy")]
            Self::Iggy(log) => LogStats::Iggy(log.stats()),
            Self::Shared(_) => LogStats::Shared,
        }
    }

    /// The bounds as they were last seen, for while the log can't be asked; `None` where it always can.
    pub(crate) fn last_bounds(&self) -> Option<Vec<PartitionBounds>> {
        match self {
            Self::Embedded(_) | Self::Shared(_) => None,
            #[cfg(feature = "iggy")]
            Self::Iggy(log) => {
                let bounds = (0..log.partitions()).map(|partition| log.last_bounds(partition));
                Some(bounds.map(|bounds| PartitionBounds { first: bounds.start, end: bounds.end }).collect())
            }
        }
    }

    pub(crate) async fn close(&self) -> Result<(), LogError> {
        match self {
            Self::Embedded(log) => log.close().await,
            #[cfg(feature = "iggy")]
            Self::Iggy(log) => {
                log.close();
                Ok(())
            }
            Self::Shared(_) => Ok(()),
        }
    }
}

impl Deref for Log {
    type Target = dyn EventLog;

    fn deref(&self) -> &(dyn EventLog + 'static) {
        match self {
            Self::Embedded(log) => log.as_ref(),
            #[cfg(feature = "iggy")]
            Self::Iggy(log) => log.as_ref(),
            Self::Shared(log) => log.as_ref(),
        }
    }
}
