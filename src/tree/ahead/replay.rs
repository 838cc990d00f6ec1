//! A startup profile, fetched again in the order in which it was recorded.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use futures::{StreamExt, stream};
use tokio::sync::Semaphore;

use super::PATIENCE;
use super::profiles::Profiles;
use super::record::Ranges;
use crate::content::Deadline;
use crate::store::profile::Step;
use crate::store::{HashPart, Profile, StorePath};
use crate::tree::object::Object;
use crate::tree::objects::Objects;

/// Objects that are opened at a time: each takes some round trips, one after the other.
const OPENING: usize = 32;
/// Ranges that are fetched at a time; the gate decides how many of their blocks are in flight.
const READING: usize = 64;
/// What opening a store path is charged: the nodes above its last blocks, and those.
const OPENED: u64 = 128 << 10;

/// The profile for a store path: the user's own, or else the one that was published with it.
pub(super) async fn find(profiles: &Arc<Profiles>, path: &StorePath, object: &Object) -> Option<Profile> {
    let (profiles, hash_part) = (profiles.clone(), path.hash_part());
    let kept = tokio::task::spawn_blocking(move || profiles.load(&hash_part)).await.ok()?;
    match kept {
        Ok(Some(profile)) => Some(profile),
        Ok(None) => object.profile().cloned(),
        Err(error) => {
            tracing::warn!("{error}");
            None
        }
    }
}

/// Fetches what `profile` names. Paths that no catalog lists and ranges that their NARs do not have are passed over: a
/// published profile is a stranger's.
pub(super) async fn replay(objects: Arc<Objects>, profile: Profile, most: u64) {
    let name = profile.path().clone();
    let bytes = profile.bytes();
    if bytes > most {
        tracing::info!("the startup profile of {name} is not replayed: {bytes} bytes are more than {most}");
        return;
    }
    tracing::debug!("replaying the startup profile of {name}: {bytes} bytes");
    // Decoded they are of use only if they are still there when they are read.
    let decode = bytes <= objects.frames.status().capacity as u64 / 2;
    let replay = Replay {
        objects,
        decode,
        opening: Semaphore::new(OPENING),
        reading: Semaphore::new(READING),
        budget: Mutex::new(Budget { left: Some(most), charged: HashMap::new() }),
    };
    // What is begun is polled until it ends: it may hold passes of the gate and requests that others wait for. Who comes
    // first is let through first, so the order is kept but for what waits already.
    let steps = stream::iter(profile.into_steps()).map(|step| replay.step(step));
    steps.buffer_unordered(OPENING + READING).for_each(std::future::ready).await;
}

/// A profile that is being replayed.
struct Replay {
    objects: Arc<Objects>,
    decode: bool,
    opening: Semaphore,
    reading: Semaphore,
    budget: Mutex<Budget>,
}

impl Replay {
    /// Opens the object of a step, and fetches what was read of it.
    async fn step(&self, step: Step) {
        let Some(object) = self.open(&step.path).await else { return };
        let reads = stream::iter(step.reads).map(|range| self.fetch(step.path.hash_part(), &object, range));
        reads.buffer_unordered(READING).for_each(std::future::ready).await;
    }

    async fn open(&self, path: &StorePath) -> Option<Arc<Object>> {
        let _permit = self.opening.acquire().await.expect("it is never closed");
        if !self.budget.lock().expect("no panic while held").pays_for(path.hash_part()) {
            return None;
        }
        let deadline = Deadline::after(PATIENCE).ahead();
        match self.objects.open_path(path.hash_part(), deadline).await {
            Ok(found) => found.map(|(_, object)| object),
            Err(error) => {
                tracing::debug!("replaying: {error}");
                None
            }
        }
    }

    async fn fetch(&self, path: HashPart, object: &Object, range: Range<u64>) {
        let _permit = self.reading.acquire().await.expect("it is never closed");
        let range = range.start.min(object.nar_size())..range.end.min(object.nar_size());
        let (unit, blocks) = (object.unit(range.clone()), object.blocks(range.clone()));
        let pays = || self.budget.lock().expect("no panic while held").pays_to_read(path, unit, blocks);
        if range.is_empty() || !pays() {
            return;
        }
        let deadline = Deadline::after(PATIENCE).ahead();
        let answer = match self.decode && object.is_seekable() {
            true => object.fetch_range(range, &self.objects.frames, deadline, |_, _| ()).await,
            false => object.warm(range, deadline).await,
        };
        if let Err(error) = answer {
            tracing::debug!("replaying: {}: {error}", object.name());
        }
    }
}

/// What may still be fetched for a profile, in bytes; `None` once it was not enough. One byte of a NAR costs its whole frame, so a
/// stranger's ranges can cost far more than they have bytes.
struct Budget {
    left: Option<u64>,
    /// What was paid for of each store path.
    charged: HashMap<HashPart, Charged>,
}

#[derive(Default)]
struct Charged {
    decoded: Ranges,
    blocks: Ranges,
}

impl Budget {
    /// Pays for opening a store path, once.
    fn pays_for(&mut self, path: HashPart) -> bool {
        match self.charged.insert(path, Charged::default()) {
            None => self.pays(OPENED),
            Some(before) => {
                self.charged.insert(path, before);
                self.pays(0)
            }
        }
    }

    /// Pays for what comes with a range, decoded and encoded, whichever is more. False too where all of it was paid for: it is there,
    /// or on its way.
    fn pays_to_read(&mut self, path: HashPart, unit: Range<u64>, blocks: Range<u64>) -> bool {
        let sum = |new: Vec<Range<u64>>| new.iter().map(|new| new.end - new.start).sum::<u64>();
        let charged = self.charged.entry(path).or_default();
        let cost = sum(charged.decoded.add(unit)).max(sum(charged.blocks.add(blocks)));
        self.pays(cost) && cost > 0
    }

    fn pays(&mut self, cost: u64) -> bool {
        self.left = self.left.and_then(|left| left.checked_sub(cost));
        self.left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_and_each_frame_is_paid_for_once_until_nothing_is_left() {
        let [tool, library] = [0, 1].map(|first| HashPart::from_digest([first; 20]));
        let mut budget = Budget { left: Some(2 * OPENED + 1000), charged: HashMap::new() };
        assert!(budget.pays_for(tool) && budget.pays_for(tool));
        assert_eq!(budget.left, Some(OPENED + 1000));
        assert!(budget.pays_to_read(tool, 0..500, 0..100));
        assert!(!budget.pays_to_read(tool, 100..500, 0..90), "it is on its way");
        assert!(budget.pays_to_read(tool, 500..501, 100..300));
        assert_eq!(budget.left, Some(OPENED + 300));
        assert!(budget.pays_for(library));
        assert!(!budget.pays_to_read(library, 0..301, 0..1));
        assert!(!budget.pays_for(tool), "nor anything after that");
    }
}
