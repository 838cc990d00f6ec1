//! All stores of a process, put together once: memory over disk over the race of the sources.
//!
//! Whoever wants blocks takes [`Stack::store`]; whoever wants to know how they are doing takes [`Stack::status`]. What
//! is already here can be asked for without any source ([`Stack::held`]): for telling what a read would cost, and while
//! there is no network.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;

use super::{
    Block, BlockStore, Cache, CacheStatus, Disk, DiskCache, DiskSettings, DiskStat, Error, Race,
    SourceStatus, open_each, open_source, open_with,
};
use crate::eris::Reference;
use crate::http::Access;

/// How the stores are put together.
#[derive(Debug, Clone, Default)]
pub struct StackSettings {
    /// Bytes of blocks that are kept in memory.
    pub memory_bytes: usize,
    /// Where blocks are kept on disk, and how many; `None`: nowhere. Ignored where all sources are on this machine.
    pub disk: Option<(PathBuf, DiskSettings)>,
    /// URLs of the stores that get what they lacked.
    pub reseed: Vec<String>,
    /// How web servers are reached.
    pub access: Access,
    /// Bytes a second to each of these; `None`: a megabyte to those across a network.
    pub reseed_rate: Option<u64>,
}

/// The stores of a process.
#[derive(Debug)]
pub struct Stack {
    memory: Arc<Cache>,
    disk: Option<Disk>,
    race: Arc<Race>,
}

/// Sources and caches as they are now.
#[derive(Debug, Clone, Serialize)]
pub struct StackStatus {
    /// The sources, in order of preference.
    pub sources: Vec<SourceStatus>,
    /// The disk cache, where there is one.
    pub disk: Option<DiskStatus>,
    /// Blocks in memory.
    pub memory: CacheStatus,
}

/// The disk cache, and where it is.
#[derive(Debug, Clone, Serialize)]
pub struct DiskStatus {
    /// The directory.
    pub dir: PathBuf,
    /// What it holds, and what this process had of it.
    #[serde(flatten)]
    pub stat: DiskStat,
}

impl StackStatus {
    /// Bytes of blocks that the sources gave.
    pub fn fetched_bytes(&self) -> u64 {
        self.sources.iter().map(|source| source.bytes).sum()
    }
}

/// How near a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Held {
    /// In memory.
    Memory,
    /// In the disk cache.
    Disk,
    /// Only a source may have it.
    Missing,
}

impl Stack {
    /// Opens the stores that `urls` name, in order of preference. Nothing is asked of them yet. A disk cache that
    /// cannot be used is left out, and the log says why.
    pub fn open<S: AsRef<str>>(urls: &[S], settings: StackSettings) -> Result<Self, Error> {
        let sources = open_each(urls, &settings.access, open_source)?;
        let reseed = settings.reseed.iter().map(|url| open_with(url, &settings.access));
        let reseed = reseed.collect::<Result<Vec<_>, _>>()?;
        // What is on this machine anyway would win nothing by a copy.
        let disk = settings.disk.filter(|_| sources.iter().any(|source| source.is_remote()));
        Ok(Self::over(
            Race::new(sources).with_reseed(reseed, settings.reseed_rate),
            settings.memory_bytes,
            disk,
        ))
    }

    /// Puts the caches before a race.
    pub fn over(race: Race, memory_bytes: usize, disk: Option<(PathBuf, DiskSettings)>) -> Self {
        let race = Arc::new(race);
        let disk = disk.and_then(|(dir, settings)| match Disk::open(&dir, settings) {
            Ok(disk) => Some(disk),
            Err(error) => {
                tracing::warn!("no disk cache: {error}");
                None
            }
        });
        let below: Arc<dyn BlockStore> = match &disk {
            Some(disk) => Arc::new(DiskCache::new(disk.clone(), race.clone())),
            None => race.clone(),
        };
        Stack { memory: Arc::new(Cache::new(below, memory_bytes)), disk, race }
    }

    /// Counts what `disk` holds as being here, too, where the sources are read without a cache on disk: NARs are downloaded into it.
    pub fn beside(mut self, disk: &Disk) -> Self {
        self.disk.get_or_insert_with(|| disk.clone());
        self
    }

    /// The store to read from.
    pub fn store(&self) -> Arc<dyn BlockStore> {
        self.memory.clone()
    }

    /// The sources.
    pub fn race(&self) -> &Arc<Race> {
        &self.race
    }

    /// The disk cache, where there is one.
    pub fn disk(&self) -> Option<&Disk> {
        self.disk.as_ref()
    }

    /// The blocks in memory.
    pub fn memory(&self) -> &Cache {
        &self.memory
    }

    /// Sources and caches as they are now; what the disk cache holds, as it was within the last second. To know that its index is
    /// read: milliseconds.
    pub fn status(&self) -> StackStatus {
        StackStatus {
            sources: self.race.sources(),
            disk: self
                .disk
                .as_ref()
                .map(|disk| DiskStatus { dir: disk.path().to_owned(), stat: disk.recent_stat() }),
            memory: self.memory.status(),
        }
    }

    /// How near a block is, without asking a source.
    pub fn whereabouts(&self, reference: &Reference) -> Held {
        if self.memory.peek(reference).is_some() {
            Held::Memory
        } else if self.disk.as_ref().is_some_and(|disk| disk.contains(reference)) {
            Held::Disk
        } else {
            Held::Missing
        }
    }

    /// A block that is here, without asking a source. Waits for the disk, so not for an async thread.
    pub fn held_block(&self, reference: &Reference) -> Option<Block> {
        self.memory.peek(reference).or_else(|| self.disk.as_ref()?.get(reference))
    }

    /// The blocks that are here, as a store: what neither memory nor disk has is not found. No source is asked.
    pub fn held(&self) -> Arc<dyn BlockStore> {
        Arc::new(HeldStore { memory: self.memory.clone(), disk: self.disk.clone(), local: Vec::new() })
    }

    /// The blocks that this machine holds, as a store: those that are [here](Self::held), and those of the sources that lie on it.
    /// Nobody is asked over a network.
    pub fn on_this_machine(&self) -> Arc<dyn BlockStore> {
        let local = self.race.local();
        Arc::new(HeldStore { memory: self.memory.clone(), disk: self.disk.clone(), local })
    }
}

/// What is here.
#[derive(Debug)]
struct HeldStore {
    memory: Arc<Cache>,
    disk: Option<Disk>,
    /// Asked after the caches.
    local: Vec<Arc<dyn BlockStore>>,
}

impl HeldStore {
    async fn on_disk(&self, reference: &Reference) -> Option<Block> {
        let (disk, wanted) = (self.disk.clone()?, *reference);
        tokio::task::spawn_blocking(move || disk.get(&wanted)).await.ok().flatten()
    }

    async fn is_on_disk(&self, reference: &Reference) -> bool {
        let (Some(disk), wanted) = (self.disk.clone(), *reference) else { return false };
        tokio::task::spawn_blocking(move || disk.contains(&wanted)).await.unwrap_or(false)
    }
}

/// What messages call it.
const HELD: &str = "what is cached here";

#[async_trait]
impl BlockStore for HeldStore {
    fn name(&self) -> &str {
        HELD
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        if let Some(block) = self.memory.peek(reference) {
            return Ok(block);
        }
        if let Some(block) = self.on_disk(reference).await {
            return Ok(block);
        }
        let mut answer = Error::NotFound { reference: *reference, store: HELD.into() };
        for store in &self.local {
            match store.get(reference).await {
                Err(Error::NotFound { .. }) => {}
                Err(error) => answer = error,
                block => return block,
            }
        }
        Err(answer)
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        if self.memory.peek(reference).is_some() || self.is_on_disk(reference).await {
            return Ok(true);
        }
        let mut answer = Ok(false);
        for store in &self.local {
            match store.has(reference).await {
                Ok(false) => {}
                Err(error) => answer = Err(error),
                here => return here,
            }
        }
        answer
    }

    async fn put(&self, _: &Reference, _: Block) -> Result<(), Error> {
        Err(Error::Refused { store: HELD.into(), reason: super::Refusal::ReadOnly })
    }

    async fn sync(&self) -> Result<(), Error> {
        Ok(())
    }

    fn concurrency(&self) -> usize {
        // Reads of a disk: more at a time than it has queues brings nothing.
        16
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{Counted, Memory};
    use crate::eris::reference_of;

    const DISK: DiskSettings = DiskSettings { size: DiskSettings::MIN_SIZE, free_floor: 0, resize: true };

    /// A store with two blocks.
    async fn source() -> (Arc<Memory>, [Reference; 2]) {
        let memory = Arc::new(Memory::new());
        let blocks = [1, 2].map(|byte| Block::from(vec![byte; 1024]));
        let references = [reference_of(&blocks[0]), reference_of(&blocks[1])];
        for (reference, block) in references.iter().zip(blocks) {
            memory.put(reference, block).await.expect("memory takes blocks");
        }
        (memory, references)
    }

    #[test]
    fn stores_of_this_machine_are_not_copied_to_its_disk() {
        let dir = tempfile::tempdir().unwrap();
        let settings = |name: &str| StackSettings {
            memory_bytes: 1 << 20,
            disk: Some((dir.path().join(name), DISK)),
            ..StackSettings::default()
        };
        let local = Stack::open(&["dir:/srv/blocks", "memory:"], settings("local")).unwrap();
        assert!(local.disk().is_none() && local.status().disk.is_none());
        let remote = Stack::open(&["dir:/srv/blocks", "http://127.0.0.1:1/"], settings("remote")).unwrap();
        assert_eq!(remote.status().disk.map(|disk| disk.dir), Some(dir.path().join("remote")));
    }

    #[test]
    fn a_cache_that_is_too_small_to_be_one_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Some((dir.path().to_owned(), DiskSettings { size: 1, free_floor: 0, resize: true }));
        let settings = StackSettings { memory_bytes: 1 << 20, disk, ..StackSettings::default() };
        assert!(Stack::open(&["http://127.0.0.1:1/"], settings).unwrap().disk().is_none());
    }

    #[test]
    fn without_a_store_there_is_no_stack() {
        assert!(matches!(Stack::open::<&str>(&[], StackSettings::default()), Err(Error::BadUrl { .. })));
    }

    #[tokio::test]
    async fn what_is_held_is_had_without_asking_a_source() {
        let (memory, [known, other]) = source().await;
        let counted = Arc::new(Counted::new(memory));
        let counts = counted.counts();
        let stack = Stack::over(Race::new(vec![counted]), 1 << 20, None);
        assert_eq!(stack.whereabouts(&known), Held::Missing);
        stack.store().get(&known).await.unwrap();
        assert_eq!((stack.whereabouts(&known), stack.whereabouts(&other)), (Held::Memory, Held::Missing));
        let held = stack.held();
        assert!(held.get(&known).await.is_ok() && held.has(&known).await.unwrap());
        assert!(matches!(held.get(&other).await, Err(Error::NotFound { .. })));
        assert!(!held.has(&other).await.unwrap());
        assert_eq!(counts.requests(), 1);
    }

    #[tokio::test]
    async fn what_lies_on_this_machine_is_had_without_a_network() {
        let (near, [here, _]) = source().await;
        let far = Arc::new(Memory::new());
        let block = Block::from(vec![3; 1024]);
        let elsewhere = reference_of(&block);
        far.put(&elsewhere, block).await.unwrap();
        let far = Arc::new(Counted::new(Arc::new(Remote(far))));
        let counts = far.counts();
        let stack = Stack::over(Race::new(vec![far, near]), 1 << 20, None);
        let store = stack.on_this_machine();
        assert!(store.get(&here).await.is_ok() && store.has(&here).await.unwrap());
        assert!(matches!(store.get(&elsewhere).await, Err(Error::NotFound { .. })));
        assert!(!store.has(&elsewhere).await.unwrap());
        assert_eq!(counts.requests(), 0);
        // Once it was read, it is here.
        stack.store().get(&elsewhere).await.unwrap();
        assert!(store.get(&elsewhere).await.is_ok());
        assert!(stack.held().get(&here).await.is_err(), "what is cached is told apart from that");
    }

    /// A store across a network.
    #[derive(Debug)]
    struct Remote(Arc<Memory>);

    #[async_trait]
    impl BlockStore for Remote {
        fn name(&self) -> &str {
            "remote"
        }
        async fn get(&self, reference: &Reference) -> Result<Block, Error> {
            self.0.get(reference).await
        }
        async fn has(&self, reference: &Reference) -> Result<bool, Error> {
            self.0.has(reference).await
        }
        async fn put(&self, reference: &Reference, block: Block) -> Result<(), Error> {
            self.0.put(reference, block).await
        }
        async fn sync(&self) -> Result<(), Error> {
            Ok(())
        }
        fn concurrency(&self) -> usize {
            self.0.concurrency()
        }
        fn is_remote(&self) -> bool {
            true
        }
    }

    #[tokio::test]
    async fn a_block_that_left_memory_is_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let (memory, [known, _]) = source().await;
        // Memory for nothing.
        let stack = Stack::over(Race::new(vec![memory]), 0, Some((dir.path().to_owned(), DISK)));
        stack.store().get(&known).await.unwrap();
        stack.disk().unwrap().sync().unwrap();
        assert_eq!(stack.whereabouts(&known), Held::Disk);
        assert!(stack.held_block(&known).is_some() && stack.held().get(&known).await.is_ok());
        assert_eq!(stack.status().memory.entries, 0);
    }
}
