//! From the bytes of a bundle to where its blocks are. Nothing but heads is read, hopping over the blocks.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt as _};

use super::cbor::{self, Head};
use crate::eris::{BlockSize, ReadCapability, Reference};

/// Bytes of a reference.
pub(super) const REFERENCE: usize = 32;
/// Bytes that are read at a time: the head of an entry is 37.
const WINDOW: usize = 128;
/// Tags in front of an item. The format has at most two.
const MAX_TAGS: usize = 8;
/// How deep foreign items may be nested.
const MAX_DEPTH: usize = 32;
/// Capabilities that are kept: what lies in front of a reader, not an index of a store.
pub(super) const MAX_CAPABILITIES: usize = 4096;
/// Heads that are read behind the blocks: room for those capabilities and for what later versions of the format may add, and not
/// for a gigabyte of nothing.
const MAX_HEADS_BEHIND: u64 = 1 << 20;
/// Nothing but zeros is taken for a loss of the last minutes up to this: four times what is written between two syncs.
const MAX_BLANK: u64 = 256 << 20;

/// Where and why a file is no bundle, or stops being one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The file ends in the middle of something.
    #[error("the file ends at byte {at}, before the bundle does")]
    Truncated {
        /// Length of the file.
        at: u64,
    },
    /// Something else stands where the format wants this.
    #[error("at byte {at} stands no {wanted}")]
    Unexpected {
        /// Where.
        at: u64,
        /// What should be there.
        wanted: &'static str,
    },
    /// The rest of the file are zeros, as a power cut leaves what was not on the disk yet.
    #[error("from byte {at} on the file is blank, before the bundle ends")]
    Blank {
        /// Where it is first noticed.
        at: u64,
    },
    /// Something follows the bundle.
    #[error("the bundle ends at byte {at}, but the file goes on")]
    Trailing {
        /// Where.
        at: u64,
    },
}

/// Why a scan stopped: the file, or the disk that it is on.
#[derive(Debug)]
pub(super) enum Stop {
    Damage(Damage),
    Io(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Stop::Io(error)
    }
}

impl From<Damage> for Stop {
    fn from(damage: Damage) -> Self {
        Stop::Damage(damage)
    }
}

/// An entry of the map: a block, and where it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) reference: Reference,
    pub(super) offset: u64,
}

/// What stands where in a bundle, as far as it was read.
#[derive(Debug, Clone)]
pub(super) struct Outline {
    /// Everything before is entries, whole ones.
    pub(super) entries_end: u64,
    /// Entries that are still to come there; `None`: up to a break.
    pub(super) pairs: Option<u64>,
    /// Items behind the map; `None`: up to a break.
    pub(super) items: Option<u64>,
    /// Entries and items can be added, because neither the map nor the array says its length.
    pub(super) is_open: bool,
    /// Up to here the items behind the map are whole, its break among them; `None` before its end was reached.
    pub(super) items_end: Option<u64>,
    /// The read capabilities that follow the blocks, the first of them.
    pub(super) capabilities: Vec<ReadCapability>,
}

impl Outline {
    /// An entry that ends here was read.
    fn pass(&mut self, end: u64) {
        (self.entries_end, self.items_end) = (end, None);
        self.pairs = self.pairs.map(|left| left.saturating_sub(1));
    }
}

/// A bundle that is read from front to back.
pub(super) struct Scan<'a> {
    file: &'a File,
    length: u64,
    at: u64,
    window: Vec<u8>,
    window_at: u64,
    /// How many more heads may be read, where that is limited.
    heads_left: Option<u64>,
}

impl<'a> Scan<'a> {
    /// Begins at byte `at` of `file`.
    pub(super) fn new(file: &'a File, at: u64) -> io::Result<Self> {
        let length = file.metadata()?.len();
        Ok(Scan { file, length, at, window: Vec::with_capacity(WINDOW), window_at: 0, heads_left: None })
    }

    /// Reads what stands before the first entry.
    pub(super) fn begin(&mut self) -> Result<Outline, Stop> {
        let items = match self.untagged()? {
            Head::Array(items) => items.map(|items| items.saturating_sub(1)),
            _ => return Err(self.unexpected("array of a bundle")),
        };
        let pairs = match self.untagged()? {
            Head::Map(pairs) => pairs,
            _ => return Err(self.unexpected("map of blocks")),
        };
        let is_open = items.is_none() && pairs.is_none();
        let (entries_end, capabilities) = (self.at, Vec::new());
        Ok(Outline { entries_end, pairs, items, is_open, items_end: None, capabilities })
    }

    /// Whether the map ends here; if so, steps behind its end.
    pub(super) fn at_end_of_map(&mut self, outline: &Outline) -> Result<bool, Stop> {
        match outline.pairs {
            Some(left) => Ok(left == 0),
            None if self.peek()? == Head::Break => self.next().map(|_| true),
            None => Ok(false),
        }
    }

    /// Steps over one entry, and counts it.
    pub(super) fn step(&mut self, outline: &mut Outline) -> Result<Entry, Stop> {
        let offset = self.at;
        let reference = self.reference()?;
        self.block(Self::skip)?;
        outline.pass(self.at);
        Ok(Entry { reference, offset })
    }

    /// As [`step`](Self::step), with the bytes of the block, whatever they are.
    pub(super) fn step_reading(&mut self, outline: &mut Outline) -> Result<(Entry, Vec<u8>), Stop> {
        let offset = self.at;
        let (reference, block) = self.entry()?;
        outline.pass(self.at);
        Ok((Entry { reference, offset }, block))
    }

    /// The entry at the present place.
    pub(super) fn entry(&mut self) -> Result<(Reference, Vec<u8>), Stop> {
        let reference = self.reference()?;
        let mut block = Vec::new();
        self.block(|scan, length| scan.take(length, &mut block))?;
        Ok((reference, block))
    }

    /// The reference at the present place.
    pub(super) fn reference(&mut self) -> Result<Reference, Stop> {
        let at = self.at;
        let mut bytes = Vec::with_capacity(REFERENCE);
        self.byte_string(REFERENCE, |scan, length| scan.take(length, &mut bytes))?;
        let bytes = <[u8; REFERENCE]>::try_from(bytes);
        bytes
            .map(Reference::new)
            .map_err(|_| Damage::Unexpected { at, wanted: "reference of 32 bytes" }.into())
    }

    fn block(&mut self, piece: impl FnMut(&mut Self, u64) -> Result<(), Stop>) -> Result<(), Stop> {
        let at = self.at;
        let length = self.byte_string(BlockSize::MAX, piece)?;
        match BlockSize::from_bytes(length) {
            Some(_) => Ok(()),
            None => Err(Damage::Unexpected { at, wanted: "block of 1 or 32 KiB" }.into()),
        }
    }

    /// What follows the map: capabilities, and whatever later versions of the format may add.
    pub(super) fn behind(&mut self, outline: &mut Outline) -> Result<(), Stop> {
        outline.capabilities.clear();
        outline.items_end = Some(self.at);
        self.heads_left = Some(MAX_HEADS_BEHIND);
        let mut left = outline.items;
        loop {
            match &mut left {
                Some(0) => break,
                Some(left) => *left -= 1,
                None if self.peek()? == Head::Break => {
                    self.next()?;
                    break;
                }
                None => {}
            }
            let first = self.peek()?;
            let is_zero = self.window.get((self.at - self.window_at) as usize) == Some(&0);
            if first == Head::Tag(cbor::CAPABILITY) {
                self.next()?;
                let at = self.at;
                let mut bytes = Vec::new();
                self.byte_string(ReadCapability::BYTES, |scan, length| scan.take(length, &mut bytes))?;
                match ReadCapability::from_bytes(&bytes) {
                    Ok(capability) if outline.capabilities.len() < MAX_CAPABILITIES => {
                        outline.capabilities.push(capability);
                    }
                    Ok(_) => {}
                    Err(_) => return Err(Damage::Unexpected { at, wanted: "read capability" }.into()),
                }
            } else {
                self.skip_item()?;
            }
            // Zeros count only in front of something: a power cut leaves as many as it likes.
            if !is_zero {
                outline.items_end = Some(self.at);
            }
        }
        match self.at == self.length {
            true => Ok(()),
            false => Err(Damage::Trailing { at: self.at }.into()),
        }
    }

    /// The same, unless the damage is that the rest of the file was never written.
    pub(super) fn or_blank(&self, stop: Stop) -> Stop {
        match stop {
            Stop::Damage(Damage::Unexpected { at, .. }) if at < self.length => {
                // The loss may begin within a head.
                let start = (self.length - 1).min(at.saturating_add(cbor::MAX_HEAD as u64));
                match self.is_blank(start..self.length) {
                    Ok(true) => Damage::Blank { at }.into(),
                    Ok(false) => stop,
                    Err(error) => error.into(),
                }
            }
            stop => stop,
        }
    }

    /// Whether there are nothing but zeros, and not more than a power cut could leave.
    fn is_blank(&self, range: Range<u64>) -> io::Result<bool> {
        let mut buffer = vec![0; (64 << 10).min(range.end - range.start) as usize];
        let mut at = range.start;
        if range.end - range.start > MAX_BLANK {
            return Ok(false);
        }
        while at < range.end {
            let piece = &mut buffer[..(range.end - at).min(64 << 10) as usize];
            self.file.read_exact_at(piece, at)?;
            if piece.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            at += piece.len() as u64;
        }
        Ok(true)
    }

    /// Steps over one item of any kind.
    fn skip_item(&mut self) -> Result<(), Stop> {
        // For each level how many items are still to come on it; `None`: up to a break.
        let mut open: Vec<Option<u64>> = vec![Some(1)];
        while let Some(left) = open.last_mut() {
            match left {
                Some(0) => {
                    open.pop();
                    continue;
                }
                Some(left) => *left -= 1,
                None => {}
            }
            let within = *open.last().expect("it was looked at");
            match self.next()? {
                Head::Break if within.is_none() => {
                    open.pop();
                }
                Head::Break => return Err(self.unexpected("item")),
                Head::Plain => {}
                Head::Bytes(Some(length)) | Head::Text(Some(length)) => self.skip(length)?,
                Head::Bytes(None) | Head::Text(None) | Head::Array(None) | Head::Map(None) => open.push(None),
                Head::Array(items) => open.push(items),
                Head::Map(Some(pairs)) => open.push(Some(pairs.saturating_mul(2))),
                Head::Tag(_) => open.push(Some(1)),
            }
            if open.len() > MAX_DEPTH {
                return Err(self.unexpected("item of a depth that anybody would write"));
            }
        }
        Ok(())
    }

    /// One byte string of at most `limit` bytes, in one piece or in several; `piece` takes each. Gives the length of all.
    fn byte_string(
        &mut self,
        limit: usize,
        mut piece: impl FnMut(&mut Self, u64) -> Result<(), Stop>,
    ) -> Result<usize, Stop> {
        let at = self.at;
        let too_long = || Stop::from(Damage::Unexpected { at, wanted: "byte string of the right length" });
        match self.next()? {
            Head::Bytes(Some(length)) if length <= limit as u64 => {
                piece(self, length)?;
                Ok(length as usize)
            }
            Head::Bytes(None) => {
                let mut whole = 0;
                // Each piece has a byte at least, so their number is bounded too.
                loop {
                    match self.next()? {
                        Head::Break => return Ok(whole),
                        Head::Bytes(Some(length)) if (1..=(limit - whole) as u64).contains(&length) => {
                            piece(self, length)?;
                            whole += length as usize;
                        }
                        _ => return Err(too_long()),
                    }
                }
            }
            _ => Err(too_long()),
        }
    }

    /// Length of the file, as it was when this began.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    fn untagged(&mut self) -> Result<Head, Stop> {
        for _ in 0..MAX_TAGS {
            match self.next()? {
                Head::Tag(cbor::SELF_DESCRIBED | cbor::BUNDLE) => {}
                head => return Ok(head),
            }
        }
        Err(self.unexpected("bundle behind so many tags"))
    }

    fn peek(&mut self) -> Result<Head, Stop> {
        let at = self.at;
        let head = self.next()?;
        self.at = at;
        Ok(head)
    }

    fn next(&mut self) -> Result<Head, Stop> {
        let at = self.at;
        match &mut self.heads_left {
            Some(0) => return Err(self.unexpected("end of the items behind the blocks")),
            Some(left) => *left -= 1,
            None => {}
        }
        self.look(cbor::MAX_HEAD)?;
        let from = (at - self.window_at) as usize;
        match cbor::head(&self.window[from..]) {
            Some((head, length)) => {
                self.at += length as u64;
                Ok(head)
            }
            None if at + (cbor::MAX_HEAD as u64) > self.length => {
                Err(Damage::Truncated { at: self.length }.into())
            }
            None => Err(self.unexpected("CBOR item")),
        }
    }

    fn skip(&mut self, length: u64) -> Result<(), Stop> {
        match self.at.checked_add(length) {
            Some(end) if end <= self.length => {
                self.at = end;
                Ok(())
            }
            _ => Err(Damage::Truncated { at: self.length }.into()),
        }
    }

    fn take(&mut self, length: u64, into: &mut Vec<u8>) -> Result<(), Stop> {
        let at = self.at;
        self.skip(length)?;
        let start = into.len();
        into.resize(start + length as usize, 0);
        // A window holds the reference mostly, and never a block.
        let held = at.checked_sub(self.window_at).and_then(|from| {
            let from = usize::try_from(from).ok()?;
            self.window.get(from..from.checked_add(length as usize)?)
        });
        match held {
            Some(held) => into[start..].copy_from_slice(held),
            None => self.file.read_exact_at(&mut into[start..], at)?,
        }
        Ok(())
    }

    /// Makes the window hold the next `length` bytes, or all that there are.
    fn look(&mut self, length: usize) -> io::Result<()> {
        let end = self.length.min(self.at.saturating_add(length as u64));
        let window = self.window_at..self.window_at + self.window.len() as u64;
        if window.contains(&self.at) && end <= window.end {
            return Ok(());
        }
        self.window.resize(WINDOW, 0);
        self.window_at = self.at;
        let mut filled = 0;
        while filled < WINDOW {
            match self.file.read_at(&mut self.window[filled..], self.at + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.window.truncate(filled);
        Ok(())
    }

    fn unexpected(&self, wanted: &'static str) -> Stop {
        Damage::Unexpected { at: self.at, wanted }.into()
    }
}
