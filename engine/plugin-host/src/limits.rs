//! What a call may use, and how the host is set up.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::compiler::CompilerProcess;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Stack of a guest, which is none of the calling thread's. A constant of the semantics, not an option: it decides whether a
/// row is a dead letter.
pub const WASM_STACK_BYTES: usize = 512 * 1024;
/// Largest function table of a guest, in elements; growth past it is `out_of_memory`.
pub const TABLE_ELEMENTS_MAX: usize = 65_536;
/// Longest configuration of a step.
pub const CONFIG_BYTES_MAX: usize = 1024 * 1024;

/// Limits of one call of a step. They are part of the chain and pinned in a revision, because they decide rows: the same
/// constants apply to a call of one row and to a call of a thousand, and only a call of one row that meets them decides
/// anything.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Linear memory of the instance, over all its memories. Growth past it ends the call (`out_of_memory`); it never
    /// returns -1, so what a guest would do about it makes no difference. Default 64 MiB.
    pub memory_bytes: u64,
    /// Fuel for instantiation and `describe`: about one unit an instruction, and one a byte of bulk memory operations.
    /// Default 400 million, which is some tenths of a second.
    pub describe_fuel: u64,
    /// Fuel for `transform` (`out_of_fuel`). Default 400 million.
    pub fuel: u64,
    /// Everything that one call of `transform` may return, in bytes (`output_too_large`). Default 64 MiB, at most 1 GiB.
    pub output_bytes: u64,
    /// Most rows sent in one call. It shapes calls and decides no row. Default 4,096.
    pub rows: u32,
    /// A call ends before the row with which the text sent would pass this; a single row is always sent. It shapes calls
    /// and decides no row. Default 8 MiB.
    pub input_bytes: u64,
    /// Lines kept of what one call logs; the others are thrown away. Default 32.
    pub log_lines: u32,
    /// Bytes kept of what one call logs. Default 8 KiB.
    pub log_bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 64 * MIB,
            describe_fuel: 400_000_000,
            fuel: 400_000_000,
            output_bytes: 64 * MIB,
            rows: 4_096,
            input_bytes: 8 * MIB,
            log_lines: 32,
            log_bytes: 8 * KIB as u32,
        }
    }
}

impl Limits {
    /// Whether a host whose instances may have `memory_bytes_max` can run under these limits.
    pub(crate) fn check(&self, memory_bytes_max: u64) -> Result<(), String> {
        let in_range = |name: &str, value: u64, min: u64, max: u64| {
            if (min..=max).contains(&value) {
                Ok(())
            } else {
                Err(format!("limit {name} is {value}: use {min} to {max}"))
            }
        };
        in_range("memory_bytes", self.memory_bytes, 64 * KIB, memory_bytes_max)?;
        in_range("describe_fuel", self.describe_fuel, 1, i64::MAX as u64)?;
        in_range("fuel", self.fuel, 1, i64::MAX as u64)?;
        in_range("output_bytes", self.output_bytes, 1, KIB * MIB)?;
        in_range("rows", self.rows.into(), 1, 1 << 20)?;
        in_range("input_bytes", self.input_bytes, 1, KIB * MIB)?;
        in_range("log_lines", self.log_lines.into(), 0, 1_000)?;
        in_range("log_bytes", self.log_bytes.into(), 0, MIB)
    }
}

/// How a host is set up. Nothing here decides a row.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// Where compiled plugins are kept: a directory of this user alone, made with mode 0700 where it is missing. Without
    /// it every load compiles.
    pub cache_dir: Option<PathBuf>,
    /// Bytes of that directory; the files used longest ago go first. Default 1 GiB.
    pub cache_bytes_max: u64,
    /// Largest plugin that is accepted. Default 32 MiB.
    pub module_bytes_max: usize,
    /// Has plugins compiled in a child process; without it they are compiled in this one. Default: none.
    pub compiler: Option<CompilerProcess>,
    /// Calls that run at the same time; more wait. Default: twice the number of processors, 4 to 64.
    pub concurrent_calls: u32,
    /// Largest [`Limits::memory_bytes`] that this host takes. Default 256 MiB, at most 4 GiB. It costs address space
    /// only.
    pub memory_bytes_max: u64,
    /// Memory of a finished instance that stays mapped for the next one, per memory slot. Page faults make a fresh
    /// instance four times as dear as a reused one without it. Default 64 MiB, so that the host keeps at most 64 MiB ×
    /// `concurrent_calls`, and as much as its guests touched.
    pub memory_resident_bytes: usize,
    /// How long one call may take by the wall clock before the chain stops for an operator, looked at each time the guest
    /// has used 20 million of fuel. Fuel ends every loop long before; this is for a machine that stands still. Default
    /// 30 s.
    pub backstop: Duration,
    /// Rows of one batch that may end in a trap, an error or a limit before the chain stops. Default 64.
    pub bad_rows_max: usize,
}

impl Default for HostOptions {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            cache_dir: None,
            cache_bytes_max: KIB * MIB,
            module_bytes_max: 32 * MIB as usize,
            compiler: None,
            concurrent_calls: (2 * processors).clamp(4, 64) as u32,
            memory_bytes_max: 256 * MIB,
            memory_resident_bytes: 64 * MIB as usize,
            backstop: Duration::from_secs(30),
            bad_rows_max: 64,
        }
    }
}
