//! Blocks from neighbours on this link (`lan:`), who come and go.
//!
//! Those that offer blocks are found by mDNS ([`Neighbours`]) and asked by N2R over HTTP, as any block server. A block is asked of one
//! that gave a block lately, and where it is not, or does not come soon, of the first that says it has it. What a neighbour gives is
//! hashed before it counts; one that lies, stalls or vanishes is left alone for a while. Nothing is put.

mod member;
mod search;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use self::member::Member;
use self::search::Search;
use super::{Block, BlockStore, Error, Patience, Refusal};
use crate::eris::Reference;
use crate::lan::{Neighbour, Neighbours, ServiceKind};

/// What the URL is, which is all that it can be.
const NAME: &str = "lan:";
/// Requests in flight: 16 blocks of 32 KiB fill 1 Gbit/s at 4 ms, and as many connections to a neighbour are not too many for it.
const CONCURRENCY: usize = 16;
/// How long a neighbour is waited for. Its machine is near, but it may be a small one with a disk that sleeps, and it makes readers wait
/// their turn for 2 s. That it is late is found out long before ([`search::LATE`]).
const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(1),
    first_byte: Duration::from_secs(4),
    stall: Duration::from_secs(2),
    body: Duration::from_secs(4),
};

/// The neighbours' blocks as one store. Without a neighbour every block is absent; in the first 1.5 s after the store was opened, a
/// request waits until one is found.
#[derive(Debug)]
pub struct Lan {
    neighbours: Arc<Neighbours>,
    known: Mutex<Known>,
}

/// The neighbours as they were when it was last looked.
#[derive(Debug, Default)]
struct Known {
    heard: Arc<[Neighbour]>,
    members: Vec<Arc<Member>>,
}

impl Lan {
    /// Listens for neighbours from now on. Needs no runtime.
    pub fn browse() -> Result<Self, Error> {
        let neighbours = Neighbours::browse(ServiceKind::EriBlocks);
        Ok(Self::of(neighbours.map_err(|error| Error::Unavailable {
            reference: None,
            store: NAME.into(),
            retry_after: None,
            source: Arc::new(error),
        })?))
    }

    /// The blocks of these neighbours.
    pub fn of(neighbours: Arc<Neighbours>) -> Self {
        Self { neighbours, known: Mutex::default() }
    }

    /// Those that are there now. What is known of one is kept as long as it stays where it is.
    fn members(&self) -> Vec<Arc<Member>> {
        let heard = self.neighbours.list();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&known.heard, &heard) {
            let member = |neighbour: &Neighbour| {
                let before = known.members.iter().find(|member| member.addr() == neighbour.addr);
                before.cloned().or_else(|| Member::new(neighbour.clone()).map(Arc::new))
            };
            known.members = heard.iter().filter_map(member).collect();
            known.heard = heard;
        }
        known.members.clone()
    }

    async fn search(&self) -> Search<'_> {
        self.neighbours.first_heard().await;
        Search::new(&self.neighbours, self.members())
    }
}

#[async_trait]
impl BlockStore for Lan {
    fn name(&self) -> &str {
        NAME
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        self.search().await.get(reference).await
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        self.search().await.has(reference).await
    }

    async fn put(&self, _: &Reference, _: Block) -> Result<(), Error> {
        Err(Error::Refused { store: NAME.into(), reason: Refusal::ReadOnly })
    }

    async fn sync(&self) -> Result<(), Error> {
        Ok(())
    }

    fn concurrency(&self) -> usize {
        CONCURRENCY
    }

    fn is_remote(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;
