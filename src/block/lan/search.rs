//! One block, asked of the neighbours that are there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::{Instant, sleep};

use super::NAME;
use super::member::Member;
use crate::block::{Block, Error};
use crate::eris::Reference;
use crate::lan::Neighbours;

/// A block that has not come after this long is looked for elsewhere, too. On a link it comes in milliseconds; a neighbour that is busy
/// with others, or that stalls, costs no more than this where another one has the block.
pub const LATE: Duration = Duration::from_millis(250);

/// The search for one block.
pub struct Search<'a> {
    neighbours: &'a Neighbours,
    members: Vec<Arc<Member>>,
    /// Those that are asked, by their places in `members`.
    open: Vec<usize>,
}

/// A request for the block itself.
struct Asked {
    place: usize,
    at: Instant,
    is_late: bool,
    is_answered: bool,
}

/// What came of a request, or of waiting for it.
enum Event {
    Got(usize, Result<Block, Error>),
    Has(usize, Result<bool, Error>),
    Late(usize),
}

impl<'a> Search<'a> {
    pub fn new(neighbours: &'a Neighbours, members: Vec<Arc<Member>>) -> Self {
        let open = (0..members.len()).filter(|place| members[*place].is_open()).collect();
        Self { neighbours, members, open }
    }

    /// Who is asked at once: of those that gave blocks lately, the one with the least to do, and of equals the last one that gave.
    fn favourite(&self) -> Option<usize> {
        let merits = self.open.iter().filter_map(|place| Some((*place, self.members[*place].merit()?)));
        let best = merits.min_by_key(|(_, (gave, in_flight))| (*in_flight, std::cmp::Reverse(*gave)));
        best.map(|(place, _)| place)
    }

    /// Asks the favourite. Where it has no answer soon, all others are asked whether they have the block, and then one after the other of
    /// those that do for the block itself, the next when one is late: so it is not sent many times.
    pub async fn get(self, reference: &Reference) -> Result<Block, Error> {
        let mut under_way: FuturesUnordered<BoxFuture<'_, Event>> = FuturesUnordered::new();
        let mut holders: VecDeque<usize> = self.favourite().into_iter().collect();
        let mut asked: Vec<Asked> = Vec::new();
        let mut others_asked = false;
        let mut failures = Vec::new();
        let mut unanswered = 0;
        loop {
            if asked.iter().all(|asked| asked.is_late || asked.is_answered) {
                if let Some(holder) = holders.pop_front() {
                    asked.push(Asked {
                        place: holder,
                        at: Instant::now(),
                        is_late: false,
                        is_answered: false,
                    });
                    unanswered += 1;
                    under_way.push(self.ask(holder, reference).boxed());
                    under_way.push(sleep(LATE).map(move |()| Event::Late(holder)).boxed());
                } else if !others_asked {
                    others_asked = true;
                    let is_asked = |place: &&usize| asked.iter().any(|asked| asked.place == **place);
                    for place in self.open.iter().filter(|place| !is_asked(place)) {
                        unanswered += 1;
                        under_way.push(self.ask_whether(*place, reference).boxed());
                    }
                }
            }
            if unanswered == 0 {
                return Err(self.nobody(reference, failures));
            }
            let event = under_way.next().await.expect("something is unanswered");
            match event {
                Event::Late(place) => {
                    asked
                        .iter_mut()
                        .filter(|asked| asked.place == place)
                        .for_each(|asked| asked.is_late = true);
                    continue;
                }
                Event::Got(place, answer) => {
                    asked
                        .iter_mut()
                        .filter(|asked| asked.place == place)
                        .for_each(|asked| asked.is_answered = true);
                    match answer {
                        Ok(block) => {
                            for asked in asked.iter().filter(|asked| asked.is_late && !asked.is_answered) {
                                self.members[asked.place].overtaken(self.neighbours, reference, asked.at);
                            }
                            return Ok(block);
                        }
                        Err(error) => failures.push(error),
                    }
                }
                Event::Has(place, Ok(true)) => holders.push_back(place),
                Event::Has(_, Ok(false)) => {}
                Event::Has(_, Err(error)) => failures.push(error),
            }
            unanswered -= 1;
        }
    }

    /// Whether anybody has the block.
    pub async fn has(self, reference: &Reference) -> Result<bool, Error> {
        let mut under_way: FuturesUnordered<_> =
            self.open.iter().map(|place| self.members[*place].has(self.neighbours, reference)).collect();
        let mut failures = Vec::new();
        while let Some(answer) = under_way.next().await {
            match answer {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) => failures.push(error),
            }
        }
        match self.nobody(reference, failures) {
            Error::NotFound { .. } => Ok(false),
            error => Err(error),
        }
    }

    async fn ask(&self, place: usize, reference: &Reference) -> Event {
        Event::Got(place, self.members[place].get(self.neighbours, reference).await)
    }

    async fn ask_whether(&self, place: usize, reference: &Reference) -> Event {
        Event::Has(place, self.members[place].has(self.neighbours, reference).await)
    }

    /// What it means that nobody gave the block. It is absent where all say so; one that failed, now or lately, may have it.
    fn nobody(&self, reference: &Reference, mut failures: Vec<Error>) -> Error {
        let left_alone = (0..self.members.len()).filter(|place| !self.open.contains(place));
        failures.extend(left_alone.filter_map(|place| self.members[place].fault(reference)));
        failures.retain(|error| !matches!(error, Error::NotFound { .. }));
        match failures.len() {
            0 => Error::NotFound { reference: *reference, store: NAME.into() },
            1 => failures.remove(0),
            _ => Error::AllFailed { reference: *reference, failures: failures.into() },
        }
    }
}
