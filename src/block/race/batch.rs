//! Blocks on their way: a stream that asks the sources, moves on block by block, and ends when each has its answer.
//!
//! No task is spawned: the stream polls its requests, and dropping it drops them. Where a source bounds itself (a directory, a
//! database), it is handed all blocks that are to be asked of it at a time; across a network each is a request with a permit.

mod late;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::{
    FutureExt as _, Stream, StreamExt as _,
    future::{AbortHandle, Abortable, BoxFuture},
    stream::{self, BoxStream, SelectAll},
};
use tokio::{
    sync::SemaphorePermit,
    time::{Instant, Sleep, sleep_until},
};

use super::{
    Answer, Race,
    reseed::Foreground,
    source::{Ask, Source, Standing},
    want::{Asked, HINTS, Outcome, Want, all_failed},
};
use crate::block::{Block, Error};
use crate::eris::Reference;

/// Answers looked at before the first of them is passed on.
const AT_ONCE: usize = 64;
/// When nothing could be done about a silent source, this is the wait before looking again: another may have come back.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// With every source cooling down, a request that gets no answer is given up after this.
const FORCED: Duration = Duration::from_secs(5);

/// The stream of answers.
pub struct Batch<'a> {
    race: &'a Race,
    wants: Vec<Want>,
    places: HashMap<Reference, usize>,
    open: usize,
    lanes: Vec<Lane<'a>>,
    running: SelectAll<BoxStream<'a, Came>>,
    /// Blocks to be looked at then: a new round begins, or a forced request has had its time.
    later: BinaryHeap<Reverse<(Instant, usize)>>,
    ready: VecDeque<Answer>,
    timer: Option<Pin<Box<Sleep>>>,
    standings: Vec<Standing>,
    /// The sources that were alive at the beginning: those are worth more than one attempt.
    alive: Vec<bool>,
    foreground: Option<Foreground>,
}

/// What a batch asks of one source.
#[derive(Default)]
struct Lane<'a> {
    /// Blocks that wait for their turn; whether they are asked although the source cools down.
    queue: VecDeque<(usize, bool)>,
    turn: Option<BoxFuture<'a, Option<SemaphorePermit<'a>>>>,
    /// Blocks asked for, oldest first, that may become late, and those that are.
    fresh: VecDeque<(Instant, usize)>,
    late: VecDeque<(Instant, usize)>,
    look_again: Option<Instant>,
}

/// Something that a source sent.
enum Came {
    One(usize, usize, Result<Block, Error>),
    OfMany(usize, Reference, Result<Block, Error>),
    /// The end of the answers to a request for these.
    End(usize, Vec<usize>),
}

impl<'a> Batch<'a> {
    pub fn new(race: &'a Race, references: Vec<Reference>) -> Self {
        let mut wants: Vec<Want> = Vec::with_capacity(references.len());
        let mut places = HashMap::with_capacity(references.len());
        for reference in references {
            let place = *places.entry(reference).or_insert(wants.len());
            match wants.get_mut(place) {
                Some(want) => want.copies += 1,
                None => wants.push(Want::new(reference)),
            }
        }
        Self {
            race,
            open: wants.len(),
            wants,
            places,
            lanes: Vec::new(),
            running: SelectAll::new(),
            later: BinaryHeap::new(),
            ready: VecDeque::new(),
            timer: None,
            standings: Vec::new(),
            alive: Vec::new(),
            foreground: None,
        }
    }

    /// Decides for every block whom to ask first.
    fn begin(&mut self) {
        let now = Instant::now();
        self.foreground = self.race.reseed.as_ref().map(|reseed| reseed.foreground());
        self.lanes.resize_with(self.sources().len(), Lane::default);
        self.stand(now);
        self.alive = self.standings.iter().map(|standing| standing.alive).collect();
        let mut places = self.race.places();
        let with_lacks = places.knows_of_lacks();
        // With a source alone there is no other order.
        let choices = if self.standings.len() > 1 { self.standings.len().min(HINTS) } else { 0 };
        for place in (0..choices).filter(|place| self.standings[*place].up) {
            for want in &mut self.wants {
                let lacked = with_lacks && places.lacks(&want.reference, place, now);
                want.unlikely |= u64::from(lacked || self.race.sources[place].is_hopeless(now)) << place;
            }
        }
        drop(places);
        (0..self.wants.len()).for_each(|want| self.advance(want, now));
    }

    fn sources(&self) -> &'a [std::sync::Arc<Source>] {
        &self.race.sources
    }

    /// Looks at the sources; those whose cool-down is over are probed while others do the work.
    fn stand(&mut self, now: Instant) {
        self.standings.clear();
        self.standings.extend(self.race.sources.iter().map(|source| source.standing(now)));
        if self.standings.iter().any(|standing| standing.up) {
            let down = self.standings.iter().zip(&self.race.sources).filter(|(standing, _)| !standing.up);
            let wanted = self.wants.iter().find(|want| !want.settled).map(|want| want.reference);
            down.for_each(|(_, source)| wanted.iter().for_each(|wanted| source.probe_if_due(*wanted)));
        }
    }

    /// Takes the next step for a block that has no answer: to the next source, to a wait, or to its end.
    fn advance(&mut self, place: usize, now: Instant) {
        let want = &mut self.wants[place];
        if let Some(source) = want.next_up(&self.standings) {
            return self.queue(place, source, false);
        }
        if want.asks.iter().any(|ask| self.standings[ask.source].up) {
            return;
        }
        if want.again_at.is_some_and(|at| at > now) {
            return;
        }
        if !want.may_come_again(&self.standings) {
            if let Some(source) = want.next_down(&self.standings) {
                let until = *want.forced_until.get_or_insert(now + FORCED);
                self.later.push(Reverse((until, place)));
                return self.queue(place, source, true);
            }
            if !want.asks.is_empty() || want.queued.is_some() {
                return;
            }
        }
        let (sources, reference) = (&self.race.sources, want.reference);
        match want.conclude(&self.standings, &self.alive, now, |s| sources[s].last_error(reference)) {
            Outcome::Again(at) => {
                want.forced_until = None;
                want.again_at = Some(at);
                self.later.push(Reverse((at, place)));
            }
            Outcome::Wait => {}
            Outcome::Failed(failures) => {
                self.answer(place, Err(all_failed(reference, &self.race.name, failures)));
            }
        }
    }

    fn queue(&mut self, place: usize, source: usize, forced: bool) {
        self.wants[place].queued = Some(source);
        self.lanes[source].queue.push_back((place, forced));
    }

    fn answer(&mut self, place: usize, answer: Result<Block, Error>) {
        let want = &mut self.wants[place];
        want.settled = true;
        want.queued = None;
        want.asks.drain(..).for_each(Asked::cancel);
        self.ready.extend(std::iter::repeat_n((want.reference, answer), want.copies));
        self.open -= 1;
        if self.open == 0 {
            self.foreground = None;
        }
    }

    /// Makes the requests whose turn it is.
    fn launch(&mut self, cx: &mut Context<'_>) {
        while self.lanes.iter().any(|lane| !lane.queue.is_empty()) {
            let now = Instant::now();
            self.stand(now);
            let mut moved = false;
            for source in 0..self.lanes.len() {
                moved |= self.launch_lane(source, now, cx);
            }
            if !moved {
                return;
            }
        }
    }

    /// Makes requests to one source; whether a block had to be passed on to another.
    fn launch_lane(&mut self, source: usize, now: Instant, cx: &mut Context<'_>) -> bool {
        let (from, up) = (&*self.sources()[source], self.standings[source].up);
        let (mut moved, mut together) = (false, Vec::new());
        while let Some(&(place, forced)) = self.lanes[source].queue.front() {
            let ready = self.wants[place].queued == Some(source);
            if !ready || !up && !forced {
                self.lanes[source].queue.pop_front();
                if ready {
                    self.wants[place].queued = None;
                    self.advance(place, now);
                    moved = true;
                }
                continue;
            }
            if from.is_limited() {
                let Some(permit) = self.lanes[source].permit(from, cx) else { return moved };
                self.request(place, source, Some(permit), false);
            } else {
                together.push(place);
                self.wants[place].queued = None;
            }
            self.lanes[source].queue.pop_front();
        }
        self.lanes[source].turn = None;
        match together[..] {
            [] => {}
            [alone] => self.request(alone, source, None, false),
            _ => self.request_many(together, source),
        }
        moved
    }

    fn request(&mut self, place: usize, source: usize, permit: Option<SemaphorePermit<'a>>, hedge: bool) {
        let from: &'a Source = &self.sources()[source];
        let mut ask: Ask<'a> = from.ask(1, permit, hedge);
        let reference = self.wants[place].reference;
        let (abort, registration) = AbortHandle::new_pair();
        self.asked(place, source, hedge, Some(abort));
        let request = async move {
            let answer = from.store.get(&reference).await;
            ask.answered(&answer);
            Came::One(source, place, answer)
        };
        let request = Abortable::new(request, registration);
        let came = stream::once(request).filter_map(|came| std::future::ready(came.ok()));
        self.running.push(came.boxed());
        if !hedge {
            self.race.budget().earn(1);
        }
    }

    fn request_many(&mut self, places: Vec<usize>, source: usize) {
        let from: &'a Source = &self.sources()[source];
        let mut ask: Ask<'a> = from.ask(places.len(), None, false);
        self.race.budget().earn(places.len());
        let references = places.iter().map(|place| self.wants[*place].reference).collect();
        for place in &places {
            self.asked(*place, source, false, None);
        }
        let answers = from.store.get_many(references).map(move |(reference, answer)| {
            ask.answered(&answer);
            Came::OfMany(source, reference, answer)
        });
        self.running.push(answers.chain(stream::iter([Came::End(source, places)])).boxed());
    }

    /// Writes down that the source is asked.
    fn asked(&mut self, place: usize, source: usize, hedge: bool, abort: Option<AbortHandle>) {
        let at = Instant::now();
        let (want, lane) = (&mut self.wants[place], &mut self.lanes[source]);
        want.asks.push(Asked { source, at, hedge, abort });
        if hedge {
            lane.late.push_back((at, place));
        } else {
            want.queued = None;
            lane.fresh.push_back((at, place));
        }
    }

    fn settle(&mut self, came: Came) {
        match came {
            Came::One(source, place, answer) => self.settle_one(source, place, answer),
            Came::OfMany(source, reference, answer) => {
                if let Some(&place) = self.places.get(&reference) {
                    self.settle_one(source, place, answer);
                }
            }
            // A store answers for every block; one that leaves some out does not have them.
            Came::End(source, places) => {
                for place in places {
                    if self.wants[place].is_asked_of(source) {
                        let reference = self.wants[place].reference;
                        let store = self.sources()[source].name.clone();
                        self.settle_one(source, place, Err(Error::NotFound { reference, store }));
                    }
                }
            }
        }
    }

    fn settle_one(&mut self, source: usize, place: usize, answer: Result<Block, Error>) {
        let want = &mut self.wants[place];
        let Some(asked) = want.asks.iter().position(|ask| ask.source == source) else { return };
        let asked = want.asks.swap_remove(asked);
        match answer {
            Ok(block) => {
                if asked.hedge {
                    self.race.sources[source].hedge_won();
                    for ask in &want.asks {
                        self.race.sources[ask.source].overtaken(ask.at);
                    }
                }
                if let Some(reseed) = &self.race.reseed {
                    reseed.offer(want.reference, &block, source, |target| want.is_lacked_by(target));
                }
                self.race.places().came(want.reference, source);
                self.answer(place, Ok(block));
            }
            Err(error) => {
                let now = Instant::now();
                if matches!(error, Error::NotFound { .. }) {
                    self.race.places().lacked(want.reference, source, now);
                }
                want.failed(source, error);
                self.stand(now);
                let want = &self.wants[place];
                if want.queued.is_none() && !want.asks.iter().any(|ask| self.standings[ask.source].up) {
                    self.advance(place, now);
                }
            }
        }
    }

    /// Sets the timer to the next moment at which something is late; does what is due. Whether something was.
    fn on_time(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            if let Some(timer) = &mut self.timer
                && timer.as_mut().poll(cx).is_ready()
            {
                self.timer = None;
                self.look(Instant::now());
                return true;
            }
            let Some(due) = self.next_due() else { return false };
            match &mut self.timer {
                // It may go off early, which costs one look.
                Some(timer) if timer.deadline() <= due => return false,
                Some(timer) => timer.as_mut().reset(due),
                None => self.timer = Some(Box::pin(sleep_until(due))),
            }
        }
    }
}

impl<'a> Lane<'a> {
    /// A permit, at once or when it is this batch's turn.
    fn permit(&mut self, source: &'a Source, cx: &mut Context<'_>) -> Option<SemaphorePermit<'a>> {
        if self.turn.is_none() {
            match source.try_permit() {
                Some(permit) => return Some(permit),
                None => self.turn = Some(source.permit()),
            }
        }
        match self.turn.as_mut()?.poll_unpin(cx) {
            Poll::Ready(permit) => {
                self.turn = None;
                permit
            }
            Poll::Pending => None,
        }
    }

    /// Whether a block waits here; those that have been answered are struck off, from the oldest on.
    fn has_waiting(&mut self, source: usize, wants: &[Want]) -> bool {
        for list in [&mut self.fresh, &mut self.late] {
            while list.front().is_some_and(|(_, place)| !wants[*place].is_asked_of(source)) {
                list.pop_front();
            }
        }
        !(self.fresh.is_empty() && self.late.is_empty() && self.queue.is_empty())
    }
}

impl Stream for Batch<'_> {
    type Item = Answer;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Answer>> {
        let batch = &mut *self;
        if batch.open > 0 && batch.lanes.is_empty() {
            batch.begin();
        }
        // What has come makes room for more requests: they are on their way before the answers are passed on.
        while batch.ready.is_empty() && batch.open > 0 {
            loop {
                batch.launch(cx);
                let mut came = 0;
                while came < AT_ONCE
                    && let Poll::Ready(Some(more)) = batch.running.poll_next_unpin(cx)
                {
                    batch.settle(more);
                    came += 1;
                }
                if came == 0 || batch.ready.len() >= AT_ONCE {
                    break;
                }
            }
            if batch.ready.is_empty() && batch.open > 0 && !batch.on_time(cx) {
                return Poll::Pending;
            }
        }
        Poll::Ready(batch.ready.pop_front())
    }
}
