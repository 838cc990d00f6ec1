//! The opened objects of a view: each opened once however many want it, and kept while there is room.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex};

use futures::FutureExt;

use super::inode::{Occupant, Occupants, Slot};
use super::object::UNLIMITED;
use super::open_path::OpenPath;
use super::{Error, Expected, Facts, Fault, Inode, Object, Resolved, Sources};
use crate::block::ByteLru;
use crate::content::{self, Deadline, Fetch, Flights, FrameCache};
use crate::nar::NodeId;
use crate::store::{HashPart, StorePath};

/// What the tree and everything that works ahead for it share.
#[derive(Debug)]
pub(super) struct Objects {
    pub(super) fetch: Arc<Fetch>,
    pub(super) sources: Sources,
    pub(super) occupants: Occupants,
    pub(super) frames: FrameCache,
    opened: Mutex<ByteLru<Slot, Arc<Object>>>,
    /// What was shown of each that was opened, as a hash of its tree: one that is opened again, perhaps by another way, is the same.
    shown: Mutex<HashMap<Slot, u64>>,
    hasher: RandomState,
    /// By their names in the root; somebody who waits never joins an opening that is done ahead of need.
    opening: Flights<(String, bool), Result<Arc<Object>, Error>>,
    /// The same for what can be opened without reading all of it.
    opening_lazily: Flights<(Slot, bool), Result<Arc<Object>, Error>>,
}

impl Objects {
    /// Keeps decoded frames and trees of opened objects, so many bytes of each.
    pub(super) fn new(fetch: Arc<Fetch>, sources: Sources, frame_bytes: usize, object_bytes: usize) -> Self {
        Objects {
            fetch,
            sources,
            occupants: Occupants::default(),
            frames: FrameCache::new(frame_bytes),
            opened: Mutex::new(ByteLru::new(object_bytes)),
            shown: Mutex::default(),
            hasher: RandomState::new(),
            opening: Flights::default(),
            opening_lazily: Flights::default(),
        }
    }

    /// The object and the node behind an inode number.
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

    /// The store path with this hash part, opened, and its number; `None` if there is no such path.
    pub(super) async fn open_path(
        &self,
        hash_part: HashPart,
        deadline: Deadline,
    ) -> Result<Option<(Slot, Arc<Object>)>, Error> {
        let Some((path, facts)) = self.sources.find(hash_part, deadline).await? else { return Ok(None) };
        let slot = self.occupants.slot(Occupant::Path { path, facts });
        Ok(Some((slot, self.open_slot(slot, deadline).await?)))
    }

    /// The object behind a number, if it is open.
    pub(super) fn opened(&self, slot: Slot) -> Option<Arc<Object>> {
        self.opened.lock().expect("no panic while held").get(&slot).cloned()
    }

    /// The object behind a number: from memory, or opened and kept.
    pub(super) async fn open_slot(&self, slot: Slot, deadline: Deadline) -> Result<Arc<Object>, Error> {
        if let Some(object) = self.opened(slot) {
            return Ok(object);
        }
        let stale = || Error::Stale { number: Inode::new(slot, NodeId::ROOT).into() };
        let object = self.open(self.occupants.get(slot).ok_or_else(stale)?, deadline).await?;
        self.keep(slot, object)
    }

    /// Keeps an opened object. Where another opening of it came first, that one is kept and given: its frames are known.
    pub(super) fn keep(&self, slot: Slot, object: Arc<Object>) -> Result<Arc<Object>, Error> {
        let tree = self.hasher.hash_one(object.listing());
        if *self.shown.lock().expect("no panic while held").entry(slot).or_insert(tree) != tree {
            let (name, fault) = (object.name().to_owned(), Arc::new(Fault::Disagrees));
            return Err(Error::Object { name, fault });
        }
        let mut opened = self.opened.lock().expect("no panic while held");
        if let Some(kept) = opened.get(&slot) {
            return Ok(kept.clone());
        }
        // One that is larger than the whole budget is kept too, alone.
        let memory = object.memory().min(opened.capacity());
        opened.put(slot, object.clone(), memory);
        Ok(object)
    }

    /// Opens an object, together with whoever opens the same one now.
    pub(super) async fn open(&self, occupant: Occupant, deadline: Deadline) -> Result<Arc<Object>, Error> {
        loop {
            let flight = self.opening.join((occupant.name(), deadline.is_ahead()), || {
                let (fetch, sources, occupant) = (self.fetch.clone(), self.sources.clone(), occupant.clone());
                async move { open(&fetch, &sources, occupant, deadline).await.map(Arc::new) }.boxed()
            });
            match flight.await {
                // The flight had the deadline of whoever started it; ours may be later.
                Err(error) if error.is_overdue() && !deadline.has_passed() => {}
                answer => return answer,
            }
        }
    }

    /// The object behind a number, if it is open or can be opened without reading all of it; together with whoever does the same now.
    pub(super) async fn open_lazily(
        &self,
        slot: Slot,
        resolved: &Resolved,
        facts: Option<Facts>,
        deadline: Deadline,
    ) -> Result<Arc<Object>, Error> {
        loop {
            if let Some(object) = self.opened(slot) {
                return Ok(object);
            }
            let flight = self.opening_lazily.join((slot, deadline.is_ahead()), || {
                let (fetch, resolved) = (self.fetch.clone(), resolved.clone());
                let substitutes = self.sources.substitutes.clone();
                async move {
                    let substitutes = substitutes.as_ref();
                    let open = OpenPath { fetch: &fetch, substitutes, resolved: &resolved, facts, deadline };
                    open.lazily().await.map(Arc::new)
                }
                .boxed()
            });
            match flight.await {
                // The flight had the deadline of whoever started it; ours may be later.
                Err(error) if error.is_overdue() && !deadline.has_passed() => {}
                answer => return self.keep(slot, answer?),
            }
        }
    }

    /// The store path that has this number; `None` for contents.
    pub(super) fn path(&self, slot: Slot) -> Option<StorePath> {
        match self.occupants.get(slot)? {
            Occupant::Path { path, .. } => Some(path),
            Occupant::Content(_) => None,
        }
    }
}

async fn open(
    fetch: &Arc<Fetch>,
    sources: &Sources,
    occupant: Occupant,
    deadline: Deadline,
) -> Result<Object, Error> {
    let (path, facts) = match occupant {
        Occupant::Content(capability) => {
            let name = content::Name::from(&*capability).to_string();
            let expected = Expected { name, form: None, nar_size: None, facts: None, limit: UNLIMITED };
            return Object::open(fetch.clone(), *capability, expected, deadline).await;
        }
        Occupant::Path { path, facts } => (path, facts),
    };
    let name = path.to_string();
    match sources.resolve(path.hash_part(), deadline).await? {
        Some(resolved) if *resolved.narinfo.store_path() == path => {
            let substitutes = sources.substitutes.as_ref();
            OpenPath { fetch, substitutes, resolved: &resolved, facts, deadline }.open().await
        }
        Some(other) => {
            let found = format!("it is that of {}", other.narinfo.store_path());
            Err(Error::NoBinding { name, found })
        }
        None => Err(Error::NoBinding { name, found: "no narinfo".into() }),
    }
}
