//! What is late: when to look, and what is done then. A silent source is left as a whole; a late block is hedged, within the
//! budget; one that is long overdue goes on to the next source without it.

use std::{cmp::Reverse, time::Duration};

use tokio::time::Instant;

use super::{Batch, FORCED, LOOK_AGAIN, Source};
use crate::block::Error;

impl<'a> Batch<'a> {
    pub(super) fn next_due(&mut self) -> Option<Instant> {
        let mut due = self.later.peek().map(|Reverse((at, _))| *at);
        if self.lanes.len() == 1 {
            return due;
        }
        let mut at_the_latest = |at: Instant| due = Some(due.map_or(at, |due| due.min(at)));
        for (source, lane) in self.lanes.iter_mut().enumerate() {
            if !lane.has_waiting(source, &self.wants) {
                continue;
            }
            let lateness = self.race.sources[source].lateness();
            at_the_latest(lane.look_again.map_or(lateness.silent_at, |again| again.max(lateness.silent_at)));
            if let (Some((asked, _)), Some(late)) = (lane.fresh.front(), lateness.late) {
                at_the_latest(*asked + late);
            }
            // One that bounds itself is given up as a whole or not at all.
            if let Some((asked, _)) = lane.late.front().filter(|_| self.race.sources[source].is_limited()) {
                at_the_latest((*asked + lateness.overdue).max(lane.look_again.unwrap_or(*asked)));
            }
        }
        due
    }

    /// Does what is due by now.
    pub(super) fn look(&mut self, now: Instant) {
        self.stand(now);
        while let Some(&Reverse((at, place))) = self.later.peek()
            && at <= now
        {
            self.later.pop();
            self.look_at(place, now);
        }
        if self.lanes.len() == 1 {
            return;
        }
        for source in 0..self.lanes.len() {
            if !self.lanes[source].has_waiting(source, &self.wants) {
                continue;
            }
            let lateness = self.race.sources[source].lateness();
            let again = self.lanes[source].look_again.is_none_or(|again| now >= again);
            if again && (now >= lateness.silent_at || !self.standings[source].up) {
                self.leave(source, now);
            }
            self.hedge(source, lateness.late, now);
            if again {
                self.give_up_overdue(source, lateness.overdue, now);
            }
        }
    }

    /// A new round for a block, or the end of a request that was forced on sources that cool down.
    fn look_at(&mut self, place: usize, now: Instant) {
        let want = &mut self.wants[place];
        if want.settled {
            return;
        }
        let again = want.again_at.take_if(|at| *at <= now).is_some();
        if again || want.asks.is_empty() && want.queued.is_none() {
            return self.advance(place, now);
        }
        let down = |source: usize| !self.standings[source].up;
        let hopeless = want.asks.iter().all(|ask| down(ask.source)) && want.queued.is_none_or(down);
        if hopeless && want.forced_until.is_some_and(|until| until <= now) {
            let (reference, queued) = (want.reference, want.queued.take());
            for ask in std::mem::take(&mut want.asks) {
                let store = self.race.sources[ask.source].name.clone();
                want.failed(ask.source, Error::TimedOut { reference, store, after: FORCED });
                ask.cancel();
            }
            if let Some(source) = queued {
                let store = self.race.sources[source].name.clone();
                want.failed(source, Error::TimedOut { reference, store, after: FORCED });
            }
            self.advance(place, now);
        }
    }

    /// Asks others for all that waits for a source that is silent or cools down. It stays asked where it was.
    fn leave(&mut self, source: usize, now: Instant) {
        let lane = &mut self.lanes[source];
        let waiting = lane.fresh.drain(..).chain(lane.late.drain(..)).collect::<Vec<_>>();
        let queued = lane.queue.iter().map(|(place, _)| *place).collect::<Vec<_>>();
        let up = self.standings[source].up;
        let mut verdict = None;
        for (at, place) in waiting
            .into_iter()
            .map(|(at, place)| (Some(at), place))
            .chain(queued.into_iter().map(|place| (None, place)))
        {
            let want = &mut self.wants[place];
            let here = if at.is_some() { want.is_asked_of(source) } else { want.queued == Some(source) };
            let elsewhere = want.asks.iter().any(|ask| ask.source != source && self.standings[ask.source].up)
                || want.queued.is_some_and(|queued| queued != source);
            if !here || elsewhere {
                continue;
            }
            let likely = want.next_likely(&self.standings);
            let next_up = likely.or_else(|| want.next_up(&self.standings));
            let next_down = if up { None } else { want.next_down(&self.standings) };
            if let Some(next) = next_up.or(next_down) {
                verdict = verdict.or(likely.map(|_| want.reference));
                self.queue(place, next, next_up.is_none());
            } else if let Some(at) = at {
                self.lanes[source].late.push_back((at, place));
            }
        }
        self.lanes[source].look_again = Some(now + LOOK_AGAIN);
        if let Some(reference) = verdict.filter(|_| up) {
            self.race.sources[source].stalled(reference);
            self.standings[source].up = false;
        }
    }

    /// Asks the next source too for what is late, as far as the budget goes. Each block has one chance.
    fn hedge(&mut self, source: usize, late: Option<Duration>, now: Instant) {
        let Some(late) = late else { return };
        while let Some(&(at, place)) = self.lanes[source].fresh.front()
            && at + late <= now
        {
            self.lanes[source].fresh.pop_front();
            let want = &self.wants[place];
            if !want.is_asked_of(source) {
                continue;
            }
            self.lanes[source].late.push_back((at, place));
            let alone = want.asks.len() == 1 && want.queued.is_none();
            let Some(next) = want.next_likely(&self.standings).filter(|_| alone) else { continue };
            let other: &'a Source = &self.sources()[next];
            let permit = other.try_permit();
            if (permit.is_some() || !other.is_limited()) && self.race.budget().pay() {
                self.request(place, next, permit, true);
            }
        }
    }

    /// Asks the next source for what was waited for long enough, although its source answers others.
    fn give_up_overdue(&mut self, source: usize, overdue: Duration, now: Instant) {
        if !self.sources()[source].is_limited() {
            return;
        }
        while let Some(&(at, place)) = self.lanes[source].late.front().or(self.lanes[source].fresh.front())
            && at + overdue <= now
        {
            let lane = &mut self.lanes[source];
            lane.late.pop_front().or_else(|| lane.fresh.pop_front());
            let want = &self.wants[place];
            let alone = want.is_asked_of(source) && want.asks.len() == 1 && want.queued.is_none();
            if let Some(next) = want.next_up(&self.standings).filter(|_| alone) {
                self.queue(place, next, false);
            }
        }
    }
}
