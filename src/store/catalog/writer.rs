//! Writes a catalog in one go: narinfos out as they come, names and index at the end.
//!
//! Kept in memory are the page being filled, the compressed names (about 30 bytes a path) and the
//! index (36 bytes a page). The same narinfos give the same bytes.

use std::io::{self, Write};

use super::page::NamePage;
use super::{
    Entry, FANOUT, FOOTER, FRAME_HEADER, INDEX_TAG, Kind, MAGIC, MAX_PAGE, MAX_TAIL, NAMES_TAG, SKIPPABLE,
    TAIL_TAG, VERSION,
};
use crate::store::narinfo::Narinfo;
use crate::store::path::{HashPart, StoreDir};

/// Compressed bytes of a narinfo page that are aimed at: such a page lies in one or two leaves.
const PAGE_TARGET: usize = 24 << 10;

/// Entries of a name page, for the same size.
const NAMES_PER_PAGE: usize = 768;

/// Level of compression. Higher ones gain nothing up to 9, and 2 % up to 19, on text that is half hashes.
const LEVEL: i32 = 3;

/// Why a catalog cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The narinfos do not come in the order of their hash parts.
    #[error("catalog: {found} comes after {last}; narinfos are to be sorted by hash part")]
    NotSorted {
        /// The hash part before.
        last: HashPart,
        /// The hash part that came.
        found: HashPart,
    },
    /// The narinfo is of another store.
    #[error("catalog of {expected} cannot hold a path of {found}")]
    OtherStore {
        /// The catalog's store directory.
        expected: StoreDir,
        /// That of the narinfo.
        found: StoreDir,
    },
    /// There are more pages than the format has room for.
    #[error("catalog has too many paths")]
    TooManyPaths,
    /// Writing failed.
    #[error("cannot write the catalog: {source}")]
    Io {
        /// What happened.
        #[from]
        source: io::Error,
    },
}

/// A catalog being written.
pub struct Writer<W: Write> {
    out: W,
    offset: u64,
    store_dir: StoreDir,
    compressor: zstd::bulk::Compressor<'static>,
    paths: u64,
    last: Option<HashPart>,
    /// The narinfo page being filled.
    texts: Vec<u8>,
    first_text: Option<HashPart>,
    /// Uncompressed bytes at which a narinfo page is full; follows what compression achieves.
    fill: usize,
    narinfo_index: Vec<IndexEntry>,
    /// The name page being filled.
    entries: Vec<Entry>,
    /// The frames of the name pages that are full; offsets in their index are relative to it.
    names: Vec<u8>,
    name_index: Vec<IndexEntry>,
}

struct IndexEntry {
    first: HashPart,
    offset: u64,
    compressed: u32,
    decompressed: u32,
}

impl<W: Write> Writer<W> {
    /// Starts a catalog of paths in `store_dir`.
    pub fn new(out: W, store_dir: StoreDir) -> Result<Self, WriteError> {
        Ok(Self {
            out,
            offset: 0,
            store_dir,
            compressor: zstd::bulk::Compressor::new(LEVEL)?,
            paths: 0,
            last: None,
            texts: Vec::new(),
            first_text: None,
            fill: 2 * PAGE_TARGET,
            narinfo_index: Vec::new(),
            entries: Vec::new(),
            names: Vec::new(),
            name_index: Vec::new(),
        })
    }

    /// Adds a store path; they must come sorted by hash part, each once. `number` is that of
    /// [`Entry`].
    pub fn add(&mut self, narinfo: &Narinfo, kind: Kind, number: u64) -> Result<(), WriteError> {
        if *narinfo.store_dir() != self.store_dir {
            return Err(WriteError::OtherStore {
                expected: self.store_dir.clone(),
                found: narinfo.store_dir().clone(),
            });
        }
        let path = narinfo.store_path().clone();
        let found = path.hash_part();
        if let Some(last) = self.last.filter(|last| *last >= found) {
            return Err(WriteError::NotSorted { last, found });
        }
        let text = narinfo.as_str().as_bytes();
        if !self.texts.is_empty() && self.texts.len() + text.len() >= self.fill {
            self.end_narinfo_page()?;
        }
        self.first_text.get_or_insert(found);
        self.texts.extend(text);
        self.texts.push(b'\n');
        self.entries.push(Entry { path, kind, number });
        if self.entries.len() == NAMES_PER_PAGE {
            self.end_name_page()?;
        }
        self.last = Some(found);
        self.paths += 1;
        Ok(())
    }

    /// Writes what is left. The writer that was given is flushed and handed back.
    pub fn finish(mut self) -> Result<W, WriteError> {
        self.end_narinfo_page()?;
        self.end_name_page()?;
        let names_at = self.offset;
        let names = std::mem::take(&mut self.names);
        self.write(&names)?;

        let mut index = Vec::new();
        for entry in &self.narinfo_index {
            entry.write(0, &mut index);
        }
        for entry in &self.name_index {
            entry.write(names_at, &mut index);
        }
        let header = frame_header(INDEX_TAG, index.len())?;
        self.write(&header)?;
        let index_offset = self.offset;
        self.write(&index)?;

        let tail = self.tail(index_offset)?;
        self.write(&tail)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn end_narinfo_page(&mut self) -> Result<(), WriteError> {
        let Some(first) = self.first_text.take() else {
            return Ok(());
        };
        let page = self.compressor.compress(&self.texts)?;
        let entry = IndexEntry::new(first, self.offset, page.len(), self.texts.len())?;
        self.narinfo_index.push(entry);
        self.fill = (self.texts.len() * PAGE_TARGET / page.len().max(1)).clamp(PAGE_TARGET, 16 * PAGE_TARGET);
        self.texts.clear();
        self.write(&page)
    }

    fn end_name_page(&mut self) -> Result<(), WriteError> {
        let Some(first) = self.entries.first() else {
            return Ok(());
        };
        let first = first.path.hash_part();
        let content = NamePage::encode(&self.entries);
        let page = self.compressor.compress(&content)?;
        self.names.extend(frame_header(NAMES_TAG, page.len())?);
        let offset = self.names.len() as u64;
        let entry = IndexEntry::new(first, offset, page.len(), content.len())?;
        self.name_index.push(entry);
        self.names.extend(page);
        self.entries.clear();
        Ok(())
    }

    fn tail(&self, index_offset: u64) -> Result<Vec<u8>, WriteError> {
        let store_dir = self.store_dir.as_str();
        let roots = |index: &[IndexEntry]| -> Vec<u8> {
            let roots = index.iter().step_by(FANOUT as usize);
            roots.flat_map(|entry| *entry.first.sortable_bytes()).collect()
        };
        let mut body = roots(&self.narinfo_index);
        body.extend(roots(&self.name_index));
        body.extend(store_dir.as_bytes());
        let mut tail = frame_header(TAIL_TAG, body.len() + FOOTER)?.to_vec();
        tail.extend(body);
        let length = u32::try_from(tail.len() + FOOTER)
            .ok()
            .filter(|length| *length <= MAX_TAIL)
            .ok_or(WriteError::TooManyPaths)?;
        tail.extend(self.paths.to_le_bytes());
        tail.extend((self.narinfo_index.len() as u64).to_le_bytes());
        tail.extend((self.name_index.len() as u64).to_le_bytes());
        tail.extend(index_offset.to_le_bytes());
        tail.extend(length.to_le_bytes());
        tail.extend((store_dir.len() as u16).to_le_bytes()); // 1024 at most
        tail.extend(VERSION.to_le_bytes());
        tail.extend(MAGIC);
        Ok(tail)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.out.write_all(bytes)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }
}

impl IndexEntry {
    fn new(first: HashPart, offset: u64, compressed: usize, decompressed: usize) -> Result<Self, WriteError> {
        let length = |bytes: usize| {
            u32::try_from(bytes).ok().filter(|length| *length <= MAX_PAGE).ok_or(WriteError::TooManyPaths)
        };
        Ok(Self { first, offset, compressed: length(compressed)?, decompressed: length(decompressed)? })
    }

    fn write(&self, base: u64, out: &mut Vec<u8>) {
        out.extend(self.first.sortable_bytes());
        out.extend((base + self.offset).to_le_bytes());
        out.extend(self.compressed.to_le_bytes());
        out.extend(self.decompressed.to_le_bytes());
    }
}

/// Header of a skippable frame (RFC 8878, 3.1.2) with its tag.
fn frame_header(tag: &[u8; 8], length: usize) -> Result<[u8; FRAME_HEADER], WriteError> {
    let length = u32::try_from(length + tag.len()).map_err(|_| WriteError::TooManyPaths)?;
    let mut header = [0; FRAME_HEADER];
    header[..4].copy_from_slice(&SKIPPABLE.to_le_bytes());
    header[4..8].copy_from_slice(&length.to_le_bytes());
    header[8..].copy_from_slice(tag);
    Ok(header)
}
