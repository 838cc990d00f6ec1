//! Everywhere a NAR can be downloaded from.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, timeout_at};

use super::race::GRACE;
use super::{Offer, Set};
use crate::store::narinfo::Download;
use crate::store::{HashPart, NarHash, Narinfo, StoreDir};

/// Most downloads of one narinfo that are looked at: one for each way of compressing.
const MAX_DOWNLOADS: usize = 8;
/// Neighbours of which one file each may stand before those of servers that the user named; the rest stands behind these. Each may waste
/// seconds of those for which somebody waits.
const MAX_NEIGHBOURS: usize = 2;

/// By the hash and size of the NAR. Asks all servers but the one whose narinfo is remembered, and waits for the others a little once there is an offer.
pub(super) async fn offers(
    set: &Set,
    path: HashPart,
    nar: (NarHash, u64),
    store_dir: &StoreDir,
    deadline: Instant,
) -> Vec<Offer> {
    let ranked = set.ranked();
    let all_down = ranked.iter().all(|server| server.is_down());
    let known = set.memory.get(path).flatten();
    let mut narinfos: Vec<Option<Arc<Narinfo>>> = vec![None; ranked.len()];
    let mut asked = FuturesUnordered::new();
    for (rank, server) in ranked.iter().enumerate() {
        if let Some(known) = known.as_ref().filter(|known| Arc::ptr_eq(&known.server, &server.place)) {
            narinfos[rank] = Some(Arc::clone(&known.narinfo));
        } else if all_down || !server.is_down() {
            asked.push(async move { (rank, server.narinfo(path, store_dir).await) });
        }
    }
    let is_offer = |narinfo: &Narinfo| {
        narinfo.store_path().hash_part() == path && (narinfo.nar_hash(), narinfo.nar_size()) == nar
    };
    let has_offer =
        |narinfos: &[Option<Arc<Narinfo>>]| narinfos.iter().flatten().any(|narinfo| is_offer(narinfo));
    let mut end = deadline;
    loop {
        if has_offer(&narinfos) {
            end = end.min(Instant::now() + GRACE);
        }
        let Ok(Some((rank, answer))) = timeout_at(end, asked.next()).await else { break };
        narinfos[rank] = answer.ok().flatten().map(Arc::new);
    }
    let found = ranked.iter().zip(narinfos).filter_map(|(server, narinfo)| {
        let narinfo = narinfo.filter(|narinfo| is_offer(narinfo))?;
        let mut downloads: Vec<_> = narinfo.downloads().iter().take(MAX_DOWNLOADS).cloned().collect();
        downloads.sort_by_key(cost);
        let is_neighbour = server.is_neighbour();
        let offer = |download| Offer { server: Arc::clone(&server.place), download, is_neighbour };
        Some(downloads.into_iter().map(offer).collect::<Vec<_>>())
    });
    let (mut offers, mut last, mut neighbours) = (Vec::new(), Vec::new(), 0);
    for mut of_server in found {
        if of_server.first().is_some_and(|offer| offer.is_neighbour) {
            neighbours += 1;
            last.extend(of_server.split_off(usize::from(neighbours <= MAX_NEIGHBOURS)));
        }
        offers.append(&mut of_server);
    }
    offers.append(&mut last);
    offers
}

/// Which of the files of one narinfo is taken first: zstd, which is unpacked several times as fast as anything else
/// that is as small; then what is smallest; then what does not say its size, in the order written.
fn cost(download: &Download) -> (bool, u64) {
    let is_zstd = download.compression.as_deref().is_some_and(|name| name.starts_with("zstd"));
    (!is_zstd, download.file_size.unwrap_or(u64::MAX))
}
