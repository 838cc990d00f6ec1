//! Contents, read through the stores as the program puts them together.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use erisfs::{
    block::{DiskSettings, Stack, StackSettings},
    content::{Content, Deadline, Error, Fetch, Limits},
    eris::ReadCapability,
};
use tempfile::TempDir;

/// Room for everything that a test reads.
const MEMORY: usize = 32 << 20;

const LIMITS: Limits = Limits { length: 16 << 20, tail: 0 };

/// Sources in order of preference, and the caches above them: memory, and a disk cache of its own.
pub struct Reader {
    urls: Vec<String>,
    dir: Arc<TempDir>,
    stack: Stack,
    pub fetch: Arc<Fetch>,
}

impl Reader {
    pub fn new(urls: &[String]) -> Self {
        Self::with(urls.to_vec(), Arc::new(TempDir::new().expect("a temporary directory")))
    }

    fn with(urls: Vec<String>, dir: Arc<TempDir>) -> Self {
        let disk =
            Some((dir.path().to_owned(), DiskSettings { size: 64 << 20, free_floor: 0, resize: true }));
        let settings = StackSettings { memory_bytes: MEMORY, disk, ..StackSettings::default() };
        let stack = Stack::open(&urls, settings).expect("good URLs");
        Reader { fetch: Fetch::new(stack.store(), MEMORY), urls, dir, stack }
    }

    /// The same sources and the same disk cache, and nothing in memory, as after a restart.
    pub async fn restarted(&mut self) {
        let disk = self.stack.disk().expect("it was opened").clone();
        tokio::task::spawn_blocking(move || disk.sync()).await.expect("no panic").expect("a disk");
        *self = Self::with(self.urls.clone(), self.dir.clone());
    }

    /// The whole content.
    pub async fn read(&self, capability: &ReadCapability, within: Duration) -> Result<Vec<u8>, Error> {
        let deadline = Deadline::after(within);
        let content = Content::open(self.fetch.clone(), *capability, LIMITS, deadline).await?;
        Ok(content.read_at(0..content.length(), deadline).await?.to_vec())
    }

    /// Reads again and again until it works.
    pub async fn read_at_last(&self, capability: &ReadCapability) -> Vec<u8> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            match self.read(capability, Duration::from_secs(5)).await {
                Ok(bytes) => return bytes,
                Err(error) => assert!(Instant::now() < end, "it never recovers: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
