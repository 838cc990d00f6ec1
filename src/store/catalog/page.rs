//! What is inside the pages of the two tables.

use std::ops::Range;

use super::reader::Page;
use super::{CatalogError, Entry, KEY, Kind};
use crate::store::narinfo::Narinfo;
use crate::store::path::{HASH_PART_LENGTH, HashPart, StoreDir, StorePath};

/// Bytes of an entry in a name page, without its name.
const COLUMNS: usize = KEY + 1 + 8 + 1;

/// A page of the table of names, sorted by hash part.
#[derive(Debug)]
pub struct NamePage {
    content: Vec<u8>,
    /// Where each name ends among the names.
    name_ends: Vec<u32>,
    page: u64,
}

impl NamePage {
    pub(super) fn encode(entries: &[Entry]) -> Vec<u8> {
        let count = u32::try_from(entries.len()).expect("the writer bounds the entries of a page");
        let mut content = count.to_le_bytes().to_vec();
        for entry in entries {
            content.extend(entry.path.hash_part().sortable_bytes());
        }
        content.extend(entries.iter().map(|entry| entry.kind.to_byte()));
        for entry in entries {
            content.extend(entry.number.to_le_bytes());
        }
        content.extend(entries.iter().map(|entry| entry.path.name().len() as u8)); // 211 at most
        for entry in entries {
            content.extend(entry.path.name().as_bytes());
        }
        content
    }

    pub(super) fn parse(page: &Page, content: Vec<u8>) -> Result<Self, CatalogError> {
        let damaged = || page.damaged("its number of entries does not fit its length");
        let (count, _) = content.split_first_chunk::<4>().ok_or_else(damaged)?;
        let count = u32::from_le_bytes(*count) as usize;
        let names_at = count
            .checked_mul(COLUMNS)
            .and_then(|columns| columns.checked_add(4))
            .filter(|names_at| *names_at <= content.len())
            .ok_or_else(damaged)?;
        let mut end = 0;
        let name_ends: Vec<u32> = content[names_at - count..names_at]
            .iter()
            .map(|length| {
                end += u32::from(*length);
                end
            })
            .collect();
        if content.len() - names_at != end as usize {
            return Err(damaged());
        }
        let names = Self { content, name_ends, page: page.number };
        page.check_order(names.keys())?;
        let mut kinds = names.content[4 + KEY * count..][..count].iter();
        if kinds.any(|kind| Kind::from_byte(*kind).is_none()) {
            return Err(page.damaged("an entry has an unknown kind"));
        }
        Ok(names)
    }

    /// Number of entries; never 0.
    #[allow(clippy::len_without_is_empty)] // a page has its first entry, or it is refused
    pub fn len(&self) -> usize {
        self.name_ends.len()
    }

    /// The hash parts of all entries, in order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = HashPart> {
        let (keys, _) = self.content[4..][..KEY * self.len()].as_chunks::<KEY>();
        keys.iter().map(|key| HashPart::from_sortable_bytes(*key))
    }

    /// The entry of a hash part.
    pub fn find(&self, key: &HashPart) -> Result<Option<Entry>, CatalogError> {
        let (keys, _) = self.content[4..][..KEY * self.len()].as_chunks::<KEY>();
        match keys.binary_search(key.sortable_bytes()) {
            Ok(at) => self.get(at),
            Err(_) => Ok(None),
        }
    }

    /// The entry at a position, from 0.
    pub fn get(&self, at: usize) -> Result<Option<Entry>, CatalogError> {
        let count = self.len();
        if at >= count {
            return Ok(None);
        }
        let (kinds, numbers, names) = (4 + KEY * count, 4 + (KEY + 1) * count, 4 + COLUMNS * count);
        let key = self.content[4 + KEY * at..][..KEY].try_into().expect("a key long");
        let number = self.content[numbers + 8 * at..][..8].try_into().expect("8 bytes");
        let start = at.checked_sub(1).map_or(0, |before| self.name_ends[before]) as usize;
        // Bytes that are not UTF-8 turn into a character that no name may have.
        let name = String::from_utf8_lossy(&self.content[names + start..names + self.name_ends[at] as usize]);
        let path = StorePath::new(HashPart::from_sortable_bytes(key), &name)
            .map_err(|source| CatalogError::Name { page: self.page, source })?;
        Ok(Some(Entry {
            path,
            kind: Kind::from_byte(self.content[kinds + at]).expect("checked when parsed"),
            number: u64::from_le_bytes(number),
        }))
    }

    /// All entries in order.
    pub fn entries(&self) -> impl Iterator<Item = Result<Entry, CatalogError>> {
        (0..self.len()).filter_map(|at| self.get(at).transpose())
    }
}

/// A page of the table of narinfos, sorted by hash part.
#[derive(Debug)]
pub struct NarinfoPage {
    content: Vec<u8>,
    texts: Vec<(HashPart, Range<usize>)>,
    store_dir: StoreDir,
    page: u64,
}

impl NarinfoPage {
    pub(super) fn parse(page: &Page, content: Vec<u8>) -> Result<Self, CatalogError> {
        let mut texts = Vec::new();
        let mut start = 0;
        while start < content.len() {
            let end = content[start..]
                .windows(2)
                .position(|pair| pair == b"\n\n")
                .ok_or_else(|| page.damaged("its last narinfo does not end with an empty line"))?;
            let text = start..start + end + 1;
            let key = hash_part_of(&content[text.clone()])
                .ok_or_else(|| page.damaged("a narinfo has no StorePath"))?;
            start = text.end + 1;
            texts.push((key, text));
        }
        page.check_order(texts.iter().map(|(key, _)| *key))?;
        Ok(Self { content, texts, store_dir: page.store_dir.clone(), page: page.number })
    }

    /// Number of narinfos; never 0.
    #[allow(clippy::len_without_is_empty)] // a page has its first narinfo, or it is refused
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// The narinfo of a hash part.
    pub fn find(&self, key: &HashPart) -> Result<Option<Narinfo>, CatalogError> {
        match self.texts.binary_search_by_key(key, |(key, _)| *key) {
            Ok(at) => self.read(&self.texts[at]).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// All narinfos in order.
    pub fn narinfos(&self) -> impl Iterator<Item = Result<Narinfo, CatalogError>> {
        self.texts.iter().map(|text| self.read(text))
    }

    fn read(&self, (key, text): &(HashPart, Range<usize>)) -> Result<Narinfo, CatalogError> {
        let hash_part = *key;
        let narinfo = Narinfo::parse(&self.content[text.clone()])
            .map_err(|source| CatalogError::Narinfo { page: self.page, hash_part, source })?;
        // The parser allows one `StorePath` only, so its hash part is the key.
        if *narinfo.store_dir() != self.store_dir {
            return Err(CatalogError::OtherStore {
                hash_part,
                expected: self.store_dir.clone(),
                found: narinfo.store_dir().clone(),
            });
        }
        Ok(narinfo)
    }
}

/// The hash part that a narinfo is about, without reading the rest of it.
fn hash_part_of(text: &[u8]) -> Option<HashPart> {
    let path = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"StorePath:"))?;
    let name = path.rsplit(|byte| *byte == b'/').next()?;
    let hash_part = name.get(..HASH_PART_LENGTH)?;
    str::from_utf8(hash_part).ok()?.parse().ok()
}
