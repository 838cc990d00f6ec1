//! Finding things in a catalog without doing I/O.
//!
//! [`Catalog::open`] takes the last bytes; after that [`Catalog::index_page`] names the part of the
//! index to read, [`IndexPage::find`] the page to read, and the page finds the entry. Only the tail
//! is kept: 20 bytes for 768 pages.

use std::fmt;
use std::ops::Range;

use super::page::{NamePage, NarinfoPage};
use super::{
    CatalogError, FANOUT, FOOTER, FRAME_HEADER, INDEX_ENTRY, KEY, MAGIC, MAX_PAGE, MAX_TAIL, SKIPPABLE,
    TAIL_TAG, Table, VERSION,
};
use crate::store::path::{HashPart, StoreDir};

/// ERIS leaves of a big content start at multiples of this.
const LEAF: u64 = 32 << 10;

/// Bytes that the first read of a tail covers at least.
const FIRST_READ: u64 = 4 << 10;

/// What came of opening a catalog.
#[derive(Debug)]
pub enum Opening {
    /// These bytes, up to the end of the content, are needed.
    Need(Range<u64>),
    /// The catalog.
    Catalog(Catalog),
}

/// An open catalog: its store directory, and the roots of its index.
#[derive(Clone)]
pub struct Catalog {
    store_dir: StoreDir,
    paths: u64,
    narinfos: Index,
    names: Index,
}

#[derive(Clone)]
struct Index {
    /// Where its entries start in the content.
    offset: u64,
    pages: u64,
    /// All pages lie below this offset.
    pages_end: u64,
    /// First hash part of each index page.
    roots: Box<[HashPart]>,
}

impl fmt::Debug for Catalog {
    /// Without the roots, which may be many.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalog")
            .field("store_dir", &self.store_dir)
            .field("paths", &self.paths)
            .field("narinfo_pages", &self.narinfos.pages)
            .field("name_pages", &self.names.pages)
            .finish()
    }
}

impl Catalog {
    /// What to read first of a content of `length` bytes: its last leaf, or its last two.
    pub fn tail_range(length: u64) -> Range<u64> {
        length.saturating_sub(FIRST_READ) / LEAF * LEAF..length
    }

    /// Opens the catalog from the last bytes of a content of `length` bytes.
    ///
    /// [`Opening::Need`] asks to call again with more bytes from the end; never more than 1 MiB.
    pub fn open(tail: &[u8], length: u64) -> Result<Opening, CatalogError> {
        let footer = Footer::parse(tail)?;
        let start = length
            .checked_sub(u64::from(footer.tail_length))
            .ok_or(CatalogError::Footer { reason: "the tail is longer than the content" })?;
        let layout = footer.check(start)?;
        let Some(frame) = tail.len().checked_sub(footer.tail_length as usize) else {
            return Ok(Opening::Need(start..length));
        };
        let frame = &tail[frame..];
        let payload = footer.tail_length - 8;
        if frame[..4] != SKIPPABLE.to_le_bytes()
            || frame[4..8] != payload.to_le_bytes()
            || &frame[8..FRAME_HEADER] != TAIL_TAG
        {
            return Err(CatalogError::Footer { reason: "the tail is not in a skippable frame of its own" });
        }
        let body = &frame[FRAME_HEADER..frame.len() - FOOTER];
        let (keys, store_dir) = body.split_at(layout.roots() * KEY);
        let (keys, _) = keys.as_chunks::<KEY>();
        let keys: Vec<_> = keys.iter().map(|key| HashPart::from_sortable_bytes(*key)).collect();
        let (narinfo_roots, name_roots) = keys.split_at(layout.narinfo_roots);
        for (table, roots) in [(Table::Narinfos, narinfo_roots), (Table::Names, name_roots)] {
            if let Some(at) = roots.windows(2).position(|pair| pair[0] >= pair[1]) {
                let page = (at as u64 + 1) * FANOUT;
                return Err(CatalogError::IndexOrder { table, page });
            }
        }
        let store_dir = str::from_utf8(store_dir)
            .map_err(|_| CatalogError::Footer { reason: "the store directory is not UTF-8" })?
            .parse()
            .map_err(|source| CatalogError::StoreDir { source })?;
        let index = |offset, pages, roots: &[HashPart]| Index {
            offset,
            pages,
            pages_end: footer.index_offset,
            roots: roots.into(),
        };
        Ok(Opening::Catalog(Self {
            store_dir,
            paths: footer.paths,
            narinfos: index(footer.index_offset, footer.narinfo_pages, narinfo_roots),
            names: index(layout.names_offset, footer.name_pages, name_roots),
        }))
    }

    /// The directory that the store paths lie in.
    pub fn store_dir(&self) -> &StoreDir {
        &self.store_dir
    }

    /// Number of store paths, as the catalog says itself.
    pub fn paths(&self) -> u64 {
        self.paths
    }

    /// Number of pages of a table.
    pub fn pages(&self, table: Table) -> u64 {
        self.index(table).pages
    }

    /// The part of the index in which `key` would be; none where it is before all keys.
    pub fn index_page(&self, table: Table, key: &HashPart) -> Option<IndexPage> {
        let roots = &self.index(table).roots;
        let after = roots.partition_point(|root| root <= key) as u64;
        self.nth_index_page(table, after.checked_sub(1)?)
    }

    /// The part of the index that tells where page `page` of `table` is; none beyond the last. For
    /// reading a whole table in order, from any page on.
    pub fn index_page_of(&self, table: Table, page: u64) -> Option<IndexPage> {
        let inside = page < self.index(table).pages;
        inside.then(|| self.nth_index_page(table, page / FANOUT))?
    }

    fn nth_index_page(&self, table: Table, number: u64) -> Option<IndexPage> {
        let index = self.index(table);
        let at = usize::try_from(number).ok()?;
        let first = *index.roots.get(at)?;
        let first_page = number * FANOUT;
        let entries = FANOUT.min(index.pages - first_page);
        let start = index.offset + first_page * INDEX_ENTRY;
        Some(IndexPage {
            table,
            first_page,
            range: start..start + entries * INDEX_ENTRY,
            first,
            before: index.roots.get(at + 1).copied(),
            pages_end: index.pages_end,
            store_dir: self.store_dir.clone(),
        })
    }

    fn index(&self, table: Table) -> &Index {
        match table {
            Table::Narinfos => &self.narinfos,
            Table::Names => &self.names,
        }
    }
}

struct Footer {
    paths: u64,
    narinfo_pages: u64,
    name_pages: u64,
    index_offset: u64,
    tail_length: u32,
    store_dir_length: u16,
}

struct Layout {
    names_offset: u64,
    narinfo_roots: usize,
    name_roots: usize,
}

impl Layout {
    fn roots(&self) -> usize {
        self.narinfo_roots + self.name_roots
    }
}

impl Footer {
    fn parse(tail: &[u8]) -> Result<Self, CatalogError> {
        let Some((_, footer)) = tail.split_last_chunk::<FOOTER>() else {
            return Err(CatalogError::NotACatalog { reason: "it is shorter than a footer" });
        };
        if !footer.ends_with(MAGIC) {
            return Err(CatalogError::NotACatalog { reason: "it does not end with ERISCAT" });
        }
        let version = u16::from_le_bytes(bytes_at(footer, 38));
        if version != VERSION {
            return Err(CatalogError::Version { found: version });
        }
        Ok(Self {
            paths: u64::from_le_bytes(bytes_at(footer, 0)),
            narinfo_pages: u64::from_le_bytes(bytes_at(footer, 8)),
            name_pages: u64::from_le_bytes(bytes_at(footer, 16)),
            index_offset: u64::from_le_bytes(bytes_at(footer, 24)),
            tail_length: u32::from_le_bytes(bytes_at(footer, 32)),
            store_dir_length: u16::from_le_bytes(bytes_at(footer, 36)),
        })
    }

    /// Every number of the footer follows from the others and from where the tail starts.
    fn check(&self, tail_start: u64) -> Result<Layout, CatalogError> {
        let narinfo_roots = self.narinfo_pages.div_ceil(FANOUT);
        let name_roots = self.name_pages.div_ceil(FANOUT);
        let fixed = (FRAME_HEADER + FOOTER) as u64 + u64::from(self.store_dir_length);
        let tail_length =
            narinfo_roots.saturating_add(name_roots).saturating_mul(KEY as u64).saturating_add(fixed);
        if self.tail_length > MAX_TAIL {
            return Err(CatalogError::Footer { reason: "its tail is over 1 MiB" });
        }
        if tail_length != u64::from(self.tail_length) {
            return Err(CatalogError::Footer {
                reason: "the length of its tail does not fit its number of pages",
            });
        }
        // The tail fits into 1 MiB, so there are few pages: none of this can overflow but the offset.
        let names_offset = self.index_offset.saturating_add(self.narinfo_pages * INDEX_ENTRY);
        if names_offset.saturating_add(self.name_pages * INDEX_ENTRY) != tail_start {
            return Err(CatalogError::Footer { reason: "its index does not end where its tail starts" });
        }
        Ok(Layout { names_offset, narinfo_roots: narinfo_roots as usize, name_roots: name_roots as usize })
    }
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("N bytes make N bytes")
}

/// Up to 768 entries of the index, to be read at [`IndexPage::range`].
#[derive(Debug, Clone)]
pub struct IndexPage {
    table: Table,
    first_page: u64,
    range: Range<u64>,
    first: HashPart,
    before: Option<HashPart>,
    pages_end: u64,
    store_dir: StoreDir,
}

impl IndexPage {
    /// The bytes of the content to read.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// The page in which `key` would be. `bytes` are those at [`IndexPage::range`].
    pub fn find(&self, bytes: &[u8], key: &HashPart) -> Result<Option<Page>, CatalogError> {
        let entries = self.entries(bytes)?;
        let after = entries.partition_point(|entry| key_of(entry) <= *key);
        after.checked_sub(1).map(|at| self.page(entries, at)).transpose()
    }

    /// Page `page` of the table; none where this part of the index does not have it. `bytes` are
    /// those at [`IndexPage::range`].
    pub fn nth(&self, bytes: &[u8], page: u64) -> Result<Option<Page>, CatalogError> {
        let entries = self.entries(bytes)?;
        page.checked_sub(self.first_page)
            .filter(|at| *at < entries.len() as u64)
            .map(|at| self.page(entries, at as usize))
            .transpose()
    }

    fn entries<'a>(&self, bytes: &'a [u8]) -> Result<&'a [[u8; 36]], CatalogError> {
        check_length(&self.range, bytes)?;
        let (entries, _) = bytes.as_chunks::<{ INDEX_ENTRY as usize }>();
        let sorted = entries.windows(2).position(|pair| key_of(&pair[0]) >= key_of(&pair[1]));
        let wrong = if entries.first().map(key_of) != Some(self.first) {
            Some(0)
        } else if self.before.is_some_and(|end| entries.last().map(key_of) >= Some(end)) {
            Some(entries.len() - 1)
        } else {
            sorted
        };
        match wrong {
            Some(at) => {
                Err(CatalogError::IndexOrder { table: self.table, page: self.first_page + at as u64 })
            }
            None => Ok(entries),
        }
    }

    fn page(&self, entries: &[[u8; 36]], at: usize) -> Result<Page, CatalogError> {
        let entry = &entries[at];
        let offset = u64::from_le_bytes(bytes_at(entry, 20));
        let compressed = u32::from_le_bytes(bytes_at(entry, 28));
        let decompressed = u32::from_le_bytes(bytes_at(entry, 32));
        let page = self.first_page + at as u64;
        let end = offset.saturating_add(u64::from(compressed));
        let sized = |length: u32| length > 0 && length <= MAX_PAGE;
        if end > self.pages_end || !sized(compressed) || !sized(decompressed) {
            return Err(CatalogError::PageRange {
                table: self.table,
                page,
                offset,
                compressed,
                decompressed,
            });
        }
        Ok(Page {
            table: self.table,
            number: page,
            range: offset..end,
            decompressed,
            first: key_of(entry),
            before: entries.get(at + 1).map(key_of).or(self.before),
            store_dir: self.store_dir.clone(),
        })
    }
}

fn key_of(entry: &[u8; 36]) -> HashPart {
    HashPart::from_sortable_bytes(bytes_at(entry, 0))
}

fn check_length(range: &Range<u64>, bytes: &[u8]) -> Result<(), CatalogError> {
    let (expected, found) = (range.end - range.start, bytes.len() as u64);
    if expected == found { Ok(()) } else { Err(CatalogError::WrongLength { expected, found }) }
}

/// A page of a table, to be read at [`Page::range`].
#[derive(Debug, Clone)]
pub struct Page {
    pub(super) table: Table,
    pub(super) number: u64,
    range: Range<u64>,
    decompressed: u32,
    /// The page's first key; its keys are below `before`.
    pub(super) first: HashPart,
    pub(super) before: Option<HashPart>,
    pub(super) store_dir: StoreDir,
}

impl Page {
    /// The bytes of the content to read: 2 MiB at the most, about 24 KiB in most catalogs.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Number of the page in its table, from 0.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Reads a page of the table of names. `bytes` are those at [`Page::range`].
    pub fn names(&self, bytes: &[u8]) -> Result<NamePage, CatalogError> {
        NamePage::parse(self, self.decompress(Table::Names, bytes)?)
    }

    /// Reads a page of the table of narinfos. `bytes` are those at [`Page::range`].
    pub fn narinfos(&self, bytes: &[u8]) -> Result<NarinfoPage, CatalogError> {
        NarinfoPage::parse(self, self.decompress(Table::Narinfos, bytes)?)
    }

    fn decompress(&self, table: Table, bytes: &[u8]) -> Result<Vec<u8>, CatalogError> {
        if table != self.table {
            return Err(self.damaged("it is a page of the other table"));
        }
        check_length(&self.range, bytes)?;
        let expected = self.decompressed as usize;
        let content = zstd::bulk::decompress(bytes, expected)
            .map_err(|source| CatalogError::Compression { table, page: self.number, source })?;
        if content.len() != expected {
            return Err(self.damaged("it has another length than the index says"));
        }
        Ok(content)
    }

    pub(super) fn damaged(&self, reason: &'static str) -> CatalogError {
        CatalogError::Layout { table: self.table, page: self.number, reason }
    }

    /// Keys of a page are sorted, start with the one that the index has, and end before the next.
    pub(super) fn check_order(&self, mut keys: impl Iterator<Item = HashPart>) -> Result<(), CatalogError> {
        let Some(mut last) = keys.next().filter(|first| *first == self.first) else {
            return Err(self.damaged("it does not start with the hash part that the index has"));
        };
        for key in keys {
            if key <= last {
                return Err(self.damaged("its hash parts are not in order"));
            }
            last = key;
        }
        if self.before.is_some_and(|end| last >= end) {
            return Err(self.damaged("it reaches into the next page"));
        }
        Ok(())
    }
}
