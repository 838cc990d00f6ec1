//! From the file to the table of its blocks: hopping from head to head, a step at a time, so that a look-up in a large bundle waits
//! for no more of it than stands before the block.

use std::{fs::File, num::NonZeroU64, path::Path, sync::Arc};

use rustix::fs::{Advice, fadvise};

use super::{
    Damage,
    scan::{Entry, Outline, Scan, Stop},
    table::Table,
};
use crate::{block::single_file, eris::BlockSize};

/// Entries that are stepped over at once: a disk with moving parts takes a second for so many.
const STEP: usize = 128;
/// Bytes in front of a block: two heads and the reference.
const HEAD: u64 = 37;

/// An opened file, how far it was read, and what was found.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) table: Arc<Table>,
    pub(super) is_writable: bool,
    /// Length of the file when its end was read.
    pub(super) length: u64,
    pub(super) outline: Outline,
    /// Whether everything was read, as far as it can be.
    pub(super) is_complete: bool,
    pub(super) damage: Option<Damage>,
    /// The last entry: it tells whether the file is still the one that was read.
    pub(super) last: Option<Entry>,
}

/// What others did to the file since it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    /// Something was added.
    Longer,
    /// What was read is no longer there.
    Rewritten,
}

impl Index {
    /// Reads what stands before the first block. What has not even that was never a bundle.
    pub(super) fn open(file: Arc<File>, is_writable: bool) -> Result<Self, Stop> {
        let length = file.metadata()?.len();
        let outline = Scan::new(&file, 0)?.begin()?;
        let table = Arc::new(Table::new(file));
        Ok(Index { table, is_writable, length, outline, is_complete: false, damage: None, last: None })
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
        if self.is_complete {
            self.table.sort();
        }
        Ok(!self.is_complete)
    }

    fn step(&mut self) -> Result<bool, Stop> {
        let table = self.table.clone();
        let mut scan = Scan::new(&table.file, self.outline.entries_end)?;
        self.length = scan.length();
        let mut found = Vec::with_capacity(STEP);
        let read = self.read(&mut scan, &mut found);
        table.add(&found);
        self.last = found.last().copied().or(self.last);
        read.map_err(|stop| scan.or_blank(stop))
    }

    fn read(&mut self, scan: &mut Scan<'_>, found: &mut Vec<Entry>) -> Result<bool, Stop> {
        while found.len() < STEP {
            if scan.at_end_of_map(&self.outline)? {
                scan.behind(&mut self.outline)?;
                return Ok(true);
            }
            let entry = scan.step(&mut self.outline)?;
            if found.is_empty() {
                let end = self.outline.entries_end;
                expect_heads(&self.table.file, end, end - entry.offset);
            }
            found.push(entry);
        }
        Ok(false)
    }

    /// Begins anew where the blocks ended, if others have added some since.
    pub(super) fn reopen_end(&mut self) -> Result<Change, Stop> {
        let length = self.table.file.metadata()?.len();
        let stands = match self.last {
            _ if length < self.outline.entries_end => false,
            Some(last) => match Scan::new(&self.table.file, last.offset)?.reference() {
                Ok(reference) => reference == last.reference,
                Err(Stop::Damage(_)) => false,
                Err(stop) => return Err(stop),
            },
            None => length == self.length,
        };
        if !stands {
            return Ok(Change::Rewritten);
        }
        if length == self.length {
            return Ok(Change::Nothing);
        }
        (self.is_complete, self.damage) = (false, None);
        Ok(Change::Longer)
    }

    /// Whether the file is still the one that its name leads to.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        single_file::is_at(&self.table.file, path)
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
