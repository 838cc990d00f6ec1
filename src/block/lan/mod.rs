//! Blocks from neighbours on this link (`lan:`), who come and go.
//!
//! Those that offer blocks are found by mDNS ([`Neighbours`]) and asked by N2R over HTTP, as any block server. A block is asked of one
//! that gave a block lately, and where it is not, or does not come soon, of the first that says it has it. What a neighbour gives is
//! hashed before it counts; one that lies, stalls or vanishes is left alone for a while. Nothing is put.

mod member;
mod search;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use reqwest::Client;
use tokio::time::Instant;

use self::member::Member;
use self::search::Search;
use super::race::Budget;
use super::web::neighbours_client;
use super::{Block, BlockStore, Error, Patience, Refusal};
use crate::eris::Reference;
use crate::lan::{Neighbour, Neighbours, ServiceKind};

/// What the URL is, which is all that it can be.
const NAME: &str = "lan:";
/// Requests in flight: 16 blocks of 32 KiB fill 1 Gbit/s at 4 ms, and as many connections to a neighbour are not too many for it.
const CONCURRENCY: usize = 16;
/// How long a neighbour is waited for. Its machine is near, but it may be a small one with a disk that sleeps, and it makes readers wait
/// their turn for 2 s. That it is late is found out long before ([`member::LATE`]).
const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(1),
    first_byte: Duration::from_secs(4),
    stall: Duration::from_secs(2),
    body: Duration::from_secs(4),
};
/// For how long it is remembered how a neighbour did that has gone. Whoever comes back at another port is no stranger.
const REMEMBERED: Duration = Duration::from_secs(300);
/// How many of those are remembered: twice as many as there can be neighbours.
const MOST_GONE: usize = 64;

/// A neighbour that has gone may come back within this time, as one does that is started anew: what nobody else has is not absent yet.
const BACK: Duration = Duration::from_secs(6);

/// The neighbours' blocks as one store. Without a neighbour every block is absent; in the first 1.5 s after the store was opened, what
/// none of those has who were found is asked of who is found next.
#[derive(Debug)]
pub struct Lan {
    neighbours: Arc<Neighbours>,
    client: Client,
    known: Mutex<Known>,
    budget: Mutex<Budget>,
}

/// The neighbours as they were when it was last looked.
#[derive(Debug, Default)]
struct Known {
    heard: Arc<[Neighbour]>,
    members: Vec<Arc<Member>>,
    /// Those that have gone, and when, the last one last.
    gone: VecDeque<(Instant, Arc<Member>)>,
}

impl Known {
    fn learn(&mut self, heard: Arc<[Neighbour]>, client: &Client) {
        let now = Instant::now();
        let is_there = |member: &Arc<Member>| heard.iter().any(|neighbour| neighbour.addr == member.addr());
        let (mut here, gone): (Vec<_>, Vec<_>) = self.members.drain(..).partition(is_there);
        self.gone.extend(gone.into_iter().map(|member| (now, member)));
        self.gone.retain(|(since, _)| now - *since < REMEMBERED);
        self.gone.drain(..self.gone.len().saturating_sub(MOST_GONE));
        for neighbour in heard.iter() {
            if let Some(member) = here.iter().find(|member| member.addr() == neighbour.addr) {
                member.renew(neighbour);
                continue;
            }
            let mut gone = self.gone.iter().rev().map(|(_, member)| member);
            let member = match gone.clone().find(|member| member.addr() == neighbour.addr) {
                Some(member) => {
                    member.renew(neighbour);
                    Some(member.clone())
                }
                None => {
                    let before = gone.find(|member| member.addr().ip() == neighbour.addr.ip());
                    Member::new(neighbour.clone(), client, before.map(|member| &**member)).map(Arc::new)
                }
            };
            here.extend(member);
        }
        self.gone.retain(|(_, member)| here.iter().all(|here| here.addr() != member.addr()));
        (self.members, self.heard) = (here, heard);
    }
}

impl Lan {
    /// Listens for neighbours from now on. Needs no runtime.
    pub fn browse() -> Result<Self, Error> {
        Self::of(Neighbours::browse(ServiceKind::EriBlocks).map_err(|error| unavailable(Arc::new(error)))?)
    }

    /// The blocks of these neighbours.
    pub fn of(neighbours: Arc<Neighbours>) -> Result<Self, Error> {
        let client = neighbours_client(PATIENCE).map_err(|error| unavailable(Arc::new(error)))?;
        Ok(Self { neighbours, client, known: Mutex::default(), budget: Mutex::default() })
    }

    /// Those that are there now. What is known of one is kept as long as it stays where it is, and for some minutes.
    fn members(&self) -> Vec<Arc<Member>> {
        let heard = self.neighbours.list();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&known.heard, &heard) {
            known.learn(heard, &self.client);
        }
        known.members.clone()
    }

    /// Asks those that are there; before it is known who is there, also those that are heard meanwhile.
    async fn search<T>(
        &self,
        reference: &Reference,
        ask: impl AsyncFn(Search<'_>) -> Result<T, Error>,
        is_answer: impl Fn(&Result<T, Error>) -> bool,
    ) -> Result<T, Error> {
        self.neighbours.first_heard().await;
        loop {
            let heard = self.neighbours.list();
            let members = self.members();
            let search = Search {
                neighbours: &self.neighbours,
                budget: &self.budget,
                members,
                has_lost: self.has_lost(),
                reference: *reference,
            };
            let answer = ask(search).await;
            if is_answer(&answer) || !self.neighbours.first_heard_others(&heard).await {
                return answer;
            }
        }
    }

    /// Whether somebody has gone a moment ago.
    fn has_lost(&self) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.gone.back().is_some_and(|(since, _)| since.elapsed() < BACK)
    }
}

fn unavailable(source: super::error::Source) -> Error {
    Error::Unavailable { reference: None, store: NAME.into(), retry_after: None, source }
}

#[async_trait]
impl BlockStore for Lan {
    fn name(&self) -> &str {
        NAME
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        self.search(reference, async |search| search.get().await, Result::is_ok).await
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        let is_answer = |answer: &Result<bool, Error>| matches!(answer, Ok(true));
        self.search(reference, async |search| search.has().await, is_answer).await
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
