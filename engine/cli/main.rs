//! The `millrace` command.

mod access;
mod client;
mod config;
mod correction;
mod correction_report;
mod dead_letters;
mod demo;
mod gap;
mod history;
mod import;
mod keyspace;
mod pipeline;
mod plugin;
mod progress;
mod registry;
mod serve;
mod status;
mod table;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::client::Client;
use crate::config::Config;

/// A WASM-pluggable stream processing engine: one event log, two stores that always agree with it.
#[derive(Parser)]
#[command(version, about, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Where help lists the options of every command: apart from a command's own.
const GLOBAL: &str = "Global options";

#[derive(Args)]
struct Global {
    /// Configuration file; millrace.toml in the working directory when there is one.
    #[arg(long, global = true, help_heading = GLOBAL, env = "MILLRACE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of log, history, table and catalogue. Commands that can ask a server work offline on it.
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "DIR")]
    data_dir: Option<String>,
    /// A running server to ask, instead of a data directory.
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "URL", conflicts_with = "data_dir")]
    url: Option<String>,
    /// The token for --url.
    #[arg(long, global = true, help_heading = GLOBAL, env = "MILLRACE_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    /// Certificates, as PEM, by which the server at --url is known, instead of those that everybody knows.
    #[arg(long, global = true, help_heading = GLOBAL, env = "MILLRACE_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Answers as JSON, for machines.
    #[arg(long, global = true, help_heading = GLOBAL)]
    json: bool,
    /// What to log, as in RUST_LOG. Default: info for `serve`, else warnings.
    #[arg(long, global = true, help_heading = GLOBAL, env = "MILLRACE_LOG_FILTER", value_name = "FILTER")]
    log_filter: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the main job on real input: imports a shop's clickstream, shows both stores, keeps serving.
    Demo(demo::DemoArgs),
    /// Serves HTTP and keeps both stores up to date.
    Serve {
        /// Address to listen on; loopback only.
        #[arg(long, value_name = "ADDRESS")]
        listen: Option<String>,
        /// What this process does, where several share the work: ingest, process, query, with commas between them.
        #[arg(long, value_name = "ROLES")]
        roles: Option<String>,
    },
    /// Loads events from a file: NDJSON, or CSV with a mapping.
    Import(import::ImportArgs),
    /// Shows one device's events, newest first.
    History(history::HistoryArgs),
    /// Shows the log, what is in force, and how far each store has come.
    Status,
    /// Shows, changes, pauses and resumes the chain of plugins.
    Pipeline {
        #[command(subcommand)]
        command: pipeline::PipelineCommand,
    },
    /// Shows what another chain would make of events that are in the log already. Writes nothing.
    Preview(correction::PreviewArgs),
    /// Corrects events that are in the log already, in both stores.
    Correct(correction::CorrectArgs),
    /// Lists corrections, and how far each store has come with them; publishes or cancels one that is staged.
    Corrections {
        #[command(subcommand)]
        command: Option<correction::CorrectionsCommand>,
    },
    /// Compares both stores with what the log and the timeline say they hold. Exits with 1 where they differ.
    Verify(correction::VerifyArgs),
    /// Makes every row of one store again from the log, beside the other and beside live traffic.
    Rebuild {
        /// delta or history.
        store: String,
        /// Do not wait until it is done.
        #[arg(long)]
        no_wait: bool,
    },
    /// Puts small files of the Delta table together; a server does it by itself each hour.
    Compact,
    /// Lists the events that reached no store, by step and code.
    DeadLetters,
    /// Goes on behind records that the log's retention took before a store had them.
    Gap {
        #[command(subcommand)]
        command: gap::GapCommand,
    },
    /// Makes, builds, tests, measures, stores and lists plugins, and shows what they say.
    Plugin {
        #[command(subcommand)]
        command: plugin::PluginCommand,
    },
    /// Stores and lists lookup tables.
    Table {
        #[command(subcommand)]
        command: registry::TableCommand,
    },
    /// Makes, lists and takes back tokens.
    Token {
        #[command(subcommand)]
        command: access::TokenCommand,
    },
    /// Shows who did what, newest first.
    Audit {
        /// Most entries.
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: usize,
    },
    /// Exports or restores the catalogue: timeline, plugins, import positions.
    Catalogue {
        #[command(subcommand)]
        command: CatalogueCommand,
    },
    /// Prints a configuration file with every key at its default.
    Config,
    /// Compiles the plugin on standard input, within bounds: what this program calls itself for.
    #[command(hide = true)]
    CompilePlugin {
        /// Most memory, in bytes.
        memory_bytes: u64,
        /// Most processor time, in seconds.
        cpu_seconds: u64,
    },
}

/// The name of [`Command::CompilePlugin`].
const COMPILE_PLUGIN: &str = "compile-plugin";

#[derive(Subcommand)]
enum CatalogueCommand {
    /// Writes the whole catalogue to a file.
    Export {
        /// The file; `-` for standard output.
        file: PathBuf,
    },
    /// Reads an export into a data directory that has no timeline yet.
    Restore {
        /// The file.
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    let _failpoints = fail::FailScenario::setup();
    let cli = Cli::parse();
    if let Command::CompilePlugin { memory_bytes, cpu_seconds } = cli.command {
        return millrace_plugin_host::compile_stdin(memory_bytes, cpu_seconds);
    }
    // An error means that there is one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            // A closed pipe is how `| head` ends us: no error of anybody's.
            if error.chain().any(is_broken_pipe) {
                return ExitCode::SUCCESS;
            }
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

#[tokio::main]
async fn run(cli: Cli) -> Result<ExitCode> {
    let Cli { global, command } = cli;
    // What the client library of Iggy says of broken connections is told by the log itself.
    let default_filter =
        if matches!(command, Command::Serve { .. }) { "warn,iggy=off,millrace=info" } else { "warn,iggy=off" };
    let filter = EnvFilter::try_new(global.log_filter.as_deref().unwrap_or(default_filter)).context("--log-filter")?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init();

    let (listen, roles) = match &command {
        Command::Serve { listen, roles } => (listen.clone(), roles.clone()),
        Command::Demo(args) => (args.listen.clone(), None),
        _ => (None, None),
    };
    let flags = [("data_dir", global.data_dir.clone()), ("http.listen", listen), ("roles", roles)];
    let config = Config::load(global.config.as_deref(), std::env::vars(), &flags)?;
    match command {
        Command::Serve { .. } => serve::serve(&config).await?,
        Command::Demo(args) => return demo::demo(config, &args, global.json).await,
        Command::Config => print!("{}", config::REFERENCE),
        Command::Import(args) => {
            let client = Client::open(&global, &config, true).await?;
            let result = import::import(&client, &args, global.json).await;
            return client.close().await.and(result);
        }
        Command::History(args) => {
            let client = Client::open(&global, &config, false).await?;
            let result = history::history(&client, &args, global.json).await;
            client.close().await.and(result)?;
        }
        Command::Status => {
            let client = Client::open(&global, &config, false).await?;
            let result = status::status(&client, global.json).await;
            client.close().await.and(result)?;
        }
        Command::Pipeline { command } => {
            let client = Client::open(&global, &config, false).await?;
            let result = pipeline::pipeline(&client, command, global.json).await;
            client.close().await.and(result)?;
        }
        Command::Preview(args) => {
            let client = Client::open(&global, &config, false).await?;
            let result = correction::preview(&client, args, global.json).await;
            client.close().await.and(result)?;
        }
        Command::Correct(args) => {
            let client = Client::open(&global, &config, true).await?;
            let result = correction::correct(&client, args, global.json).await;
            client.close().await.and(result)?;
        }
        Command::Corrections { command } => {
            let client = Client::open(&global, &config, false).await?;
            let result = correction::corrections(&client, command, global.json).await;
            client.close().await.and(result)?;
        }
        Command::Verify(args) => {
            let client = Client::open(&global, &config, false).await?;
            let result = correction::verify(&client, &args, global.json).await;
            client.close().await?;
            return result;
        }
        Command::Rebuild { store, no_wait } => {
            let client = Client::open(&global, &config, true).await?;
            let result = correction::rebuild(&client, &store, no_wait, global.json).await;
            client.close().await.and(result)?;
        }
        Command::Compact => {
            let client = Client::open(&global, &config, false).await?;
            let result = correction::compact(&client, global.json).await;
            client.close().await.and(result)?;
        }
        Command::DeadLetters => {
            let client = Client::open(&global, &config, false).await?;
            let result = dead_letters::dead_letters(&client, global.json).await;
            client.close().await.and(result)?;
        }
        Command::Gap { command } => {
            let client = Client::open(&global, &config, command.runs()).await?;
            let result = gap::gap(&client, command, global.json).await;
            client.close().await.and(result)?;
        }
        Command::Plugin { command } => return plugin::plugin(&global, &config, command).await,
        Command::Table { command } => {
            let client = Client::open(&global, &config, false).await?;
            let result = registry::tables(&client, command, global.json).await;
            client.close().await.and(result)?;
        }
        Command::Token { command } => {
            let client = Client::open(&global, &config, false).await?;
            let result = access::token(&client, command, global.json).await;
            client.close().await.and(result)?;
        }
        Command::Audit { limit } => {
            let client = Client::open(&global, &config, false).await?;
            let result = access::audit(&client, limit, global.json).await;
            client.close().await.and(result)?;
        }
        Command::Catalogue { command } => catalogue(&global, &config, command).await?,
        // Dealt with before anything else starts.
        Command::CompilePlugin { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// `catalogue export|restore`, offline: under the lock of the data directory.
async fn catalogue(global: &Global, config: &Config, command: CatalogueCommand) -> Result<()> {
    if global.url.is_some() {
        anyhow::bail!("catalogue export and restore work on a data directory: stop the server and give --data-dir");
    }
    let (catalogue, keyspace) = serve::open_catalogue(config).await?;
    let entries = match &command {
        CatalogueCommand::Export { file } if file.as_os_str() == "-" => {
            catalogue.export(&mut std::io::stdout()).await?
        }
        CatalogueCommand::Export { file } => {
            let mut out = std::io::BufWriter::new(
                std::fs::File::create(file).with_context(|| format!("creating {}", file.display()))?,
            );
            let entries = catalogue.export(&mut out).await?;
            out.into_inner()?.sync_all()?;
            entries
        }
        CatalogueCommand::Restore { file } => {
            let file = std::fs::File::open(file).with_context(|| format!("opening {}", file.display()))?;
            catalogue.restore(std::io::BufReader::new(file)).await?
        }
    };
    keyspace.close().await;
    let verb = if matches!(command, CatalogueCommand::Export { .. }) { "exported" } else { "restored" };
    if global.json {
        println!("{}", serde_json::json!({(verb): entries}));
    } else {
        eprintln!("{verb} {entries} entries");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn no_two_arguments_are_in_each_others_way() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn help_lists_a_commands_own_options_apart_from_those_of_all() {
        let mut cli = super::Cli::command();
        cli.build();
        let correct = cli.find_subcommand_mut("correct").unwrap();
        let help = correct.render_help().to_string();
        let (own, global) = help.split_once("Global options:").unwrap();
        assert!(own.contains("--reason") && !own.contains("--url"), "{help}");
        assert!(global.contains("--url") && !global.contains("--reason"), "{help}");
    }

    #[test]
    fn a_negative_offset_is_ours_to_refuse() {
        use clap::Parser as _;
        for flag in ["--from", "--to"] {
            let words = ["millrace", "correct", "--remove", "a@1.0.0", "--reason", "x", flag, "-1"];
            assert!(super::Cli::try_parse_from(words).is_ok(), "{flag}");
        }
        let words = ["millrace", "correct", "--remove", "a@1.0.0", "--reason", "x", "--last", "-1"];
        let error = super::Cli::try_parse_from(words).err().unwrap().to_string();
        assert!(error.contains("invalid value '-1' for '--last <N>'"), "{error}");
    }
}
