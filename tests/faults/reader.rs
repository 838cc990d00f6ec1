//! Contents, read through the stores as the program puts them together.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use erisfs::{
    block::{self, Cache},
    content::{Content, Deadline, Error, Fetch, Limits},
    eris::ReadCapability,
};

/// Room for everything that a test reads.
const MEMORY: usize = 32 << 20;

const LIMITS: Limits = Limits { length: 16 << 20, tail: 0 };

/// Sources in order of preference, and the caches above them.
pub struct Reader {
    pub fetch: Arc<Fetch>,
}

impl Reader {
    pub fn new<S: AsRef<str>>(urls: &[S]) -> Self {
        let race = block::open_all(urls).expect("good URLs");
        let memory = Arc::new(Cache::new(race, MEMORY));
        Reader { fetch: Fetch::new(memory, MEMORY) }
    }

    /// The whole content.
    pub async fn read(&self, capability: &ReadCapability, within: Duration) -> Result<Vec<u8>, Error> {
        let deadline = Deadline::after(within);
        let content = Content::open(self.fetch.clone(), capability.clone(), LIMITS, deadline).await?;
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
