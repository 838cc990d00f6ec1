//! Reads that just ran into their deadline.
//!
//! When a read-ahead fails, the kernel asks once more for the page that somebody waits for. Without a memory of
//! the first failure that would wait for a second deadline, and the reader for two.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long a failure answers for what is asked once more. The kernel asks within milliseconds.
const MEMORY: Duration = Duration::from_millis(500);
/// Failures that are remembered.
const READS: usize = 256;

/// The reads that were overdue just now, oldest first.
#[derive(Debug, Default)]
pub(super) struct Overdue(Mutex<VecDeque<Failed>>);

#[derive(Debug)]
struct Failed {
    inode: u64,
    range: Range<u64>,
    when: Instant,
}

impl Overdue {
    /// Takes note of a read that was not answered in time.
    pub(super) fn note(&self, inode: u64, range: Range<u64>, now: Instant) {
        let mut reads = self.0.lock().expect("no panic while held");
        if reads.len() == READS {
            reads.pop_front();
        }
        reads.push_back(Failed { inode, range, when: now });
    }

    /// Whether the read is part of one that failed just now. Each failure answers for one read: whoever asks
    /// again later means it.
    pub(super) fn answers(&self, inode: u64, range: &Range<u64>, now: Instant) -> bool {
        let mut reads = self.0.lock().expect("no panic while held");
        while reads.front().is_some_and(|failed| now.duration_since(failed.when) >= MEMORY) {
            reads.pop_front();
        }
        let place = reads.iter().position(|failed| {
            failed.inode == inode && failed.range.start <= range.start && range.end <= failed.range.end
        });
        place.and_then(|place| reads.remove(place)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_failed_read_fails_at_once_but_only_once() {
        let (overdue, now) = (Overdue::default(), Instant::now());
        overdue.note(7, 4096..135_168, now);
        overdue.note(7, 135_168..200_000, now);
        assert!(!overdue.answers(7, &(0..4096), now));
        assert!(!overdue.answers(7, &(131_072..139_264), now));
        assert!(!overdue.answers(8, &(8192..12_288), now));
        assert!(overdue.answers(7, &(8192..12_288), now + Duration::from_millis(5)));
        assert!(!overdue.answers(7, &(8192..12_288), now + Duration::from_millis(5)));
    }

    #[test]
    fn a_failure_is_forgotten_in_a_moment() {
        let (overdue, now) = (Overdue::default(), Instant::now());
        overdue.note(7, 0..4096, now);
        assert!(!overdue.answers(7, &(0..4096), now + MEMORY));
    }

    #[test]
    fn the_memory_is_bounded() {
        let (overdue, now) = (Overdue::default(), Instant::now());
        for inode in 0..10_000 {
            overdue.note(inode, 0..4096, now);
        }
        assert_eq!(overdue.0.lock().unwrap().len(), READS);
    }
}
