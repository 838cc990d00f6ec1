//! The file of a disk cache: its pages and slots, read and written where they are.
//!
//! Nothing is mapped into memory. A lookup in the page cache takes half a microsecond this way, and a file that somebody cuts short
//! reads as a miss where a mapping would kill the process.

use std::{
    fs::File,
    io::{self, IoSliceMut},
    os::unix::fs::{FileExt as _, MetadataExt as _},
};

use rustix::{
    fs::FallocateFlags,
    io::{Errno, ReadWriteFlags},
};

use super::{
    layout::{CLOCK_AT, Layout, PAGE, PINS_AT, Place, SMALL, size_of},
    page::{Page, Word, entry_at, entry_bytes, free_bytes, word_at},
};
use crate::{
    block::Block,
    eris::{BlockSize, Reference},
};

/// Whether a read may wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    Yes,
    /// Only what the kernel has in memory.
    No,
}

/// What was asked for is not in the kernel's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WouldWait;

#[derive(Debug)]
pub(super) struct Slots {
    file: File,
    layout: Layout,
    identity: Identity,
}

/// What tells a file from one of the same name that came after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    pub(super) fn of(status: &std::fs::Metadata) -> Self {
        Self { device: status.dev(), inode: status.ino() }
    }
}

impl Slots {
    /// The cache in a file; nothing if it is none, or damaged.
    pub(super) fn of(file: File) -> io::Result<Option<Self>> {
        let status = file.metadata()?;
        let mut header = [0; PAGE];
        if !status.is_file() || status.len() < PAGE as u64 {
            return Ok(None);
        }
        file.read_exact_at(&mut header, 0)?;
        let identity = Identity::of(&status);
        Ok(Layout::read(&header, status.len()).map(|layout| Self { file, layout, identity }))
    }

    /// Makes an empty cache of a new file. It takes one page of disk space.
    pub(super) fn create(file: File, layout: Layout, clock: u64, pins: u64) -> io::Result<Self> {
        file.set_len(layout.length())?;
        file.write_all_at(&layout.header(clock, pins), 0)?;
        let identity = Identity::of(&file.metadata()?);
        Ok(Self { file, layout, identity })
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether this is the file with that status, as it should be.
    pub(super) fn is(&self, status: &std::fs::Metadata) -> bool {
        Identity::of(status) == self.identity && status.len() == self.layout.length()
    }

    /// Bytes of disk that the file takes.
    pub(super) fn bytes_on_disk(&self) -> u64 {
        self.file.metadata().map_or(0, |status| status.blocks() * 512)
    }

    /// Asks the kernel to have the index in memory soon.
    pub(super) fn warm_up(&self) {
        let length = std::num::NonZeroU64::new(self.layout.page_at(self.layout.buckets()));
        // Advice: without it the first lookups wait for the disk.
        let _ = rustix::fs::fadvise(&self.file, 0, length, rustix::fs::Advice::WillNeed);
    }

    /// Whether all of `buffer` could be read from there. What cannot be read is not there: there is nothing else to do about it.
    fn read(&self, buffer: &mut [u8], at: u64, wait: Wait) -> Result<bool, WouldWait> {
        if wait == Wait::Yes {
            return Ok(self.file.read_exact_at(buffer, at).is_ok());
        }
        let wanted = buffer.len();
        match rustix::io::preadv2(&self.file, &mut [IoSliceMut::new(buffer)], at, ReadWriteFlags::NOWAIT) {
            Ok(0) => Ok(false),
            Ok(length) if length == wanted => Ok(true),
            // A part of it; or a file system that cannot tell.
            Ok(_) | Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::INTR) => {
                Err(WouldWait)
            }
            Err(_) => Ok(false),
        }
    }

    pub(super) fn page(&self, bucket: u64, wait: Wait) -> Result<Option<Page>, WouldWait> {
        let mut page = Page([0; PAGE]);
        Ok(self.read(&mut page.0, self.layout.page_at(bucket), wait)?.then_some(page))
    }

    /// Where a block is, by the index.
    pub(super) fn find(&self, reference: &Reference, wait: Wait) -> Result<Option<(Place, Word)>, WouldWait> {
        for bucket in self.layout.candidates(reference) {
            let Some(page) = self.page(bucket, wait)? else { continue };
            if let Some(entry) = page.find(reference) {
                return Ok(Some((Place { bucket, entry }, page.word(entry))));
            }
        }
        Ok(None)
    }

    /// What is in a slot, unverified.
    pub(super) fn slot(&self, place: Place, wait: Wait) -> Result<Option<Block>, WouldWait> {
        let mut block = vec![0; size_of(place.entry).bytes()];
        Ok(self.read(&mut block, self.layout.slot_at(place), wait)?.then(|| block.into()))
    }

    /// Writes a block and then its entry. In between, and after a crash there, the entry of the block before names a block that
    /// its hash does not find, which is a miss.
    pub(super) fn store(
        &self,
        place: Place,
        reference: &Reference,
        block: &[u8],
        word: Word,
    ) -> io::Result<()> {
        debug_assert_eq!(BlockSize::from_bytes(block.len()), Some(size_of(place.entry)));
        self.file.write_all_at(block, self.layout.slot_at(place))?;
        self.write_entry(place, &entry_bytes(reference, word))
    }

    /// Makes an entry name no block.
    pub(super) fn clear(&self, place: Place, word: Word) -> io::Result<()> {
        self.write_entry(place, &free_bytes(word))
    }

    fn write_entry(&self, place: Place, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.layout.page_at(place.bucket) + entry_at(place.entry))
    }

    /// Notes a use. The entry may have become that of another block, which then passes for one that was used; that does no harm.
    pub(super) fn touch(&self, place: Place, word: Word) -> io::Result<()> {
        self.file.write_all_at(&word.to_bytes(), self.layout.page_at(place.bucket) + word_at(place.entry))
    }

    /// Gives back the disk space of a large slot.
    pub(super) fn punch(&self, place: Place) -> io::Result<()> {
        self.punch_range(self.layout.slot_at(place), size_of(place.entry).bytes() as u64)
    }

    /// Gives back the disk space of all small slots of a bucket: they are smaller than what a file system can free.
    pub(super) fn punch_small(&self, bucket: u64) -> io::Result<()> {
        let length = (SMALL * BlockSize::Small.bytes()) as u64;
        self.punch_range(self.layout.small_slots_at(bucket), length)
    }

    fn punch_range(&self, at: u64, length: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&self.file, flags, at, length)?)
    }

    /// The clock and the generation of the pins.
    pub(super) fn numbers(&self) -> io::Result<(u64, u64)> {
        let mut numbers = [0; 16];
        self.file.read_exact_at(&mut numbers, CLOCK_AT)?;
        let number = |at: usize| u64::from_le_bytes(numbers[at..at + 8].try_into().expect("eight bytes"));
        Ok((number(0), number(8)))
    }

    pub(super) fn set_clock(&self, clock: u64) -> io::Result<()> {
        self.file.write_all_at(&clock.to_le_bytes(), CLOCK_AT)
    }

    pub(super) fn set_pins(&self, generation: u64) -> io::Result<()> {
        self.file.write_all_at(&generation.to_le_bytes(), PINS_AT)
    }

    /// Until the disk has everything.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Bytes free on the file system for this user.
    pub(super) fn free(&self) -> Option<u64> {
        let status = rustix::fs::fstatvfs(&self.file).ok()?;
        Some(status.f_bavail.saturating_mul(status.f_frsize))
    }
}
