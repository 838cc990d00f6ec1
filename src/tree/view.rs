//! The tree itself: look-ups, attributes and reads, and the opened objects behind them.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::FutureExt;
use serde::Serialize;
use tokio::sync::Semaphore;

use super::inode::{Occupant, Occupants, Slot};
use super::object::UNLIMITED;
use super::{Attr, Catalogs, Error, Expected, Inode, Kind, Object, Settings, Symlinks};
use crate::block::{BlockStore, ByteLru};
use crate::compress::Compression;
use crate::content::{self, Deadline, Fetch, Flights, FrameCache, FramesStatus, ReadAhead};
use crate::eris::ReadCapability;
use crate::nar::{self, NodeId};
use crate::store::{HashPart, StorePath};

/// Fetches ahead that may be under way at once; what finds no room is not fetched ahead.
const AHEAD: usize = 8;
/// What an object may have beyond twice the size that its narinfo announces: the parts that are not contents.
const SLACK: u64 = 1 << 20;

/// Catalogs, and everything that can be reached from them.
#[derive(Debug)]
pub struct Tree {
    fetch: Arc<Fetch>,
    pub(super) catalogs: Arc<Catalogs>,
    settings: Settings,
    pub(super) occupants: Occupants,
    objects: Mutex<ByteLru<Slot, Arc<Object>>>,
    /// By their names in the root.
    opening: Flights<String, Result<Arc<Object>, Error>>,
    frames: Arc<FrameCache>,
    read_ahead: Mutex<ReadAhead>,
    ahead: Arc<Semaphore>,
    read_bytes: AtomicU64,
}

/// What a [`Tree`] answered, and what it keeps for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TreeStatus {
    /// Bytes of files and archives that were answered.
    pub read_bytes: u64,
    /// Decoded data.
    pub frames: FramesStatus,
}

impl Tree {
    /// The view of `catalogs`, which are asked in this order.
    pub fn new(fetch: Arc<Fetch>, catalogs: Catalogs, settings: Settings) -> Self {
        Tree {
            fetch,
            catalogs: Arc::new(catalogs),
            occupants: Occupants::default(),
            objects: Mutex::new(ByteLru::new(settings.object_bytes)),
            opening: Flights::default(),
            frames: Arc::new(FrameCache::new(settings.frame_bytes)),
            read_ahead: Mutex::default(),
            ahead: Arc::new(Semaphore::new(AHEAD)),
            read_bytes: AtomicU64::new(0),
            settings,
        }
    }

    /// What the root lists.
    pub fn catalogs(&self) -> &Catalogs {
        &self.catalogs
    }

    /// Where the blocks of everything in it come from.
    pub fn store(&self) -> &Arc<dyn BlockStore> {
        self.fetch.store()
    }

    /// Decoded frames are kept here.
    pub fn frames(&self) -> &FrameCache {
        &self.frames
    }

    /// What it answered since it was made, and what it keeps now.
    pub fn status(&self) -> TreeStatus {
        TreeStatus { read_bytes: self.read_bytes.load(Relaxed), frames: self.frames.status() }
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

    /// What `stat` says of `inode`. Needs nothing but the catalog for a store path itself.
    pub async fn attr(&self, inode: Inode, deadline: Deadline) -> Result<Attr, Error> {
        if inode == Inode::ROOT {
            return Ok(Attr { inode, kind: Kind::Directory, size: 0, links: 2 });
        }
        if inode.node() == 0
            && let Some(Occupant::Path { facts, .. }) = self.occupants.get(inode.slot())
            // The length of a link that is shown in another form is not in the catalog.
            && (facts.kind != Kind::Symlink || self.settings.symlinks == Symlinks::Absolute)
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
        self.fetch_ahead(inode, &object, node, offset..offset.saturating_add(size.into()), deadline);
        let bytes = object.read(node, offset, size.into(), &self.frames, deadline).await?;
        self.count_read(bytes.len() as u64);
        Ok(bytes)
    }

    /// The store path with this hash part, opened; `None` if no catalog lists it.
    pub async fn object(
        &self,
        hash_part: HashPart,
        deadline: Deadline,
    ) -> Result<Option<Arc<Object>>, Error> {
        let Some((path, facts)) = self.catalogs.find(hash_part, deadline).await? else { return Ok(None) };
        let slot = self.occupants.slot(Occupant::Path { path, facts });
        self.open_slot(slot, deadline).await.map(Some)
    }

    async fn lookup_root(&self, name: &[u8], deadline: Deadline) -> Result<Option<Attr>, Error> {
        let Ok(name) = std::str::from_utf8(name) else { return Ok(None) };
        if let Ok(capability) = name.parse::<ReadCapability>() {
            return self.lookup_content(capability, deadline).await.map(Some);
        }
        let Ok(wanted) = name.parse::<StorePath>() else { return Ok(None) };
        let Some((path, facts)) = self.catalogs.find(wanted.hash_part(), deadline).await? else {
            return Ok(None);
        };
        if path != wanted {
            return Ok(None);
        }
        let inode = Inode::new(self.occupants.slot(Occupant::Path { path, facts }), NodeId::ROOT);
        self.attr(inode, deadline).await.map(Some)
    }

    async fn lookup_content(&self, capability: ReadCapability, deadline: Deadline) -> Result<Attr, Error> {
        let occupant = Occupant::Content(Box::new(capability));
        if let Some(slot) = self.occupants.find(&occupant) {
            let object = self.open_slot(slot, deadline).await?;
            return Ok(self.node_attr(slot, &object, NodeId::ROOT));
        }
        let object = self.open(occupant.clone(), deadline).await?;
        // Only now: anybody can make up URNs, and those that lead nowhere must not fill the memory.
        let slot = self.occupants.slot(occupant);
        self.keep(slot, &object);
        Ok(self.node_attr(slot, &object, NodeId::ROOT))
    }

    pub(super) async fn open_node(
        &self,
        inode: Inode,
        deadline: Deadline,
    ) -> Result<(Arc<Object>, NodeId), Error> {
        let object = self.open_slot(inode.slot(), deadline).await?;
        match object.listing().node(inode.node()) {
            Some(node) => Ok((object, node)),
            None => Err(Error::Stale { number: inode.into() }),
        }
    }

    /// The object behind a number: from memory, or opened and kept.
    async fn open_slot(&self, slot: Slot, deadline: Deadline) -> Result<Arc<Object>, Error> {
        if let Some(object) = self.objects.lock().expect("no panic while held").get(&slot) {
            return Ok(object.clone());
        }
        let stale = || Error::Stale { number: Inode::new(slot, NodeId::ROOT).into() };
        let object = self.open(self.occupants.get(slot).ok_or_else(stale)?, deadline).await?;
        self.keep(slot, &object);
        Ok(object)
    }

    fn keep(&self, slot: Slot, object: &Arc<Object>) {
        // One that is larger than the whole budget is kept too, alone.
        let memory = object.memory().min(self.settings.object_bytes);
        self.objects.lock().expect("no panic while held").put(slot, object.clone(), memory);
    }

    /// Opens an object, together with whoever opens the same one now.
    async fn open(&self, occupant: Occupant, deadline: Deadline) -> Result<Arc<Object>, Error> {
        loop {
            let flight = self.opening.join(occupant.name(), || {
                let (fetch, catalogs) = (self.fetch.clone(), self.catalogs.clone());
                let occupant = occupant.clone();
                async move {
                    let (capability, expected) = binding(&catalogs, occupant, deadline).await?;
                    Ok(Arc::new(Object::open(fetch, capability, expected, deadline).await?))
                }
                .boxed()
            });
            match flight.await {
                // The flight had the deadline of whoever started it; ours may be later.
                Err(error) if error.is_overdue() && !deadline.has_passed() => {}
                answer => return answer,
            }
        }
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
        let inside = match (self.settings.symlinks, self.catalogs.store_dir()) {
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

    /// Starts fetching what a sequential reader will want next. Nobody waits for it.
    fn fetch_ahead(
        &self,
        inode: Inode,
        object: &Arc<Object>,
        node: NodeId,
        range: Range<u64>,
        deadline: Deadline,
    ) {
        let nar::Kind::File { size, .. } = object.listing().kind(node) else { return };
        let mut read_ahead = self.read_ahead.lock().expect("no panic while held");
        let Some(range) = read_ahead.observe(inode.into(), range, size) else { return };
        drop(read_ahead);
        let Ok(permit) = self.ahead.clone().try_acquire_owned() else { return };
        let (object, frames) = (object.clone(), self.frames.clone());
        tokio::spawn(async move {
            if let Err(error) = object.warm(node, range, &frames, deadline).await {
                // Whoever reads these bytes gets the error; here it is only early.
                tracing::debug!("fetching ahead: {}: {error}", object.name());
            }
            drop(permit);
        });
    }
}

/// Which content a name stands for, and what is known of it beforehand.
async fn binding(
    catalogs: &Catalogs,
    occupant: Occupant,
    deadline: Deadline,
) -> Result<(ReadCapability, Expected), Error> {
    let (path, facts) = match occupant {
        Occupant::Content(capability) => {
            let name = content::Name::from(&*capability).to_string();
            let expected = Expected { name, form: None, nar_size: None, facts: None, limit: UNLIMITED };
            return Ok((*capability, expected));
        }
        Occupant::Path { path, facts } => (path, facts),
    };
    let name = path.to_string();
    let no_binding = |found: &str| Error::NoBinding { name: name.clone(), found: found.to_owned() };
    let narinfo = catalogs.narinfo(path.hash_part(), deadline).await?;
    let narinfo = narinfo.ok_or_else(|| no_binding("no narinfo"))?;
    if narinfo.store_path() != &path {
        return Err(no_binding(&format!("it is that of {}", narinfo.store_path())));
    }
    let binding = narinfo.eris().first().ok_or_else(|| no_binding("no ERIS field"))?;
    let form = binding.format.as_deref().map(Compression::from_eris_format).transpose();
    let form = form.map_err(|error| no_binding(&error.to_string()))?;
    let capability = binding.urn.parse().map_err(|source| Error::Urn { name: name.clone(), source })?;
    let nar_size = narinfo.nar_size();
    // What is encoded may be any of the downloads, or the NAR, with a listing at its end.
    let sizes = narinfo.downloads().iter().filter_map(|download| download.file_size);
    let largest = sizes.fold(nar_size, u64::max);
    let limit = largest.saturating_mul(2).saturating_add(SLACK).min(UNLIMITED);
    Ok((capability, Expected { name, form, nar_size: Some(nar_size), facts: Some(facts), limit }))
}

/// The rest of `path` below `folder`, without a slash in front; `None` if it is elsewhere.
fn below<'a>(path: &'a [u8], folder: &[u8]) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(folder)?;
    match rest.first() {
        None => Some(rest),
        Some(b'/') => Some(&rest[rest.iter().position(|&byte| byte != b'/').unwrap_or(rest.len())..]),
        Some(_) => None,
    }
}
