//! What overlays add to the narinfo of a server.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, timeout_at};

use super::health::Turn;
use super::race::{Asked, ask, probe};
use super::verdict::Verdict;
use super::{Set, Standing};
use crate::store::{HashPart, Narinfo, StoreDir};
use crate::substituter::Error;

/// How much longer than the server overlays are waited for, where nothing but the whole NAR could be read without
/// them: fetching that takes longer still.
const GRACE: Duration = Duration::from_secs(1);

/// All overlays, asked for one hash part.
pub(super) struct Overlays {
    asked: FuturesUnordered<Asked>,
    answers: Vec<Answer>,
}

/// What came of one overlay.
enum Answer {
    /// Nothing yet, and it is waited for.
    Awaited,
    /// Nothing: it is late or down, or failed.
    Missing,
    /// What it has.
    Came(Option<Box<Narinfo>>),
}

impl Overlays {
    pub(super) fn ask(set: &Set, hash_part: HashPart, store_dir: &StoreDir) -> Self {
        let asked = FuturesUnordered::new();
        let answers = set.overlays.iter().enumerate().map(|(index, overlay)| {
            let turn = overlay.turn();
            match turn {
                Turn::Wait | Turn::Beside => {
                    asked.push(ask(index, overlay, hash_part, store_dir, Duration::ZERO))
                }
                Turn::Probe => asked.push(probe(index, overlay, hash_part, store_dir)),
                Turn::Pass => {}
            }
            if turn == Turn::Wait { Answer::Awaited } else { Answer::Missing }
        });
        let answers = answers.collect();
        Self { asked, answers }
    }

    /// Takes answers while `work` goes on, and ends with it.
    pub(super) async fn beside(&mut self, work: impl Future<Output = ()>) {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                () = &mut work => return,
                Some((index, answer)) = self.asked.next() => self.take(index, answer),
            }
        }
    }

    fn take(&mut self, index: usize, answer: Result<Option<Narinfo>, Error>) {
        self.answers[index] = answer.map_or(Answer::Missing, |narinfo| Answer::Came(narinfo.map(Box::new)));
    }

    /// Adds what the overlays have, which are waited for a little, unless the narinfo itself says all that is needed.
    /// Tells whether none of them may have more to say.
    pub(super) async fn add(
        mut self,
        set: &Set,
        narinfo: &Narinfo,
        verdict: &mut Verdict,
        store_dir: &StoreDir,
    ) -> bool {
        let suffices = matches!(verdict.standing, Standing::Bound { .. });
        let end = Instant::now() + GRACE;
        while !suffices && self.answers.iter().any(|answer| matches!(answer, Answer::Awaited)) {
            let Ok(Some((index, answer))) = timeout_at(end, self.asked.next()).await else { break };
            self.take(index, answer);
        }
        let mut is_complete = true;
        for (overlay, answer) in set.overlays.iter().zip(&self.answers) {
            match answer {
                Answer::Came(Some(addition)) => {
                    if let Err(source) = verdict.add(narinfo, addition, store_dir, &set.policy) {
                        overlay.refused(&Error::Untrusted {
                            server: overlay.place.name().into(),
                            source: Arc::new(source),
                        });
                    }
                }
                Answer::Came(None) => {}
                Answer::Awaited if !suffices => {
                    overlay.late();
                    is_complete = false;
                }
                Answer::Awaited | Answer::Missing => is_complete &= suffices,
            }
        }
        is_complete
    }
}
