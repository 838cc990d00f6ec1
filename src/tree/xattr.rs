//! What erisfs knows of a node, as extended attributes: `getfattr -d` shows them.

use super::inode::Occupant;
use super::{Error, Inode, Tree};
use crate::content::Deadline;

/// What the names of all our extended attributes begin with.
pub const XATTR_PREFIX: &str = "user.erisfs.";

impl Tree {
    /// The names of the extended attributes of `inode`.
    pub async fn xattr_names(&self, inode: Inode, deadline: Deadline) -> Result<Vec<String>, Error> {
        let known = self.xattrs(inode, deadline).await?;
        Ok(known.into_iter().map(|(name, _)| format!("{XATTR_PREFIX}{name}")).collect())
    }

    /// The extended attribute `name` of `inode`; `None` if it has no such.
    pub async fn xattr(
        &self,
        inode: Inode,
        name: &[u8],
        deadline: Deadline,
    ) -> Result<Option<String>, Error> {
        let Some(wanted) = name.strip_prefix(XATTR_PREFIX.as_bytes()) else { return Ok(None) };
        let known = self.xattrs(inode, deadline).await?;
        Ok(known.into_iter().find(|(name, _)| name.as_bytes() == wanted).map(|(_, value)| value))
    }

    async fn xattrs(&self, inode: Inode, deadline: Deadline) -> Result<Vec<(&'static str, String)>, Error> {
        let urns = || self.catalogs().iter().map(|catalog| catalog.capability().to_string());
        if inode == Inode::ROOT {
            return Ok(vec![("catalog", urns().collect::<Vec<_>>().join("\n"))]);
        }
        let path = match self.objects.occupants.get(inode.slot()) {
            None => return Err(Error::Stale { number: inode.into() }),
            Some(Occupant::Content(content)) => return Ok(vec![("urn", content.to_string())]),
            Some(Occupant::Path { path, .. }) => path,
        };
        let Some(resolved) = self.objects.sources.resolve(path.hash_part(), deadline).await? else {
            return Ok(Vec::new());
        };
        let narinfo = resolved.narinfo;
        let mut known = vec![
            ("storepath", narinfo.store_dir().join(narinfo.store_path())),
            ("narhash", narinfo.nar_hash().to_string()),
            ("narsize", narinfo.nar_size().to_string()),
            ("trust", resolved.trust.to_string()),
        ];
        if let Some(object) = self.objects.opened(inode.slot()) {
            known.push(("source", object.source().to_owned()));
        }
        if let Some(binding) = resolved.bound.first() {
            known.push(("urn", binding.urn.clone()));
            known.extend(binding.format.clone().map(|format| ("format", format)));
        }
        Ok(known)
    }
}
