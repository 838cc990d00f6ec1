use std::future::pending;
use std::sync::Arc;

use super::*;

const MIB: u64 = 1 << 20;
const READ: u64 = 128 << 10;
const FRAME: u64 = 256 << 10;
const WINDOWS: Windows = Windows { largest: 8 * MIB, together: 32 * MIB, pushed: false };

/// A read of one file of `size` bytes that is all of object `object`, in frames of 256 KiB.
fn read_of(object: u64, range: Range<u64>, size: u64) -> Read {
    let unit = range.start / FRAME * FRAME..range.end.next_multiple_of(FRAME).min(size);
    Read { object, range, unit, file: 0..size, end: size }
}

fn observe(read_ahead: &mut ReadAhead, read: &Read) -> Option<Range<u64>> {
    read_ahead.observe(read, |_| async {})
}

struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 20) % limit
    }
}

#[tokio::test]
async fn a_sequential_reader_is_always_ahead_and_never_asks_twice() {
    let mut read_ahead = ReadAhead::new(WINDOWS);
    let (size, mut asked, mut largest) = (64 * MIB, 0, 0);
    for read in 0..size / READ {
        let end = (read + 1) * READ;
        if let Some(range) = observe(&mut read_ahead, &read_of(1, read * READ..end, size)) {
            assert!(range.start >= asked, "bytes {}.. were asked for twice", range.start);
            asked = range.end;
        }
        assert!(end < MIB || asked > end || asked == size);
        largest = largest.max(asked.saturating_sub(end));
    }
    assert_eq!(asked, size);
    assert_eq!(largest, WINDOWS.largest);
}

#[tokio::test]
async fn what_is_in_flight_for_a_sequential_reader_never_falls_below_seven_eighths_of_the_window() {
    let mut read_ahead = ReadAhead::new(WINDOWS);
    let (size, mut asked) = (64 * MIB, 0);
    for read in 0..size / READ {
        let end = (read + 1) * READ;
        if let Some(range) = observe(&mut read_ahead, &read_of(1, read * READ..end, size)) {
            asked = range.end;
        }
        assert!(end < 24 * MIB || asked == size || asked - end >= WINDOWS.largest / 8 * 7 - READ);
    }
}

#[tokio::test]
async fn a_random_reader_causes_nothing() {
    let (mut read_ahead, mut numbers) = (ReadAhead::new(WINDOWS), Numbers(7));
    for _ in 0..10_000 {
        let at = numbers.below(4096 * MIB);
        assert_eq!(observe(&mut read_ahead, &read_of(1, at..at + 4096, 4096 * MIB)), None);
    }
}

#[tokio::test]
async fn a_jump_closes_the_window_and_drops_what_is_in_flight() {
    let mut read_ahead = ReadAhead::new(WINDOWS);
    let in_flight = Arc::new(());
    for read in 0..64 {
        let held = in_flight.clone();
        read_ahead.observe(&read_of(1, read * READ..(read + 1) * READ, 64 * MIB), |_| async move {
            pending::<()>().await;
            drop(held);
        });
    }
    assert!(Arc::strong_count(&in_flight) > 1);
    let mut asked = Vec::new();
    for read in 0..4 {
        let at = 50 * MIB + read * READ;
        asked.extend(observe(&mut read_ahead, &read_of(1, at..at + READ, 64 * MIB)));
    }
    tokio::task::yield_now().await;
    assert_eq!(Arc::strong_count(&in_flight), 1);
    assert!(asked.iter().map(|range| range.end - range.start).sum::<u64>() <= 2 * FIRST, "{asked:?}");
}

#[tokio::test]
async fn small_skips_and_requests_out_of_order_keep_the_window_open() {
    let mut read_ahead = ReadAhead::new(WINDOWS);
    let (size, mut asked) = (256 * MIB, 0);
    let (mut at, mut step) = (0, 0);
    while at + 2 * MIB < size {
        // Two requests change places each time, and half a MiB is left out now and then.
        for place in [1, 0] {
            let start = at + place * READ;
            if let Some(range) = observe(&mut read_ahead, &read_of(1, start..start + READ, size)) {
                assert!(range.start >= asked);
                asked = range.end;
            }
        }
        assert!(at < 16 * MIB || asked == size || asked > at + 4 * MIB, "the window closed at {at}");
        step += 1;
        at += 2 * READ + if step % 32 == 31 { MIB / 2 } else { 0 };
    }
}

#[tokio::test]
async fn readers_of_one_file_or_of_several_do_not_disturb_each_other() {
    let mut read_ahead = ReadAhead::new(WINDOWS);
    let mut asked = [0; 4];
    for read in 0..64 {
        for reader in 0..4 {
            // Two in object 1, far from each other, and one each in 2 and 3.
            let (object, base) = [(1, 0), (1, 100 * MIB), (2, 0), (3, 0)][reader];
            let range = base + read * READ..base + (read + 1) * READ;
            if let Some(range) = observe(&mut read_ahead, &read_of(object, range, 256 * MIB)) {
                asked[reader] = range.end - base;
            }
        }
    }
    assert!(asked.iter().all(|&end| end > 66 * READ), "{asked:?}");
}

#[tokio::test]
async fn windows_share_their_budget() {
    let mut read_ahead = ReadAhead::new(WINDOWS);
    let mut asked = [0; 16];
    for read in 0..256 {
        for reader in 0..16 {
            let end = (read + 1) * READ;
            let read = read_of(reader, read * READ..end, 256 * MIB);
            if let Some(range) = observe(&mut read_ahead, &read) {
                asked[reader as usize] = range.end;
            }
            assert!(end < 8 * MIB || asked[reader as usize].saturating_sub(end) <= 2 * MIB);
        }
    }
}

/// A NAR of small files of 4 KiB, 256 bytes of headers before each.
fn small_file(number: u64, files: u64) -> Read {
    let (stride, end) = (4096 + 256, files * (4096 + 256));
    let range = number * stride + 256..(number + 1) * stride;
    let unit = range.start / FRAME * FRAME..range.end.next_multiple_of(FRAME).min(end);
    Read { object: 1, range: range.clone(), unit, file: range, end }
}

#[tokio::test]
async fn one_who_reads_file_after_file_is_always_ahead() {
    let mut read_ahead = ReadAhead::new(WINDOWS);
    let (files, mut asked) = (20_000, 0);
    for number in 0..files {
        let read = small_file(number, files);
        if let Some(range) = observe(&mut read_ahead, &read) {
            assert!(range.start >= asked);
            asked = range.end;
        }
        assert!(number < 2000 || asked == read.end || asked > read.range.end + 4 * MIB);
    }
}

#[tokio::test]
async fn one_who_reads_files_here_and_there_gets_nothing_beyond_them() {
    let (mut read_ahead, mut numbers) = (ReadAhead::new(WINDOWS), Numbers(3));
    let (files, mut touched, mut ahead) = (20_000, std::collections::HashSet::new(), 0);
    for _ in 0..5000 {
        let read = small_file(numbers.below(files), files);
        touched.insert(read.unit.start);
        ahead += observe(&mut read_ahead, &read).map_or(0, |range| range.end - range.start);
    }
    assert!(ahead * 10 <= touched.len() as u64 * FRAME * 3, "{ahead} bytes for {} frames", touched.len());
}

#[tokio::test]
async fn one_who_reads_a_little_in_order_and_jumps_pays_for_it_before_the_next_window() {
    let (mut read_ahead, mut numbers) = (ReadAhead::new(WINDOWS), Numbers(5));
    let (size, mut touched, mut ahead) = (4096 * MIB, 0, 0);
    for _ in 0..1000 {
        let start = numbers.below(4000) * MIB;
        for read in 0..4 {
            let at = start + read * READ;
            touched += READ;
            let range = observe(&mut read_ahead, &read_of(1, at..at + READ, size));
            ahead += range.map_or(0, |range| range.end - range.start);
        }
    }
    assert!(ahead * 10 <= touched * 3, "{ahead} bytes ahead for {touched}");
}

#[tokio::test]
async fn nothing_beyond_the_end_of_a_file_is_fetched_for_one_who_reads_that_file_alone() {
    let mut read_ahead = ReadAhead::new(WINDOWS);
    for read in 0..32 {
        let mut read = read_of(1, read * READ..(read + 1) * READ, 64 * MIB);
        read.file = 0..4 * MIB;
        if let Some(range) = observe(&mut read_ahead, &read) {
            assert!(range.end <= 4 * MIB);
        }
    }
}
