//! Where names lead: the catalogs that the user named, and substitute servers whose word is checked by keys.

use std::sync::{Arc, OnceLock};

use super::{Catalogs, Error, Facts, Trust};
use crate::content::Deadline;
use crate::download::Downloads;
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
pub(super) struct Resolved {
    pub(super) narinfo: Arc<Narinfo>,
    pub(super) trust: Trust,
    /// ERIS contents of which parts may be shown, the preferred one first.
    pub(super) bound: Vec<ErisBinding>,
    /// ERIS contents that have to be hashed whole before anything is shown.
    pub(super) unbound: Vec<ErisBinding>,
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
    pub(super) async fn find(
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
    pub(super) async fn resolve(
        &self,
        hash_part: HashPart,
        deadline: Deadline,
    ) -> Result<Option<Resolved>, Error> {
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
