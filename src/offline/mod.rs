//! What of the store paths is on this disk, and the way to bring the rest there.
//!
//! [`Offline`] is the disk cache together with catalogs. [`Offline::check`] asks the cache alone, so it needs no network and
//! waits for nobody; [`Offline::prefetch`] asks a block store for what is missing, and writes each block to the cache before
//! it counts. Catalogs and archives alike are contents, so what was brought once stays right for ever.

mod check;
mod keep;
mod prefetch;
mod pull;
mod select;

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

pub use check::{Held, Report};
pub use prefetch::{Order, Prefetched};
pub use pull::{Event, Loss, Observer};
pub use select::Absent;
pub(crate) use select::{Item, Selection, select};

use crate::block::{BlockStore, Disk, DiskError};
use crate::content::{Deadline, Fetch};
use crate::eris::ReadCapability;
use crate::tree::{self, Catalog, Catalogs, Sources, Substitutes};

/// Memory for decoded interior nodes of one content: a path from its root, and the level-1 nodes of one step of a walk.
const NODE_BYTES: usize = 1 << 20;

/// Why nothing at all could be said or done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A catalog could not be read.
    #[error(transparent)]
    Tree(#[from] tree::Error),
    /// A text names no store path.
    #[error("{path}: {reason}")]
    Path {
        /// The text.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What was asked for does not fit into the cache.
    #[error(
        "about {wanted} bytes were asked for, but the cache in {dir} holds {size} bytes: raise cache.size"
    )]
    TooSmall {
        /// The packed sizes of all store paths that were asked for.
        wanted: u64,
        /// The size of the cache.
        size: u64,
        /// Its directory.
        dir: String,
    },
    /// The disk cache refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// A disk cache, and the catalogs by which it is read.
#[derive(Debug)]
pub struct Offline {
    disk: Disk,
    catalogs: Vec<ReadCapability>,
    substitutes: Option<Substitutes>,
    wait: Duration,
}

impl Offline {
    /// The first of `catalogs` is asked first. `wait` is how long a block may take to come.
    pub fn new(disk: Disk, catalogs: Vec<ReadCapability>, wait: Duration) -> Self {
        Offline { disk, catalogs, substitutes: None, wait }
    }

    /// Looks what no catalog lists up at these servers, which download into the same cache.
    pub fn with_substitutes(self, substitutes: Option<Substitutes>) -> Self {
        Offline { substitutes, ..self }
    }

    /// Whether there are servers.
    pub fn has_substitutes(&self) -> bool {
        self.substitutes.is_some()
    }

    /// What of `paths`, and with `closure` of all that they refer to, is in the cache.
    ///
    /// Every block is read and hashed, a gigabyte a second or so: what a power cut or a bad disk spoiled counts as missing.
    ///
    /// A path is `HASH-NAME`, its hash part, a path below it, or any of these with the store directory in front.
    ///
    /// # Errors
    /// If the catalogs themselves are not in the cache, or a path is none. (Only what comes from substitute servers is asked for: by
    /// which narinfos it goes.)
    pub async fn check(&self, paths: &[OsString], closure: bool) -> Result<Report, Error> {
        check::check(self, paths, closure).await
    }

    /// Brings what [`check`](Self::check) would miss from `source` into the cache, and checks.
    ///
    /// Dropping the future loses at most the blocks under way.
    ///
    /// # Errors
    /// If the catalogs cannot be had, a path is none, or the cache is too small or takes no pin. That a block of a store
    /// path cannot be had is no error but a [`Loss`].
    pub async fn prefetch(
        &self,
        source: Arc<dyn BlockStore>,
        paths: &[OsString],
        order: Order,
        observer: &dyn Observer,
    ) -> Result<Prefetched, Error> {
        prefetch::prefetch(self, source, paths, order, observer).await
    }

    /// The catalogs, each read through a store of its own, and the servers.
    async fn open_sources(
        &self,
        stores: impl IntoIterator<Item = Arc<dyn BlockStore>>,
        wait: Duration,
    ) -> Result<Sources, Error> {
        let opened = self.catalogs.iter().zip(stores).map(|(capability, store)| {
            Catalog::open(Fetch::new(store, NODE_BYTES), *capability, Deadline::after(wait))
        });
        let catalogs = Catalogs::new(futures::future::try_join_all(opened).await?);
        let substitutes = self.substitutes.clone();
        if let Some(substitutes) = &substitutes
            && let Err(error) = substitutes.learn_store_dir(Deadline::after(wait)).await
        {
            tracing::warn!("{error}");
        }
        Ok(Sources { catalogs, substitutes })
    }
}
