//! Where names lead: the catalogs that the user named, and substitute servers whose word is checked by keys.

use std::sync::Arc;

use super::{Catalogs, Error, Facts, Trust};
use crate::content::Deadline;
use crate::store::narinfo::ErisBinding;
use crate::store::{HashPart, Narinfo, StoreDir, StorePath};

/// What a tree looks names up in. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Asked first, and listed in the root.
    pub catalogs: Catalogs,
}

impl From<Catalogs> for Sources {
    fn from(catalogs: Catalogs) -> Self {
        Sources { catalogs }
    }
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

impl Sources {
    /// The directory that all paths are in: that of the first catalog.
    pub fn store_dir(&self) -> Option<&StoreDir> {
        self.catalogs.store_dir()
    }

    /// The store path with this hash part; what its top is, where a catalog says so.
    pub(super) async fn find(
        &self,
        hash_part: HashPart,
        deadline: Deadline,
    ) -> Result<Option<(StorePath, Option<Facts>)>, Error> {
        let listed = self.catalogs.find(hash_part, deadline).await?;
        Ok(listed.map(|(path, facts)| (path, Some(facts))))
    }

    /// Everything that is known of a store path without opening it.
    pub(super) async fn resolve(
        &self,
        hash_part: HashPart,
        deadline: Deadline,
    ) -> Result<Option<Resolved>, Error> {
        let Some(narinfo) = self.catalogs.narinfo(hash_part, deadline).await? else { return Ok(None) };
        let bound = narinfo.eris().to_vec();
        Ok(Some(Resolved { narinfo: Arc::new(narinfo), trust: Trust::Catalog, bound, unbound: Vec::new() }))
    }
}
