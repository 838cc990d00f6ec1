//! A store published into memory: trees become seekable (or plain) NARs, ERIS blocks, and a catalog.

// Each test takes what it needs of it.
#![allow(dead_code)]

use std::path::Path;
use std::sync::Arc;

use erisfs::block::{BlockStore, Memory};
use erisfs::eris::{BlockSize, ConvergenceSecret, Encoder, ReadCapability, SealedBlock};
use erisfs::nar::seekable::{Packer, Settings};
use erisfs::nar::{self, Listing, NodeId, dump};
use erisfs::store::catalog::{Kind, Writer};
use erisfs::store::narinfo::Download;
use erisfs::store::{HashPart, NarHash, Narinfo, StoreDir, StorePath};
use futures::FutureExt;

/// Blocks in memory, and what they hold.
pub struct Shelf {
    pub blocks: Arc<Memory>,
    entries: Vec<(Narinfo, Kind, u64)>,
}

impl Shelf {
    pub fn new() -> Self {
        Shelf { blocks: Arc::new(Memory::new()), entries: Vec::new() }
    }

    /// Encodes `content` and keeps its blocks.
    pub fn put(&self, content: &[u8], block_size: BlockSize) -> ReadCapability {
        let mut encoder = Encoder::new(block_size, ConvergenceSecret::NULL);
        let mut sealed = encoder.push(content);
        let (capability, rest) = encoder.finish();
        sealed.extend(rest);
        for SealedBlock { reference, block, .. } in sealed {
            self.blocks.put(&reference, block).now_or_never().expect("memory does not wait").unwrap();
        }
        capability
    }

    /// Publishes the tree at `path` as a seekable NAR in frames of 64 KiB.
    pub fn add(&mut self, name: &str, path: &Path) -> StorePath {
        self.add_profiled(name, path, Vec::new())
    }

    /// The same, with the text of a startup profile.
    pub fn add_profiled(&mut self, name: &str, path: &Path, profile: Vec<u8>) -> StorePath {
        let mut object = Vec::new();
        let mut packer = Packer::with(&mut object, Settings { frame_size: 64 << 10, level: 3 });
        packer.profile(profile);
        dump(path, &mut packer).unwrap();
        let packed = packer.finish().unwrap();
        self.list(
            name,
            &object,
            "application/x-nix-archive+zstd",
            packed.nar_hash,
            packed.nar_size,
            &packed.listing,
        )
    }

    /// Publishes the tree at `path` as a plain NAR.
    pub fn add_plain(&mut self, name: &str, path: &Path) -> StorePath {
        let (mut object, mut hasher) = (Vec::new(), nar::Hasher::new());
        dump(path, &mut object).unwrap();
        std::io::Write::write_all(&mut hasher, &object).unwrap();
        let hashed = hasher.finish().unwrap();
        let format = "application/x-nix-archive";
        self.list(name, &object, format, hashed.nar_hash, hashed.nar_size, &hashed.listing)
    }

    fn list(
        &mut self,
        name: &str,
        object: &[u8],
        format: &str,
        nar_hash: [u8; 32],
        nar_size: u64,
        listing: &Listing,
    ) -> StorePath {
        let urn = self.put(object, BlockSize::for_length(object.len() as u64)).to_string();
        let path = store_path(name, nar_hash);
        let narinfo = Narinfo::builder(store_dir(), path.clone(), NarHash::new(nar_hash), nar_size)
            .download(Download {
                url: format!("nar/{}.nar.zst", path.hash_part()),
                compression: Some("zstd".into()),
                file_hash: None,
                file_size: Some(object.len() as u64),
            })
            .eris(format, &urn)
            .build()
            .unwrap();
        let (kind, number) = match listing.kind(NodeId::ROOT) {
            nar::Kind::Directory => (Kind::Directory, u64::from(listing.subdirectories(NodeId::ROOT))),
            nar::Kind::File { executable: true, size, .. } => (Kind::Executable, size),
            nar::Kind::File { size, .. } => (Kind::Regular, size),
            nar::Kind::Symlink => (Kind::Symlink, listing.target(NodeId::ROOT).len() as u64),
        };
        self.entries.push((narinfo, kind, number));
        path
    }

    /// The store path that the tree at `path` gets.
    pub fn path_of(&self, name: &str, path: &Path) -> StorePath {
        let mut hasher = nar::Hasher::new();
        dump(path, &mut hasher).unwrap();
        store_path(name, hasher.finish().unwrap().nar_hash)
    }

    /// The narinfo of a store path that was added.
    pub fn narinfo(&self, path: &StorePath) -> &Narinfo {
        self.entries.iter().map(|(narinfo, ..)| narinfo).find(|narinfo| narinfo.store_path() == path).unwrap()
    }

    /// Lets the narinfo of one store path refer to others.
    pub fn refer(&mut self, path: &StorePath, references: &[StorePath]) {
        let value = references.iter().map(StorePath::to_string).collect::<Vec<_>>().join(" ");
        let mut narinfos = self.entries.iter_mut().map(|(narinfo, ..)| narinfo);
        let narinfo = narinfos.find(|narinfo| narinfo.store_path() == path).unwrap();
        *narinfo = narinfo.with_field("References", &value).unwrap();
    }

    /// Changes what the catalog will say of the path that was added last.
    pub fn misstate(&mut self, facts: impl FnOnce(Kind, u64) -> (Kind, u64)) {
        let (_, kind, number) = self.entries.last_mut().unwrap();
        (*kind, *number) = facts(*kind, *number);
    }

    /// Takes the URL from the narinfo that was added last, so that its ERIS content is all it has.
    pub fn without_url(&mut self) {
        let (narinfo, ..) = self.entries.last_mut().unwrap();
        let of_download = ["URL", "Compression", "FileHash", "FileSize"];
        let kept =
            narinfo.as_str().lines().filter(|line| !of_download.contains(&line.split(':').next().unwrap()));
        *narinfo = Narinfo::parse((kept.collect::<Vec<_>>().join("\n") + "\n").as_bytes()).unwrap();
    }

    /// The catalog of everything that was added.
    pub fn catalog(&mut self) -> ReadCapability {
        self.entries.sort_by_key(|(narinfo, ..)| narinfo.store_path().hash_part());
        let mut writer = Writer::new(Vec::new(), store_dir()).unwrap();
        for (narinfo, kind, number) in &self.entries {
            writer.add(narinfo, *kind, *number).unwrap();
        }
        let bytes = writer.finish().unwrap();
        self.put(&bytes, BlockSize::for_length(bytes.len() as u64))
    }
}

pub fn store_dir() -> StoreDir {
    StoreDir::nix()
}

fn store_path(name: &str, nar_hash: [u8; 32]) -> StorePath {
    let mut digest = [0; 20];
    digest.copy_from_slice(&NarHash::of(&[name.as_bytes(), &nar_hash].concat()).as_bytes()[..20]);
    StorePath::new(HashPart::from_digest(digest), name).unwrap()
}
