//! Which store directory the set is of: asked of all servers that the user named, once.
//!
//! Neighbours do not decide: anybody on the link can be one. As long as those who do are silent, it is what the trusted keys make likely, and
//! not kept.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, timeout_at};

use super::Set;
use super::health::Turn;
use super::places::Place;
use super::race::GRACE;
use super::server::Server;
use crate::store::StoreDir;
use crate::substituter::{Error, Info};

/// How long what the servers say of themselves is waited for, where neighbours may have what is looked for meanwhile: a first answer across
/// an ocean, TLS included, takes a second.
const BESIDE_NEIGHBOURS: Duration = Duration::from_secs(2);

/// The store directory, and whether it is certain.
pub(super) enum Settled {
    /// It was stated, or all answered and none states any.
    Surely(StoreDir),
    /// Some who might state another did not answer.
    Perhaps(StoreDir),
}

/// What servers said of themselves, in their order; `None`: nothing in time.
type Answers = Vec<Option<Result<Info, Error>>>;

/// The store directory of the first server, in the order given, that states one. Those that have not answered shortly
/// after another did are not waited for: what they say comes with their first narinfo.
pub(super) async fn store_dir(set: &Set) -> Result<Settled, Error> {
    let settled = match are_neighbours_alone(set) {
        true => by_neighbours(set).await,
        false => by_servers(set).await?,
    };
    let (Settled::Surely(store_dir) | Settled::Perhaps(store_dir)) = &settled;
    set.servers().iter().for_each(|server| server.settle(store_dir));
    Ok(settled)
}

/// Whether there is no server but those of neighbours.
pub(super) fn are_neighbours_alone(set: &Set) -> bool {
    !set.places.is_empty() && set.places.iter().all(Place::is_neighbour)
}

async fn by_servers(set: &Set) -> Result<Settled, Error> {
    let (neighbours, named): (Vec<_>, Vec<_>) =
        set.servers().into_iter().partition(|server| server.is_neighbour());
    let patience = (!neighbours.is_empty()).then_some(BESIDE_NEIGHBOURS);
    let answers = introduced(&named, patience).await;
    if let Some(stated) = answers.iter().find_map(|answer| stated(answer.as_ref())) {
        return Ok(Settled::Surely(stated.clone()));
    }
    let failures: Vec<_> = answers
        .iter()
        .flatten()
        .filter_map(|answer| answer.as_ref().err())
        .filter(|error| error.is_transient())
        .collect();
    let missing = answers.iter().filter(|answer| answer.is_none()).count();
    if !named.is_empty() && failures.len() + missing == named.len() {
        if neighbours.is_empty() {
            return Err(Error::NobodyAnswers { failures: failures.into_iter().cloned().collect() });
        }
        return Ok(Settled::Perhaps(likely(set, &neighbours).await));
    }
    let usual = told_by_keys(set).unwrap_or_else(StoreDir::nix);
    // Without any server there was nobody to say.
    let is_sure = failures.is_empty() && missing == 0 && !named.is_empty();
    Ok(if is_sure { Settled::Surely(usual) } else { Settled::Perhaps(usual) })
}

async fn by_neighbours(set: &Set) -> Settled {
    if let Some(store_dir) = told_by_keys(set) {
        return Settled::Surely(store_dir);
    }
    for place in &set.places {
        place.first_heard().await;
    }
    Settled::Perhaps(likely(set, &set.servers()).await)
}

/// What is most likely where no server says anything: what the keys tell, else what most neighbours say, else what is usual.
async fn likely(set: &Set, neighbours: &[Arc<Server>]) -> StoreDir {
    if let Some(store_dir) = told_by_keys(set) {
        return store_dir;
    }
    let answers = introduced(neighbours, Some(BESIDE_NEIGHBOURS)).await;
    let stated: Vec<_> = answers.iter().filter_map(|answer| stated(answer.as_ref())).collect();
    // Of two with as many, the one that comes first.
    let votes = |wanted: &StoreDir| stated.iter().filter(|stated| **stated == wanted).count();
    let most = stated.iter().rev().max_by_key(|wanted| votes(wanted));
    most.map_or_else(StoreDir::nix, |most| (*most).clone())
}

/// The directory of those whose keys are trusted, where these are keys of Guix or of Nix alone.
fn told_by_keys(set: &Set) -> Option<StoreDir> {
    let keys = &set.policy.keys;
    match (keys.nix.is_empty(), keys.guix.is_empty()) {
        (true, false) => Some(StoreDir::guix()),
        (false, true) => Some(StoreDir::nix()),
        _ => None,
    }
}

/// What servers say of themselves: those that have not said it yet are asked. With a `patience` those that were late or are down are not.
async fn introduced(servers: &[Arc<Server>], patience: Option<Duration>) -> Answers {
    let mut answers: Answers = servers.iter().map(|server| server.known_info().map(Ok)).collect();
    let mut asked = FuturesUnordered::new();
    let mut is_awaited = vec![false; servers.len()];
    for (index, server) in servers.iter().enumerate().filter(|(index, _)| answers[*index].is_none()) {
        match if patience.is_some() { server.turn() } else { Turn::Wait } {
            Turn::Wait => {
                is_awaited[index] = true;
                asked.push(async move { (index, server.info().await) });
            }
            Turn::Probe => {
                let server = Arc::clone(server);
                // It finds its end by itself.
                tokio::spawn(async move { server.info().await });
            }
            Turn::Beside | Turn::Pass => {}
        }
    }
    let mut end = patience.map(|patience| Instant::now() + patience);
    let mut is_stated = false;
    loop {
        if !is_stated && answers.iter().any(|answer| stated(answer.as_ref()).is_some()) {
            is_stated = true;
            let grace = Instant::now() + GRACE;
            end = Some(end.map_or(grace, |end| end.min(grace)));
        }
        let next = match end {
            Some(end) => timeout_at(end, asked.next()).await,
            None => Ok(asked.next().await),
        };
        let Ok(Some((index, answer))) = next else { break };
        answers[index] = Some(answer);
    }
    for (index, server) in servers.iter().enumerate() {
        if is_awaited[index] && answers[index].is_none() {
            server.late();
        }
    }
    answers
}

fn stated(answer: Option<&Result<Info, Error>>) -> Option<&StoreDir> {
    answer?.as_ref().ok()?.store_dir.as_ref()
}
