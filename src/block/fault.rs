//! A store that misbehaves on command, so that tests can watch everything above it cope.
//!
//! Faults are set for chosen references or for all of them, and can be changed while the store is in use.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;

use super::{Block, BlockStore, Error};
use crate::eris::Reference;

/// What happens to a request for a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Faulty {
    /// The store does not have it.
    Missing,
    /// One bit of it is flipped.
    Corrupt,
    /// Its last byte is cut off.
    Truncated,
    /// A byte too many follows it.
    TooLong,
    /// The store is unavailable.
    Unavailable,
    /// The answer comes this much later.
    Slow(Duration),
    /// No answer ever comes.
    Silent,
}

/// A store with faults. Lies are told by this decorator itself, so put it under [`Verify`](super::Verify) to see them caught.
#[derive(Debug)]
pub struct Fault {
    inner: Arc<dyn BlockStore>,
    faults: Mutex<Faults>,
}

#[derive(Debug, Default)]
struct Faults {
    all: Option<Faulty>,
    chosen: HashMap<Reference, Faulty>,
}

impl Fault {
    /// `inner` without any fault yet.
    pub fn new(inner: Arc<dyn BlockStore>) -> Self {
        Self { inner, faults: Mutex::default() }
    }

    /// From now on requests for this block go wrong in this way.
    pub fn set(&self, reference: Reference, fault: Faulty) {
        self.faults().chosen.insert(reference, fault);
    }

    /// From now on requests for any block that has no fault of its own go wrong in this way.
    pub fn set_all(&self, fault: Faulty) {
        self.faults().all = Some(fault);
    }

    /// All is well again.
    pub fn clear(&self) {
        *self.faults() = Faults::default();
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits or fails as the fault of this block has it; a fault that is left changes the block itself.
    async fn before(&self, reference: &Reference) -> Result<Option<Faulty>, Error> {
        let fault = {
            let faults = self.faults();
            faults.chosen.get(reference).copied().or(faults.all)
        };
        match fault {
            Some(Faulty::Missing) => {
                Err(Error::NotFound { reference: *reference, store: self.name().into() })
            }
            Some(Faulty::Unavailable) => Err(Error::Unavailable {
                reference: Some(*reference),
                store: self.name().into(),
                retry_after: None,
                source: Arc::new(std::io::Error::other("a fault was asked for")),
            }),
            Some(Faulty::Silent) => std::future::pending().await,
            Some(Faulty::Slow(delay)) => {
                tokio::time::sleep(delay).await;
                Ok(None)
            }
            other => Ok(other),
        }
    }
}

#[async_trait]
impl BlockStore for Fault {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        let fault = self.before(reference).await?;
        let mut bytes = match fault {
            None => return self.inner.get(reference).await,
            Some(_) => self.inner.get(reference).await?.to_vec(),
        };
        match fault {
            Some(Faulty::Corrupt) => bytes.iter_mut().take(1).for_each(|byte| *byte ^= 1),
            Some(Faulty::Truncated) => bytes.truncate(bytes.len().saturating_sub(1)),
            _ => bytes.push(0),
        }
        Ok(bytes.into())
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        match self.before(reference).await {
            Ok(_) => self.inner.has(reference).await,
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn keeps(&self, reference: &Reference) -> Result<bool, Error> {
        match self.before(reference).await {
            Ok(_) => self.inner.keeps(reference).await,
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn put(&self, reference: &Reference, block: Block) -> Result<(), Error> {
        match self.before(reference).await {
            Ok(_) | Err(Error::NotFound { .. }) => self.inner.put(reference, block).await,
            Err(error) => Err(error),
        }
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

    fn is_remote(&self) -> bool {
        self.inner.is_remote()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::block::Memory;
    use crate::eris::reference_of;

    #[tokio::test(start_paused = true)]
    async fn each_fault_does_what_its_name_says_and_ends_when_cleared() {
        let block = Block::from(vec![1; 1024]);
        let reference = reference_of(&block);
        let fault = Fault::new(Arc::new(Memory::new()));
        fault.put(&reference, block.clone()).await.expect("memory takes blocks");
        let get = async |faulty| {
            fault.set(reference, faulty);
            fault.get(&reference).await
        };
        assert!(matches!(get(Faulty::Missing).await, Err(Error::NotFound { .. })));
        assert!(matches!(get(Faulty::Unavailable).await, Err(Error::Unavailable { .. })));
        let corrupt = get(Faulty::Corrupt).await.expect("an answer");
        assert_eq!((corrupt.len(), corrupt[0], &corrupt[1..]), (1024, 0, &block[1..]));
        assert_eq!(get(Faulty::Truncated).await.expect("an answer"), block[..1023]);
        assert_eq!(get(Faulty::TooLong).await.expect("an answer").len(), 1025);
        let begun = tokio::time::Instant::now();
        assert_eq!(get(Faulty::Slow(Duration::from_secs(5))).await.expect("an answer"), block);
        assert_eq!(begun.elapsed(), Duration::from_secs(5));
        fault.set(reference, Faulty::Silent);
        assert!(tokio::time::timeout(Duration::from_secs(3600), fault.get(&reference)).await.is_err());

        fault.clear();
        assert_eq!(fault.get(&reference).now_or_never().expect("ready").expect("an answer"), block);
        fault.set_all(Faulty::Missing);
        assert!(!fault.has(&reference).await.expect("an answer"));
    }
}
