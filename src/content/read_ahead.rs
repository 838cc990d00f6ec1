//! When to fetch ahead, and how much: a window for each file that doubles while it is read in order.
//!
//! The kernel gives no file handle (OPEN is answered once, with ENOSYS), so the state is kept by inode.
//! Random access closes the window at once: what a random reader did not ask for is not fetched.

use std::num::NonZeroUsize;
use std::ops::Range;

use lru::LruCache;

/// Files whose pattern is remembered. Each costs about 50 bytes.
const FILES: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// The first window: one more of the kernel's own 128 KiB reads would be too late at any latency.
const FIRST: u64 = 512 * 1024;
/// The largest window: 50 ms at 1 Gbit/s are 6.25 MB.
const LARGEST: u64 = 8 * 1024 * 1024;
/// The kernel reads in order, but its parallel requests arrive slightly out of order.
const SLACK: u64 = 256 * 1024;

/// Detects sequential readers by inode.
#[derive(Debug)]
pub struct ReadAhead {
    files: LruCache<u64, Pattern>,
}

#[derive(Debug)]
struct Pattern {
    next: u64,
    window: u64,
    /// Up to where was asked for ahead already.
    ahead: u64,
}

impl Default for ReadAhead {
    fn default() -> Self {
        ReadAhead { files: LruCache::new(FILES) }
    }
}

impl ReadAhead {
    /// Takes note of a read of `range` of `inode`; gives the bytes to fetch ahead now, if any.
    pub fn observe(&mut self, inode: u64, range: Range<u64>, size: u64) -> Option<Range<u64>> {
        let pattern = self.files.get_or_insert_mut(inode, || Pattern { next: 0, window: 0, ahead: 0 });
        let sequential = range.start <= pattern.next.saturating_add(SLACK)
            && range.start.saturating_add(SLACK) >= pattern.next;
        if !sequential {
            *pattern = Pattern { next: range.end, window: 0, ahead: 0 };
            return None;
        }
        pattern.next = pattern.next.max(range.end);
        if pattern.next <= SLACK {
            // One small read at the start says nothing: most files are looked into, not read through.
            return None;
        }
        let start = pattern.ahead.max(pattern.next);
        // Asked for again only when half of the window was used: fewer, larger batches.
        if start > pattern.next + pattern.window / 2 {
            return None;
        }
        pattern.window = (pattern.window * 2).clamp(FIRST, LARGEST);
        let end = (pattern.next + pattern.window).min(size);
        if start >= end {
            return None;
        }
        pattern.ahead = end;
        Some(start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const READ: u64 = 128 * 1024;

    #[test]
    fn a_sequential_reader_is_always_ahead_and_never_asks_twice() {
        let mut read_ahead = ReadAhead::default();
        let (size, mut asked) = (64 * MIB, 0);
        for read in 0..size / READ {
            if let Some(range) = read_ahead.observe(1, read * READ..(read + 1) * READ, size) {
                assert!(range.start >= asked, "bytes {}.. were asked for twice", range.start);
                asked = range.end;
            }
            assert!(read < 3 || asked > (read + 1) * READ || asked == size);
        }
        assert_eq!(asked, size);
    }

    #[test]
    fn a_random_reader_causes_nothing() {
        let mut read_ahead = ReadAhead::default();
        let mut state = 7u64;
        for _ in 0..1000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (state >> 20) % (4096 * MIB);
            assert_eq!(read_ahead.observe(1, at..at + 4096, 4096 * MIB), None);
        }
    }

    #[test]
    fn a_jump_closes_the_window() {
        let mut read_ahead = ReadAhead::default();
        for read in 0..64 {
            read_ahead.observe(1, read * READ..(read + 1) * READ, 64 * MIB);
        }
        assert_eq!(read_ahead.observe(1, 50 * MIB..50 * MIB + READ, 64 * MIB), None);
        let reopened = read_ahead.observe(1, 50 * MIB + READ..50 * MIB + 2 * READ, 64 * MIB);
        assert!(reopened.is_some_and(|range| range.end - range.start <= FIRST));
    }

    #[test]
    fn files_do_not_disturb_each_other() {
        let mut read_ahead = ReadAhead::default();
        let mut asked = [0, 0];
        for read in 0..32 {
            for file in 0..2 {
                let range = read * READ..(read + 1) * READ;
                if let Some(range) = read_ahead.observe(file, range, 64 * MIB) {
                    asked[file as usize] = range.end;
                }
            }
        }
        assert!(asked.iter().all(|&end| end > 32 * READ));
    }
}
