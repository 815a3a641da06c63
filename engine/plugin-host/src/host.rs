//! The wasm engine of a process: its settings, and its pool of instances.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use wasmtime::component::{Component, Linker, WasmStr};
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, StoreContextMut};

use crate::cache::{Cache, Trusted};
use crate::call::CallState;
use crate::error::LoadError;
use crate::limits::{HostOptions, TABLE_ELEMENTS_MAX, WASM_STACK_BYTES};
use crate::plugin::{self, Plugin};
use crate::tables;

/// Pool slots per running call. A component of one of our SDKs has one memory and one or two tables; adapters that
/// language tools add bring small modules of their own.
const CORE_INSTANCES_PER_CALL: u32 = 64;
const MEMORIES_PER_CALL: u32 = 4;
const TABLES_PER_CALL: u32 = 4;
/// Address space per memory, which lets compiled code go without bounds checks.
const MEMORY_RESERVATION_BYTES: u64 = 4 << 30;
/// Host functions run on a guest's stack, after what its own code may use of it.
const HOST_STACK_BYTES: usize = 512 * 1024;

/// The engine that loads and runs plugins. Cheap to clone; all clones are one engine with one pool of instances.
#[derive(Clone)]
pub struct PluginHost {
    pub(crate) inner: Arc<HostInner>,
}

pub(crate) struct HostInner {
    pub(crate) engine: Engine,
    pub(crate) options: HostOptions,
    pub(crate) permits: Permits,
    linker: Linker<CallState>,
    cache: Option<Cache>,
}

impl PluginHost {
    /// Sets up the engine. The pool of instances is address space until it is used.
    ///
    /// # Errors
    /// When the options contradict each other, the machine can't reserve the pool, or the cache directory is not
    /// private.
    pub fn new(options: HostOptions) -> Result<Self, LoadError> {
        let setup = |message: String| LoadError::Host { message };
        if options.concurrent_calls == 0 || options.backstop < Duration::from_millis(1) {
            return Err(setup("concurrent_calls and backstop must be more than zero".to_owned()));
        }
        if !(1 << 16..=MEMORY_RESERVATION_BYTES).contains(&options.memory_bytes_max) {
            return Err(setup(format!(
                "memory_bytes_max is {}: use {} to {MEMORY_RESERVATION_BYTES}",
                options.memory_bytes_max,
                1 << 16
            )));
        }
        let engine = Engine::new(&config(&options)).map_err(|e| setup(format!("can't start the engine: {e:#}")))?;
        let linker = linker(&engine).map_err(|e| setup(format!("can't define the host's functions: {e:#}")))?;
        let cache = match &options.cache_dir {
            Some(dir) => Some(Cache::open(dir, options.cache_bytes_max, &engine).map_err(setup)?),
            None => None,
        };
        let permits = Permits::new(options.concurrent_calls);
        Ok(Self { inner: Arc::new(HostInner { engine, options, permits, linker, cache }) })
    }

    /// Checks a plugin and compiles it, or takes it from the cache. Runs none of the plugin's code.
    ///
    /// Compiling takes from a tenth of a second to many seconds and as much memory as the plugin makes it:
    /// [`HostOptions::compiler`] has it done in a bounded child process, which is what plugins of people you don't know
    /// need.
    ///
    /// # Errors
    /// [`LoadError`] says what was refused and what to do.
    pub fn load(&self, wasm: &[u8]) -> Result<Plugin, LoadError> {
        let inner = &self.inner;
        if wasm.len() > inner.options.module_bytes_max {
            return Err(LoadError::TooLarge { bytes: wasm.len(), max: inner.options.module_bytes_max });
        }
        plugin::check_is_component(wasm)?;
        let digest: [u8; 32] = Sha256::digest(wasm).into();
        let compile = || match &inner.options.compiler {
            Some(compiler) => compiler.compile(wasm),
            None => inner.engine.precompile_component(wasm).map_err(|e| LoadError::Invalid(format!("{e:#}"))),
        };
        let component = match &inner.cache {
            None => deserialize(&inner.engine, &Trusted::compiled_here(compile()?)),
            Some(cache) => {
                // An artifact that is whole and still does not fit the engine is compiled again, like a damaged one.
                let cached = cache.get(&digest).and_then(|artifact| {
                    deserialize(&inner.engine, &artifact)
                        .inspect_err(
                            |error| tracing::warn!(%error, "compiled plugin does not fit and is compiled again"),
                        )
                        .ok()
                });
                match cached {
                    Some(component) => Ok(component),
                    None => {
                        let artifact = Trusted::compiled_here(compile()?);
                        cache.put(&digest, &artifact);
                        deserialize(&inner.engine, &artifact)
                    }
                }
            }
        }
        .map_err(|e| LoadError::Invalid(format!("{e:#}")))?;
        plugin::check_world(&inner.engine, &component)?;
        let pre = inner.linker.instantiate_pre(&component).map_err(|e| LoadError::Boundary(format!("{e:#}")))?;
        Plugin::new(self.clone(), pre, digest, wasm.len())
    }

    /// The options in force.
    pub fn options(&self) -> &HostOptions {
        &self.inner.options
    }
}

#[expect(unsafe_code, reason = "mapping native code is what ahead-of-time compilation is for")]
fn deserialize(engine: &Engine, artifact: &Trusted) -> wasmtime::Result<Component> {
    // SAFETY: the bytes must be what `precompile_component` of this wasmtime produced. `Trusted` has two sources: bytes
    // that it just produced in this process, and a file in a directory that only this user can write, which this user
    // owns and nobody else can write, whose checksum over name and content is right, and whose name carries the engine's
    // compatibility hash. The bytes were read into memory before they were checked, so nobody can change them since.
    // wasmtime compares version, target, settings and processor features once more.
    unsafe { Component::deserialize(engine, artifact.bytes()) }
}

/// Settings of the engine. What changes the meaning of a guest's code here (features, NaN, fuel) is part of the semantics
/// version.
pub(crate) fn config(options: &HostOptions) -> Config {
    let calls = options.concurrent_calls;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(calls)
        .total_core_instances(calls * CORE_INSTANCES_PER_CALL)
        .max_core_instances_per_component(CORE_INSTANCES_PER_CALL)
        .total_memories(calls * MEMORIES_PER_CALL)
        .max_memories_per_component(MEMORIES_PER_CALL)
        .max_memories_per_module(1)
        .max_memory_size(options.memory_bytes_max as usize)
        .total_tables(calls * TABLES_PER_CALL)
        .max_tables_per_component(TABLES_PER_CALL)
        .max_tables_per_module(TABLES_PER_CALL)
        .table_elements(TABLE_ELEMENTS_MAX)
        // The slots in use are those of the running calls, and each keeps its memory mapped for the next.
        .max_unused_warm_slots(calls * MEMORIES_PER_CALL)
        .linear_memory_keep_resident(options.memory_resident_bytes)
        .table_keep_resident(TABLE_ELEMENTS_MAX * size_of::<usize>())
        .total_stacks(calls)
        // Where the kernel can tell which pages a guest touched, only those are cleared.
        .pagemap_scan(Enabled::Auto);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .memory_reservation(MEMORY_RESERVATION_BYTES)
        .concurrency_support(false)
        .wasm_component_model(true)
        .wasm_simd(true)
        .wasm_relaxed_simd(true)
        .relaxed_simd_deterministic(true)
        .wasm_bulk_memory(true)
        .wasm_multi_value(true)
        .wasm_tail_call(true)
        .wasm_extended_const(true)
        .wasm_multi_memory(true)
        .wasm_memory64(false)
        .cranelift_nan_canonicalization(true)
        .consume_fuel(true)
        .max_wasm_stack(WASM_STACK_BYTES)
        .async_stack_size(WASM_STACK_BYTES + HOST_STACK_BYTES)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(16));
    config
}

/// The interface with the log. Components of an earlier version of the same major number fit, too.
pub(crate) const HOST_INTERFACE: &str = "millrace:transform/host@1.1.0";
/// An interface of types alone, which bindings import beside it.
pub(crate) const TYPES_INTERFACE: &str = "millrace:transform/types@1.1.0";

fn linker(engine: &Engine) -> wasmtime::Result<Linker<CallState>> {
    let mut linker = Linker::new(engine);
    linker.instance(TYPES_INTERFACE)?;
    tables::add_to_linker(&mut linker)?;
    linker.instance(HOST_INTERFACE)?.func_wrap(
        "log",
        |mut store: StoreContextMut<'_, CallState>, (message,): (WasmStr,)| {
            // Whatever is in the line, the call goes on: whether there is still room for it depends on the rows beside
            // this one, and those must not decide anything.
            let room = store.data().log_room();
            if room > 0 {
                let line = match message.to_str(&store) {
                    Ok(text) => text[..text.floor_char_boundary(room)].to_owned(),
                    Err(_) => "(a line that is not valid text)".to_owned(),
                };
                store.data_mut().log(line);
            }
            Ok(())
        },
    )?;
    Ok(linker)
}

/// How many calls may start yet. A call waits for its permit, so the pool never has to refuse one.
pub(crate) struct Permits {
    free: Mutex<u32>,
    freed: Condvar,
}

impl Permits {
    fn new(calls: u32) -> Self {
        Self { free: Mutex::new(calls), freed: Condvar::new() }
    }

    fn free(&self) -> MutexGuard<'_, u32> {
        // Nothing panics while it holds the lock, and the number is whole at any moment.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a call may run.
    pub(crate) fn acquire(&self) -> Permit<'_> {
        let mut free = self.freed.wait_while(self.free(), |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Permit { permits: self }
    }
}

pub(crate) struct Permit<'a> {
    permits: &'a Permits,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.permits.free() += 1;
        self.permits.freed.notify_one();
    }
}
