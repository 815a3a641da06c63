//! `millrace serve`, and what every command shares of opening a data directory.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use axum::Router;
use axum_server::Handle;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use millrace_http::Trust;
use millrace_pipeline::engine::{Engine, ROOT};
use millrace_pipeline::keyspace::OpenKeyspace;
use millrace_timeline::Catalogue;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Config;

/// Longest wait for requests that are under way when the server stops.
const STOP_WAIT_MAX: Duration = Duration::from_secs(20);
/// Longest time that a client may take for the head of a request.
const HEADER_WAIT_MAX: Duration = Duration::from_secs(30);

/// Opens the engine of a data directory, creating it when it is new.
pub async fn open_engine(config: &Config) -> Result<Arc<Engine>> {
    let lock = lock_data_dir(config)?;
    let engine = Engine::open(config.engine_options()?)
        .await
        .with_context(|| format!("opening {}", config.data_dir.display()))?;
    engine.keep(lock);
    Ok(engine)
}

/// Opens only the catalogue of a data directory.
pub async fn open_catalogue(config: &Config) -> Result<(Catalogue, OpenKeyspace)> {
    let lock = lock_data_dir(config)?;
    let keyspace = OpenKeyspace::open(&config.data_dir, config.engine_options()?.keyspace).await?;
    let catalogue = Catalogue::open(keyspace.shared(), ROOT).await?;
    // The lock is held until the process ends: this is a command that does one thing.
    std::mem::forget(lock);
    Ok((catalogue, keyspace))
}

/// One process at a time works on a data directory.
fn lock_data_dir(config: &Config) -> Result<File> {
    let dir = &config.data_dir;
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let path = dir.join("millrace.lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "{} is in use by another millrace process: give --url to ask that one, or another --data-dir",
            dir.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("locking {}", path.display())),
    }
}

/// A server that is listening.
pub struct Server {
    /// Its address for clients.
    pub url: String,
    handle: Handle<SocketAddr>,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Server {
    /// Binds, then opens the engine, and serves in the background. Where another process has the address nothing is
    /// opened; where the server can't start the engine is stopped again.
    pub async fn open(config: &Config) -> Result<(Arc<Engine>, Self)> {
        let listener = bind(config.http.listen).await?;
        let engine = open_engine(config).await?;
        engine.start().await;
        match Self::start(listener, engine.clone(), config).await {
            Ok(server) => Ok((engine, server)),
            Err(error) => {
                if let Err(error) = engine.stop().await {
                    tracing::warn!("stopping the engine: {error}");
                }
                Err(error)
            }
        }
    }

    async fn start(listener: TcpListener, engine: Arc<Engine>, config: &Config) -> Result<Self> {
        let listen = config.http.listen;
        let trust = if listen.ip().is_loopback() { Trust::TokensOnceMade } else { Trust::Tokens };
        if trust == Trust::Tokens && !engine.tokens().any_in_force() {
            bail!(
                "http.listen = {listen}: beyond loopback nobody would get in without a token: make one first, with \
                 `millrace token create NAME --scope admin --data-dir {}`",
                config.data_dir.display()
            );
        }
        let tls = match (&config.http.tls_certificate, &config.http.tls_key) {
            (Some(certificate), Some(key)) => {
                let read = RustlsConfig::from_pem_file(certificate, key).await;
                let files = || format!("reading {} and {}", certificate.display(), key.display());
                Some(read.with_context(files)?)
            }
            _ => None,
        };
        let address = listener.local_addr()?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let router: Router = millrace_http::router(engine, config.http_limits(), trust);
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        let handle = Handle::new();
        let listener = listener.into_std()?;
        let mut server = axum_server::from_tcp(listener)?.handle(handle.clone()).first_request_timeout(HEADER_WAIT_MAX);
        server.http_builder().http1().header_read_timeout(Some(HEADER_WAIT_MAX));
        let served = match tls {
            Some(tls) => tokio::spawn(server.acceptor(RustlsAcceptor::new(tls)).serve(service)),
            None => tokio::spawn(server.serve(service)),
        };
        Ok(Self { url: format!("{scheme}://{address}"), handle, served })
    }

    /// Takes no new requests and waits for those under way, but not for ever: what a client has not sent by then it has
    /// no answer to, and sends again.
    pub async fn stop(self) -> Result<()> {
        self.handle.graceful_shutdown(Some(STOP_WAIT_MAX));
        Ok(self.served.await??)
    }
}

async fn bind(listen: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(listen).await.map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => anyhow!(
            "another process listens on {listen}, maybe another millrace: stop it, or give another address; --listen {} \
             takes any port that is free",
            SocketAddr::new(listen.ip(), 0)
        ),
        _ => anyhow!(error).context(format!("listening on {listen}")),
    })
}

/// The signals that end a server. Listened for from its beginning: one that comes while it starts is not missed.
pub struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// Listens from now on.
    pub fn listen() -> Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for ctrl-c or a termination.
    pub async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Serves until interrupted, then stops in order: requests under way, what the stores hold, log and keyspace.
pub async fn serve(config: &Config) -> Result<()> {
    let mut interrupts = Interrupts::listen()?;
    let (engine, server) = Server::open(config).await?;
    // On standard output, so that who starts a server on port 0 learns where it is.
    println!("listening on {}", server.url);
    interrupts.wait().await;
    tracing::info!("stopping");
    server.stop().await?;
    engine.stop().await?;
    Ok(())
}
