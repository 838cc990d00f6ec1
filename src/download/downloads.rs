//! All downloads of a process.

use std::sync::Arc;

use super::{Download, Error, NarSource, Verified, Wanted};
use crate::block::Disk;
use crate::content::{Deadline, Fetch};
use crate::nar::Listing;
use crate::store::NarHash;

/// The downloads of a process: each NAR is downloaded once, however many want it. (Another process may download the same NAR
/// at the same time; the blocks are the same.)
#[derive(Debug)]
pub struct Downloads {
    disk: Disk,
    verified: Verified,
    fetch: Arc<Fetch>,
}

impl Downloads {
    /// Keeps NARs in `disk`, and in `verified` which of its contents hold them.
    pub fn new(_disk: Disk, _verified: Verified) -> Arc<Self> {
        todo!()
    }

    /// What an [`Archive`](super::Archive) is read through: memory over the disk cache alone. Nobody else is asked for blocks that
    /// only we have.
    pub fn fetch(&self) -> &Arc<Fetch> {
        &self.fetch
    }

    /// The disk cache.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Which contents are known to hold which NAR.
    pub fn verified(&self) -> &Verified {
        &self.verified
    }

    /// Downloads a NAR that is not here yet, or joins the download of it. To be called inside a tokio runtime.
    ///
    /// It goes on while it makes progress and somebody wanted it within the last 60 s: by this, by waiting for it or by reading it.
    pub fn start(self: &Arc<Self>, _wanted: Wanted) -> Arc<Download> {
        todo!()
    }

    /// Reads the whole NAR from a source, checks size and hash, and gives its tree. Nothing is kept.
    pub async fn check(
        &self,
        _source: Arc<dyn NarSource>,
        _nar_hash: NarHash,
        _nar_size: u64,
        _deadline: Deadline,
    ) -> Result<Listing, Error> {
        todo!()
    }
}
