//! One call of a plugin: a fresh instance, `describe`, `transform`, and what its failure means.

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use wasmtime::component::{ComponentExportIndex, Instance, InstancePre};
use wasmtime::{ResourceLimiter, Store, Trap, WasmBacktrace};

use crate::abi;
use crate::host::PluginHost;
use crate::limits::{Limits, TABLE_ELEMENTS_MAX};
use crate::tables::Tables;

/// Room beside [`Limits::output_bytes`] for the frame of the lists, so that the exact limit is counted by us, in bytes of
/// the boundary, and not by wasmtime in bytes of its own structures.
const FRAME_BYTES: usize = 64 * 1024;
/// Longest text that is kept of a failure.
pub(crate) const MESSAGE_BYTES_MAX: usize = 1024;
/// A guest is suspended each time it has used this much fuel, some hundredths of a second, and the clock is looked at.
const FUEL_BETWEEN_LOOKS: u64 = 20_000_000;

/// Codes of dead letters that the host decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum HostCode {
    Trap,
    OutOfFuel,
    OutOfMemory,
    StackOverflow,
    BadOutput,
    GuestError,
    OutputTooLarge,
}

impl HostCode {
    pub(crate) const ALL: [Self; 7] = [
        Self::Trap,
        Self::OutOfFuel,
        Self::OutOfMemory,
        Self::StackOverflow,
        Self::BadOutput,
        Self::GuestError,
        Self::OutputTooLarge,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::OutOfFuel => "out_of_fuel",
            Self::OutOfMemory => "out_of_memory",
            Self::StackOverflow => "stack_overflow",
            Self::BadOutput => "bad_output",
            Self::GuestError => "guest_error",
            Self::OutputTooLarge => "output_too_large",
        }
    }
}

/// Why a call gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CallFailure {
    /// The guest's doing: the batch is split, and a call of one row decides it.
    Guest(HostCode, String),
    /// It says nothing about the rows.
    Stop(Stop),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Backstop,
    Host(String),
    /// Instantiation or `describe` failed after they had succeeded when the chain was built.
    Describe(HostCode, String),
}

impl CallFailure {
    pub(crate) fn bad_output(message: impl Into<String>) -> Self {
        Self::Guest(HostCode::BadOutput, message.into())
    }
}

/// What a call left beside its result, whatever that was.
#[derive(Debug, Default)]
pub(crate) struct CallTrace {
    /// Fuel of instantiation and `describe`.
    pub(crate) describe_fuel: u64,
    /// Fuel of `transform`.
    pub(crate) fuel: u64,
    /// Memory that the instance had at the end, which is the most that it had: memories don't shrink.
    pub(crate) memory_bytes: u64,
    pub(crate) logs: Vec<String>,
}

/// Marks the error that ends a call whose memory or table would grow past its limit.
#[derive(Debug, thiserror::Error)]
#[error("memory limit: {0}")]
struct OutOfMemory(String);

/// Marks the error that ends a call whose lookups gave back more than they may.
#[derive(Debug, thiserror::Error)]
#[error("lookups gave back more than output_bytes")]
pub(crate) struct LookupTooLarge;

/// Marks the end of a call at the backstop.
#[derive(Debug, thiserror::Error)]
#[error("the call took longer than the backstop")]
struct Late;

/// Marks a failure of the machine.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct HostFault(String);

/// What the host keeps beside an instance.
pub(crate) struct CallState {
    memory_bytes: usize,
    memory_bytes_max: usize,
    logs: Vec<String>,
    log_lines_left: u32,
    log_bytes_left: usize,
    tables: Tables,
    lookup_bytes_left: u64,
    describing: bool,
}

impl CallState {
    fn new(limits: &Limits, tables: &Tables) -> Self {
        Self {
            memory_bytes: 0,
            memory_bytes_max: usize::try_from(limits.memory_bytes).unwrap_or(usize::MAX),
            logs: Vec::new(),
            log_lines_left: limits.log_lines,
            log_bytes_left: limits.log_bytes as usize,
            tables: tables.clone(),
            lookup_bytes_left: limits.output_bytes,
            describing: true,
        }
    }

    pub(crate) fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Whether `describe` runs, or what comes before it.
    pub(crate) fn is_describing(&self) -> bool {
        self.describing
    }

    /// Counts what a lookup gives back; false when it is too much.
    pub(crate) fn take_lookup_bytes(&mut self, bytes: u64) -> bool {
        let left = self.lookup_bytes_left.checked_sub(bytes);
        self.lookup_bytes_left = left.unwrap_or(0);
        left.is_some()
    }

    /// Bytes of a log line that would be kept.
    pub(crate) fn log_room(&self) -> usize {
        if self.log_lines_left == 0 { 0 } else { self.log_bytes_left }
    }

    pub(crate) fn log(&mut self, mut line: String) {
        truncate(&mut line, self.log_room());
        line.shrink_to_fit();
        if !line.is_empty() {
            self.log_lines_left -= 1;
            self.log_bytes_left -= line.len();
            self.logs.push(line);
        }
    }
}

impl ResourceLimiter for CallState {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.memory_bytes.saturating_sub(current).saturating_add(desired);
        if total > self.memory_bytes_max || maximum.is_some_and(|maximum| desired > maximum) {
            let max = maximum.map_or(self.memory_bytes_max, |m| m.min(self.memory_bytes_max));
            return Err(OutOfMemory(format!("{total} bytes of memory asked for, {max} allowed")).into());
        }
        self.memory_bytes = total;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(HostFault(format!("memory of a plugin could not grow: {error:#}")).into())
    }

    fn table_growing(&mut self, _current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if desired > maximum.unwrap_or(usize::MAX).min(TABLE_ELEMENTS_MAX) {
            return Err(OutOfMemory(format!("{desired} table elements asked for, {TABLE_ELEMENTS_MAX} allowed")).into());
        }
        Ok(true)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(HostFault(format!("table of a plugin could not grow: {error:#}")).into())
    }
}

/// A plugin's entry points.
pub(crate) struct Entry {
    pub(crate) pre: InstancePre<CallState>,
    pub(crate) describe: ComponentExportIndex,
    pub(crate) transform: ComponentExportIndex,
}

/// Runs `describe` and copies the manifest out.
pub(crate) fn describe(
    host: &PluginHost,
    entry: &Entry,
    limits: &Limits,
    tables: &Tables,
    config: &str,
) -> Result<abi::Manifest, CallFailure> {
    let _permit = host.inner.permits.acquire();
    let deadline = deadline(host);
    let mut store = new_store(host, limits, tables);
    let result = to_end(deadline, async {
        let instance = instantiate(&mut store, entry, limits).await?;
        let describe =
            instance.get_typed_func::<abi::DescribeParams<'_>, abi::DescribeResult>(&mut store, entry.describe)?;
        describe.call_async(&mut store, (config,)).await
    });
    flatten(result).map_err(|failure| with_logs(failure, &store.data().logs))
}

/// Runs `describe` and `transform` in a fresh instance.
pub(crate) fn transform(
    host: &PluginHost,
    entry: &Entry,
    limits: &Limits,
    tables: &Tables,
    config: &str,
    batch: abi::Batch<'_>,
) -> (Result<abi::Output, CallFailure>, CallTrace) {
    let _permit = host.inner.permits.acquire();
    let deadline = deadline(host);
    let mut store = new_store(host, limits, tables);
    let mut trace = CallTrace::default();
    let described = to_end(deadline, async {
        let instance = instantiate(&mut store, entry, limits).await?;
        let describe =
            instance.get_typed_func::<abi::DescribeParams<'_>, abi::DescribeIgnored>(&mut store, entry.describe)?;
        Ok((instance, describe.call_async(&mut store, (config,)).await?.0))
    });
    trace.describe_fuel = limits.describe_fuel - store.get_fuel().unwrap_or(0).min(limits.describe_fuel);
    let instance = match described {
        Ok((instance, Ok(_))) => Ok(instance),
        Ok((_, Err(message))) => Err(CallFailure::Guest(HostCode::GuestError, bounded(message))),
        Err(error) => Err(classify(&error)),
    };
    let result = match instance {
        Ok(instance) => {
            let result = to_end(deadline, async {
                store.data_mut().describing = false;
                store.set_fuel(limits.fuel)?;
                let transform = instance
                    .get_typed_func::<abi::TransformParams<'_>, abi::TransformResult>(&mut store, entry.transform)?;
                transform.call_async(&mut store, (batch,)).await
            });
            trace.fuel = limits.fuel - store.get_fuel().unwrap_or(0).min(limits.fuel);
            flatten(result).map_err(|failure| with_logs(failure, &store.data().logs))
        }
        Err(CallFailure::Guest(code, message)) => Err(CallFailure::Stop(Stop::Describe(code, message))),
        Err(stop) => Err(stop),
    };
    let state = store.into_data();
    trace.memory_bytes = state.memory_bytes as u64;
    trace.logs = state.logs;
    (result, trace)
}

fn new_store(host: &PluginHost, limits: &Limits, tables: &Tables) -> Store<CallState> {
    let mut store = Store::new(&host.inner.engine, CallState::new(limits, tables));
    store.limiter(|state| state);
    store.set_hostcall_fuel(usize::try_from(limits.output_bytes).unwrap_or(usize::MAX).saturating_add(FRAME_BYTES));
    store
}

async fn instantiate(store: &mut Store<CallState>, entry: &Entry, limits: &Limits) -> wasmtime::Result<Instance> {
    store.set_fuel(limits.describe_fuel)?;
    store.fuel_async_yield_interval(Some(FUEL_BETWEEN_LOOKS))?;
    entry.pre.instantiate_async(store).await
}

fn deadline(host: &PluginHost) -> Instant {
    Instant::now() + host.inner.options.backstop
}

/// Runs a guest on this thread until it is done or, at one of the moments at which it is suspended, late. Checks that are
/// compiled into every loop (wasmtime's epochs) cost an eighth of the throughput; fuel is counted anyway.
fn to_end<T>(deadline: Instant, guest: impl Future<Output = wasmtime::Result<T>>) -> wasmtime::Result<T> {
    let mut guest = pin!(guest);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match guest.as_mut().poll(&mut context) {
            Poll::Ready(result) => return result,
            Poll::Pending if Instant::now() < deadline => {}
            Poll::Pending => return Err(Late.into()),
        }
    }
}

fn flatten<T>(result: wasmtime::Result<(Result<T, String>,)>) -> Result<T, CallFailure> {
    match result {
        Ok((Ok(value),)) => Ok(value),
        Ok((Err(message),)) => Err(CallFailure::Guest(HostCode::GuestError, bounded(message))),
        Err(error) => Err(classify(&error)),
    }
}

/// What an error of wasmtime says about the rows.
fn classify(error: &wasmtime::Error) -> CallFailure {
    if let Some(fault) = error.downcast_ref::<HostFault>() {
        return CallFailure::Stop(Stop::Host(fault.0.clone()));
    }
    if error.is::<Late>() {
        return CallFailure::Stop(Stop::Backstop);
    }
    if error.is::<wasmtime::PoolConcurrencyLimitError>() || error.is::<std::io::Error>() {
        return CallFailure::Stop(Stop::Host(format!("{error:#}")));
    }
    let code = if error.is::<OutOfMemory>() {
        HostCode::OutOfMemory
    } else if let Some(trap) = error.downcast_ref::<Trap>() {
        match trap {
            Trap::OutOfFuel => HostCode::OutOfFuel,
            Trap::StackOverflow => HostCode::StackOverflow,
            _ => HostCode::Trap,
        }
    } else if error.is::<LookupTooLarge>() || error.root_cause().to_string().contains("fuel allocated for hostcalls") {
        // wasmtime has no public type for it; a test holds this text.
        HostCode::OutputTooLarge
    } else {
        // Lists out of the guest's memory, tags of no variant, text that is not UTF-8, pointers that are not aligned.
        HostCode::BadOutput
    };
    // The reason first: the names of a deep stack would push it out.
    let message = match error.downcast_ref::<WasmBacktrace>() {
        Some(backtrace) => format!("{}\n{backtrace}", error.root_cause()),
        None => format!("{error:#}"),
    };
    CallFailure::Guest(code, bounded(message))
}

/// A guest that panics says why by its log: the last lines go to the message.
fn with_logs(failure: CallFailure, logs: &[String]) -> CallFailure {
    match failure {
        CallFailure::Guest(code, message) if !logs.is_empty() => {
            let mut text = String::new();
            for line in &logs[logs.len().saturating_sub(4)..] {
                text.push_str(line);
                text.push('\n');
            }
            truncate(&mut text, MESSAGE_BYTES_MAX / 2);
            text.push_str(&message);
            CallFailure::Guest(code, bounded(text))
        }
        other => other,
    }
}

fn bounded(mut message: String) -> String {
    truncate(&mut message, MESSAGE_BYTES_MAX);
    message.shrink_to_fit();
    message
}

/// Cuts at a character boundary.
fn truncate(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_bounded_in_lines_and_bytes() {
        let limits = Limits { log_lines: 3, log_bytes: 10, ..Limits::default() };
        let mut state = CallState::new(&limits, &Tables::default());
        state.log("12345".to_owned());
        state.log("678é".to_owned());
        state.log("more".to_owned());
        assert_eq!(state.logs, ["12345", "678é"], "the third has no bytes left");
        let mut state = CallState::new(&limits, &Tables::default());
        (0..9).for_each(|n| state.log(n.to_string()));
        assert_eq!(state.logs, ["0", "1", "2"]);
        let mut state = CallState::new(&limits, &Tables::default());
        state.log("123456789é".to_owned());
        assert_eq!(state.logs, ["123456789"], "cut where a character ends");
    }

    #[test]
    fn memory_is_counted_over_all_memories() {
        let mut state = CallState::new(&Limits { memory_bytes: 100, ..Limits::default() }, &Tables::default());
        assert!(state.memory_growing(0, 60, None).unwrap());
        assert!(state.memory_growing(0, 40, None).unwrap());
        assert!(state.memory_growing(40, 41, None).unwrap_err().is::<OutOfMemory>());
        assert!(state.memory_growing(60, 20, Some(10)).unwrap_err().is::<OutOfMemory>());
    }

    #[test]
    fn a_failure_of_the_machine_decides_no_row() {
        let mut state = CallState::new(&Limits::default(), &Tables::default());
        let error = state.memory_grow_failed(std::io::Error::other("no memory").into()).unwrap_err();
        assert!(matches!(classify(&error), CallFailure::Stop(Stop::Host(_))));
        assert_eq!(classify(&Late.into()), CallFailure::Stop(Stop::Backstop));
    }
}
