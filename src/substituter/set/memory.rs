//! Answers that are kept: a good narinfo for an hour, that there is none for a minute.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

use super::Found;
use crate::lru::ByteLru;
use crate::store::HashPart;

/// How long a narinfo is believed without asking again. What it says stays true; where the NAR is may change.
pub(super) const KEPT: Duration = Duration::from_secs(3600);
/// The same for one to which a silent overlay may have something to add.
pub(super) const KEPT_WITHOUT_OVERLAY: Duration = Duration::from_secs(60);
/// The same for one from the disk, since no server could be asked: they are asked again soon.
pub(super) const BEFORE: Duration = Duration::from_secs(10);
/// How long it is believed that nobody has a path: it may be built and uploaded at any time.
pub(super) const ABSENT: Duration = Duration::from_secs(60);
/// The same where not all servers were asked, since some are down.
pub(super) const ABSENT_WITHOUT_ALL: Duration = Duration::from_secs(10);
/// How many absent hash parts are remembered: 1 MiB.
const MAX_ABSENT: NonZeroUsize = NonZeroUsize::new(16_384).expect("it is not 0");
/// What an answer takes besides its text: fields that were read, their allocations.
const OVERHEAD: usize = 1024;

/// An answer, and until when it holds.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) found: Option<Arc<Found>>,
    pub(super) until: Instant,
}

#[derive(Debug)]
pub(super) struct Memory {
    found: Mutex<ByteLru<HashPart, (Arc<Found>, Instant)>>,
    absent: Mutex<LruCache<HashPart, Instant>>,
}

impl Memory {
    pub(super) fn new(bytes: usize) -> Self {
        Self { found: Mutex::new(ByteLru::new(bytes)), absent: Mutex::new(LruCache::new(MAX_ABSENT)) }
    }

    /// The answer of before: `Some(None)`: nobody had it.
    pub(super) fn get(&self, hash_part: HashPart) -> Option<Option<Arc<Found>>> {
        let now = Instant::now();
        let found = lock(&self.found)
            .get(&hash_part)
            .filter(|(_, until)| now < *until)
            .map(|(found, _)| found.clone());
        found
            .map(Some)
            .or_else(|| lock(&self.absent).get(&hash_part).filter(|until| now < **until).map(|_| None))
    }

    pub(super) fn put(&self, hash_part: HashPart, answer: &Answer) {
        match &answer.found {
            Some(found) => {
                // The fields that were read repeat the text.
                let weight = OVERHEAD + 2 * found.narinfo.as_str().len();
                lock(&self.found).put(hash_part, (Arc::clone(found), answer.until), weight);
                lock(&self.absent).pop(&hash_part);
            }
            None => drop(lock(&self.absent).put(hash_part, answer.until)),
        }
    }

    /// What nobody had may be had now.
    pub(super) fn forget_absent(&self) {
        lock(&self.absent).clear();
    }

    #[cfg(test)]
    pub(super) fn forget(&self) {
        *lock(&self.found) = ByteLru::new(1 << 20);
        lock(&self.absent).clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
