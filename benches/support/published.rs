//! A tree that is published: its blocks in memory behind the origin, and beside them the archive that eager clients fetch.

use std::path::Path;
use std::sync::Arc;

use erisfs::block::{BlockStore, Memory};
use erisfs::nar::{dump, seekable};
use erisfs::publish::{self, Settings};
use tokio::runtime::Runtime;

use super::origin::{Link, Origin};

pub struct Published {
    pub origin: Origin,
    pub catalog: String,
    /// HASH-NAME.
    pub name: String,
    /// Where the archive is, and how long it is.
    pub archive: String,
    pub archive_bytes: u64,
    /// Bytes of the blocks of the tree.
    pub packed_bytes: u64,
}

impl Published {
    pub fn new(tree: &Path) -> Self {
        let memory: Arc<dyn BlockStore> = Arc::new(Memory::new());
        let runtime = Runtime::new().expect("threads");
        let work = publish::publish(memory.clone(), vec![tree.to_owned()], Settings::default(), Arc::new(()));
        let published = runtime.block_on(work).unwrap_or_else(|error| panic!("{}: {error}", tree.display()));
        let origin = Origin::start(memory, Link::LOOPBACK);
        // As `publish` compresses its frames, but in one piece, which makes it smaller.
        let mut encoder = zstd::Encoder::new(Vec::new(), seekable::LEVEL).expect("memory");
        dump(tree, &mut encoder).unwrap_or_else(|error| panic!("{}: {error}", tree.display()));
        let archive = encoder.finish().expect("memory");
        let path = &published.paths[0];
        Published {
            catalog: published.catalog.to_string(),
            name: path.narinfo.store_path().to_string(),
            archive_bytes: archive.len() as u64,
            archive: origin.add_file("archive.nar.zst", archive),
            packed_bytes: path.packed_size,
            origin,
        }
    }
}
