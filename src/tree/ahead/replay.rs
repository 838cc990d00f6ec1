//! A startup profile, fetched again in the order in which it was recorded.

use std::ops::Range;
use std::sync::Arc;

use futures::{StreamExt, stream};
use tokio::sync::Semaphore;

use super::PATIENCE;
use super::profiles::Profiles;
use crate::content::Deadline;
use crate::store::profile::Step;
use crate::store::{Profile, StorePath};
use crate::tree::object::Object;
use crate::tree::objects::Objects;

/// Objects that are opened at a time: each takes some round trips, one after the other.
const OPENING: usize = 32;
/// Ranges that are fetched at a time; the gate decides how many of their blocks are in flight.
const READING: usize = 64;

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
    let replay =
        Replay { objects, decode, opening: Semaphore::new(OPENING), reading: Semaphore::new(READING) };
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
}

impl Replay {
    /// Opens the object of a step, and fetches what was read of it.
    async fn step(&self, step: Step) {
        let Some(object) = self.open(&step.path).await else { return };
        let reads = stream::iter(step.reads).map(|range| self.fetch(&object, range));
        reads.buffer_unordered(READING).for_each(std::future::ready).await;
    }

    async fn open(&self, path: &StorePath) -> Option<Arc<Object>> {
        let _permit = self.opening.acquire().await.expect("it is never closed");
        let deadline = Deadline::after(PATIENCE).ahead();
        match self.objects.open_path(path.hash_part(), deadline).await {
            Ok(found) => found.map(|(_, object)| object),
            Err(error) => {
                tracing::debug!("replaying: {error}");
                None
            }
        }
    }

    async fn fetch(&self, object: &Object, range: Range<u64>) {
        let _permit = self.reading.acquire().await.expect("it is never closed");
        let deadline = Deadline::after(PATIENCE).ahead();
        let range = range.start.min(object.nar_size())..range.end.min(object.nar_size());
        let answer = match self.decode && object.is_seekable() {
            true => object.fetch_range(range, &self.objects.frames, deadline, |_, _| ()).await,
            false => object.warm(range, deadline).await,
        };
        if let Err(error) = answer {
            tracing::debug!("replaying: {}: {error}", object.name());
        }
    }
}
