//! The view: from a name to a trusted object, to its nodes, to their bytes. No kernel in it.
//!
//! The root holds the store paths that the catalogs list, and any ERIS content under its URN (which is
//! not listed). Below a store path everything comes from the listing of its object, in memory. Every
//! operation is a future that is ready at its first poll when nothing has to be fetched.

mod catalog;
mod error;
mod inode;
mod object;
mod plan;
mod read_dir;
mod view;
mod xattr;

pub use crate::store::catalog::Kind;
pub use catalog::{Catalog, CatalogError, Catalogs};
pub use error::Error;
pub use inode::Inode;
pub use object::{Expected, Fault, Object};
pub use plan::{FilePlan, Located};
pub use read_dir::DirEntry;
pub use view::{Tree, TreeStatus};
pub use xattr::XATTR_PREFIX;

/// What `stat` says of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Its number.
    pub inode: Inode,
    /// What it is.
    pub kind: Kind,
    /// Bytes of a file or of a link's target; of a directory 0.
    pub size: u64,
    /// Names that lead to it: of a directory 2 and one for each sub-directory, else 1.
    pub links: u32,
}

/// What a catalog says of a store path without its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// What stands at the store path.
    pub kind: Kind,
    /// Sub-directories of a directory, size of a file, length of a link's target.
    pub number: u64,
}

impl Facts {
    /// The attributes that follow.
    fn attr(self, inode: Inode) -> Attr {
        let (size, links) = match self.kind {
            Kind::Directory => (0, u32::try_from(self.number).unwrap_or(u32::MAX).saturating_add(2)),
            Kind::Regular | Kind::Executable | Kind::Symlink => (self.number, 1),
        };
        Attr { inode, kind: self.kind, size, links }
    }
}

/// What absolute links into the store directory look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Symlinks {
    /// As they are: right where the mount is at the store directory itself.
    #[default]
    Absolute,
    /// Relative, so that they lead into the mount wherever it is.
    Relative,
}

/// How much memory the view may keep, and how it shows links.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What absolute links into the store directory look like.
    pub symlinks: Symlinks,
    /// Bytes of decoded frames.
    pub frame_bytes: usize,
    /// Bytes of trees of opened store paths.
    pub object_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { symlinks: Symlinks::Absolute, frame_bytes: 64 << 20, object_bytes: 64 << 20 }
    }
}
