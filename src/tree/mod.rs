//! The view: from a name to a trusted object, to its nodes, to their bytes. No kernel in it.
//!
//! The root holds the store paths that the catalogs list, and any ERIS content under its URN (which is
//! not listed). Below a store path everything comes from the listing of its object, in memory. Every
//! operation is a future that is ready at its first poll when nothing has to be fetched.

mod ahead;
mod as_read;
mod binding;
mod catalog;
mod encoded;
mod error;
mod fallback;
mod inode;
mod nar_stream;
mod object;
mod objects;
mod open_path;
mod opening;
mod plan;
mod read_dir;
mod sources;
mod trust;
mod view;
mod xattr;

pub use crate::store::catalog::Kind;
pub use ahead::{Profiles, ProfilesError, Pushed, read_profile};
pub use catalog::{Catalog, CatalogError, Catalogs};
pub use error::{Error, Fault};
pub use inode::Inode;
pub use nar_stream::NarStream;
pub use object::{Expected, Object};
pub use plan::{FilePlan, Located};
pub use read_dir::DirEntry;
pub use sources::{Resolved, Sources, Substitutes};
pub use trust::Trust;
pub use view::{DownloadStatus, Tree, TreeStatus};
pub use xattr::XATTR_PREFIX;

use std::path::PathBuf;

use crate::nar::{self, NodeId};
use objects::Objects;

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
    /// What a catalog should say of the top of a tree.
    fn of(listing: &nar::Listing) -> Self {
        let (kind, number) = match listing.kind(NodeId::ROOT) {
            nar::Kind::Directory => (Kind::Directory, listing.subdirectories(NodeId::ROOT).into()),
            nar::Kind::File { executable: true, size, .. } => (Kind::Executable, size),
            nar::Kind::File { executable: false, size, .. } => (Kind::Regular, size),
            nar::Kind::Symlink => (Kind::Symlink, listing.target(NodeId::ROOT).len() as u64),
        };
        Facts { kind, number }
    }

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

/// Whether what lies around a program that is started and what it refers to is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Closure {
    /// Where the link is not thin.
    #[default]
    Auto,
    /// Never.
    Never,
}

/// How much memory the view may keep, how it shows links, and what it fetches ahead of need.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What absolute links into the store directory look like.
    pub symlinks: Symlinks,
    /// Bytes of decoded frames.
    pub frame_bytes: usize,
    /// Bytes of trees of opened store paths.
    pub object_bytes: usize,
    /// Whether to fetch ahead for those who read in order.
    pub read_ahead: bool,
    /// The most bytes to fetch ahead for one reader; all readers together get half of `frame_bytes`.
    pub max_window: u64,
    /// Whether what was decoded ahead is handed out ([`Tree::push_to`]).
    pub push: bool,
    /// What a program refers to.
    pub closure: Closure,
    /// The directory of startup profiles. Without it none is replayed, not even a published one.
    pub profiles: Option<PathBuf>,
    /// Profiles that name more bytes than this are not replayed, and none fetches more, counted in whole frames and blocks; what
    /// they fetch should fit into the caches.
    pub replay_bytes: u64,
    /// The most bytes of blocks to fetch ahead around a program that has no profile; they should fit into the block caches.
    pub sweep_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            symlinks: Symlinks::Absolute,
            frame_bytes: 64 << 20,
            object_bytes: 64 << 20,
            read_ahead: true,
            // 50 ms at 1 Gbit/s are 6.25 MB; twice that, for what is being read while the rest is on its way.
            max_window: 16 << 20,
            push: true,
            closure: Closure::Auto,
            profiles: None,
            replay_bytes: 256 << 20,
            sweep_bytes: 16 << 20,
        }
    }
}
