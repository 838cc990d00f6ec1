//! The tree itself: look-ups, attributes and reads, and the opened objects behind them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use serde::Serialize;

use super::ahead::Ahead;
use super::inode::{Occupant, Slot};
use super::objects::Objects;
use super::{Attr, Catalogs, Error, Inode, Kind, Object, Settings, Sources, Symlinks};
use crate::block::BlockStore;
use crate::content::{Deadline, Fetch, FrameCache, FramesStatus, InFlight};
use crate::download::Progress;
use crate::eris::ReadCapability;
use crate::nar::{self, NodeId};
use crate::store::{HashPart, StoreDir, StorePath};
use crate::substituter::ServerStatus;

/// Catalogs and substitute servers, and everything that can be reached from them.
#[derive(Debug)]
pub struct Tree {
    pub(super) objects: Arc<Objects>,
    pub(super) ahead: Ahead,
    symlinks: Symlinks,
    read_bytes: AtomicU64,
}

/// What a [`Tree`] answered, and what it keeps for that.
#[derive(Debug, Clone, Serialize)]
pub struct TreeStatus {
    /// Bytes of files and archives that were answered.
    pub read_bytes: u64,
    /// Decoded data.
    pub frames: FramesStatus,
    /// Blocks on their way.
    pub in_flight: InFlight,
    /// Substitute servers and overlays.
    pub servers: Vec<ServerStatus>,
    /// NARs on their way as a whole.
    pub downloads: Vec<DownloadStatus>,
}

/// A NAR on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DownloadStatus {
    /// The store path.
    pub name: String,
    /// Bytes of the NAR that arrived, decompressed.
    pub arrived: u64,
    /// Size of the NAR.
    pub nar_size: u64,
    /// The source that is asked now.
    pub source: Option<String>,
}

impl From<(String, Progress)> for DownloadStatus {
    fn from((name, progress): (String, Progress)) -> Self {
        let Progress { arrived, nar_size, source, .. } = progress;
        DownloadStatus { name, arrived, nar_size, source }
    }
}

impl Tree {
    /// The view of what `sources` know; of catalogs alone, these are enough.
    pub fn new(fetch: Arc<Fetch>, sources: impl Into<Sources>, settings: Settings) -> Self {
        let (frames, trees) = (settings.frame_bytes, settings.object_bytes);
        let objects = Arc::new(Objects::new(fetch, sources.into(), frames, trees));
        let ahead = Ahead::new(objects.clone(), &settings);
        Tree { ahead, symlinks: settings.symlinks, objects, read_bytes: AtomicU64::new(0) }
    }

    /// What the root lists.
    pub fn catalogs(&self) -> &Catalogs {
        &self.objects.sources.catalogs
    }

    /// What names are looked up in.
    pub fn sources(&self) -> &Sources {
        &self.objects.sources
    }

    /// The directory that all its paths are in, as far as it is known: that of the first catalog, else of the servers.
    pub fn store_dir(&self) -> Option<&StoreDir> {
        self.objects.sources.store_dir()
    }

    /// Where the blocks of everything in it come from.
    pub fn store(&self) -> &Arc<dyn BlockStore> {
        self.objects.fetch.store()
    }

    /// Whether names are looked up at substitute servers, too.
    pub fn has_substituters(&self) -> bool {
        self.objects.sources.substitutes.is_some()
    }

    /// The store path with this hash part; `None` if there is none.
    pub async fn store_path(
        &self,
        hash_part: HashPart,
        deadline: Deadline,
    ) -> Result<Option<StorePath>, Error> {
        Ok(self.objects.sources.find(hash_part, deadline).await?.map(|(path, _)| path))
    }

    /// What everything in it is fetched by.
    pub fn fetch(&self) -> &Arc<Fetch> {
        &self.objects.fetch
    }

    /// Decoded frames are kept here.
    pub fn frames(&self) -> &FrameCache {
        &self.objects.frames
    }

    /// What it answered since it was made, and what it keeps now.
    pub fn status(&self) -> TreeStatus {
        let in_flight = self.fetch().gate().in_flight();
        let substitutes = self.sources().substitutes.as_ref();
        let servers = substitutes.map(|substitutes| substitutes.substituters().status());
        let downloads = substitutes.map(|substitutes| substitutes.downloads().under_way());
        TreeStatus {
            read_bytes: self.read_bytes.load(Relaxed),
            frames: self.frames().status(),
            in_flight,
            servers: servers.unwrap_or_default(),
            downloads: downloads.into_iter().flatten().map(DownloadStatus::from).collect(),
        }
    }

    /// Takes note that so many bytes went to somebody who read them past [`read`](Self::read), from an object.
    pub fn count_read(&self, bytes: u64) {
        self.read_bytes.fetch_add(bytes, Relaxed);
    }

    /// The node `name` of the directory `parent`; `None` if there is no such name.
    pub async fn lookup(
        &self,
        parent: Inode,
        name: &[u8],
        deadline: Deadline,
    ) -> Result<Option<Attr>, Error> {
        if parent == Inode::ROOT {
            return self.lookup_root(name, deadline).await;
        }
        let (object, directory) = self.open_node(parent, deadline).await?;
        if object.listing().kind(directory) != nar::Kind::Directory {
            return Err(Error::NotDirectory);
        }
        let found = object.listing().lookup(directory, name);
        Ok(found.map(|node| self.node_attr(parent.slot(), &object, node)))
    }

    /// What `stat` says of `inode`. Needs nothing but the catalog for a store path itself that one lists.
    pub async fn attr(&self, inode: Inode, deadline: Deadline) -> Result<Attr, Error> {
        if inode == Inode::ROOT {
            return Ok(Attr { inode, kind: Kind::Directory, size: 0, links: 2 });
        }
        if inode.node() == 0
            && let Some(Occupant::Path { facts: Some(facts), .. }) = self.objects.occupants.get(inode.slot())
            // The length of a link that is shown in another form is not in the catalog.
            && (facts.kind != Kind::Symlink || self.symlinks == Symlinks::Absolute)
        {
            return Ok(facts.attr(inode));
        }
        let (object, node) = self.open_node(inode, deadline).await?;
        Ok(self.node_attr(inode.slot(), &object, node))
    }

    /// Where the link `inode` points to.
    pub async fn read_link(&self, inode: Inode, deadline: Deadline) -> Result<Bytes, Error> {
        if inode == Inode::ROOT {
            return Err(Error::NotSymlink);
        }
        let (object, node) = self.open_node(inode, deadline).await?;
        if object.listing().kind(node) != nar::Kind::Symlink {
            return Err(Error::NotSymlink);
        }
        Ok(self.target(&object, node).into())
    }

    /// Up to `size` bytes of the file `inode` from `offset`; fewer only at its end.
    pub async fn read(
        &self,
        inode: Inode,
        offset: u64,
        size: u32,
        deadline: Deadline,
    ) -> Result<Bytes, Error> {
        if inode == Inode::ROOT {
            return Err(Error::IsDirectory);
        }
        let (object, node) = self.open_node(inode, deadline).await?;
        self.ahead.read(inode, &object, node, offset..offset.saturating_add(size.into()));
        let bytes = object.read(node, offset, size.into(), self.frames(), deadline).await?;
        self.count_read(bytes.len() as u64);
        Ok(bytes)
    }

    /// The store path with this hash part, opened; `None` if there is no such path.
    pub async fn object(
        &self,
        hash_part: HashPart,
        deadline: Deadline,
    ) -> Result<Option<Arc<Object>>, Error> {
        Ok(self.objects.open_path(hash_part, deadline).await?.map(|(_, object)| object))
    }

    async fn lookup_root(&self, name: &[u8], deadline: Deadline) -> Result<Option<Attr>, Error> {
        let Ok(name) = std::str::from_utf8(name) else { return Ok(None) };
        if let Ok(capability) = name.parse::<ReadCapability>() {
            let occupant = Occupant::Content(Box::new(capability));
            return self.lookup_opened(occupant, deadline).await.map(Some);
        }
        let Ok(wanted) = name.parse::<StorePath>() else { return Ok(None) };
        let Some((path, facts)) = self.objects.sources.find(wanted.hash_part(), deadline).await? else {
            return Ok(None);
        };
        if path != wanted {
            return Ok(None);
        }
        let occupant = Occupant::Path { path, facts };
        if facts.is_none() {
            return self.lookup_opened(occupant, deadline).await.map(Some);
        }
        let inode = Inode::new(self.objects.occupants.slot(occupant), NodeId::ROOT);
        self.attr(inode, deadline).await.map(Some)
    }

    /// The attributes of what has to be opened before they are known.
    async fn lookup_opened(&self, occupant: Occupant, deadline: Deadline) -> Result<Attr, Error> {
        if let Some(slot) = self.objects.occupants.find(&occupant) {
            let object = self.objects.open_slot(slot, deadline).await?;
            return Ok(self.node_attr(slot, &object, NodeId::ROOT));
        }
        let object = self.objects.open(occupant.clone(), deadline).await?;
        // Only now: anybody can make up URNs, and those that lead nowhere must not fill the memory.
        let slot = self.objects.occupants.slot(occupant);
        let object = self.objects.keep(slot, object)?;
        Ok(self.node_attr(slot, &object, NodeId::ROOT))
    }

    pub(super) async fn open_node(
        &self,
        inode: Inode,
        deadline: Deadline,
    ) -> Result<(Arc<Object>, NodeId), Error> {
        let opened = self.objects.open_node(inode, deadline).await?;
        self.ahead.opened(inode.slot());
        Ok(opened)
    }

    pub(super) fn node_attr(&self, slot: Slot, object: &Object, node: NodeId) -> Attr {
        let listing = object.listing();
        let (kind, size, links) = match listing.kind(node) {
            nar::Kind::Directory => (Kind::Directory, 0, 2u32.saturating_add(listing.subdirectories(node))),
            nar::Kind::File { executable: true, size, .. } => (Kind::Executable, size, 1),
            nar::Kind::File { executable: false, size, .. } => (Kind::Regular, size, 1),
            nar::Kind::Symlink => (Kind::Symlink, self.target(object, node).len() as u64, 1),
        };
        Attr { inode: Inode::new(slot, node), kind, size, links }
    }

    /// The target of a link as it is shown.
    fn target(&self, object: &Object, node: NodeId) -> Vec<u8> {
        let listing = object.listing();
        let target = listing.target(node);
        let inside = match (self.symlinks, self.store_dir()) {
            (Symlinks::Relative, Some(store_dir)) => below(target, store_dir.as_str().as_bytes()),
            _ => None,
        };
        let Some(inside) = inside else { return target.to_vec() };
        let mut depth = 0;
        let mut ancestor = node;
        while ancestor != NodeId::ROOT {
            ancestor = listing.parent(ancestor);
            depth += 1;
        }
        let up = if depth == 0 && inside.is_empty() { b".".to_vec() } else { b"../".repeat(depth) };
        [&up, inside].concat()
    }
}

/// The rest of `path` below `folder`, without a slash in front; `None` if it is elsewhere.
pub(super) fn below<'a>(path: &'a [u8], folder: &[u8]) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(folder)?;
    match rest.first() {
        None => Some(rest),
        Some(b'/') => Some(&rest[rest.iter().position(|&byte| byte != b'/').unwrap_or(rest.len())..]),
        Some(_) => None,
    }
}
