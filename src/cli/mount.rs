use std::fs::File;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;

use super::share::ShareFlags;
use super::view::{Opened, View};
use super::{SaidAlready, Session, Signals, Usage, listen, profile};
use crate::config;
use crate::control::{Daemon, Face};
use crate::fuse::{Mounted, Options};
use crate::metrics::Process;
use crate::serve::Server;
use crate::substituter::Unsigned;
use crate::tree::{Closure, Settings, Tree};

/// What the process in the background says on its stdout once the mount is up.
const READY: &str = "ready";
/// How often to look whether somebody else unmounted it.
const LOOK: Duration = Duration::from_millis(200);
/// A program that read nothing new for so long has started.
const QUIET: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct Mount {
    #[command(flatten)]
    view: View,
    #[command(flatten)]
    share: ShareFlags,
    /// Mount options, separated by commas: timeout=SECONDS, symlinks=relative, allow_other, uid=N, ...
    #[arg(short = 'o', value_name = "OPT,...")]
    options: Vec<String>,
    /// Stay in the foreground until Ctrl-C or until it is unmounted
    #[arg(long, short)]
    foreground: bool,
    /// Append the log to this file; in the background there is none otherwise
    #[arg(long, value_name = "FILE", conflicts_with = "foreground")]
    log: Option<PathBuf>,
    /// Record the first start of a program from this mount as its startup profile: from the first read until nothing new was
    /// read for 10 seconds, or until it is unmounted
    #[arg(long)]
    record: bool,
    /// How the process in the foreground starts the one in the background
    #[arg(long, hide = true)]
    background: bool,
    /// An existing directory
    mountpoint: PathBuf,
}

impl Mount {
    pub(super) fn run(&self, session: &Session) -> anyhow::Result<()> {
        self.share.check()?;
        let config = &session.config;
        let mut defaults = Options::default();
        defaults.timeout = config.deadlines.read;
        defaults.metrics.clone_from(&config.metrics.listen);
        let options = defaults
            .with(self.options.iter().map(String::as_str))
            .map_err(|error| Usage(error.to_string()))?;
        match self.foreground || self.background {
            true => session.runtime.block_on(self.serve(session, &options)),
            false => self.start(),
        }
    }

    async fn serve(&self, session: &Session, options: &Options) -> anyhow::Result<()> {
        // Before mounting: a signal in between must not leave the mount behind.
        let mut signals = Signals::catch()?;
        let settings = settings(session, options);
        let Opened { tree, stack, scratch: _scratch } = tokio::select! {
            opened = self.view.open(session, settings, Unsigned::Refuse, options.timeout) => opened?,
            () = signals.any() => return Err(anyhow!("stopped before it was mounted")),
        };
        let runtime = session.runtime.handle().clone();
        let mounted = Mounted::new(tree.clone(), &self.mountpoint, options, runtime)?;
        let recorded = tree.clone();
        let process = Process::new(stack, tree, mounted.requests().clone());
        let place = mounted.mountpoint().to_string_lossy().into_owned();
        let _control = listen(session, Daemon { face: Face::Mount, place, process: process.clone() });
        let _shared = self.share.start(session, &process).await?;
        if let Some(addr) = &options.metrics {
            let server = Server::bind_metrics(addr, process).await;
            let server = server.with_context(|| format!("cannot listen at {addr}"))?;
            tokio::spawn(server.run(std::future::pending()));
        }
        if self.background {
            rustix::process::setsid().context("cannot leave the terminal")?;
            println!("{READY}");
            leave_terminal(self.log.is_some())?;
        } else {
            eprintln!("mounted at {}", mounted.mountpoint().display());
        }
        if self.record {
            recorded.start_recording(None);
        }
        let ended = async {
            let mut recording = self.record;
            while !mounted.has_ended() {
                tokio::time::sleep(LOOK).await;
                if recording && recorded.quiet().is_some_and(|quiet| quiet >= QUIET) {
                    recording = false;
                    keep_recording(recorded.clone()).await;
                }
            }
        };
        tokio::select! {
            () = signals.any() => {}
            () = ended => {}
        }
        if self.record {
            keep_recording(recorded).await;
        }
        tokio::task::spawn_blocking(|| mounted.unmount()).await??;
        Ok(())
    }

    /// Starts this program again in the background, and waits until the mount is up.
    fn start(&self) -> anyhow::Result<()> {
        let log = match &self.log {
            Some(path) => Stdio::from(
                File::options()
                    .create(true)
                    .append(true)
                    .open(path)
                    .with_context(|| path.display().to_string())?,
            ),
            None => Stdio::inherit(),
        };
        let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
        let place = arguments.iter().position(|argument| argument == "mount").map_or(0, |at| at + 1);
        arguments.insert(place, "--background".into());
        let mut child = Command::new(std::env::current_exe().context("cannot find this program")?)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("cannot start the process in the background")?;
        let stdout = child.stdout.take().ok_or_else(|| anyhow!("no pipe to the background"))?;
        let mut line = String::new();
        io::BufReader::new(stdout).read_line(&mut line)?;
        if line.trim_end() == READY {
            return Ok(());
        }
        let status = child.wait()?;
        match &self.log {
            Some(log) => Err(anyhow!("not mounted; {} says why", log.display())),
            None => Err(SaidAlready { status: status.code().unwrap_or(1) as u8 }.into()),
        }
    }
}

/// What the config and the mount options say of the view.
fn settings(session: &Session, options: &Options) -> Settings {
    let (cache, prefetch) = (&session.config.cache, &session.config.prefetch);
    Settings {
        symlinks: options.symlinks,
        frame_bytes: cache.frames.bytes(),
        read_ahead: prefetch.read_ahead,
        max_window: prefetch.max_window.0,
        push: prefetch.push,
        closure: match prefetch.closure {
            config::Closure::Auto => Closure::Auto,
            config::Closure::Never => Closure::Never,
        },
        profiles: profile::directory(session).filter(|_| prefetch.profiles),
        ..Settings::default()
    }
}

/// Ends the recording, if one is under way, and keeps what it has.
async fn keep_recording(tree: Arc<Tree>) {
    let kept = tokio::task::spawn_blocking(move || {
        let Some((profile, profiles)) = tree.stop_recording().zip(tree.profiles()) else { return Ok(()) };
        profiles.save(&profile)
    });
    if let Ok(Err(error)) = kept.await {
        tracing::warn!("the startup profile is lost: {error}");
    }
}

/// Lets go of the directory and of what the terminal (or a waiting script) holds: of stderr too, unless it is the log.
fn leave_terminal(logs: bool) -> anyhow::Result<()> {
    io::stdout().flush()?;
    std::env::set_current_dir(Path::new("/"))?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    if !logs {
        rustix::stdio::dup2_stderr(&null)?;
    }
    Ok(())
}
