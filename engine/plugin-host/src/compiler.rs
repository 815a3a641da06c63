//! Compiling in a child process with bounds of its own: a plugin that makes the compiler use all memory or all time takes
//! nobody else with it.
//!
//! The child is this program, or another that calls [`compile_stdin`]: it gets the component on its standard input and
//! writes the artifact to its standard output, or a message to its standard error.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use wasmtime::Engine;

use crate::error::LoadError;
use crate::host;
use crate::limits::HostOptions;

/// Longest message that is taken from a child.
const MESSAGE_BYTES_MAX: u64 = 4096;
/// Largest artifact that is taken from a child: native code is several times larger than a component.
const ARTIFACT_BYTES_MAX: u64 = 1 << 30;

/// How to run the compiler.
#[derive(Clone, Debug)]
pub struct CompilerProcess {
    /// The program.
    pub program: PathBuf,
    /// Its arguments; two more follow: [`Self::memory_bytes`] and [`Self::cpu_seconds`], for [`compile_stdin`].
    pub arguments: Vec<String>,
    /// Most memory of the child. Default 2 GiB.
    pub memory_bytes: u64,
    /// Most processor time of the child, in seconds. Default 120: an engine of another language takes some 15.
    pub cpu_seconds: u64,
}

impl CompilerProcess {
    /// A program that compiles when it is called with these arguments, under the default bounds.
    pub fn new(program: impl Into<PathBuf>, arguments: impl IntoIterator<Item = &'static str>) -> Self {
        Self {
            program: program.into(),
            arguments: arguments.into_iter().map(str::to_owned).collect(),
            memory_bytes: 2 << 30,
            cpu_seconds: 120,
        }
    }

    /// Compiles a component.
    pub(crate) fn compile(&self, wasm: &[u8]) -> Result<Vec<u8>, LoadError> {
        let host = |what: &str, error: std::io::Error| LoadError::Host {
            message: format!("{what} {}: {error}", self.program.display()),
        };
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .args([self.memory_bytes.to_string(), self.cpu_seconds.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| host("starting", error))?;
        let (artifact, message, status) = self.talk(&mut child, wasm).map_err(|error| host("running", error))?;
        let Some(status) = status else {
            return Err(LoadError::Compile(format!("it took longer than {:?}", self.patience())));
        };
        match (status.code(), status.signal()) {
            (Some(0), _) => Ok(artifact),
            (Some(1), _) => Err(LoadError::Invalid(message)),
            (_, Some(signal)) if [Signal::XCPU.as_raw(), Signal::KILL.as_raw()].contains(&signal) => {
                Err(LoadError::Compile(format!("it took more than {} s of processor time", self.cpu_seconds)))
            }
            // How an allocation that fails ends a process.
            (_, Some(_)) => Err(LoadError::Compile(format!(
                "the compiler ended with {status}, as it does when it needs more than {} MiB of memory",
                self.memory_bytes >> 20
            ))),
            _ => Err(LoadError::Compile(format!("the compiler ended with {status}: {message}"))),
        }
    }

    /// Processor time is bounded by the child itself; this is for a child that waits for something that never comes.
    fn patience(&self) -> Duration {
        Duration::from_secs(self.cpu_seconds.saturating_mul(5))
    }

    /// Gives the child its input and takes what it says; no status where it took too long and was killed.
    fn talk(&self, child: &mut Child, wasm: &[u8]) -> std::io::Result<(Vec<u8>, String, Option<ExitStatus>)> {
        let taken = || std::io::Error::other("a pipe is missing");
        let mut input = child.stdin.take().ok_or_else(taken)?;
        let mut output = child.stdout.take().ok_or_else(taken)?.take(ARTIFACT_BYTES_MAX);
        let mut errors = child.stderr.take().ok_or_else(taken)?.take(MESSAGE_BYTES_MAX);
        thread::scope(|scope| {
            // A child that ends before it has read everything says why by its status.
            scope.spawn(move || drop(input.write_all(wasm)));
            let message = scope.spawn(move || {
                let mut message = Vec::new();
                let _ = errors.read_to_end(&mut message);
                String::from_utf8_lossy(&message).trim().to_owned()
            });
            let (done, finished) = mpsc::channel();
            let artifact = scope.spawn(move || {
                let mut artifact = Vec::new();
                let read = output.read_to_end(&mut artifact).map(|_| artifact);
                let _ = done.send(());
                read
            });
            // The child's end closes its output.
            let in_time = finished.recv_timeout(self.patience()).is_ok();
            if !in_time {
                child.kill()?;
            }
            let status = child.wait()?;
            let artifact = artifact.join().map_err(|_| std::io::Error::other("a reader panicked"))??;
            let message = message.join().map_err(|_| std::io::Error::other("a reader panicked"))?;
            Ok((artifact, message, in_time.then_some(status)))
        })
    }
}

/// The child's side: compiles what comes on standard input, within bounds of memory and processor time.
///
/// The exit code is 1 for a component that can't be compiled, and 2 where the machine is at fault.
pub fn compile_stdin(memory_bytes: u64, cpu_seconds: u64) -> ExitCode {
    let fail = |code: u8, message: String| {
        let _ = writeln!(std::io::stderr(), "{message}");
        ExitCode::from(code)
    };
    let bounded = [(Resource::Data, memory_bytes), (Resource::Cpu, cpu_seconds), (Resource::Core, 0)]
        .into_iter()
        .try_for_each(|(resource, most)| setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) }));
    if let Err(error) = bounded {
        return fail(2, format!("bounds can't be set: {error}"));
    }
    // One call's pool: the artifact does not depend on how many there are.
    let options = HostOptions { concurrent_calls: 1, ..HostOptions::default() };
    let engine = match Engine::new(&host::config(&options)) {
        Ok(engine) => engine,
        Err(error) => return fail(2, format!("the engine can't be started: {error:#}")),
    };
    let mut wasm = Vec::new();
    if let Err(error) = std::io::stdin().lock().read_to_end(&mut wasm) {
        return fail(2, format!("the component can't be read: {error}"));
    }
    match engine.precompile_component(&wasm) {
        Ok(artifact) => match std::io::stdout().lock().write_all(&artifact) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(2, format!("the artifact can't be written: {error}")),
        },
        Err(error) => fail(1, format!("{error:#}")),
    }
}
