//! Where the blocks of a bundle stand: found by hopping from head to head, a step at a time, so that a look-up in a large bundle
//! waits for no more of it than stands before the block.

use std::{fs::File, io, num::NonZeroU64, path::Path, sync::Arc};

use rustix::fs::{Advice, fadvise};

use super::{
    Damage, cbor,
    scan::{Entry, Outline, REFERENCE, Scan, Stop},
};
use crate::{
    block::{Block, single_file},
    eris::{BlockSize, ReadCapability, Reference},
};

/// Entries that are stepped over before somebody else may look something up: a disk with moving parts takes a second for so many.
const STEP: usize = 128;
/// Bytes in front of a block: two heads and the reference.
const HEAD: u64 = 37;
/// Added blocks that are looked through one by one before they are sorted in.
const UNSORTED: usize = 4096;

/// An opened file, and where its blocks are.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) file: Arc<File>,
    pub(super) is_writable: bool,
    /// Length of the file when its end was read.
    length: u64,
    pub(super) outline: Outline,
    /// Whether everything was read, as far as it can be.
    pub(super) is_complete: bool,
    pub(super) damage: Option<Damage>,
    /// The first bytes of a reference, and where its entry stands; sorted.
    sorted: Vec<(u64, u64)>,
    /// The same, the latest last.
    added: Vec<(u64, u64)>,
}

/// Why nothing was added.
#[derive(Debug)]
pub(super) enum AddError {
    Io(io::Error),
    Fixed,
    Damaged(Damage),
}

impl Index {
    /// Reads what stands before the first block. What has not even that was never a bundle.
    pub(super) fn open(file: Arc<File>, is_writable: bool) -> Result<Self, Stop> {
        let length = file.metadata()?.len();
        let outline = Scan::new(&file, 0)?.begin()?;
        Ok(Index {
            file,
            is_writable,
            length,
            outline,
            is_complete: false,
            damage: None,
            sorted: Vec::new(),
            added: Vec::new(),
        })
    }

    /// Reads on. Whether there is more to come.
    pub(super) fn advance(&mut self) -> Result<bool, Stop> {
        if self.is_complete {
            return Ok(false);
        }
        match self.step() {
            Ok(is_complete) => self.is_complete = is_complete,
            Err(Stop::Damage(damage)) => (self.damage, self.is_complete) = (Some(damage), true),
            Err(error) => return Err(error),
        }
        if self.is_complete || self.added.len() > UNSORTED {
            self.sort();
        }
        Ok(!self.is_complete)
    }

    fn step(&mut self) -> Result<bool, Stop> {
        let file = self.file.clone();
        let mut scan = Scan::new(&file, self.outline.entries_end)?;
        self.length = scan.length();
        for number in 0..STEP {
            if scan.at_end_of_map(&self.outline)? {
                scan.behind(&mut self.outline)?;
                return Ok(true);
            }
            let entry = scan.step(&mut self.outline)?;
            self.added.push(place(&entry));
            if number == 0 {
                expect_heads(&file, self.outline.entries_end, self.outline.entries_end - entry.offset);
            }
        }
        Ok(false)
    }

    /// Reads to the end.
    pub(super) fn complete(&mut self) -> Result<(), Stop> {
        while self.advance()? {}
        Ok(())
    }

    /// Begins anew where the blocks ended, if others have changed the file since. Whether they have.
    pub(super) fn reopen_end(&mut self) -> io::Result<bool> {
        let changed = self.file.metadata()?.len() != self.length;
        if changed {
            (self.is_complete, self.damage) = (false, None);
        }
        Ok(changed)
    }

    /// Whether the file is still the one that its name leads to.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        single_file::is_at(&self.file, path)
    }

    fn sort(&mut self) {
        self.sorted.append(&mut self.added);
        // Stable, because that is quick where the most is sorted already.
        self.sorted.sort();
    }

    /// Where the block may stand, the last place first.
    pub(super) fn places(&self, reference: &Reference) -> Vec<u64> {
        let wanted = prefix(reference);
        let first = self.sorted.partition_point(|(prefix, _)| *prefix < wanted);
        let sorted = self.sorted[first..].iter().take_while(|(prefix, _)| *prefix == wanted);
        let added = self.added.iter().filter(|(prefix, _)| *prefix == wanted);
        let mut places: Vec<u64> = sorted.chain(added).map(|(_, offset)| *offset).collect();
        places.sort_unstable_by_key(|offset| std::cmp::Reverse(*offset));
        places
    }

    /// Writes what is not there yet, and then the end of the bundle, over the end that was there.
    pub(super) fn add(
        &mut self,
        blocks: &[(Reference, Block)],
        capabilities: &[ReadCapability],
    ) -> Result<(), AddError> {
        match &self.damage {
            _ if !self.outline.is_open => return Err(AddError::Fixed),
            // Its end was cut off: it gets a new one.
            None | Some(Damage::Truncated { .. }) => {}
            Some(damage) => return Err(AddError::Damaged(damage.clone())),
        }
        let (start, mut bytes) = (self.outline.entries_end, Vec::new());
        let mut fresh: Vec<(Reference, u64)> = Vec::new();
        for (reference, block) in blocks {
            // One that lies spoiled is written once more: the last entry is the one that is read.
            let found = block_at(&self.file, self.places(reference), reference);
            let known = matches!(found, Ok(Some(found)) if found == *block);
            if known || fresh.iter().any(|(known, _)| known == reference) {
                continue;
            }
            fresh.push((*reference, start + bytes.len() as u64));
            cbor::write_head(cbor::BYTES, REFERENCE as u64, &mut bytes);
            bytes.extend_from_slice(reference.as_bytes());
            cbor::write_head(cbor::BYTES, block.len() as u64, &mut bytes);
            bytes.extend_from_slice(block);
        }
        let mut new: Vec<ReadCapability> = Vec::new();
        for capability in capabilities {
            if !self.outline.capabilities.contains(capability) && !new.contains(capability) {
                new.push(*capability);
            }
        }
        if fresh.is_empty() && new.is_empty() && self.damage.is_none() {
            return Ok(());
        }
        let entries_end = start + bytes.len() as u64;
        write_end(self.outline.capabilities.iter().chain(&new), &mut bytes);
        self.replace_end(&bytes).map_err(AddError::Io)?;
        (self.outline.entries_end, self.damage) = (entries_end, None);
        self.outline.capabilities.extend(new);
        self.added.extend(fresh.iter().map(|(reference, offset)| (prefix(reference), *offset)));
        if self.added.len() > UNSORTED {
            self.sort();
        }
        Ok(())
    }

    /// Puts these bytes behind the last whole entry. Where that fails, as on a full stick, the end that was there is put back.
    fn replace_end(&mut self, bytes: &[u8]) -> io::Result<()> {
        let start = self.outline.entries_end;
        let written = write_all(&self.file, bytes, start);
        match written {
            Ok(()) => {
                self.length = start + bytes.len() as u64;
                self.file.set_len(self.length)
            }
            Err(error) => {
                let mut end = Vec::new();
                write_end(self.outline.capabilities.iter(), &mut end);
                // It takes no more room than there was. If that fails too, the end is missing, and the next reader says so.
                let restored = write_all(&self.file, &end, start);
                self.length = start + end.len() as u64;
                let _ = restored.and_then(|()| self.file.set_len(self.length));
                Err(error)
            }
        }
    }
}

/// Has the heads of a step read at once, side by side, if blocks have one size, as those of one content do: else each waits for the
/// one before. Small blocks are read in passing anyway.
fn expect_heads(file: &File, from: u64, stride: u64) {
    if stride < BlockSize::Large.bytes() as u64 {
        return;
    }
    for number in 0..STEP as u64 {
        let at = from.saturating_add(number.saturating_mul(stride));
        // No more than advice.
        let _ = fadvise(file, at, NonZeroU64::new(HEAD), Advice::WillNeed);
    }
}

fn write_all(file: &File, bytes: &[u8], start: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, start)
}

/// What stands behind the last entry.
fn write_end<'a>(capabilities: impl Iterator<Item = &'a ReadCapability>, bytes: &mut Vec<u8>) {
    bytes.push(cbor::BREAK);
    for capability in capabilities {
        cbor::write_head(cbor::TAG, cbor::CAPABILITY, bytes);
        cbor::write_head(cbor::BYTES, ReadCapability::BYTES as u64, bytes);
        bytes.extend_from_slice(&capability.to_bytes());
    }
    bytes.push(cbor::BREAK);
}

/// Under what an entry is found, and where it stands.
fn place(entry: &Entry) -> (u64, u64) {
    (prefix(&entry.reference), entry.offset)
}

/// References are hashes: few of a store share their first 8 bytes, and none but the right one is given out.
fn prefix(reference: &Reference) -> u64 {
    let first = reference.as_bytes().first_chunk().copied();
    u64::from_be_bytes(first.unwrap_or_default())
}

/// What the first of `places` that is an entry of this reference holds.
pub(super) fn block_at(
    file: &File,
    places: Vec<u64>,
    reference: &Reference,
) -> Result<Option<Vec<u8>>, Stop> {
    for offset in places {
        let (found, block) = Scan::new(file, offset)?.entry()?;
        if found == *reference {
            return Ok(Some(block));
        }
    }
    Ok(None)
}
