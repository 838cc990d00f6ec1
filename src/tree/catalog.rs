//! Catalogs read through their contents: a lookup fetches an index page and a page, and keeps a few.
//!
//! Memory does not grow with the catalog: of it only the tail is held, and the pages used last.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use lru::LruCache;

use super::object::UNLIMITED;
use super::{Error, Facts};
use crate::content::{self, Content, Deadline, Fetch, Limits};
use crate::eris::ReadCapability;
use crate::store::catalog::{self, Entry, NamePage, NarinfoPage, Opening, Table};
use crate::store::{HashPart, Narinfo, StoreDir, StorePath};

/// Parsed pages that are kept for each catalog: about 100 KiB each.
const PAGES: NonZeroUsize = NonZeroUsize::new(32).unwrap();
/// With the last block of a catalog comes the one before: the tail and the first index page.
const TAIL: u64 = 32 * 1024;

/// Why a catalog cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// Its bytes could not be had.
    #[error(transparent)]
    Content(#[from] content::Error),
    /// Its bytes are no valid catalog.
    #[error(transparent)]
    Format(#[from] catalog::CatalogError),
}

/// An opened catalog.
#[derive(Debug)]
pub struct Catalog {
    content: Arc<Content>,
    format: catalog::Catalog,
    names: Mutex<LruCache<u64, Arc<NamePage>>>,
    narinfos: Mutex<LruCache<u64, Arc<NarinfoPage>>>,
}

impl Catalog {
    /// Fetches the tail of the catalog that `capability` names.
    pub async fn open(
        fetch: Arc<Fetch>,
        capability: ReadCapability,
        deadline: Deadline,
    ) -> Result<Self, Error> {
        let name = content::Name::from(&capability);
        let opened = Self::try_open(fetch, capability, deadline).await;
        opened.map_err(|source| Error::Catalog { name, source: Arc::new(source) })
    }

    async fn try_open(
        fetch: Arc<Fetch>,
        capability: ReadCapability,
        deadline: Deadline,
    ) -> Result<Self, CatalogError> {
        let limits = Limits { length: UNLIMITED, tail: TAIL };
        let content = Arc::new(Content::open(fetch, capability, limits, deadline).await?);
        let mut range = catalog::Catalog::tail_range(content.length());
        loop {
            let tail = content.read_at(range, deadline).await?;
            match catalog::Catalog::open(&tail, content.length())? {
                Opening::Need(more) => range = more,
                Opening::Catalog(format) => {
                    let (names, narinfos) = (LruCache::new(PAGES), LruCache::new(PAGES));
                    let (names, narinfos) = (Mutex::new(names), Mutex::new(narinfos));
                    return Ok(Catalog { content, format, names, narinfos });
                }
            }
        }
    }

    /// How many store paths it lists.
    pub fn len(&self) -> u64 {
        self.format.paths()
    }

    /// Whether it lists nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The store directory of all its paths.
    pub fn store_dir(&self) -> &StoreDir {
        self.format.store_dir()
    }

    /// The URN that it was opened by.
    pub fn capability(&self) -> &ReadCapability {
        self.content.capability()
    }

    /// The content that it is.
    pub fn content(&self) -> &Arc<Content> {
        &self.content
    }

    async fn entry(&self, key: HashPart, deadline: Deadline) -> Result<Option<Entry>, CatalogError> {
        let Some(page) = self.page_with(Table::Names, &key, deadline).await? else { return Ok(None) };
        Ok(self.names(&page, deadline).await?.find(&key)?)
    }

    async fn narinfo(&self, key: HashPart, deadline: Deadline) -> Result<Option<Narinfo>, CatalogError> {
        let Some(page) = self.page_with(Table::Narinfos, &key, deadline).await? else { return Ok(None) };
        if let Some(kept) = self.narinfos.lock().expect("no panic while held").get(&page.number()) {
            return Ok(kept.find(&key)?);
        }
        let bytes = self.content.read_at(page.range(), deadline).await?;
        let narinfos = Arc::new(page.narinfos(&bytes)?);
        self.narinfos.lock().expect("no panic while held").put(page.number(), narinfos.clone());
        Ok(narinfos.find(&key)?)
    }

    /// The entries after `after` that stand in one page; none at the end.
    async fn entries_after(
        &self,
        after: Option<HashPart>,
        deadline: Deadline,
    ) -> Result<Vec<Entry>, CatalogError> {
        let start = after.unwrap_or(HashPart::from_sortable_bytes([0; 20]));
        let mut number = match self.page_with(Table::Names, &start, deadline).await? {
            Some(page) => page.number(),
            None => 0,
        };
        while let Some(index) = self.format.index_page_of(Table::Names, number) {
            let bytes = self.content.read_at(index.range(), deadline).await?;
            let Some(page) = index.nth(&bytes, number)? else { break };
            let names = self.names(&page, deadline).await?;
            let first = names.keys().take_while(|key| after.is_some_and(|after| *key <= after)).count();
            if first < names.len() {
                return Ok(names.entries().skip(first).collect::<Result<_, _>>()?);
            }
            number += 1;
        }
        Ok(Vec::new())
    }

    async fn page_with(
        &self,
        table: Table,
        key: &HashPart,
        deadline: Deadline,
    ) -> Result<Option<catalog::Page>, CatalogError> {
        let Some(index) = self.format.index_page(table, key) else { return Ok(None) };
        let bytes = self.content.read_at(index.range(), deadline).await?;
        Ok(index.find(&bytes, key)?)
    }

    async fn names(&self, page: &catalog::Page, deadline: Deadline) -> Result<Arc<NamePage>, CatalogError> {
        if let Some(kept) = self.names.lock().expect("no panic while held").get(&page.number()) {
            return Ok(kept.clone());
        }
        let bytes = self.content.read_at(page.range(), deadline).await?;
        let names = Arc::new(page.names(&bytes)?);
        self.names.lock().expect("no panic while held").put(page.number(), names.clone());
        Ok(names)
    }

    fn error(&self, source: CatalogError) -> Error {
        Error::Catalog { name: self.content.name(), source: Arc::new(source) }
    }
}

/// Several catalogs, asked in order of preference, listed as one. Cheap to clone.
#[derive(Debug, Default, Clone)]
pub struct Catalogs(Arc<[Catalog]>);

impl Catalogs {
    /// The first of `catalogs` is asked first.
    pub fn new(catalogs: Vec<Catalog>) -> Self {
        Catalogs(catalogs.into())
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Catalog> {
        self.0.iter()
    }

    /// How many store paths they list; what two of them list counts twice.
    pub fn paths(&self) -> u64 {
        self.0.iter().map(Catalog::len).fold(0, u64::saturating_add)
    }

    /// The store directory of the first.
    pub fn store_dir(&self) -> Option<&StoreDir> {
        self.0.first().map(Catalog::store_dir)
    }

    /// What the first that lists this hash part says of it.
    pub async fn find(
        &self,
        hash_part: HashPart,
        deadline: Deadline,
    ) -> Result<Option<(StorePath, Facts)>, Error> {
        for catalog in self.0.iter() {
            let found = catalog.entry(hash_part, deadline).await.map_err(|error| catalog.error(error))?;
            if let Some(Entry { path, kind, number }) = found {
                return Ok(Some((path, Facts { kind, number })));
            }
        }
        Ok(None)
    }

    /// The narinfo from the first that has it.
    pub async fn narinfo(&self, hash_part: HashPart, deadline: Deadline) -> Result<Option<Narinfo>, Error> {
        for catalog in self.0.iter() {
            let found = catalog.narinfo(hash_part, deadline).await.map_err(|error| catalog.error(error))?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Some of the store paths after `after`, in order, each once; none at the end.
    pub async fn entries_after(
        &self,
        after: Option<HashPart>,
        deadline: Deadline,
    ) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        let mut complete_to: Option<HashPart> = None;
        for catalog in self.0.iter() {
            let some = catalog.entries_after(after, deadline).await.map_err(|error| catalog.error(error))?;
            // Beyond the last that this catalog gave, it may have more: the others must not run ahead.
            if let Some(last) = some.last().map(|entry| entry.path.hash_part()) {
                complete_to = Some(complete_to.map_or(last, |end| end.min(last)));
            }
            entries.extend(some);
        }
        entries.retain(|entry| complete_to.is_some_and(|end| entry.path.hash_part() <= end));
        // Stable: of two with the same hash part the preferred catalog's stays.
        entries.sort_by_key(|entry| entry.path.hash_part());
        entries.dedup_by_key(|entry| entry.path.hash_part());
        Ok(entries)
    }
}
