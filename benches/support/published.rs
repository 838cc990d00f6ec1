//! Store paths that are published: their blocks in memory behind the origin, and beside them the archives that eager clients fetch.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use erisfs::block::{BlockStore, Memory};
use erisfs::nar::{dump, seekable};
use erisfs::publish::{self, Settings};
use tokio::runtime::Runtime;

use super::closure::Closure;
use super::origin::{Link, Origin};

pub struct Published {
    pub origin: Origin,
    pub catalog: String,
    /// What eager clients fetch.
    pub archives: Vec<Archive>,
    /// Bytes of the blocks of the store paths.
    pub packed_bytes: u64,
}

/// A store path in one piece.
pub struct Archive {
    /// HASH-NAME.
    pub name: String,
    pub url: String,
    pub bytes: u64,
}

impl Published {
    /// One tree.
    pub fn new(tree: &Path) -> Self {
        Self::publish(tree, Settings::default(), |_| tree.to_owned())
    }

    /// Store paths that refer to each other.
    pub fn closure(closure: &Closure) -> Self {
        let settings = Settings { closure: true, ..Settings::default() };
        Self::publish(&closure.register(), settings, |name| closure.store().join(name))
    }

    fn publish(path: &Path, settings: Settings, place: impl Fn(&str) -> PathBuf) -> Self {
        let memory: Arc<dyn BlockStore> = Arc::new(Memory::new());
        let runtime = Runtime::new().expect("threads");
        let work = publish::publish(memory.clone(), vec![path.to_owned()], settings, Arc::new(()));
        let published = runtime.block_on(work).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let origin = Origin::start(memory, Link::LOOPBACK);
        let archives = published.paths.iter().map(|path| {
            let name = path.narinfo.store_path().to_string();
            // As `publish` compresses its frames, but in one piece, which makes it smaller.
            let mut encoder = zstd::Encoder::new(Vec::new(), seekable::LEVEL).expect("memory");
            dump(&place(&name), &mut encoder).unwrap_or_else(|error| panic!("{name}: {error}"));
            let archive = encoder.finish().expect("memory");
            let bytes = archive.len() as u64;
            Archive { url: origin.add_file(&format!("{name}.nar.zst"), archive), name, bytes }
        });
        Published {
            archives: archives.collect(),
            catalog: published.catalog.to_string(),
            packed_bytes: published.paths.iter().map(|path| path.packed_size).sum(),
            origin,
        }
    }

    /// Bytes of all archives.
    pub fn archive_bytes(&self) -> u64 {
        self.archives.iter().map(|archive| archive.bytes).sum()
    }
}
