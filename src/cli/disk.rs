//! The disk cache as the command line and the config want it.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Session, Usage};
use crate::block::{Disk, DiskSettings};
use crate::config::Size;

/// Where the cache is, below the user's cache directory.
const FOLDER: &str = "erisfs/blocks";

/// Whether blocks are kept on disk, and where.
#[derive(Debug, Args)]
pub(super) struct DiskFlags {
    /// Keep blocks in this directory [default: that of the config, else erisfs/blocks in the user's cache directory]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Bytes of the disk cache, such as 20G [default: that of the config; else that of the cache, and for a new one a tenth of
    /// the file system, at most 20G]
    #[arg(long, value_name = "SIZE")]
    cache_size: Option<Size>,
    /// Keep no blocks on disk
    #[arg(long, conflicts_with_all = ["cache", "cache_size"])]
    no_cache: bool,
}

impl DiskFlags {
    /// Only the directory was said.
    pub(super) fn at(cache: Option<PathBuf>) -> Self {
        DiskFlags { cache, cache_size: None, no_cache: false }
    }

    /// Directory and size; `None` where there shall be no disk cache, or can be none.
    pub(super) fn settings(&self, session: &Session) -> Option<(PathBuf, DiskSettings)> {
        let wanted = &session.config.cache;
        let dir = directory(session, self.cache.as_deref())?;
        let usual = DiskSettings::for_dir(&dir);
        // Only what somebody said changes the size of a cache that is there.
        let said = self.cache_size.or(wanted.size);
        let size = said.map_or(usual.size, |size| size.0);
        let settings = DiskSettings { size, free_floor: wanted.free_floor.0, resize: said.is_some() };
        (!self.no_cache && size > 0).then_some((dir, settings))
    }
}

/// The directory of the disk cache: that of the flag, of the config, or the user's own.
pub(super) fn directory(session: &Session, flag: Option<&Path>) -> Option<PathBuf> {
    let own = || Some(session.environment.cache_home.as_ref()?.join(FOLDER));
    flag.map(Path::to_owned).or_else(|| session.config.cache.dir.clone()).or_else(own)
}

/// The disk cache that is there; asks for none to be made.
pub(super) fn open_existing(session: &Session, flag: Option<&Path>) -> anyhow::Result<Disk> {
    let dir = directory(session, flag);
    let dir = dir.ok_or_else(|| Usage("no cache directory: give --cache DIR, or set HOME".into()))?;
    Ok(Disk::open_existing(&dir)?)
}
