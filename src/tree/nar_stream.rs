//! The NAR of a store path, for whoever passes it on: in order or in ranges, from whatever has it.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::{Error, Object, Tree};
use crate::content::Deadline;
use crate::store::{HashPart, NarHash, Narinfo};

/// The NAR of one store path. Its bytes are for those who check its hash themselves.
#[derive(Debug, Clone)]
pub struct NarStream {
    tree: Arc<Tree>,
    object: Arc<Object>,
    size: u64,
    nar_hash: NarHash,
}

impl NarStream {
    /// Bytes of the NAR.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its SHA-256.
    pub fn nar_hash(&self) -> NarHash {
        self.nar_hash
    }

    /// The bytes of `range`, which must lie within the NAR.
    pub async fn read(&self, range: Range<u64>, deadline: Deadline) -> Result<Bytes, Error> {
        let read = self.object.read_range(range, self.tree.frames(), deadline).await;
        let bytes = read.map_err(|source| Error::Read { name: self.object.name().to_owned(), source })?;
        self.tree.count_read(bytes.len() as u64);
        Ok(bytes)
    }
}

impl Tree {
    /// The narinfo of a store path as its catalog or server has it, byte for byte; `None` if there is no such path.
    pub async fn narinfo(
        &self,
        hash_part: HashPart,
        deadline: Deadline,
    ) -> Result<Option<Arc<Narinfo>>, Error> {
        let resolved = self.objects.sources.resolve(hash_part, deadline).await?;
        Ok(resolved.map(|resolved| resolved.narinfo))
    }

    /// The NAR of a store path; `None` if there is no such path.
    pub async fn archive(
        self: &Arc<Self>,
        hash_part: HashPart,
        deadline: Deadline,
    ) -> Result<Option<NarStream>, Error> {
        let Some(narinfo) = self.narinfo(hash_part, deadline).await? else { return Ok(None) };
        let Some(object) = self.object(hash_part, deadline).await? else { return Ok(None) };
        let (size, nar_hash) = (narinfo.nar_size(), narinfo.nar_hash());
        Ok(Some(NarStream { tree: self.clone(), object, size, nar_hash }))
    }
}
