//! Where names lead: the catalogs that the user named, and substitute servers whose word is checked by keys.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::fallback::Fallback;
use super::{Catalogs, Error, Expected, Facts, Trust, binding};
use crate::content::{Deadline, Fetch};
use crate::download::{Download, Downloads, Known};
use crate::eris::ReadCapability;
use crate::store::narinfo::ErisBinding;
use crate::store::{HashPart, Narinfo, StoreDir, StorePath};
use crate::substituter::{self, Found, Standing, Substituters, Unsigned};

/// What a tree looks names up in. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Asked first, and listed in the root.
    pub catalogs: Catalogs,
    /// Asked for what no catalog lists, and for the NARs of what one lists.
    pub substitutes: Option<Substitutes>,
}

impl From<Catalogs> for Sources {
    fn from(catalogs: Catalogs) -> Self {
        Sources { catalogs, substitutes: None }
    }
}

/// Substitute servers, and the NARs that were downloaded from them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Substitutes {
    pub(super) substituters: Arc<Substituters>,
    pub(super) downloads: Arc<Downloads>,
    /// Known once a server said it.
    store_dir: Arc<OnceLock<StoreDir>>,
}

/// What a store path is, and who says so.
#[derive(Debug, Clone)]
pub struct Resolved {
    pub(super) narinfo: Arc<Narinfo>,
    pub(super) trust: Trust,
    /// ERIS contents of which parts may be shown, the preferred one first.
    pub(super) bound: Vec<ErisBinding>,
    /// ERIS contents that have to be hashed whole before anything is shown.
    pub(super) unbound: Vec<ErisBinding>,
}

impl Resolved {
    /// Its narinfo, as the catalog or server has it.
    pub fn narinfo(&self) -> &Arc<Narinfo> {
        &self.narinfo
    }

    /// By what right it is shown.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The ERIS content of which parts may be shown, and what is known of it; `facts` are those of a catalog. `None`: its whole NAR
    /// has to be hashed first.
    pub fn content(&self, facts: Option<Facts>) -> Option<Result<(ReadCapability, Expected), Error>> {
        self.bound.first().map(|binding| binding::bound(facts, &self.narinfo, binding))
    }

    /// The ERIS contents that are bound to it by somebody whose word counts, the preferred one first.
    pub fn bound(&self) -> impl Iterator<Item = Result<(ReadCapability, Expected), Error>> {
        self.bound.iter().map(|binding| binding::bound(None, &self.narinfo, binding))
    }

    /// The ERIS contents that it should be in by the word of somebody, who proves nothing by that.
    pub fn unbound(&self) -> impl Iterator<Item = Result<(ReadCapability, Expected), Error>> {
        self.unbound.iter().map(|binding| binding::bound(None, &self.narinfo, binding))
    }

    /// What is known of a content that was hashed to the NAR.
    pub(super) fn expected(&self, known: Known, facts: Option<Facts>) -> Expected {
        Expected {
            name: self.narinfo.store_path().to_string(),
            form: Some(known.form),
            nar_size: Some(self.narinfo.nar_size()),
            facts,
            limit: binding::limit(&self.narinfo),
        }
    }
}

impl Substitutes {
    /// Looks up by `substituters`, and downloads by `downloads`. Nothing is asked yet.
    pub fn new(substituters: Arc<Substituters>, downloads: Arc<Downloads>) -> Self {
        Substitutes { substituters, downloads, store_dir: Arc::default() }
    }

    /// The servers.
    pub fn substituters(&self) -> &Arc<Substituters> {
        &self.substituters
    }

    /// The downloads.
    pub fn downloads(&self) -> &Arc<Downloads> {
        &self.downloads
    }

    /// Asks the servers for their store directory. Without it, absolute links are shown as they are.
    pub async fn learn_store_dir(&self, deadline: Deadline) -> Result<&StoreDir, Error> {
        if let Some(known) = self.store_dir.get() {
            return Ok(known);
        }
        let learnt = self.substituters.store_dir(deadline.instant()).await.map_err(Error::Lookup)?;
        Ok(self.store_dir.get_or_init(|| learnt))
    }

    /// Nix's listing of a store path (`HASHPART.ls`), as the server has it that gave its narinfo; `None` if that has none. Nobody signs
    /// listings.
    pub async fn listing(&self, hash_part: HashPart, deadline: Deadline) -> Result<Option<Bytes>, Error> {
        let found = self.substituters.find(hash_part, deadline.instant()).await.map_err(Error::Lookup)?;
        let Some(Found { server, .. }) = found.as_deref() else { return Ok(None) };
        let listing = deadline.bound(server.listing(hash_part)).await.unwrap_or_else(|| {
            let servers = Arc::new([server.name().to_owned()]);
            Err(substituter::Error::Late { hash_part, servers })
        });
        listing.map_err(Error::Lookup)
    }

    /// The contents that were hashed to the NAR of a store path before, the last one first.
    pub(super) async fn known(&self, resolved: &Resolved, deadline: Deadline) -> Vec<Known> {
        let (downloads, nar_hash) = (self.downloads.clone(), resolved.narinfo.nar_hash());
        let known = spawn_blocking(move || downloads.verified().get(nar_hash));
        deadline.bound(known).await.and_then(Result::ok).unwrap_or_default()
    }

    /// The content that was hashed to the NAR of a store path last, and what is known of it.
    pub async fn hashed(
        &self,
        resolved: &Resolved,
        deadline: Deadline,
    ) -> Option<(ReadCapability, Expected)> {
        let known = *self.known(resolved, deadline).await.first()?;
        Some((known.capability, resolved.expected(known, None)))
    }

    /// Whether a content was hashed to the NAR of a store path.
    pub async fn is_hashed(
        &self,
        resolved: &Resolved,
        capability: &ReadCapability,
        deadline: Deadline,
    ) -> bool {
        self.known(resolved, deadline).await.iter().any(|known| known.capability == *capability)
    }

    /// Downloads the NAR of a store path, or joins its download. ERIS contents that should hold it are read through `fetch`.
    pub async fn download(
        &self,
        resolved: &Resolved,
        fetch: &Arc<Fetch>,
        deadline: Deadline,
    ) -> Arc<Download> {
        let contents = resolved.bound.iter().chain(&resolved.unbound);
        Fallback::new(self, resolved, fetch, contents, false).start(deadline).await
    }

    async fn resolve(
        &self,
        hash_part: HashPart,
        deadline: Deadline,
    ) -> Result<Option<Resolved>, substituter::Error> {
        let Some(found) = self.substituters.find(hash_part, deadline.instant()).await? else {
            return Ok(None);
        };
        self.store_dir.get_or_init(|| found.narinfo.store_dir().clone());
        let believes = self.substituters.policy().unsigned == Unsigned::Believe;
        let Found { narinfo, standing, bound, unbound, .. } = (*found).clone();
        let trust = match standing {
            Standing::Bound { signer: Some(signer) } => Trust::Bound { signer },
            Standing::Bound { signer: None } => Trust::Insecure,
            Standing::Hashed { signer: None } if believes => Trust::Insecure,
            Standing::Hashed { signer } => Trust::Hashed { signer },
        };
        Ok(Some(Resolved { narinfo, trust, bound, unbound }))
    }
}

impl Sources {
    /// The directory that all paths are in: that of the first catalog, else of the servers, once it is known.
    pub fn store_dir(&self) -> Option<&StoreDir> {
        let servers = || self.substitutes.as_ref()?.store_dir.get();
        self.catalogs.store_dir().or_else(servers)
    }

    /// The store path with this hash part; what its top is, where a catalog says so.
    pub async fn find(
        &self,
        hash_part: HashPart,
        deadline: Deadline,
    ) -> Result<Option<(StorePath, Option<Facts>)>, Error> {
        let listed = match self.catalogs.find(hash_part, self.for_catalogs(deadline)).await {
            Ok(Some((path, facts))) => return Ok(Some((path, Some(facts)))),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        let found = self.beside_catalogs(listed, hash_part, deadline).await?;
        Ok(found.map(|found| (found.narinfo.store_path().clone(), None)))
    }

    /// Everything that is known of a store path without opening it.
    pub async fn resolve(&self, hash_part: HashPart, deadline: Deadline) -> Result<Option<Resolved>, Error> {
        let listed = match self.catalogs.narinfo(hash_part, self.for_catalogs(deadline)).await {
            Ok(Some(narinfo)) => {
                let (trust, bound) = (Trust::Catalog, narinfo.eris().to_vec());
                return Ok(Some(Resolved { narinfo: Arc::new(narinfo), trust, bound, unbound: Vec::new() }));
            }
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        self.beside_catalogs(listed, hash_part, deadline).await
    }

    /// What the servers say of a path that no catalog lists, or that none can be asked for: `listed`.
    async fn beside_catalogs(
        &self,
        listed: Result<Option<Resolved>, Error>,
        hash_part: HashPart,
        deadline: Deadline,
    ) -> Result<Option<Resolved>, Error> {
        let Some(substitutes) = &self.substitutes else { return listed };
        match (substitutes.resolve(hash_part, deadline).await, listed) {
            (Ok(Some(found)), _) => Ok(Some(found)),
            // It may be in the catalog that cannot be read: nobody can say that there is no such path.
            (Ok(None), listed) => listed,
            (Err(_), Err(catalog)) => Err(catalog),
            (Err(error), Ok(_)) => Err(Error::Lookup(error)),
        }
    }

    /// How long a catalog may take, so that there is time for the servers.
    fn for_catalogs(&self, deadline: Deadline) -> Deadline {
        if self.substitutes.is_some() { deadline.share(FIRST) } else { deadline }
    }
}

/// Where there is a second way to what is wanted, the first one has this part of the time: a block store that is up and slow
/// answers within that of a usual deadline (30 s), and what is left is enough for a NAR of usual size.
pub(super) const FIRST: u32 = 3;
