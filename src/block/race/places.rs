//! What is remembered for a while of where blocks are: which source lacked one, and which gave it.

use std::{num::NonZeroUsize, time::Duration};

use lru::LruCache;
use tokio::time::Instant;

use crate::eris::Reference;

/// Blocks of which is remembered that a source lacked them: 2 GiB of content, in 6 MB at the most.
const LACKS: NonZeroUsize = NonZeroUsize::new(64 * 1024).expect("not zero");
/// For how long: another machine may be filling the source.
const LACKED: Duration = Duration::from_secs(60);
/// Blocks of which is remembered where they came from: those of 512 MiB of content, in under 2 MB.
const ORIGINS: NonZeroUsize = NonZeroUsize::new(16 * 1024).expect("not zero");

/// Sources are told by their place in the order of preference.
pub struct Places {
    lacks: LruCache<(Reference, usize), Instant>,
    origins: LruCache<Reference, usize>,
}

impl Default for Places {
    fn default() -> Self {
        // Grown as needed: most runs remember little.
        let (mut lacks, mut origins) = (LruCache::unbounded(), LruCache::unbounded());
        lacks.resize(LACKS);
        origins.resize(ORIGINS);
        Self { lacks, origins }
    }
}

impl std::fmt::Debug for Places {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Places")
            .field("lacks", &self.lacks.len())
            .field("origins", &self.origins.len())
            .finish()
    }
}

impl Places {
    pub fn lacked(&mut self, reference: Reference, source: usize, now: Instant) {
        self.lacks.put((reference, source), now);
    }

    /// Whether any source is known to lack anything.
    pub fn knows_of_lacks(&self) -> bool {
        !self.lacks.is_empty()
    }

    pub fn lacks(&mut self, reference: &Reference, source: usize, now: Instant) -> bool {
        let key = (*reference, source);
        let lately = self.lacks.peek(&key).map(|when| now - *when < LACKED);
        if lately == Some(false) {
            self.lacks.pop(&key);
        }
        lately == Some(true)
    }

    /// The block has been put to the source.
    pub fn has_now(&mut self, reference: &Reference, source: usize) {
        self.lacks.pop(&(*reference, source));
    }

    pub fn came(&mut self, reference: Reference, source: usize) {
        self.origins.put(reference, source);
    }

    pub fn origin(&self, reference: &Reference) -> Option<usize> {
        self.origins.peek(reference).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eris::reference_of;

    #[tokio::test(start_paused = true)]
    async fn a_lack_is_forgotten_after_a_minute_and_when_the_block_is_put() {
        let (one, other) = (reference_of(b"one"), reference_of(b"other"));
        let mut places = Places::default();
        places.lacked(one, 0, Instant::now());
        places.lacked(other, 0, Instant::now());
        assert!(places.lacks(&one, 0, Instant::now()) && !places.lacks(&one, 1, Instant::now()));
        places.has_now(&other, 0);
        assert!(!places.lacks(&other, 0, Instant::now()));
        tokio::time::advance(LACKED).await;
        assert!(!places.lacks(&one, 0, Instant::now()));
        assert!(!places.knows_of_lacks());
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let mut places = Places::default();
        for number in 0..100_000_u32 {
            let reference = reference_of(&number.to_le_bytes());
            places.lacked(reference, 0, Instant::now());
            places.came(reference, 1);
        }
        assert_eq!((places.lacks.len(), places.origins.len()), (LACKS.get(), ORIGINS.get()));
        assert_eq!(places.origin(&reference_of(&99_999_u32.to_le_bytes())), Some(1));
        assert_eq!(places.origin(&reference_of(&0_u32.to_le_bytes())), None);
    }
}
