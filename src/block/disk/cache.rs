//! The disk cache in front of another store.

use std::sync::Arc;

use async_trait::async_trait;
use futures::{FutureExt as _, StreamExt as _, stream, stream::BoxStream};

use super::{Disk, read::Found, store::BATCHES};
use crate::{
    block::{Block, BlockStore, Error},
    eris::Reference,
};

/// A store in front of which blocks are kept on disk. What comes from it is kept in the background; what is put to it is passed
/// on and not kept.
///
/// A hit whose block is in the kernel's page cache is ready at the first poll; only what waits for the disk goes to another thread.
#[derive(Debug)]
pub struct DiskCache {
    disk: Disk,
    inner: Arc<dyn BlockStore>,
}

type Answer = (Reference, Result<Block, Error>);

impl DiskCache {
    /// Keeps what `inner` gives, which must be verified, in `disk`.
    pub fn new(disk: Disk, inner: Arc<dyn BlockStore>) -> Self {
        Self { disk, inner }
    }

    /// The cache.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    async fn fetch(&self, reference: &Reference) -> Result<Block, Error> {
        let block = self.inner.get(reference).await?;
        self.disk.put_later(*reference, block.clone());
        Ok(block)
    }

    fn fetch_many(&self, references: Vec<Reference>) -> BoxStream<'_, Answer> {
        if references.is_empty() {
            return stream::empty().boxed();
        }
        let keep = |(reference, answer): &Answer| {
            if let Ok(block) = answer {
                self.disk.put_later(*reference, block.clone());
            }
        };
        self.inner.get_many(references).inspect(keep).boxed()
    }

    /// What is on the disk, by threads that may wait for it; then what turned out not to be there.
    fn wait_many(&self, references: Vec<Reference>) -> BoxStream<'_, Answer> {
        let read = self.disk.wait_many(references).collect::<Vec<_>>();
        read.map(move |read| {
            let (hits, misses): (Vec<_>, Vec<_>) = read.into_iter().partition(|(_, block)| block.is_some());
            let hits = hits.into_iter().filter_map(|(reference, block)| Some((reference, Ok(block?))));
            let misses = misses.into_iter().map(|(reference, _)| reference).collect();
            stream::iter(hits).chain(self.fetch_many(misses))
        })
        .flatten_stream()
        .boxed()
    }
}

#[async_trait]
impl BlockStore for DiskCache {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        let found = match self.disk.look_up(*reference) {
            Found::WouldWait => self.disk.wait(*reference).await,
            Found::Block(block) => Some(block),
            Found::Miss => None,
        };
        match found {
            Some(block) => Ok(block),
            None => self.fetch(reference).await,
        }
    }

    fn get_many<'a>(&'a self, references: Vec<Reference>) -> BoxStream<'a, Answer> {
        // Misses depart first, so that they travel while hits are read.
        let (near, absent) = self.disk.sort_out(references);
        let here = self.disk.read_near(near).map(move |near| {
            let hits = near.hits.into_iter().map(|(reference, block)| (reference, Ok(block)));
            let waited = match near.waiting.is_empty() {
                true => stream::empty().boxed(),
                false => self.wait_many(near.waiting),
            };
            stream::iter(hits).chain(stream::select(self.fetch_many(near.absent), waited))
        });
        stream::select(self.fetch_many(absent), here.flatten_unordered(BATCHES)).boxed()
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        Ok(self.disk.holds(*reference).await || self.inner.has(reference).await?)
    }

    async fn keeps(&self, reference: &Reference) -> Result<bool, Error> {
        self.inner.keeps(reference).await
    }

    async fn put(&self, reference: &Reference, block: Block) -> Result<(), Error> {
        self.inner.put(reference, block).await
    }

    async fn put_many(&self, blocks: Vec<(Reference, Block)>) -> Result<(), Error> {
        self.inner.put_many(blocks).await
    }

    async fn sync(&self) -> Result<(), Error> {
        self.inner.sync().await
    }

    fn concurrency(&self) -> usize {
        self.inner.concurrency()
    }

    fn press(&self) {
        self.inner.press();
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::Ordering::Relaxed, time::Duration};

    use rustix::io::ReadWriteFlags;

    use super::super::{layout::PAGE, slots::Wait};
    use super::*;
    use crate::{
        block::{Counted, Counts, DiskSettings, Fault, Faulty, Memory},
        eris::reference_of,
    };

    /// A disk cache over a store with faults that counts what reaches it, and 100 blocks in that store.
    struct Rig {
        cache: DiskCache,
        fault: Arc<Fault>,
        counts: Arc<Counts>,
        references: Vec<Reference>,
        _folder: tempfile::TempDir,
    }

    async fn rig() -> Rig {
        let memory = Memory::new();
        let blocks: Vec<_> = (0..100).map(|byte| Block::from(vec![byte; 32768])).collect();
        let references: Vec<_> = blocks.iter().map(|block| reference_of(block)).collect();
        for (reference, block) in references.iter().zip(blocks) {
            memory.put(reference, block).await.expect("memory takes blocks");
        }
        let fault = Arc::new(Fault::new(Arc::new(memory)));
        let counted = Counted::new(fault.clone());
        let counts = counted.counts();
        let folder = tempfile::tempdir().expect("a temporary directory");
        let settings = DiskSettings { size: 16 << 20, free_floor: 0, resize: true };
        let disk = Disk::open(folder.path(), settings).expect("a good size");
        Rig { cache: DiskCache::new(disk, Arc::new(counted)), fault, counts, references, _folder: folder }
    }

    impl Rig {
        /// What the kernel says of the block and of its place in the index.
        fn is_in_memory(&self, reference: &Reference) -> bool {
            let attached = self.cache.disk().handle.shared.attached().expect("it is open");
            let (place, _) =
                attached.slots.find(reference, Wait::Yes).expect("it may wait").expect("it is there");
            let file = std::fs::File::open(self.cache.disk().path().join("blocks")).expect("it is there");
            let layout = attached.slots.layout();
            let pages = layout.candidates(reference).map(|bucket| (layout.page_at(bucket), PAGE));
            let ranges = pages.into_iter().chain([(layout.slot_at(place), 32768)]);
            let mut buffer = [0; 32768];
            ranges.into_iter().all(|(at, length)| {
                let mut buffers = [std::io::IoSliceMut::new(&mut buffer[..length])];
                rustix::io::preadv2(&file, &mut buffers, at, ReadWriteFlags::NOWAIT) == Ok(length)
            })
        }

        async fn all(&self) -> usize {
            let answers: Vec<_> = self.cache.get_many(self.references.clone()).collect().await;
            let is_right = |(reference, answer): &&Answer| {
                answer.as_ref().is_ok_and(|block| reference_of(block) == *reference)
            };
            answers.iter().filter(is_right).count()
        }
    }

    #[tokio::test]
    async fn what_came_once_is_not_fetched_again_and_needs_no_store_below() {
        let rig = rig().await;
        assert_eq!((rig.all().await, rig.counts.requests()), (100, 100));
        rig.cache.disk().sync().expect("a writable disk");
        rig.fault.set_all(Faulty::Unavailable);
        assert_eq!((rig.all().await, rig.counts.requests()), (100, 100));
        rig.cache.get(&rig.references[5]).await.expect("it is kept");
        assert!(rig.cache.has(&rig.references[5]).await.expect("it is kept"));
        let stat = rig.cache.disk().stat();
        assert_eq!((stat.hits, stat.misses, stat.writes), (101, 100, 100));
    }

    #[tokio::test]
    async fn a_hit_in_the_page_cache_is_ready_at_the_first_poll() {
        let rig = rig().await;
        rig.all().await;
        rig.cache.disk().sync().expect("a writable disk");
        let wanted = &rig.references[..20];
        // Not every file system can tell what is in memory, and what is may be driven out.
        if !wanted.iter().all(|reference| rig.is_in_memory(reference)) {
            eprintln!("not checked: the file system of {:?} hides its page cache", std::env::temp_dir());
            return;
        }
        let hit = rig.cache.get(&wanted[0]).now_or_never();
        assert!(hit.is_some_and(|answer| answer.is_ok()));
        let batch = rig.cache.get_many(wanted.to_vec()).collect::<Vec<_>>().now_or_never();
        assert!(
            batch.is_some_and(|batch| batch.len() == 20 && batch.iter().all(|(_, answer)| answer.is_ok()))
        );
    }

    #[tokio::test]
    async fn a_spoiled_block_is_fetched_again_and_kept() {
        let rig = rig().await;
        rig.all().await;
        rig.cache.disk().sync().expect("a writable disk");
        let file = std::fs::OpenOptions::new().write(true).open(rig.cache.disk().path().join("blocks"));
        // Every slot of 32 KiB that there may be.
        for at in (0..14 << 20).step_by(16384).skip(2) {
            let file = file.as_ref().expect("it is there");
            std::os::unix::fs::FileExt::write_all_at(file, b"spoiled", at).expect("a writable file");
        }
        assert_eq!((rig.all().await, rig.counts.requests()), (100, 200));
        rig.cache.disk().sync().expect("a writable disk");
        assert_eq!((rig.all().await, rig.counts.requests()), (100, 200));
        assert!(rig.cache.disk().stat().bad > 0);
    }

    #[tokio::test]
    async fn what_is_put_goes_to_the_store_below_alone() {
        let rig = rig().await;
        let block = Block::from(vec![200; 1024]);
        let reference = reference_of(&block);
        rig.cache.put(&reference, block.clone()).await.expect("memory takes blocks");
        rig.cache.disk().sync().expect("a writable disk");
        assert!(!rig.cache.disk().contains(&reference));
        assert_eq!((rig.counts.blocks_put(), rig.cache.get(&reference).await.ok()), (1, Some(block)));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_come_from_below_and_are_not_kept() {
        let rig = rig().await;
        rig.fault.set(rig.references[3], Faulty::Unavailable);
        assert_eq!(rig.all().await, 99);
        rig.fault.clear();
        assert_eq!(rig.all().await, 100);
        rig.fault.set_all(Faulty::Slow(Duration::from_secs(5)));
        assert!(rig.cache.get(&reference_of(b"absent")).now_or_never().is_none());
        assert_eq!(rig.cache.disk().handle.shared.counts.dropped.load(Relaxed), 0);
    }
}
