//! One store path, a server that knows it, blocks that can be made to fail, and the view of all that.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use erisfs::block::{BlockStore, Cache, Counted, Disk, DiskSettings, Fault, Verify};
use erisfs::content::{Deadline, Fetch};
use erisfs::download::{Downloads, Verified};
use erisfs::nar::dump;
use erisfs::store::ed25519::SecretKey;
use erisfs::store::narinfo::Download;
use erisfs::store::trust::TrustedKeys;
use erisfs::store::{Narinfo, StorePath};
use erisfs::substituter::{Policy, SetSettings, Substituter, Substituters, Unsigned};
use erisfs::tree::{Attr, Catalog, Catalogs, Error, Inode, Kind, Settings, Sources, Substitutes, Tree};
use tempfile::TempDir;

use crate::noise::noise;
use crate::place::Place;
use crate::shelf::{Shelf, store_dir};

/// Where the server has the NAR.
pub const URL: &str = "nar/specimen.nar";

pub struct Scene {
    pub shelf: Shelf,
    pub disk: TempDir,
    pub path: StorePath,
    pub nar: Vec<u8>,
    pub place: Arc<Place>,
    pub fault: Arc<Fault>,
    pub counted: Arc<Counted>,
    pub cache: TempDir,
}

/// The key that is trusted.
pub fn key() -> SecretKey {
    SecretKey::from_seed("cache-1", &[7; 32]).unwrap()
}

pub fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(30))
}

/// A tree with everything that a NAR can hold, and files of more than one frame.
pub fn specimen() -> TempDir {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("bin")).unwrap();
    fs::create_dir_all(at("share/empty")).unwrap();
    fs::write(at("bin/tool"), b"#!/bin/sh\necho hello\n").unwrap();
    fs::set_permissions(at("bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(at("share/first"), noise(400_000)).unwrap();
    fs::write(at("share/second"), &noise(900_000)[400_000..]).unwrap();
    symlink("../bin/tool", at("share/link")).unwrap();
    dir
}

impl Scene {
    /// The path is published as a seekable NAR; the server has the plain one, and no narinfo yet.
    pub fn new() -> Self {
        let (mut shelf, disk) = (Shelf::new(), specimen());
        let path = shelf.add("specimen", disk.path());
        let mut nar = Vec::new();
        dump(disk.path(), &mut nar).unwrap();
        let place = Arc::new(Place::default());
        place.give(URL, nar.clone());
        let fault = Arc::new(Fault::new(shelf.blocks.clone()));
        let counted = Arc::new(Counted::new(Arc::new(Verify::new(fault.clone())) as Arc<dyn BlockStore>));
        Scene { shelf, disk, path, nar, place, fault, counted, cache: TempDir::new().unwrap() }
    }

    /// What a cache without ERIS says.
    pub fn plain(&self) -> Narinfo {
        let published = self.shelf.narinfo(&self.path);
        Narinfo::builder(store_dir(), self.path.clone(), published.nar_hash(), published.nar_size())
            .download(Download {
                url: URL.into(),
                compression: Some("none".into()),
                file_hash: None,
                file_size: Some(self.nar.len() as u64),
            })
            .build()
            .unwrap()
    }

    /// The same with the ERIS content.
    pub fn with_eris(&self) -> Narinfo {
        with_eris(&self.plain(), &self.shelf.narinfo(&self.path).eris()[0].urn)
    }

    /// The server answers with this from now on.
    pub fn tell(&self, narinfo: Narinfo) {
        self.place.tell(self.path.hash_part(), narinfo);
    }

    /// The server's narinfo binds the ERIS content to the path.
    pub fn bound(self) -> Self {
        self.tell(key().sign_narinfo(&self.with_eris()).unwrap());
        self
    }

    /// The server's narinfo is signed, and somebody added the ERIS content.
    pub fn unbound(self) -> Self {
        let signed = key().sign_narinfo(&self.plain()).unwrap();
        self.tell(with_eris(&signed, &self.shelf.narinfo(&self.path).eris()[0].urn));
        self
    }

    pub fn substitutes(&self, unsigned: Unsigned) -> Substitutes {
        let keys = TrustedKeys { nix: vec![key().public_key()], guix: Vec::new() };
        self.substitutes_by(Policy { keys, unsigned })
    }

    pub fn substitutes_by(&self, policy: Policy) -> Substitutes {
        let servers = vec![self.place.clone() as Arc<dyn Substituter>];
        let servers = Substituters::new(servers, Vec::new(), policy, SetSettings::default());
        Substitutes::new(Arc::new(servers), self.downloads())
    }

    pub fn cache(&self) -> Disk {
        let settings = DiskSettings { size: 64 << 20, free_floor: 0, resize: true };
        Disk::open(self.cache.path(), settings).unwrap()
    }

    pub fn downloads(&self) -> Arc<Downloads> {
        Downloads::new(self.cache(), Verified::open(&self.cache.path().join("verified")))
    }

    /// A new view, in which nothing is known yet.
    pub fn tree(&self) -> Arc<Tree> {
        self.tree_of(Catalogs::default(), self.substitutes(Unsigned::Refuse))
    }

    pub fn tree_of(&self, catalogs: Catalogs, substitutes: Substitutes) -> Arc<Tree> {
        let sources = Sources { catalogs, substitutes: Some(substitutes) };
        // What reads ahead would fetch what a test is about to make fail.
        let settings = Settings { read_ahead: false, ..Settings::default() };
        Arc::new(Tree::new(self.fetch(), sources, settings))
    }

    pub fn fetch(&self) -> Arc<Fetch> {
        Fetch::new(Arc::new(Cache::new(self.counted.clone(), 1 << 20)), 1 << 20)
    }

    /// A view whose catalog lists the path.
    pub async fn catalog_tree(&mut self) -> Arc<Tree> {
        let catalog = self.shelf.catalog();
        let catalog = Catalog::open(self.fetch(), catalog, soon()).await.unwrap();
        self.tree_of(Catalogs::new(vec![catalog]), self.substitutes(Unsigned::Refuse))
    }

    pub async fn top(&self, tree: &Tree) -> Result<Option<Attr>, Error> {
        tree.lookup(Inode::ROOT, self.path.to_string().as_bytes(), soon()).await
    }

    /// A node below the store path.
    pub async fn find(&self, tree: &Tree, path: &str) -> Attr {
        let mut at = self.top(tree).await.unwrap().expect("the path is known");
        for name in path.split('/') {
            at = tree.lookup(at.inode, name.as_bytes(), soon()).await.unwrap().expect("it is there");
        }
        at
    }

    pub async fn read(&self, tree: &Tree, path: &str, deadline: Deadline) -> Result<Vec<u8>, Error> {
        let at = self.find(tree, path).await;
        Ok(tree.read(at.inode, 0, at.size as u32, deadline).await?.to_vec())
    }

    /// Compares everything below the store path with the directory on disk.
    pub async fn assert_whole(&self, tree: &Tree) {
        let top = self.top(tree).await.unwrap().expect("the path is known");
        let mut pending = vec![(top, self.disk.path().to_owned())];
        while let Some((attr, disk)) = pending.pop() {
            match attr.kind {
                Kind::Directory => {
                    let entries = tree.read_dir(attr.inode, 0, 1000, soon()).await.unwrap();
                    let listed: Vec<_> = entries[2..]
                        .iter()
                        .map(|entry| (String::from_utf8(entry.name.clone()).unwrap(), entry.attr))
                        .collect();
                    assert_eq!(listed.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), names(&disk));
                    pending.extend(listed.into_iter().map(|(name, attr)| (attr, disk.join(name))));
                }
                Kind::Symlink => {
                    let target = tree.read_link(attr.inode, soon()).await.unwrap();
                    assert_eq!(&target[..], fs::read_link(&disk).unwrap().as_os_str().as_encoded_bytes());
                }
                Kind::Regular | Kind::Executable => {
                    let bytes = tree.read(attr.inode, 0, attr.size as u32, soon()).await.unwrap();
                    assert!(bytes == fs::read(&disk).unwrap(), "{}", disk.display());
                }
            }
        }
    }

    /// An extended attribute of the store path.
    pub async fn xattr(&self, tree: &Tree, name: &str) -> String {
        let top = self.top(tree).await.unwrap().expect("the path is known");
        let name = format!("user.erisfs.{name}");
        tree.xattr(top.inode, name.as_bytes(), soon()).await.unwrap().unwrap_or_default()
    }
}

/// The narinfo with an ERIS content that nobody signed.
pub fn with_eris(narinfo: &Narinfo, urn: &str) -> Narinfo {
    let format = narinfo.with_line("ERISFormat", "application/x-nix-archive+zstd").unwrap();
    format.with_line("ERIS", urn).unwrap()
}

fn names(disk: &Path) -> Vec<String> {
    let names = fs::read_dir(disk).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}
