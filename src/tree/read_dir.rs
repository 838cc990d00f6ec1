//! Directories, read in pieces. A position in a directory is a function of the entry (for the root) or of
//! its place in the listing, so that a reader can go on after anything, also after a restart.

use super::inode::{self, FIRST_COOKIE, Occupant};
use super::{Attr, Error, Inode, Tree};
use crate::content::Deadline;
use crate::nar::{self, NodeId};
use crate::store::catalog::Entry;

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name.
    pub name: Vec<u8>,
    /// The position after it.
    pub cookie: u64,
    /// What it is.
    pub attr: Attr,
}

impl Tree {
    /// Up to `limit` entries of the directory `inode` after position `cookie` (0: from the start), `.` and
    /// `..` first. Fewer do not mean that it ends: only none do.
    pub async fn read_dir(
        &self,
        inode: Inode,
        cookie: u64,
        limit: usize,
        deadline: Deadline,
    ) -> Result<Vec<DirEntry>, Error> {
        let mut entries = Vec::new();
        if inode == Inode::ROOT {
            let attr = self.attr(inode, deadline).await?;
            dots(cookie, attr, attr, &mut entries);
            self.read_root(cookie, limit, deadline, &mut entries).await?;
        } else {
            let (object, directory) = self.open_node(inode, deadline).await?;
            let listing = object.listing();
            if listing.kind(directory) != nar::Kind::Directory {
                return Err(Error::NotDirectory);
            }
            let attr = |node| self.node_attr(inode.slot(), &object, node);
            let parent = match directory {
                NodeId::ROOT => self.attr(Inode::ROOT, deadline).await?,
                _ => attr(listing.parent(directory)),
            };
            dots(cookie, attr(directory), parent, &mut entries);
            let skip = cookie.saturating_sub(FIRST_COOKIE - 1);
            let children = listing.children(directory).skip(usize::try_from(skip).unwrap_or(usize::MAX));
            for (place, node) in (skip..).zip(children.take(limit)) {
                let name = listing.name(node).to_vec();
                entries.push(DirEntry { name, cookie: place + FIRST_COOKIE, attr: attr(node) });
            }
        }
        entries.truncate(limit);
        Ok(entries)
    }

    async fn read_root(
        &self,
        cookie: u64,
        limit: usize,
        deadline: Deadline,
        entries: &mut Vec<DirEntry>,
    ) -> Result<(), Error> {
        let after = inode::last_hash_part(cookie);
        let found = self.catalogs().entries_after(after, deadline).await?;
        for Entry { path, kind, number } in found.into_iter().take(limit) {
            let name = path.to_string().into_bytes();
            let cookie = inode::root_cookie(&path.hash_part());
            let facts = super::Facts { kind, number };
            let slot = self.objects.occupants.slot(Occupant::Path { path, facts: Some(facts) });
            let inode = Inode::new(slot, NodeId::ROOT);
            // One store path that cannot be opened must not hide the others.
            let attr = self.attr(inode, deadline).await.unwrap_or_else(|_| facts.attr(inode));
            entries.push(DirEntry { name, cookie, attr });
        }
        Ok(())
    }
}

fn dots(cookie: u64, this: Attr, parent: Attr, entries: &mut Vec<DirEntry>) {
    if cookie < 1 {
        entries.push(DirEntry { name: b".".to_vec(), cookie: 1, attr: this });
    }
    if cookie < 2 {
        entries.push(DirEntry { name: b"..".to_vec(), cookie: 2, attr: parent });
    }
}
