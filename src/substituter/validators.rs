//! What a file was when it was first asked for, so that parts of two files are never put together.
//!
//! A NAR that is resumed after a break may have been replaced meanwhile (`guix publish` compresses anew). Whoever reads from a place in the middle
//! compares; what is not remembered is read from its beginning.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;

/// Files that are remembered by one place: more than are downloaded at once.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(1024).expect("1024 is not 0");

/// A file's state by its URL, for the files asked for last.
#[derive(Debug)]
pub(super) struct Validators<V> {
    seen: Mutex<LruCache<String, V>>,
}

impl<V: Clone> Validators<V> {
    pub(super) fn new() -> Self {
        Self { seen: Mutex::new(LruCache::new(REMEMBERED)) }
    }

    /// What the file was when it was last asked for from its beginning.
    pub(super) fn get(&self, url: &str) -> Option<V> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(url).cloned()
    }

    /// What it is now; `None`: what cannot be told apart from another.
    pub(super) fn set(&self, url: &str, validator: Option<V>) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match validator {
            Some(validator) => drop(seen.put(url.to_owned(), validator)),
            None => drop(seen.pop(url)),
        }
    }
}
