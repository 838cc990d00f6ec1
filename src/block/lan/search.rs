//! One block, asked of the neighbours that are there.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::{Instant, sleep, sleep_until};

use super::NAME;
use super::member::{LATE, Member, Standing};
use crate::block::race::Budget;
use crate::block::{Block, Error};
use crate::eris::Reference;
use crate::lan::Neighbours;

/// For how long a block is asked for again of a neighbour that has others to serve. Each time, it has asked for a second.
const AGAIN: Duration = Duration::from_secs(4);

/// The search for one block.
pub struct Search<'a> {
    pub neighbours: &'a Neighbours,
    /// What blocks that are asked for twice are paid from.
    pub budget: &'a Mutex<Budget>,
    pub members: Vec<Arc<Member>>,
    /// Somebody has gone a moment ago, and may come back.
    pub has_lost: bool,
    pub reference: Reference,
}

/// Why a block is not absent that nobody has.
#[derive(Debug, thiserror::Error)]
#[error("a neighbour has gone a moment ago")]
struct Gone;

/// A request for the block itself.
struct Asked {
    place: usize,
    at: Instant,
    /// It was late once, when a second request could not be paid for.
    is_spared: bool,
    is_late: bool,
    /// It was late, and the neighbour gave no other block either.
    is_silent: bool,
    is_answered: bool,
}

impl Asked {
    /// Whether it is waited for alone.
    fn is_fresh(&self) -> bool {
        !self.is_late && !self.is_answered
    }
}

/// What came of a request, or of waiting for it. A neighbour is known by its place among the members, a request for the block by its
/// place among those.
enum Event {
    Got(usize, Result<Block, Error>),
    Late(usize),
    Has(usize, Option<Result<bool, Error>>),
    /// Who has not yet said whether it has the block has had its time.
    Waited,
    /// A neighbour that had others to serve may be asked.
    Rested(usize),
}

/// How far the search is.
struct Course<'s> {
    search: &'s Search<'s>,
    under_way: FuturesUnordered<BoxFuture<'s, Event>>,
    begun: Instant,
    /// Those that have the block, or may be expected to.
    holders: VecDeque<usize>,
    resting: usize,
    asked: Vec<Asked>,
    are_others_asked: bool,
    wondering: usize,
    has_waited: bool,
    /// Those that do not have it.
    without: Vec<usize>,
    failure: Option<Error>,
}

impl Search<'_> {
    /// Asks the favourite. Where it has no answer soon, all others are asked whether they have the block, and then one after the other of
    /// those that do for the block itself, the next when one is late: so it is not sent many times.
    pub async fn get(&self) -> Result<Block, Error> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner).earn(1);
        let mut course = Course {
            search: self,
            under_way: FuturesUnordered::new(),
            begun: Instant::now(),
            holders: self.favourite().into_iter().collect(),
            resting: 0,
            asked: Vec::new(),
            are_others_asked: false,
            wondering: 0,
            has_waited: false,
            without: Vec::new(),
            failure: None,
        };
        loop {
            course.send();
            if course.is_over() {
                return Err(self.nobody(&course.without, course.failure));
            }
            let event = course.under_way.next().await.expect("something is waited for");
            if let Some(block) = course.take(event) {
                return Ok(block);
            }
        }
    }

    /// Whether anybody has the block.
    pub async fn has(&self) -> Result<bool, Error> {
        let open = (0..self.members.len()).filter(|place| self.members[*place].standing() != Standing::Shut);
        let mut under_way: FuturesUnordered<_> = open
            .map(async |place| (place, self.members[place].has(self.neighbours, &self.reference).await))
            .collect();
        let (mut without, mut failure) = (Vec::new(), None);
        while let Some((place, answer)) = under_way.next().await {
            match answer {
                Some(Ok(true)) => return Ok(true),
                Some(Ok(false)) => without.push(place),
                Some(Err(error)) => failure = failure.or(Some(error).filter(Error::is_transient)),
                None => {}
            }
        }
        match self.nobody(&without, failure) {
            Error::NotFound { .. } => Ok(false),
            error => Err(error),
        }
    }

    /// Who is asked at once: of those that gave blocks lately, the one with the least to do, and of equals the last one that gave.
    fn favourite(&self) -> Option<usize> {
        let open = self.members.iter().enumerate().filter(|(_, member)| member.standing() == Standing::Open);
        let merits = open.filter_map(|(place, member)| Some((place, member.merit()?)));
        let best = merits.min_by_key(|(_, (gave, in_flight))| (*in_flight, std::cmp::Reverse(*gave)));
        best.map(|(place, _)| place)
    }

    /// What it means that nobody gave the block. It is absent where all say so, or are known to lie; one that failed, now or lately,
    /// may have it. That is its own fault: the neighbourhood as a whole is well.
    fn nobody(&self, without: &[usize], failure: Option<Error>) -> Error {
        let (reference, store) = (self.reference, NAME.into());
        let mut others = (0..self.members.len()).filter(|place| !without.contains(place));
        let doubtful = others.find_map(|place| match self.members[place].fault() {
            Some(fault) if !fault.is_transient() => None,
            Some(fault) => Some(fault),
            None => {
                let store = self.members[place].addr().to_string().into();
                Some(Error::TimedOut { reference, store, after: LATE })
            }
        });
        match failure.or(doubtful) {
            None if self.has_lost => Error::Partial { reference, store, source: Arc::new(Gone) },
            None => Error::NotFound { reference, store },
            Some(source) => Error::Partial { reference, store, source: Arc::new(source) },
        }
    }
}

impl Course<'_> {
    /// Sends what is to be sent now. One holder at a time is waited for; two, once one was silent: it may not be alone in that.
    fn send(&mut self) {
        loop {
            let fresh = self.asked.iter().filter(|asked| asked.is_fresh()).count();
            if fresh > usize::from(self.asked.iter().any(|asked| asked.is_silent)) {
                return;
            }
            if let Some(holder) = self.next_holder() {
                self.ask(holder);
            } else if !self.are_others_asked && fresh == 0 {
                self.ask_others();
            } else {
                return;
            }
        }
    }

    /// The next one to be asked for the block, of another host than those that are asked already if possible.
    fn next_holder(&mut self) -> Option<usize> {
        let members = &self.search.members;
        let ip = |place: usize| members[place].addr().ip();
        let mut busy = Vec::new();
        self.holders.retain(|place| match members[*place].standing() {
            Standing::Busy(until) => {
                busy.push((*place, until));
                false
            }
            _ => true,
        });
        for (place, until) in busy {
            if until < self.begun + AGAIN {
                self.resting += 1;
                self.under_way.push(sleep_until(until).map(move |()| Event::Rested(place)).boxed());
            }
        }
        let asked = &self.asked;
        let is_new = |place: &usize| !asked.iter().any(|a| !a.is_answered && ip(a.place) == ip(*place));
        let best = self.holders.iter().position(is_new).unwrap_or(0);
        self.holders.remove(best)
    }

    fn ask(&mut self, place: usize) {
        let (search, request) = (self.search, self.asked.len());
        self.asked.push(Asked {
            place,
            at: Instant::now(),
            is_spared: false,
            is_late: false,
            is_silent: false,
            is_answered: false,
        });
        let got = async move {
            Event::Got(request, search.members[place].get(search.neighbours, &search.reference).await)
        };
        self.under_way.push(got.boxed());
        self.wait(request);
    }

    /// Until the request is late.
    fn wait(&self, request: usize) {
        let late = self.search.members[self.asked[request].place].late();
        self.under_way.push(sleep(late).map(move |()| Event::Late(request)).boxed());
    }

    fn ask_others(&mut self) {
        let search = self.search;
        self.are_others_asked = true;
        for place in 0..search.members.len() {
            let is_asked = self.asked.iter().any(|asked| asked.place == place);
            if is_asked || search.members[place].standing() == Standing::Shut {
                continue;
            }
            self.wondering += 1;
            let has = async move {
                Event::Has(place, search.members[place].has(search.neighbours, &search.reference).await)
            };
            self.under_way.push(has.boxed());
        }
        self.under_way.push(sleep(LATE).map(|()| Event::Waited).boxed());
    }

    /// Whether there is nobody left to wait for. Where somebody has said that he does not have the block, those who say nothing are
    /// not waited for as long as if they were all there is.
    fn is_over(&self) -> bool {
        self.are_others_asked
            && self.resting == 0
            && self.holders.is_empty()
            && self.asked.iter().all(|asked| asked.is_answered)
            && (self.wondering == 0 || self.has_waited && !self.without.is_empty())
    }

    /// The block, if the event brought it.
    fn take(&mut self, event: Event) -> Option<Block> {
        match event {
            Event::Got(request, answer) => {
                let asked = &mut self.asked[request];
                asked.is_answered = true;
                let place = asked.place;
                match answer {
                    Ok(block) => return Some(block),
                    Err(Error::NotFound { .. }) => self.without.push(place),
                    Err(error) => {
                        // It has the block, and others to serve before.
                        if matches!(self.search.members[place].standing(), Standing::Busy(_)) {
                            self.holders.push_back(place);
                        }
                        self.fail(error);
                    }
                }
            }
            Event::Late(request) => self.late(request),
            Event::Has(place, answer) => {
                self.wondering -= 1;
                match answer {
                    Some(Ok(true)) => self.holders.push_back(place),
                    Some(Ok(false)) => self.without.push(place),
                    Some(Err(error)) => self.fail(error),
                    None => {}
                }
            }
            Event::Waited => self.has_waited = true,
            Event::Rested(place) => {
                self.resting -= 1;
                self.holders.push_back(place);
            }
        }
        None
    }

    /// A wrong answer is none: only what may be otherwise later is worth telling.
    fn fail(&mut self, error: Error) {
        if error.is_transient() {
            self.failure.get_or_insert(error);
        }
    }

    /// A neighbour that is slow is left its time: what is sent twice makes a slow link slower. One that is silent is not.
    fn late(&mut self, request: usize) {
        let asked = &mut self.asked[request];
        if asked.is_answered {
            return;
        }
        asked.is_silent = self.search.members[asked.place].is_silent_since(asked.at);
        let pay = || self.search.budget.lock().unwrap_or_else(PoisonError::into_inner).pay();
        asked.is_late = asked.is_silent || asked.is_spared || pay();
        asked.is_spared = true;
        if !asked.is_late {
            self.wait(request);
        }
    }
}
