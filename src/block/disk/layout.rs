//! Where things are in the file of a disk cache, and its header.
//!
//! One page of header, one index page for each bucket, then the slots of all buckets: first those of 32 KiB, then those of 1 KiB.
//! Everything follows from the size in the header, so a file that is damaged cannot lead a reader astray.

use crate::eris::{BlockSize, Reference};

/// Bytes of the header and of the index page of a bucket: what the kernel reads and writes at once.
pub(super) const PAGE: usize = 4096;
/// Slots of 32 KiB in a bucket. With two buckets for each block that is 128 candidates: the least recently used of them is as good
/// a victim as that of the whole cache, and no bucket overflows before the cache is full but for a few slots.
pub(super) const LARGE: usize = 64;
/// Slots of 1 KiB in a bucket: what is left of the page. They take 1.8 % of the cache; only tiny contents have such blocks.
pub(super) const SMALL: usize = 38;

const LARGE_BYTES: u64 = BlockSize::Large.bytes() as u64;
const SMALL_BYTES: u64 = BlockSize::Small.bytes() as u64;
/// What a bucket takes: its page of the index and its slots.
const BUCKET_BYTES: u64 = PAGE as u64 + LARGE as u64 * LARGE_BYTES + SMALL as u64 * SMALL_BYTES;
/// The largest cache, in bytes: the largest file of ext4.
const MAX_SIZE: u64 = 1 << 44;

const MAGIC: [u8; 8] = *b"ERISSLOT";
/// Of the layout of this file. Another version is another cache: it is made anew.
const VERSION: u32 = 1;

/// Places of the numbers in the header that change. Only the holder of the lock writes them.
pub(super) const CLOCK_AT: u64 = 64;
pub(super) const PINS_AT: u64 = 72;

/// The places in a cache of a certain size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    size: u64,
    buckets: u64,
}

/// One slot, and its entry in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub bucket: u64,
    pub entry: usize,
}

impl Layout {
    /// The layout of a cache that takes at most `size` bytes, which must be enough for a bucket.
    pub(super) fn of(size: u64) -> Self {
        let size = size.min(MAX_SIZE);
        Self { size, buckets: (size.saturating_sub(PAGE as u64) / BUCKET_BYTES).max(1) }
    }

    /// The layout of a file with this beginning and length, if it is a cache.
    pub(super) fn read(header: &[u8; PAGE], length: u64) -> Option<Self> {
        let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        let is_ours = header[..8] == MAGIC && header[8..12] == VERSION.to_le_bytes();
        let size = number(16);
        let layout = Self::of(size);
        (is_ours && size <= MAX_SIZE && layout.length() == length).then_some(layout)
    }

    /// The header of a new file.
    pub(super) fn header(&self, clock: u64, pins: u64) -> [u8; PAGE] {
        let mut header = [0; PAGE];
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[16..24].copy_from_slice(&self.size.to_le_bytes());
        header[CLOCK_AT as usize..][..8].copy_from_slice(&clock.to_le_bytes());
        header[PINS_AT as usize..][..8].copy_from_slice(&pins.to_le_bytes());
        header
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn buckets(&self) -> u64 {
        self.buckets
    }

    /// Slots of the size that holds so many bytes.
    pub(super) fn slots(&self, size: BlockSize) -> u64 {
        self.buckets * entries(size).len() as u64
    }

    /// The length of the file in bytes.
    pub(super) fn length(&self) -> u64 {
        PAGE as u64 + self.buckets * BUCKET_BYTES
    }

    /// The two buckets that a block can be in; the same one twice if there is only one.
    pub(super) fn candidates(&self, reference: &Reference) -> [u64; 2] {
        let part = |at: usize| {
            u64::from_le_bytes(reference.as_bytes()[at..at + 8].try_into().expect("eight bytes")) as u128
        };
        let first = ((part(0) * self.buckets as u128) >> 64) as u64;
        // Any of the others.
        let step = 1 + ((part(8) * self.buckets.saturating_sub(1) as u128) >> 64) as u64;
        [first, (first + step) % self.buckets]
    }

    pub(super) fn page_at(&self, bucket: u64) -> u64 {
        (1 + bucket) * PAGE as u64
    }

    pub(super) fn slot_at(&self, place: Place) -> u64 {
        let large = (1 + self.buckets) * PAGE as u64;
        match place.entry.checked_sub(LARGE) {
            None => large + (place.bucket * LARGE as u64 + place.entry as u64) * LARGE_BYTES,
            Some(entry) => self.small_slots_at(place.bucket) + entry as u64 * SMALL_BYTES,
        }
    }

    /// Where the slots of 1 KiB of a bucket begin.
    pub(super) fn small_slots_at(&self, bucket: u64) -> u64 {
        let large = (1 + self.buckets) * PAGE as u64;
        large + self.buckets * LARGE as u64 * LARGE_BYTES + bucket * SMALL as u64 * SMALL_BYTES
    }
}

/// The entries of a page whose slots hold blocks of this size.
pub(super) fn entries(size: BlockSize) -> std::ops::Range<usize> {
    match size {
        BlockSize::Large => 0..LARGE,
        BlockSize::Small => LARGE..LARGE + SMALL,
    }
}

/// The size of the block of an entry.
pub(super) fn size_of(entry: usize) -> BlockSize {
    if entry < LARGE { BlockSize::Large } else { BlockSize::Small }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_never_larger_than_the_size_and_wastes_less_than_a_bucket() {
        for size in [8 << 20, 100_000_000, 1 << 30, 20 << 30, 1 << 44] {
            let layout = Layout::of(size);
            assert!(layout.length() <= size && layout.length() + BUCKET_BYTES > size, "{size}");
        }
    }

    #[test]
    fn no_two_slots_overlap_and_all_are_within_the_file() {
        let layout = Layout::of(8 << 20);
        let mut ranges = vec![(0, layout.page_at(layout.buckets() - 1) + PAGE as u64)];
        for bucket in 0..layout.buckets() {
            for entry in 0..LARGE + SMALL {
                let start = layout.slot_at(Place { bucket, entry });
                ranges.push((start, start + size_of(entry).bytes() as u64));
            }
        }
        ranges.sort_unstable();
        assert!(ranges.windows(2).all(|pair| pair[0].1 == pair[1].0));
        assert_eq!(ranges.last().map(|range| range.1), Some(layout.length()));
    }

    #[test]
    fn a_header_is_read_as_written_and_nothing_else_is() {
        let layout = Layout::of(50 << 20);
        let header = layout.header(7, 8);
        assert_eq!(Layout::read(&header, layout.length()), Some(layout));
        assert_eq!(Layout::read(&header, layout.length() - 1), None, "cut short");
        assert_eq!(Layout::read(&[0; PAGE], layout.length()), None);
        for at in [0, 8, 23] {
            let mut other = header;
            other[at] ^= 1;
            assert_eq!(Layout::read(&other, layout.length()), None, "byte {at}");
        }
        let mut huge = header;
        huge[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(Layout::read(&huge, Layout::of(u64::MAX).length()), None);
    }

    #[test]
    fn the_two_buckets_of_a_block_differ_and_exist() {
        for size in [8 << 20, 1 << 30] {
            let layout = Layout::of(size);
            for byte in 0..=255 {
                let [first, second] = layout.candidates(&crate::eris::reference_of(&[byte]));
                assert!(first != second && first < layout.buckets() && second < layout.buckets());
            }
        }
    }
}
