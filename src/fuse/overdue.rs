//! Reads that just ran into their deadline.
//!
//! When a read-ahead fails, the kernel asks again for the one page that somebody waits for. Without a memory of
//! the first failure that would wait for a second deadline, and the reader for two.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use lru::LruCache;

/// How long a failure answers for what is asked again. The kernel asks within milliseconds.
const MEMORY: Duration = Duration::from_secs(1);
/// Failures that are remembered.
const READS: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// The last reads that were overdue, by inode.
#[derive(Debug)]
pub(super) struct Overdue(Mutex<LruCache<u64, (Range<u64>, Instant)>>);

impl Default for Overdue {
    fn default() -> Self {
        Overdue(Mutex::new(LruCache::new(READS)))
    }
}

impl Overdue {
    /// Takes note of a read that was not answered in time.
    pub(super) fn note(&self, inode: u64, range: Range<u64>, now: Instant) {
        self.0.lock().expect("no panic while held").put(inode, (range, now));
    }

    /// Whether the read is part of one that failed just now.
    pub(super) fn covers(&self, inode: u64, range: &Range<u64>, now: Instant) -> bool {
        let mut reads = self.0.lock().expect("no panic while held");
        reads.get(&inode).is_some_and(|(failed, when)| {
            failed.start <= range.start && range.end <= failed.end && now.duration_since(*when) < MEMORY
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_failed_read_fails_at_once_and_only_for_a_moment() {
        let (overdue, now) = (Overdue::default(), Instant::now());
        overdue.note(7, 4096..135_168, now);
        assert!(overdue.covers(7, &(8192..12_288), now + Duration::from_millis(5)));
        assert!(!overdue.covers(7, &(0..4096), now));
        assert!(!overdue.covers(7, &(131_072..139_264), now));
        assert!(!overdue.covers(8, &(8192..12_288), now));
        assert!(!overdue.covers(7, &(8192..12_288), now + MEMORY));
    }
}
