//! Store paths into blocks, narinfos and a catalog.
//!
//! A path is read once (once more, to be hashed, where no database knows its hash), packed as a seekable NAR,
//! encoded and put, all at the same time and with bounded memory; several paths go side by side. What
//! was published before is only checked ([`Settings::state`]). A narinfo is written when the blocks it
//! promises are safe in the store, so an interrupted run leaves nothing but true narinfos and spare blocks.

mod anew;
mod cached;
mod check;
pub mod database;
mod encode;
mod error;
mod fetch;
mod files;
mod mirror;
mod pack;
mod plan;
mod publisher;
mod sign;
mod state;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::anew::{put_file, put_nar};
pub use self::cached::{Binding, bind_cache};
pub use self::encode::put;
pub use self::error::Error;
pub use self::mirror::{hash_parts_in, mirror};
use self::plan::Plan;
use self::publisher::Publisher;
pub use self::sign::{KeyFileError, SignError, SigningKeys};
use crate::block::BlockStore;
use crate::eris::ReadCapability;
use crate::store::catalog::Kind;
use crate::store::{HashPart, Narinfo, Profile, StoreDir, StorePath};

/// Media type of a seekable NAR in an `ERISFormat` field.
pub const FORMAT: &str = "application/x-nix-archive+zstd";

/// What to publish besides the paths, and where to.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// A directory for narinfos, listings and `nix-cache-info`.
    pub narinfo: Option<PathBuf>,
    /// A SQLite file that gets the narinfos too.
    pub overlay: Option<PathBuf>,
    /// Write also the seekable NARs there, so that any web server of that directory serves stock Nix and Guix.
    pub nars: bool,
    /// The keys that sign the narinfos.
    pub keys: SigningKeys,
    /// Publish also what the paths refer to, directly or not.
    pub closure: bool,
    /// The store directory for what is in no store; else that of the store paths among the paths, else the one
    /// that this machine has, else `/nix/store`.
    pub store_dir: Option<StoreDir>,
    /// The name for the only path, which is in no store; else its own.
    pub name: Option<String>,
    /// A startup profile, for the archive of its store path.
    pub profile: Option<Profile>,
    /// The file that remembers what was published where; without it everything is encoded each time.
    pub state: Option<PathBuf>,
}

/// What was published.
#[derive(Debug)]
pub struct Published {
    /// The catalog that lists the paths.
    pub catalog: ReadCapability,
    /// The store that they are of.
    pub store_dir: StoreDir,
    /// The paths, sorted by hash part.
    pub paths: Vec<PublishedPath>,
    /// Blocks that were put, those of the catalog included.
    pub blocks: u64,
    /// Paths of a mirrored cache that could not be had from it; the observer was told why.
    pub left_out: u64,
}

/// A store path that was published.
#[derive(Debug)]
pub struct PublishedPath {
    /// Its narinfo, in the catalog and on request in a file.
    pub narinfo: Narinfo,
    /// Where its seekable NAR is.
    pub capability: ReadCapability,
    /// Bytes of the seekable NAR.
    pub packed_size: u64,
    /// What it is at its top.
    pub kind: Kind,
    /// The number of [`Entry`](crate::store::catalog::Entry).
    pub number: u64,
    /// Whether it was published before and all its blocks were found.
    pub reused: bool,
}

/// Something that happens while paths are published.
#[derive(Debug)]
pub enum Event<'a> {
    /// It is known what is to be published.
    Planned {
        /// How many paths.
        paths: u64,
        /// Their NAR bytes, as far as they are known.
        nar_bytes: u64,
    },
    /// A path is read to find out its hash, and so its name.
    Hashing {
        /// Where it is.
        location: &'a Path,
    },
    /// A path is encoded.
    Packing {
        /// The store path.
        path: &'a StorePath,
        /// Its NAR bytes, where the plan did not count them.
        nar_bytes: Option<u64>,
    },
    /// NAR bytes were packed.
    Read {
        /// How many.
        bytes: u64,
    },
    /// The blocks of a path are in the store.
    Done {
        /// The store path.
        path: &'a StorePath,
        /// NAR bytes that needed no encoding, if it was published before.
        reused: Option<u64>,
    },
    /// A path of a mirrored cache cannot be had from it.
    LeftOut {
        /// What was wanted.
        hash_part: HashPart,
        /// Why.
        error: &'a Error,
    },
}

/// Watches the work. It is called from several threads and should return at once.
pub trait Observer: Send + Sync {
    /// Takes note of an event.
    fn observe(&self, event: Event<'_>);
}

/// Watches nothing.
impl Observer for () {
    fn observe(&self, _: Event<'_>) {}
}

/// Publishes `paths`: puts their blocks and those of a catalog, and writes their narinfos if asked to.
///
/// A path is a store path of this machine, something inside one, or any directory, file or link. Dropping the
/// future ends the work. Inside a tokio runtime.
///
/// # Errors
/// The first thing that goes wrong ends the work; paths that are done stay published.
pub async fn publish(
    store: Arc<dyn BlockStore>,
    paths: Vec<PathBuf>,
    settings: Settings,
    observer: Arc<dyn Observer>,
) -> Result<Published, Error> {
    let (plan, publisher) = blocking(move || {
        let plan = Plan::make(&paths, &settings)?;
        settings.keys.check(&plan.store_dir)?;
        if !settings.keys.is_believed(&plan.store_dir) {
            tracing::warn!("stock Guix does not believe signatures by keys of Nix; erisfs does");
        }
        let publisher = Publisher::new(store, plan.store_dir.clone(), &settings, observer)?;
        Ok::<_, Error>((plan, publisher))
    })
    .await?;
    Arc::new(publisher).publish(plan.subjects).await
}

/// Runs what waits for the disk where it may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}
