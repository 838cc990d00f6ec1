//! What `prefetch`, `check` and `cache pin` share: which store paths, by which catalogs, in which cache.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use indicatif::HumanBytes;

use super::stores::substitutes_over;
use super::substituters::SubstituterFlags;
use super::view::NO_SOURCE;
use super::{Session, Usage, patience};
use crate::block::Disk;
use crate::eris::ReadCapability;
use crate::offline::{Absent, Held, Offline, Report};
use crate::store::StoreDir;
use crate::substituter::{Substituters, Unsigned};

/// Store paths that are to be on this disk.
#[derive(Debug, Args)]
pub(super) struct Local {
    /// A catalog that `publish` printed (repeatable, the first that lists a path wins) [default: those of the config]
    #[arg(long = "catalog", value_name = "URN")]
    catalogs: Vec<String>,
    #[command(flatten)]
    substituters: SubstituterFlags,
    /// Also everything that the store paths refer to
    #[arg(long)]
    pub(super) closure: bool,
    /// Give up on a block after this time: 30, 500ms, 2m [default: that of the config, else 30s]
    #[arg(long, value_name = "TIME", value_parser = patience)]
    timeout: Option<Duration>,
    /// HASH-NAME of a store path, its hash part, or a file or directory in it; with the store directory in front too
    #[arg(required = true, value_name = "PATH")]
    pub(super) paths: Vec<OsString>,
}

impl Local {
    /// The cache with the catalogs and the servers. Asks nobody yet.
    pub(super) fn open(&self, session: &Session, disk: Disk) -> anyhow::Result<Offline> {
        let substituters = self.substituters.open(session, Unsigned::Refuse)?;
        self.over(session, disk, substituters)
    }

    /// The cache with the catalogs and what servers said before. Never asks any of them.
    pub(super) fn open_offline(&self, session: &Session, disk: Disk) -> anyhow::Result<Offline> {
        let substituters = self.substituters.open_offline(session)?;
        // There is nobody to say which store the paths are in but whoever asks for them.
        if let (Some(substituters), Some(store_dir)) = (&substituters, self.store_dir()) {
            substituters.settle(store_dir);
        }
        self.over(session, disk, substituters)
    }

    /// That of the first path that has one in front.
    fn store_dir(&self) -> Option<StoreDir> {
        self.paths.iter().find_map(|path| {
            let mut folders = path.to_str()?.strip_prefix('/')?.split('/');
            format!("/{}/{}", folders.next()?, folders.next()?).parse().ok()
        })
    }

    fn over(
        &self,
        session: &Session,
        disk: Disk,
        substituters: Option<Substituters>,
    ) -> anyhow::Result<Offline> {
        let urns = if self.catalogs.is_empty() { &session.config.catalogs } else { &self.catalogs };
        let substitutes = substituters.map(|substituters| substitutes_over(substituters, disk.clone()));
        if urns.is_empty() && substitutes.is_none() {
            return Err(Usage(NO_SOURCE.into()).into());
        }
        let parsed = urns.iter().map(|urn| {
            urn.parse::<ReadCapability>().map_err(|error| Usage(format!("--catalog {urn}: {error}")))
        });
        let catalogs = parsed.collect::<Result<Vec<_>, _>>()?;
        let wait = self.timeout.unwrap_or(session.config.deadlines.read);
        Ok(Offline::new(disk, catalogs, wait).with_substitutes(substitutes))
    }
}

/// One line for a store path.
pub(super) fn line(held: &Held) -> String {
    let about = if held.estimated { "about " } else { "" };
    match &held.fault {
        Some(fault) => format!("unusable  {}: {fault}", held.name),
        None if held.is_complete() => {
            format!("complete  {}: {} in {} blocks", held.name, HumanBytes(held.bytes), held.blocks)
        }
        None => format!(
            "missing   {}: {about}{} of {}, {} of {} blocks",
            held.name,
            HumanBytes(held.missing_bytes),
            HumanBytes(held.bytes),
            held.missing_blocks,
            held.blocks
        ),
    }
}

/// One line for a store path that no catalog tells of.
pub(super) fn absent_line(absent: &Absent) -> String {
    format!("unknown   {}: {}", absent.name, absent.reason)
}

/// Fails where not everything is here.
pub(super) fn outcome(report: &Report) -> anyhow::Result<()> {
    let all = report.paths.len() + report.absent.len();
    let complete = report.paths.iter().filter(|held| held.is_complete()).count();
    match all - complete {
        0 => Ok(()),
        missing => Err(anyhow!("{missing} of {all} store paths are not complete here")),
    }
}
