//! Narinfos that were good, kept on this disk for when no server can say anything.
//!
//! What a narinfo says stays true, and who may be believed is asked again each time: so one of last week will do. Without them nothing
//! that lies in the disk cache could be shown while there is no network.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::store::{HashPart, Narinfo};
use crate::substituter::{Sqlite, Substituter};

/// Bytes of the database: narinfos of some 50,000 paths.
const BYTES: u64 = 64 << 20;
/// Narinfos that wait to be written; more are left out.
const WRITES: usize = 256;

/// A database that comes into being with the first narinfo.
#[derive(Debug)]
pub(super) struct OnDisk {
    path: PathBuf,
    database: Mutex<Option<Arc<Sqlite>>>,
    writes: Arc<Semaphore>,
}

impl OnDisk {
    pub(super) fn new(path: &Path) -> Arc<Self> {
        let writes = Arc::new(Semaphore::new(WRITES));
        Arc::new(Self { path: path.to_owned(), database: Mutex::default(), writes })
    }

    /// Keeps a narinfo, some time soon. That it cannot be kept is no reason not to go on.
    pub(super) fn keep(self: &Arc<Self>, narinfo: &Arc<Narinfo>) {
        let Ok(permit) = Arc::clone(&self.writes).try_acquire_owned() else { return };
        let (on_disk, narinfo) = (Arc::clone(self), Arc::clone(narinfo));
        spawn_blocking(move || {
            if let Err(error) = on_disk.opened().and_then(|database| database.keep(&narinfo)) {
                tracing::debug!("{} is not kept: {error}", narinfo.store_path());
            }
            drop(permit);
        });
    }

    /// The narinfo that a server gave some time, and where it lies.
    pub(super) async fn get(
        self: &Arc<Self>,
        hash_part: HashPart,
    ) -> Option<(Narinfo, Arc<dyn Substituter>)> {
        let on_disk = Arc::clone(self);
        let database =
            spawn_blocking(move || on_disk.path.exists().then(|| on_disk.opened())).await.ok()??;
        let found = async { database.clone()?.narinfo(hash_part).await };
        match found.await {
            Ok(narinfo) => Some((narinfo?, database.ok()?)),
            Err(error) => {
                tracing::debug!("narinfos of before: {error}");
                None
            }
        }
    }

    fn opened(&self) -> Result<Arc<Sqlite>, crate::substituter::Error> {
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(database) = &*database {
            return Ok(Arc::clone(database));
        }
        let opened = Arc::new(Sqlite::cache(&self.path, BYTES)?);
        *database = Some(Arc::clone(&opened));
        Ok(opened)
    }
}
