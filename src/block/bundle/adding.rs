//! Adding blocks and capabilities: over the end of the bundle that was there, and behind them the same end again, with whatever is in it.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use super::{
    Damage, cbor,
    index::Index,
    scan::{Entry, MAX_CAPABILITIES, REFERENCE},
    table::Sought,
};
use crate::{
    block::Block,
    eris::{ReadCapability, Reference},
};

/// What stands behind the blocks is copied at each put: two hundred thousand capabilities, or what later versions of the format may add.
const MAX_END: u64 = 16 << 20;

/// Why nothing was added.
#[derive(Debug)]
pub(super) enum AddError {
    Io(io::Error),
    Fixed,
    Damaged(Damage),
    /// What stands behind the blocks is too long.
    LongEnd,
}

impl From<io::Error> for AddError {
    fn from(error: io::Error) -> Self {
        AddError::Io(error)
    }
}

impl Index {
    /// Writes what is not there yet, and then the end of the bundle, over the end that was there. Gives the bytes that were written.
    pub(super) fn add(
        &mut self,
        blocks: &[(Reference, Block)],
        capabilities: &[ReadCapability],
    ) -> Result<u64, AddError> {
        match &self.damage {
            _ if !self.outline.is_open => return Err(AddError::Fixed),
            // Its end was cut off: it gets a new one.
            None | Some(Damage::Truncated { .. } | Damage::Blank { .. }) => {}
            Some(damage) => return Err(AddError::Damaged(damage.clone())),
        }
        let start = self.outline.entries_end;
        let length = self.table.file.metadata()?.len();
        if length < start {
            // Somebody does not care for locks.
            return Err(AddError::Damaged(Damage::Truncated { at: length }));
        }
        let (fresh, mut bytes) = self.new_entries(blocks);
        let end = self.end()?;
        let mut new: Vec<ReadCapability> = Vec::new();
        for capability in capabilities {
            if !self.tells(&end, capability) && !new.contains(capability) {
                new.push(*capability);
            }
        }
        if fresh.is_empty() && new.is_empty() && self.damage.is_none() {
            return Ok(0);
        }
        let entries_end = start + bytes.len() as u64;
        bytes.extend_from_slice(&end);
        bytes.extend(new.iter().flat_map(item));
        let items_end = start + bytes.len() as u64;
        bytes.push(cbor::BREAK);
        self.replace_end(&bytes, &end)?;
        (self.outline.entries_end, self.outline.items_end, self.damage) =
            (entries_end, Some(items_end), None);
        let room = MAX_CAPABILITIES.saturating_sub(self.outline.capabilities.len());
        self.outline.capabilities.extend(new.into_iter().take(room));
        self.table.add(&fresh);
        self.last = fresh.last().copied().or(self.last);
        Ok(bytes.len() as u64)
    }

    /// Entries for what is not there yet.
    fn new_entries(&self, blocks: &[(Reference, Block)]) -> (Vec<Entry>, Vec<u8>) {
        let (start, mut bytes) = (self.outline.entries_end, Vec::new());
        let mut fresh: Vec<Entry> = Vec::new();
        for (reference, block) in blocks {
            // One that lies spoiled is written once more: the last entry is the one that is read.
            let found = self.table.look_up(reference, |scan| scan.entry());
            let known = matches!(found, Ok(Sought::Here(found)) if found == *block);
            if known || fresh.iter().any(|known| known.reference == *reference) {
                continue;
            }
            fresh.push(Entry { reference: *reference, offset: start + bytes.len() as u64 });
            cbor::write_head(cbor::BYTES, REFERENCE as u64, &mut bytes);
            bytes.extend_from_slice(reference.as_bytes());
            cbor::write_head(cbor::BYTES, block.len() as u64, &mut bytes);
            bytes.extend_from_slice(block);
        }
        (fresh, bytes)
    }

    /// What stands behind the entries, without the break at its end; as far as it is whole.
    fn end(&self) -> Result<Vec<u8>, AddError> {
        let Some(items_end) = self.outline.items_end else { return Ok(vec![cbor::BREAK]) };
        let length = items_end - self.outline.entries_end;
        if length > MAX_END {
            return Err(AddError::LongEnd);
        }
        let mut end = vec![0; length as usize];
        self.table.file.read_exact_at(&mut end, self.outline.entries_end)?;
        Ok(end)
    }

    /// Whether this capability is there; also where there are more than were kept.
    fn tells(&self, end: &[u8], capability: &ReadCapability) -> bool {
        let known = &self.outline.capabilities;
        let item = item(capability);
        known.contains(capability)
            || known.len() >= MAX_CAPABILITIES && end.windows(item.len()).any(|part| part == item)
    }

    /// Puts these bytes behind the last whole entry. Where that fails, as on a full stick, the end that was there is put back.
    fn replace_end(&mut self, bytes: &[u8], old: &[u8]) -> io::Result<()> {
        let (file, start) = (self.table.file.clone(), self.outline.entries_end);
        // Who is killed on the way leaves a file that is cut off, which the next put mends; not one with the rest of a long old end
        // behind half a block.
        let written = file.set_len(start).and_then(|()| write(&file, bytes, start));
        match written {
            Ok(()) => self.length = start + bytes.len() as u64,
            Err(_) => {
                // It takes no more room than there was. If that fails too, the end is missing, and the next reader says so.
                let restored =
                    file.set_len(start).and_then(|()| write(&file, &[old, &[cbor::BREAK]].concat(), start));
                self.length = start + old.len() as u64 + 1;
                if restored.is_ok() {
                    self.outline.items_end = Some(start + old.len() as u64);
                }
            }
        }
        written
    }
}

fn write(file: &File, bytes: &[u8], start: u64) -> io::Result<()> {
    file.write_all_at(bytes, start)
}

/// A capability as it stands in the file.
fn item(capability: &ReadCapability) -> Vec<u8> {
    let mut bytes = Vec::new();
    cbor::write_head(cbor::TAG, cbor::CAPABILITY, &mut bytes);
    cbor::write_head(cbor::BYTES, ReadCapability::BYTES as u64, &mut bytes);
    bytes.extend_from_slice(&capability.to_bytes());
    bytes
}
