use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use indicatif::HumanBytes;
use serde::Deserialize;

use super::{SaidAlready, Session, Usage, print};
use crate::control::{self, Peer, Request, Stopped};
use crate::store::{HashPart, Profile, StorePath};
use crate::tree::{Profiles, read_profile};

/// Where profiles are kept below the user's cache directory.
const PROFILES: &str = "erisfs/profiles";

#[derive(Debug, Args)]
pub(super) struct ProfileCommand {
    #[command(subcommand)]
    command: Profiling,
}

#[derive(Debug, Subcommand)]
enum Profiling {
    /// Run a command and record what it reads from a mount; the next start in a new mount is helped by it
    ///
    /// What the kernel has in its cache is not asked for and so not recorded: record in a new mount.
    Record(Record),
    /// Tell what a profile names
    Show(Show),
    /// Print a profile, or write it to a file
    Export(Export),
}

#[derive(Debug, Args)]
struct Record {
    /// The store path whose first read should replay the profile [default: the first that the command reads]
    #[arg(long = "for", value_name = "PATH")]
    path: Option<String>,
    /// Write the profile to this file and keep it nowhere else
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Where the mount is
    mountpoint: PathBuf,
    /// The command with its arguments
    #[arg(required = true, last = true)]
    command: Vec<OsString>,
}

#[derive(Debug, Args)]
struct Show {
    /// A store path, its hash part, or the file of a profile
    path: String,
}

#[derive(Debug, Args)]
struct Export {
    /// Write to this file
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// A store path or its hash part
    path: String,
}

impl ProfileCommand {
    pub(super) fn run(&self, session: &Session) -> anyhow::Result<()> {
        match &self.command {
            Profiling::Record(record) => record.run(session),
            Profiling::Show(show) => show.run(session),
            Profiling::Export(export) => export.run(session),
        }
    }
}

/// Where the profiles of this user are kept.
pub(super) fn directory(session: &Session) -> Option<PathBuf> {
    session.environment.cache_home.as_ref().map(|home| home.join(PROFILES))
}

fn profiles(session: &Session) -> anyhow::Result<Profiles> {
    let dir = directory(session).ok_or_else(|| anyhow!("neither XDG_CACHE_HOME nor HOME says where"))?;
    Ok(Profiles::new(dir))
}

impl Record {
    fn run(&self, session: &Session) -> anyhow::Result<()> {
        let path = self.path.as_deref().map(store_path).transpose()?;
        let peer = session.runtime.block_on(mount_at(session, &self.mountpoint))?;
        let start = Request::RecordStart { path: path.map(|path| path.to_string()) };
        session.runtime.block_on(peer.ask::<serde_json::Value>(&start))?;
        let ended = Command::new(&self.command[0]).args(&self.command[1..]).status();
        // Whatever became of the command, the recording ends.
        let stopped: Stopped = session.runtime.block_on(peer.ask(&Request::RecordStop))?;
        let ended = ended.with_context(|| format!("cannot run {}", Path::new(&self.command[0]).display()))?;
        let Some(text) = stopped.profile else {
            return Err(anyhow!("nothing was read from {} for the first time", self.mountpoint.display()));
        };
        let profile = Profile::parse(text.as_bytes())?;
        match &self.output {
            Some(file) => fs::write(file, text).with_context(|| file.display().to_string())?,
            None => profiles(session)?.save(&profile)?,
        }
        eprintln!("recorded for {}: {}", profile.path(), HumanBytes(profile.bytes()));
        match ended.code() {
            Some(0) => Ok(()),
            code => Err(SaidAlready { status: code.unwrap_or(1) as u8 }.into()),
        }
    }
}

impl Show {
    fn run(&self, session: &Session) -> anyhow::Result<()> {
        let profile = match store_path_or_hash(&self.path) {
            Some(hash_part) => kept(session, &hash_part, &self.path)?,
            None => read_profile(Path::new(&self.path))?,
        };
        print(format!("for {}: {}", profile.path(), HumanBytes(profile.bytes())))?;
        for step in profile.steps() {
            let bytes = step.reads.iter().map(|read| read.end - read.start).sum();
            print(format!(
                "{:>10}  {:>4} ranges  {}",
                HumanBytes(bytes).to_string(),
                step.reads.len(),
                step.path
            ))?;
        }
        Ok(())
    }
}

impl Export {
    fn run(&self, session: &Session) -> anyhow::Result<()> {
        let hash_part = store_path_or_hash(&self.path)
            .ok_or_else(|| Usage(format!("{}: a store path or its hash part expected", self.path)))?;
        let text = kept(session, &hash_part, &self.path)?.to_string();
        match &self.output {
            Some(file) => fs::write(file, text).with_context(|| file.display().to_string()),
            None => print(text.trim_end()),
        }
    }
}

fn kept(session: &Session, hash_part: &HashPart, path: &str) -> anyhow::Result<Profile> {
    let profile = profiles(session)?.load(hash_part)?;
    profile.ok_or_else(|| anyhow!("no profile was recorded for {path}"))
}

/// `HASH-NAME`, with or without a directory in front.
fn store_path(text: &str) -> anyhow::Result<StorePath> {
    let name = text.trim_end_matches('/').rsplit('/').next().unwrap_or(text);
    name.parse().map_err(|error| Usage(format!("{text}: {error}")).into())
}

fn store_path_or_hash(text: &str) -> Option<HashPart> {
    store_path(text).map(|path| path.hash_part()).ok().or_else(|| text.parse().ok())
}

/// What the status of a process says of where it is.
#[derive(Deserialize)]
struct Place {
    face: control::Face,
    place: PathBuf,
}

async fn mount_at(session: &Session, mountpoint: &Path) -> anyhow::Result<Peer> {
    let wanted = mountpoint.canonicalize().with_context(|| mountpoint.display().to_string())?;
    for peer in control::peers(&control::directory(session.environment.runtime_dir.as_deref()))? {
        if let Ok(Place { face: control::Face::Mount, place }) = peer.ask(&Request::Status).await
            && place == wanted
        {
            return Ok(peer);
        }
    }
    Err(anyhow!("{}: no mount of this user is there", mountpoint.display()))
}
