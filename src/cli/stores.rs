//! The block stores of a view, and the disk cache that downloads need in any case.

use std::path::Path;
use std::sync::Arc;

use super::disk::DiskFlags;
use super::{Blocks, Session, named, opened};
use crate::block::{Disk, DiskError, Stack, StackSettings};
use crate::download::{Downloads, Scratch, Verified};
use crate::substituter::Substituters;
use crate::tree::Substitutes;

/// Below a disk cache: which of its contents hold which NAR.
const VERIFIED: &str = "verified";

/// Where the blocks of a view come from and stay.
pub(super) struct Stores {
    pub(super) stack: Stack,
    /// Where NARs are kept that were downloaded, if there are servers to download from.
    pub(super) nars: Option<Disk>,
    /// A cache that ends with this process.
    pub(super) scratch: Option<Scratch>,
}

impl Stores {
    /// Opens what the flags name. `downloads`: whether there are servers to download from.
    pub(super) fn open(
        session: &Session,
        blocks: &Blocks,
        flags: &DiskFlags,
        downloads: bool,
    ) -> anyhow::Result<Self> {
        let disk = flags.settings(session);
        let scratch = match &disk {
            None if downloads => Some(Scratch::new(&tempfile::env::temp_dir())?),
            _ => None,
        };
        let urls = match (blocks.urls_if_any(session)?, &disk, &scratch) {
            (Some(urls), ..) => urls,
            (None, _, Some(scratch)) => vec![cache_url(scratch.disk().path())],
            // It is made by the first download.
            (None, Some((dir, _)), None) if downloads => vec![cache_url(dir)],
            // Without any store there is still what the cache holds.
            (None, Some((dir, _)), None) => match Disk::open_existing(dir) {
                Ok(_) => vec![cache_url(dir)],
                Err(DiskError::Absent { .. }) => blocks.urls(session)?,
                Err(error) => return Err(error.into()),
            },
            (None, None, None) => blocks.urls(session)?,
        };
        let access = session.access_to(&[&urls[..], &session.config.reseed].concat())?;
        let settings = StackSettings {
            memory_bytes: session.config.cache.memory.bytes(),
            disk: disk.clone(),
            reseed: named(session, &session.config.reseed)?,
            reseed_rate: session.config.reseed_rate.map(|rate| rate.0),
            access,
        };
        let stack = opened(Stack::open(&urls, settings))?;
        let nars = match (downloads, stack.disk(), &scratch, disk) {
            (false, ..) => None,
            (true, Some(disk), ..) => Some(disk.clone()),
            (true, None, Some(scratch), _) => Some(scratch.disk().clone()),
            // Stores of this machine are not copied to its disk, but what is downloaded has to be somewhere.
            (true, None, None, Some((dir, settings))) => Some(Disk::open(&dir, settings)?),
            (true, None, None, None) => None,
        };
        let stack = match &nars {
            Some(nars) => stack.beside(nars),
            None => stack,
        };
        Ok(Stores { stack, nars, scratch })
    }
}

/// The servers, with downloads into `disk`.
pub(super) fn substitutes_over(substituters: Substituters, disk: Disk) -> Substitutes {
    let verified = Verified::open(&disk.path().join(VERIFIED));
    Substitutes::new(Arc::new(substituters), Downloads::new(disk, verified))
}

fn cache_url(dir: &Path) -> String {
    format!("cache:{}", dir.display())
}
