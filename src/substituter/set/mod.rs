//! Many places asked as one: whose answer is taken, whom to wait for, and what is remembered.

mod health;
mod memory;
mod offers;
mod on_disk;
mod overlays;
mod places;
mod race;
mod server;
mod settle;
#[cfg(test)]
mod tests;
mod verdict;

use std::path::PathBuf;
use std::sync::Arc;

use futures::FutureExt;
use serde::Serialize;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};

use self::memory::Memory;
use self::on_disk::OnDisk;
use self::places::{Nearby, Place};
use self::server::{Role, Server};
use self::settle::Settled;
use super::{Error, Substituter, Web};
use crate::flights::Flights;
use crate::lan::Neighbours;
use crate::store::narinfo::{Download, ErisBinding};
use crate::store::trust::{Signer, TrustedKeys};
use crate::store::{HashPart, NarHash, Narinfo, StoreDir};

/// What is believed.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Whose signatures count.
    pub keys: TrustedKeys,
    /// What is done with the rest.
    pub unsigned: Unsigned,
}

/// What is done with a narinfo that no trusted key signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsigned {
    /// It is refused: for a mount, `ls` and `cat`.
    Refuse,
    /// It is taken, and the bytes are checked against its NarHash: for `serve`, whose clients check signatures
    /// themselves.
    CheckHash,
    /// It is believed, and its ERIS contents with it: `--insecure`.
    Believe,
}

/// What may be done with a narinfo that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// ERIS contents are bound to the path ([`Found::bound`] is not empty): they may be read lazily.
    Bound {
        /// Who bound the first of them; `None`: nobody, and the user wants it so (`--insecure`).
        signer: Option<Signer>,
    },
    /// The whole NAR comes first, and is hashed.
    Hashed {
        /// Who signed the hash; `None`: nobody.
        signer: Option<Signer>,
    },
}

/// A narinfo that is good by the [`Policy`]. Places in the text ([`ErisBinding::offset_in_text`]) are those of the
/// narinfo that named the content, which may be an overlay's.
#[derive(Debug, Clone)]
pub struct Found {
    /// The narinfo, byte for byte as the server gave it.
    pub narinfo: Arc<Narinfo>,
    /// The server it came from.
    pub server: Arc<dyn Substituter>,
    /// What may be done with it.
    pub standing: Standing,
    /// ERIS contents that are bound to the path, the narinfo's own before those of overlays: to be read lazily, in
    /// this order.
    pub bound: Vec<ErisBinding>,
    /// ERIS contents that nobody trusted bound to it, from unsigned lines and from overlays: to be hashed whole
    /// before use.
    pub unbound: Vec<ErisBinding>,
}

/// A place where a NAR can be downloaded. What comes is to be hashed.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The server.
    pub server: Arc<dyn Substituter>,
    /// What its narinfo says of the file: its URL is for [`Substituter::nar`] of this server.
    pub download: Download,
    /// Whether it is the server of a neighbour, whom nobody chose.
    pub is_neighbour: bool,
}

/// How a set of servers is used.
#[derive(Debug, Clone)]
pub struct SetSettings {
    /// Bytes of narinfos that are kept in memory.
    pub cache_bytes: usize,
    /// A file for good narinfos: they are taken where no server can say anything. `None`: none is kept.
    pub on_disk: Option<PathBuf>,
}

impl Default for SetSettings {
    fn default() -> Self {
        Self { cache_bytes: 16 << 20, on_disk: None }
    }
}

/// How a server is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerState {
    /// It is asked and waited for.
    Up,
    /// It was late where others were not: it is asked, and not waited for once another has a good answer.
    Late,
    /// It failed: for a while it is asked beside others only, and waited for only if there are no others. Or it is a neighbour whose
    /// narinfos were of no use.
    Down,
    /// Its paths are in another store directory: it is not asked.
    LeftOut,
}

/// A server as it is now, for `erisfs status`.
#[derive(Debug, Clone, Serialize)]
pub struct ServerStatus {
    /// Its URL, without secrets.
    pub name: String,
    /// Whether it is an overlay.
    pub overlay: bool,
    /// How it is doing.
    pub state: ServerState,
    /// Its priority, once it said it: lower is better. That of a neighbour does not count.
    pub priority: Option<u32>,
    /// Narinfos asked of it.
    pub asked: u64,
    /// Narinfos that it had.
    pub had: u64,
    /// Narinfos of it that were refused.
    pub refused: u64,
    /// Times that it failed or was silent.
    pub failed: u64,
    /// The last failure or refusal.
    pub last_error: Option<String>,
}

/// Substitute servers and overlays, asked as one.
#[derive(Debug)]
pub struct Substituters {
    set: Arc<Set>,
    under_way: Flights<HashPart, Result<Option<Arc<Found>>, Error>>,
}

/// What all requests share.
#[derive(Debug)]
struct Set {
    places: Vec<Place>,
    overlays: Vec<Arc<Server>>,
    policy: Policy,
    store_dir: OnceCell<StoreDir>,
    memory: Memory,
    on_disk: Option<Arc<OnDisk>>,
}

impl Set {
    /// The servers that are there now, in the order named.
    fn servers(&self) -> Vec<Arc<Server>> {
        let (servers, is_new) = places::servers(&self.places);
        if is_new {
            // It may have what nobody had.
            self.memory.forget_absent();
        }
        servers
    }

    /// The servers that are asked, best first. What neighbours say of their priority does not count: they are behind all that were
    /// named before them.
    fn ranked(&self) -> Vec<Arc<Server>> {
        let mut behind = 0;
        let servers = self.servers().into_iter().filter(|server| !server.is_left_out());
        let mut ranked: Vec<_> = servers
            .map(|server| match server.is_neighbour() {
                true => (behind, server),
                false => {
                    let priority = server.priority();
                    behind = behind.max(priority);
                    (priority, server)
                }
            })
            .collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().map(|(_, server)| server).collect()
    }
}

impl Substituters {
    /// The servers in order of preference, and overlays: places whose narinfos add ERIS contents to those of servers.
    /// Nothing is asked yet.
    pub fn new(
        servers: Vec<Arc<dyn Substituter>>,
        overlays: Vec<Arc<dyn Substituter>>,
        policy: Policy,
        settings: SetSettings,
    ) -> Self {
        let known = |place, role| Arc::new(Server::new(place, role));
        let set = Set {
            places: servers.into_iter().map(|place| Place::Server(known(place, Role::Server))).collect(),
            overlays: overlays.into_iter().map(|place| known(place, Role::Overlay)).collect(),
            policy,
            store_dir: OnceCell::new(),
            memory: Memory::new(settings.cache_bytes),
            on_disk: settings.on_disk.as_deref().map(OnDisk::new),
        };
        Self { set: Arc::new(set), under_way: Flights::default() }
    }

    /// The servers of neighbours, too: in the order of preference before the server at `position`, behind all where there is none. `web`
    /// is to be one [for neighbours](Web::for_neighbours).
    pub fn with_neighbours(mut self, position: usize, neighbours: Arc<Neighbours>, web: Arc<Web>) -> Self {
        let set = Arc::get_mut(&mut self.set).expect("nothing was asked of it yet");
        let position = position.min(set.places.len());
        set.places.insert(position, Place::Neighbours(Nearby::new(neighbours, web)));
        self
    }

    /// What is believed.
    pub fn policy(&self) -> &Policy {
        &self.set.policy
    }

    /// The store directory: that of the settings, or of the first server that states one. Where all answer and none
    /// does, it is that of Guix if only keys of Guix are trusted, else that of Nix. What neighbours state counts only where nobody else
    /// is there and the keys do not tell.
    pub async fn store_dir(&self, deadline: Instant) -> Result<StoreDir, Error> {
        let settled = self.set.store_dir.get_or_try_init(|| async {
            match settle::store_dir(&self.set).await {
                Ok(Settled::Surely(store_dir)) => Ok(store_dir),
                // To be asked again: it is not kept.
                Ok(Settled::Perhaps(store_dir)) => Err(Ok(store_dir)),
                Err(error) => Err(Err(error)),
            }
        });
        match timeout_at(deadline, settled).await {
            Ok(Ok(store_dir)) => Ok(store_dir.clone()),
            Ok(Err(unsettled)) => unsettled,
            Err(_) => {
                let servers = self.set.servers();
                let servers = servers.iter().map(|server| server.place.name().to_owned()).collect();
                Err(Error::NoStoreDir { servers })
            }
        }
    }

    /// Says that the paths are in this directory, that of the catalogs beside: servers of another are left out. Without effect once servers
    /// have said theirs.
    pub fn settle(&self, store_dir: StoreDir) {
        if self.set.store_dir.set(store_dir.clone()).is_ok() {
            self.set.servers().iter().for_each(|server| server.settle(&store_dir));
        }
    }

    /// Whether the store directory is settled, and not only what it most likely is.
    pub fn is_settled(&self) -> bool {
        self.set.store_dir.initialized()
    }

    /// Whether there is no server but those of neighbours.
    pub fn are_neighbours_alone(&self) -> bool {
        settle::are_neighbours_alone(&self.set)
    }

    /// The best good narinfo for a hash part, with the ERIS contents that overlays add; `None`: the servers that
    /// answer have none. All servers are asked at once; an answer is kept for an hour, that there is none for a
    /// minute. Where the servers fail, one that was good before is taken from the disk, if it is still good.
    pub async fn find(&self, hash_part: HashPart, deadline: Instant) -> Result<Option<Arc<Found>>, Error> {
        // Who came since may have what was absent.
        self.set.servers();
        if let Some(known) = self.set.memory.get(hash_part) {
            return Ok(known);
        }
        for place in &self.set.places {
            place.first_heard().await;
        }
        if self.set.places.is_empty() {
            return Ok(race::before(&self.set, hash_part, self.set.store_dir.get()).await);
        }
        let store_dir = match self.store_dir(deadline).await {
            Ok(store_dir) => store_dir,
            Err(error) => return race::before(&self.set, hash_part, None).await.map(Some).ok_or(error),
        };
        let answer = self.under_way.join(hash_part, || {
            let set = Arc::clone(&self.set);
            async move { race::find(&set, hash_part, &store_dir).await }.boxed()
        });
        // It is held until it is known what it waits for.
        match timeout_at(deadline, answer.clone()).await {
            Ok(answer) => answer,
            Err(_) => Err(self.late(hash_part)),
        }
    }

    /// That a server is still preparing this narinfo, where one said so to somebody who waits for it: for those who do not
    /// want to wait until it is ready.
    pub fn baking(&self, hash_part: HashPart) -> Option<Error> {
        let baking = self.set.ranked().into_iter().find(|server| server.is_baking(hash_part))?;
        Some(Error::Baking { server: baking.place.name().into(), hash_part, retry_after: None })
    }

    /// That there is no answer yet, and why.
    fn late(&self, hash_part: HashPart) -> Error {
        self.baking(hash_part).unwrap_or_else(|| {
            let ranked = self.set.ranked();
            let servers = ranked.iter().map(|server| server.place.name().to_owned()).collect();
            Error::Late { hash_part, servers }
        })
    }

    /// Everywhere that the NAR with this hash and size can be downloaded from, best first. That the narinfos are signed is not
    /// asked: what comes is to be hashed. Servers that are not ready shortly after the first are left out.
    pub async fn offers(
        &self,
        path: HashPart,
        nar_hash: NarHash,
        nar_size: u64,
        deadline: Instant,
    ) -> Vec<Offer> {
        match self.store_dir(deadline).await {
            Ok(store_dir) => {
                offers::offers(&self.set, path, (nar_hash, nar_size), &store_dir, deadline).await
            }
            Err(_) => Vec::new(),
        }
    }

    /// The servers, then the overlays, as they are now.
    pub fn status(&self) -> Vec<ServerStatus> {
        self.set.servers().iter().chain(&self.set.overlays).map(|server| server.status()).collect()
    }

    /// Forgets all answers.
    #[cfg(test)]
    fn forget(&self) {
        self.set.memory.forget();
    }
}
