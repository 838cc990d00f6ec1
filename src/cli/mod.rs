//! The command line: one file a command. Results go to stdout, everything else to stderr; the exit
//! status is 0, 1 (it failed, one line says why) or 2 (it was called wrongly).

mod audit;
mod cache;
mod cat;
mod check;
mod contents;
mod demo;
mod disk;
mod export;
mod get;
mod import;
mod index;
mod keys;
mod ls;
mod mount;
mod offline;
mod prefetch;
mod profile;
mod progress;
mod publish;
mod put;
mod seed;
mod serve;
mod share;
mod signals;
mod stat;
mod status;
mod stores;
mod substituters;
mod view;
mod web;
mod why;

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;

use crate::block::{self, BlockStore};
use crate::config::{Config, Environment, parse_duration};
use crate::control::{self, Control, Daemon};
use crate::http::Access;
use signals::Signals;

/// Mount, read and publish Guix and Nix stores as ERIS blocks.
#[derive(Debug, Parser)]
#[command(name = "erisfs", version, disable_help_subcommand = true, arg_required_else_help = true)]
struct Cli {
    /// Say more on stderr (-vv: more still); RUST_LOG, if set, decides alone
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Read this config file and no other [default: the user's over /etc/erisfs/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Names and passwords of web servers, in a file as curl reads it [default: that of the config]
    #[arg(long, global = true, value_name = "FILE")]
    netrc: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Encode a file (or stdin) and print its URN
    Put(put::Put),
    /// Decode the content of a URN
    Get(get::Get),
    /// Encode store paths, directories or files; the last line printed is the URN of their catalog
    Publish(publish::Publish),
    /// Index the files of a directory, so that the block store files:PATH gives their blocks
    Index(index::Index),
    /// List the store paths of a catalog, or a directory in one of them
    Ls(ls::Ls),
    /// Print a file of a store path
    Cat(cat::Cat),
    /// Tell what a store path or a file in it is
    Stat(stat::Stat),
    /// Bring store paths into the disk cache
    Prefetch(prefetch::Prefetch),
    /// Tell whether store paths are complete in the disk cache, without any network
    Check(check::Check),
    /// Show the store paths of catalogs as directories
    Mount(mount::Mount),
    /// Serve blocks, and what catalogs list, over HTTP
    Serve(serve::Serve),
    /// Tell how the mounts and servers of this user are doing
    Status(status::Status),
    /// Tell what a read of a file costs: what of it is here, and where the rest would come from
    Why(why::Why),
    /// Copy all blocks of contents to other block stores
    Seed(seed::Seed),
    /// Write contents with all their blocks into one file, for a stick
    Export(export::Export),
    /// Put the blocks of such a file into block stores, and print its URNs
    Import(import::Import),
    /// Tell which blocks of contents which block store lacks
    Audit(audit::Audit),
    /// Look after the disk cache
    Cache(cache::Cache),
    /// Record what a program reads when it starts, so that it starts faster from a new mount
    Profile(profile::ProfileCommand),
    /// Publish, serve, mount and read a tree of this machine, and tell what travelled
    Demo(demo::Demo),
}

/// Where blocks are.
#[derive(Debug, Args)]
struct Blocks {
    /// A block store, in order of preference: dir:PATH, sqlite:PATH, bundle:FILE, gdbm:FILE, files:PATH?index=FILE, cache:DIR,
    /// http(s)://HOST/, ipfs://HOST:5001, ipfs+https://GATEWAY/, exec:COMMAND, lan:
    /// [default: those in ERISFS_BLOCKS, else those of the config]
    #[arg(long = "blocks", value_name = "URL")]
    urls: Vec<String>,
}

impl Blocks {
    fn urls(&self, session: &Session) -> anyhow::Result<Vec<String>> {
        self.urls_if_any(session)?.ok_or_else(|| {
            let reason =
                "no block store: give --blocks URL, set ERISFS_BLOCKS, or name `stores` in the config \
                 (--substituter URL alone reads plain NARs)";
            Usage(reason.into()).into()
        })
    }

    /// The stores that were named anywhere; `cache:` alone is the disk cache of the user.
    fn urls_if_any(&self, session: &Session) -> anyhow::Result<Option<Vec<String>>> {
        let urls = if self.urls.is_empty() { &session.config.stores } else { &self.urls };
        let named = named(session, urls)?;
        Ok(Some(named).filter(|urls| !urls.is_empty()))
    }

    /// The stores as one that is read, in order of preference.
    fn open(&self, session: &Session) -> anyhow::Result<Arc<dyn BlockStore>> {
        let urls = self.urls(session)?;
        opened(block::open_all(&urls, &session.access_to(&urls)?))
    }

    /// The stores as one that is written: each of them gets every block.
    fn open_to_put(&self, session: &Session) -> anyhow::Result<Arc<dyn BlockStore>> {
        let urls = self.urls(session)?;
        opened(block::open_every(&urls, &session.access_to(&urls)?))
    }
}

/// The URLs as block stores are opened by: `cache:` alone is the disk cache of the user, `files:` alone has its usual index.
fn named(session: &Session, urls: &[String]) -> anyhow::Result<Vec<String>> {
    let named = urls.iter().map(|url| match url.as_str() {
        "cache:" => {
            let own = disk::directory(session, None).map(|dir| format!("cache:{}", dir.display()));
            own.ok_or_else(|| Usage("cache: there is no HOME, so name its directory".into()).into())
        }
        url => index::with_index(&session.environment, url),
    });
    named.collect()
}

fn opened<S>(store: Result<S, block::Error>) -> anyhow::Result<S> {
    store.map_err(|error| match error {
        block::Error::BadUrl { .. } => Usage(error.to_string()).into(),
        error => error.into(),
    })
}

/// What every command gets.
struct Session {
    environment: Environment,
    config: Config,
    netrc: Option<PathBuf>,
    access: OnceLock<Access>,
    runtime: Runtime,
}

impl Session {
    /// Does the work of a command until it is done, or stopped by a signal: then, too, its block stores are dropped, and with them the
    /// plug-ins that they run.
    fn complete<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        self.runtime.block_on(async {
            let (mut signals, mut watched) = (Signals::catch()?, Signals::catch()?);
            // The work may hang on a reader of our stdout, who reads no more.
            let watch = tokio::spawn(async move {
                watched.any().await;
                tokio::time::sleep(ENDING).await;
                std::process::exit(1)
            });
            tokio::select! {
                done = work => done,
                () = signals.any() => {
                    watch.abort();
                    Err(Stopped.into())
                }
            }
        })
    }
}

/// A signal ended a command.
#[derive(Debug, thiserror::Error)]
#[error("stopped")]
struct Stopped;

/// A command was called wrongly in a way that clap does not see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// Another process of ours failed, and said why on the same stderr.
#[derive(Debug, thiserror::Error)]
#[error("failed with status {status}")]
struct SaidAlready {
    status: u8,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let environment = Environment::read();
    start_log(&environment, cli.verbose);
    match run(cli, environment) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(SaidAlready { status }) = error.downcast_ref() {
                return ExitCode::from(*status);
            }
            eprintln!("erisfs: {}", explain(&error));
            ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
        }
    }
}

/// How long the threads of a command that is stopped may take to let go of what they hold, and to remove unfinished files.
const ENDING: Duration = Duration::from_secs(2);

fn run(cli: Cli, environment: Environment) -> anyhow::Result<()> {
    let config = Config::load(cli.config.as_deref(), &environment)?;
    let runtime = Runtime::new().context("cannot start threads")?;
    let context = Session { environment, config, netrc: cli.netrc, access: OnceLock::new(), runtime };
    let publishes = matches!(cli.command, Command::Publish(_));
    let result = match cli.command {
        Command::Put(put) => put.run(&context),
        Command::Get(get) => get.run(&context),
        Command::Publish(publish) => publish.run(&context),
        Command::Index(index) => index.run(&context),
        Command::Ls(ls) => ls.run(&context),
        Command::Cat(cat) => cat.run(&context),
        Command::Stat(stat) => stat.run(&context),
        Command::Prefetch(prefetch) => prefetch.run(&context),
        Command::Check(check) => check.run(&context),
        Command::Mount(mount) => mount.run(&context),
        Command::Serve(serve) => serve.run(&context),
        Command::Status(status) => status.run(&context),
        Command::Why(why) => why.run(&context),
        Command::Seed(seed) => seed.run(&context),
        Command::Export(export) => export.run(&context),
        Command::Import(import) => import.run(&context),
        Command::Audit(audit) => audit.run(&context),
        Command::Cache(cache) => cache.run(&context),
        Command::Profile(profile) => profile.run(&context),
        Command::Demo(demo) => demo.run(&context),
    };
    // What is still under way (a prefetch, a request nobody waits for) must not hold up the end.
    let stopped = result.as_ref().is_err_and(|error| error.is::<Stopped>());
    context.runtime.shutdown_timeout(if publishes || stopped { ENDING } else { Duration::ZERO });
    result
}

fn start_log(environment: &Environment, verbose: u8) {
    let level = match verbose {
        // The library warns of each operation that a read-only mount leaves out.
        0 => "warn,fuser=error",
        1 => "info,erisfs=debug",
        _ => "debug,erisfs=trace",
    };
    let filter = environment.log.as_deref().unwrap_or(level);
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(verbose > 1)
        .init();
}

/// The error with its causes, except those that a text before has named already.
fn explain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Answers `erisfs status` and its like for this process. That it cannot is no reason not to go on.
fn listen(session: &Session, daemon: Daemon) -> Option<Control> {
    let _entered = session.runtime.enter();
    let dir = control::directory(session.environment.runtime_dir.as_deref());
    Control::listen(&dir, daemon).inspect_err(|error| tracing::warn!("no control socket: {error}")).ok()
}

/// A time to wait, as a flag names it: seconds, or with a unit.
fn patience(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(time) if time.is_zero() => Err("more than nothing is needed".into()),
        Ok(time) => Ok(time),
        Err(error) => Err(error.to_string()),
    }
}

/// A line of result. A reader that has seen enough (`| head`) is no error.
fn print(line: impl Display) -> anyhow::Result<()> {
    writeln!(io::stdout().lock(), "{line}").context("cannot write to stdout")
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
