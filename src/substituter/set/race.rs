//! One hash part, asked of all servers and overlays at once.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::time::{Instant, sleep, timeout_at};

use super::health::Turn;
use super::memory::{ABSENT, ABSENT_WITHOUT_ALL, Answer, BEFORE, KEPT, KEPT_WITHOUT_OVERLAY};
use super::overlays::Overlays;
use super::server::{Baking, Server};
use super::verdict::{Verdict, verdict};
use super::{Found, Policy, Set, Unsigned};
use crate::store::{HashPart, Narinfo, StoreDir};
use crate::substituter::{Error, Substituter};

/// How much longer than a good answer took a better server is waited for. Two servers on one continent differ by less
/// than 200 ms; from 300 ms on whoever lists a directory sees the wait.
pub(super) const GRACE: Duration = Duration::from_millis(300);
/// How long until a server that is still preparing a narinfo is asked again: first, and at most; it doubles. Guix
/// says 300 s, which is meant for clients that have other places to go; small things are ready within a second.
const BAKING: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));
/// How often it is asked at the most: over five minutes.
const BAKING_TRIES: u32 = 40;

pub(super) type Asked = BoxFuture<'static, (usize, Result<Option<Narinfo>, Error>)>;

/// Whether a server is still waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Yes, for a while even where a worse one has a good answer.
    Waited,
    /// While nobody has a good answer.
    Beside,
    /// No longer than others take: it is down, or was.
    Probed,
    /// It has answered, or is not asked.
    Done,
}

impl Place {
    /// Whether it has a little time where nobody need be waited for.
    fn has_grace(&self) -> bool {
        matches!(self, Self::Waited | Self::Probed)
    }
}

struct Race<'a> {
    set: &'a Set,
    hash_part: HashPart,
    store_dir: &'a StoreDir,
    ranked: Vec<Arc<Server>>,
    places: Vec<Place>,
    asked: FuturesUnordered<Asked>,
    /// For each server, how often it said that it is still preparing, and its mark.
    baking: Vec<(u32, Option<Baking>)>,
    best: Option<(usize, Narinfo, Verdict)>,
    failures: Vec<(usize, Error)>,
    /// Failures of neighbours: they count only where nobody else says anything.
    of_neighbours: Vec<(usize, Error)>,
    /// Somebody said that there is none.
    is_lacked: bool,
    /// A server that the user named said so.
    is_lacked_by_named: bool,
    passed_over: bool,
}

/// Asks, and remembers the answer.
pub(super) async fn find(
    set: &Set,
    hash_part: HashPart,
    store_dir: &StoreDir,
) -> Result<Option<Arc<Found>>, Error> {
    let mut overlays = Overlays::ask(set, hash_part, store_dir);
    let mut race = Race::start(set, hash_part, store_dir);
    overlays.beside(race.run()).await;
    let Some((rank, narinfo, mut verdict)) = race.best.take() else {
        return match race.nothing() {
            Ok(answer) => {
                set.memory.put(hash_part, &answer);
                Ok(None)
            }
            Err(error) => before(set, hash_part, Some(store_dir)).await.map(Some).ok_or(error),
        };
    };
    let is_complete = overlays.add(set, &narinfo, &mut verdict, store_dir).await;
    let found = found(narinfo, Arc::clone(&race.ranked[rank].place), verdict);
    if let Some(on_disk) = &set.on_disk {
        on_disk.keep(&found.narinfo);
    }
    let until = Instant::now() + if is_complete { KEPT } else { KEPT_WITHOUT_OVERLAY };
    set.memory.put(hash_part, &Answer { found: Some(Arc::clone(&found)), until });
    Ok(Some(found))
}

/// What a server said some time, where now all that could have it fail. Judged as if it came now; `store_dir`: where it is known.
pub(super) async fn before(
    set: &Set,
    hash_part: HashPart,
    store_dir: Option<&StoreDir>,
) -> Option<Arc<Found>> {
    let (narinfo, place) = set.on_disk.as_ref()?.get(hash_part).await?;
    let store_dir = store_dir.unwrap_or(narinfo.store_dir()).clone();
    let mut verdict = match verdict(&narinfo, hash_part, &store_dir, &set.policy) {
        Ok(verdict) => verdict,
        Err(refusal) => {
            tracing::debug!("a narinfo of before: {refusal}");
            return None;
        }
    };
    Overlays::ask(set, hash_part, &store_dir).add(set, &narinfo, &mut verdict, &store_dir).await;
    let found = found(narinfo, place, verdict);
    let until = Instant::now() + BEFORE;
    set.memory.put(hash_part, &Answer { found: Some(Arc::clone(&found)), until });
    Some(found)
}

fn found(narinfo: Narinfo, server: Arc<dyn Substituter>, verdict: Verdict) -> Arc<Found> {
    let Verdict { standing, bound, unbound } = verdict;
    Arc::new(Found { narinfo: Arc::new(narinfo), server, standing, bound, unbound })
}

/// Asks a server, after a pause.
pub(super) fn ask(
    rank: usize,
    server: &Arc<Server>,
    hash_part: HashPart,
    store_dir: &StoreDir,
    after: Duration,
) -> Asked {
    let (server, store_dir) = (Arc::clone(server), store_dir.clone());
    async move {
        if !after.is_zero() {
            sleep(after).await;
        }
        (rank, server.narinfo(hash_part, &store_dir).await)
    }
    .boxed()
}

/// Asks a server that is down. Nobody waits for it, so it must find its end also when this race has ended.
pub(super) fn probe(rank: usize, server: &Arc<Server>, hash_part: HashPart, store_dir: &StoreDir) -> Asked {
    let name = server.place.name().into();
    let task = tokio::spawn(ask(rank, server, hash_part, store_dir, Duration::ZERO));
    async move {
        task.await.unwrap_or_else(|ended| {
            (rank, Err(Error::Unavailable { server: name, retry_after: None, source: Arc::new(ended) }))
        })
    }
    .boxed()
}

impl<'a> Race<'a> {
    fn start(set: &'a Set, hash_part: HashPart, store_dir: &'a StoreDir) -> Self {
        let ranked = set.ranked();
        // Where all are down, there is nobody else to wait for.
        let all_down = ranked.iter().all(|server| server.is_down() || server.is_left_alone());
        let asked = FuturesUnordered::new();
        let mut passed_over = false;
        let places = ranked.iter().enumerate().map(|(rank, server)| {
            let turn = if all_down { Turn::Wait } else { server.turn() };
            let place = match turn {
                Turn::Wait => Place::Waited,
                Turn::Beside => Place::Beside,
                Turn::Probe => Place::Probed,
                Turn::Pass => Place::Done,
            };
            match place {
                Place::Waited | Place::Beside => {
                    asked.push(ask(rank, server, hash_part, store_dir, Duration::ZERO))
                }
                Place::Probed => asked.push(probe(rank, server, hash_part, store_dir)),
                Place::Done => passed_over = true,
            }
            place
        });
        let places = places.collect();
        let baking = ranked.iter().map(|_| (0, None)).collect();
        Race {
            set,
            hash_part,
            store_dir,
            ranked,
            places,
            asked,
            baking,
            best: None,
            failures: Vec::new(),
            of_neighbours: Vec::new(),
            is_lacked: false,
            is_lacked_by_named: false,
            passed_over,
        }
    }

    /// Until there is a best answer, or none to be had.
    async fn run(&mut self) {
        let mut grace = None;
        loop {
            let waits = match &self.best {
                Some((_, _, verdict)) if self.is_makeshift(verdict) => self.places.contains(&Place::Waited),
                Some((rank, ..)) => self.places[..*rank].contains(&Place::Waited),
                None => self.waits_for_any(),
            };
            let ends = self.best.is_some() || !waits;
            if !waits && (self.best.is_some() || !self.places.iter().any(Place::has_grace)) {
                return self.give_up_waiting();
            }
            if ends && grace.is_none() {
                grace = Some(Instant::now() + GRACE);
            }
            let next = match grace.filter(|_| ends) {
                Some(end) => timeout_at(end, self.asked.next()).await,
                None => Ok(self.asked.next().await),
            };
            match next {
                Ok(Some((rank, answer))) => self.take(rank, answer),
                Ok(None) => return,
                Err(_) => return self.give_up_waiting(),
            }
        }
    }

    /// Whether somebody is waited for as long as nobody has a good answer. Where a server that the user named lacks it, that is one:
    /// neighbours have a little time to have it all the same.
    fn waits_for_any(&self) -> bool {
        let is_awaited = |(server, place): (&Arc<Server>, &Place)| {
            matches!(place, Place::Waited | Place::Beside)
                && !(self.is_lacked_by_named && server.is_neighbour())
        };
        self.ranked.iter().zip(&self.places).any(is_awaited)
    }

    /// Whether a narinfo gives way to one that a trusted key signed, whichever server has that: clients of `serve` may trust the same key.
    fn is_makeshift(&self, verdict: &Verdict) -> bool {
        let Policy { keys, unsigned } = &self.set.policy;
        let has_keys = !keys.nix.is_empty() || !keys.guix.is_empty();
        *unsigned == Unsigned::CheckHash && has_keys && !verdict.is_signed()
    }

    fn take(&mut self, rank: usize, answer: Result<Option<Narinfo>, Error>) {
        let server = &self.ranked[rank];
        let place = std::mem::replace(&mut self.places[rank], Place::Done);
        match answer {
            Ok(Some(narinfo)) => match verdict(&narinfo, self.hash_part, self.store_dir, &self.set.policy) {
                Ok(verdict) => {
                    server.accepted();
                    let worth = |rank: usize, verdict: &Verdict| (!self.is_makeshift(verdict), Reverse(rank));
                    let new = worth(rank, &verdict);
                    if self.best.as_ref().is_none_or(|(best, _, verdict)| new > worth(*best, verdict)) {
                        self.best = Some((rank, narinfo, verdict));
                    }
                }
                Err(source) => {
                    let error =
                        Error::Untrusted { server: server.place.name().into(), source: Arc::new(source) };
                    server.refused(&error);
                    self.fail(rank, error);
                }
            },
            Ok(None) => {
                self.is_lacked = true;
                self.is_lacked_by_named |= !server.is_neighbour();
            }
            // Who knows whether it is. What comes of it is seen when it is asked for the next time.
            Err(Error::Baking { .. }) if server.is_neighbour() => {
                self.is_lacked = true;
                self.passed_over = true;
            }
            Err(Error::Baking { .. }) if self.baking[rank].0 < BAKING_TRIES => {
                let (times, mark) = &mut self.baking[rank];
                let pause = BAKING.0.saturating_mul(1 << (*times).min(16)).min(BAKING.1);
                *times += 1;
                mark.get_or_insert_with(|| server.bakes(self.hash_part));
                self.places[rank] = Place::Beside;
                self.asked.push(ask(rank, server, self.hash_part, self.store_dir, pause));
            }
            // That it is still down is nothing new.
            Err(_) if place == Place::Probed => self.passed_over = true,
            Err(error) => self.fail(rank, error),
        }
    }

    fn fail(&mut self, rank: usize, error: Error) {
        let is_neighbour = self.ranked[rank].is_neighbour();
        let failures = if is_neighbour { &mut self.of_neighbours } else { &mut self.failures };
        failures.push((rank, error));
    }

    /// Those that had their time: for a while nobody waits for them.
    fn give_up_waiting(&mut self) {
        let before = self.best.as_ref().map_or(self.ranked.len(), |(rank, ..)| *rank);
        for (server, place) in self.ranked[..before].iter().zip(&self.places) {
            match place {
                Place::Waited => {
                    server.late();
                    self.passed_over = true;
                }
                Place::Probed | Place::Beside => self.passed_over = true,
                Place::Done => {}
            }
        }
    }

    /// What it means that nobody has a good answer.
    fn nothing(&mut self) -> Result<Answer, Error> {
        if self.is_lacked {
            self.passed_over |= self.of_neighbours.drain(..).any(|(_, error)| error.is_transient());
        }
        self.failures.append(&mut self.of_neighbours);
        if !self.failures.is_empty() {
            self.failures.sort_by_key(|(rank, _)| *rank);
            let failures = self.failures.drain(..).map(|(_, error)| error).collect();
            return Err(Error::NoGood { hash_part: self.hash_part, failures });
        }
        let kept = if self.passed_over { ABSENT_WITHOUT_ALL } else { ABSENT };
        Ok(Answer { found: None, until: Instant::now() + kept })
    }
}
