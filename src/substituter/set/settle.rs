//! Which store directory the set is of: asked of all servers, once.

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, timeout_at};

use super::Set;
use super::race::GRACE;
use crate::store::StoreDir;
use crate::substituter::{Error, Info};

/// The store directory, and whether it is certain.
pub(super) enum Settled {
    /// It was stated, or all answered and none states any.
    Surely(StoreDir),
    /// Some who might state another did not answer.
    Perhaps(StoreDir),
}

/// The store directory of the first server, in the order given, that states one. Those that have not answered shortly
/// after another did are not waited for: what they say comes with their first narinfo.
pub(super) async fn store_dir(set: &Set) -> Result<Settled, Error> {
    for place in &set.places {
        place.first_heard().await;
    }
    let servers = set.servers();
    let mut asked: FuturesUnordered<_> = servers
        .iter()
        .enumerate()
        .map(|(index, server)| async move { (index, server.info().await) })
        .collect();
    let mut answers: Vec<Option<Result<Info, Error>>> = vec![None; servers.len()];
    let mut grace = None;
    while answers.iter().any(Option::is_none) {
        let next = match grace {
            Some(end) => timeout_at(end, asked.next()).await,
            None => Ok(asked.next().await),
        };
        let Ok(Some((index, answer))) = next else { break };
        if grace.is_none() && stated(Some(&answer)).is_some() {
            grace = Some(Instant::now() + GRACE);
        }
        answers[index] = Some(answer);
    }
    let settled = match answers.iter().find_map(|answer| stated(answer.as_ref())) {
        Some(store_dir) => Settled::Surely(store_dir.clone()),
        None => default(set, &answers)?,
    };
    let (Settled::Surely(store_dir) | Settled::Perhaps(store_dir)) = &settled;
    for (server, answer) in servers.iter().zip(&answers) {
        match answer {
            Some(answer) => server.learn(answer, store_dir),
            None => server.late(),
        }
    }
    Ok(settled)
}

fn stated(answer: Option<&Result<Info, Error>>) -> Option<&StoreDir> {
    answer?.as_ref().ok()?.store_dir.as_ref()
}

/// The directory where none stated any.
fn default(set: &Set, answers: &[Option<Result<Info, Error>>]) -> Result<Settled, Error> {
    let failures: Vec<_> = answers
        .iter()
        .flatten()
        .filter_map(|answer| answer.as_ref().err())
        .filter(|error| error.is_transient())
        .collect();
    if !failures.is_empty() && failures.len() == answers.len() {
        return Err(Error::NobodyAnswers { failures: failures.into_iter().cloned().collect() });
    }
    let keys = &set.policy.keys;
    let is_guix = keys.nix.is_empty() && !keys.guix.is_empty();
    let usual = if is_guix { StoreDir::guix() } else { StoreDir::nix() };
    // Without any server there was nobody to say.
    let is_sure = failures.is_empty() && !answers.is_empty();
    Ok(if is_sure { Settled::Surely(usual) } else { Settled::Perhaps(usual) })
}
