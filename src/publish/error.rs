//! What can go wrong when something is published.

use std::io;
use std::path::PathBuf;

use super::database::DatabaseError;
use super::sign::SignError;
use crate::block::{self, IndexError};
use crate::nar::DumpError;
use crate::store::catalog::WriteError;
use crate::store::compute::ContentAddressError;
use crate::store::narinfo::NarinfoError;
use crate::store::path::PathError;
use crate::store::{HashPart, NarHash, StoreDir, StorePath};
use crate::substituter;

/// Why something was not published. Paths whose narinfo was written before are published nevertheless.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A path that was named cannot be looked at.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The last component of a path cannot be the name of a store path.
    #[error("{} cannot keep its name in a store; give it one with --name, for example --name {proposal}", path.display())]
    Name {
        /// The path.
        path: PathBuf,
        /// A name like it that is allowed.
        proposal: String,
        /// What is wrong with the name.
        source: PathError,
    },
    /// A name was given for something that has one, or for several things.
    #[error("a name can be given to one directory or file only, and not to a store path")]
    NameUnused,
    /// A startup profile was given for a store path that is not published now.
    #[error("the startup profile is for {path}, which is not among the store paths that were published")]
    ProfileUnused {
        /// What it is for.
        path: StorePath,
    },
    /// A whole store was named.
    #[error("{} is a store; name the store paths in it, for example {}/*", path.display(), path.display())]
    WholeStore {
        /// The store directory.
        path: PathBuf,
    },
    /// What was named lies in a store, but not in one of its store paths.
    #[error("{} is in a store, but is no store path", path.display())]
    NoStorePath {
        /// The path.
        path: PathBuf,
        /// What is wrong with its name.
        source: PathError,
    },
    /// Store paths of two stores were named, or another store directory than theirs.
    #[error("{} is in the store {found}, but the catalog is to be of {expected}; publish them one by one", path.display())]
    MixedStores {
        /// The path.
        path: PathBuf,
        /// Its store.
        found: StoreDir,
        /// The store of the paths before it, or the one asked for.
        expected: StoreDir,
    },
    /// The local database does not answer, or does not know the path.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The tree cannot be read, or no NAR can hold it.
    #[error("{} cannot be published", path.display())]
    Dump {
        /// The top of the tree.
        path: PathBuf,
        /// What is in the way.
        source: DumpError,
    },
    /// The tree cannot be packed.
    #[error("{} cannot be packed", path.display())]
    Pack {
        /// The top of the tree.
        path: PathBuf,
        /// What is in the way.
        source: io::Error,
    },
    /// What is on the disk is not what the local database says it is.
    #[error("{} was changed: its NAR hash is {found}, but the database says {expected}", path.display())]
    NarHash {
        /// The store path on disk.
        path: PathBuf,
        /// The hash in the database.
        expected: NarHash,
        /// The hash of what is there.
        found: NarHash,
    },
    /// The tree was read twice and was not the same.
    #[error("{} changed while it was read", path.display())]
    Changed {
        /// The top of the tree.
        path: PathBuf,
    },
    /// The name fits no store path.
    #[error("no store path can be computed")]
    Compute(#[from] ContentAddressError),
    /// The block store does not take blocks, or does not say whether it has them.
    #[error("{what} cannot be put")]
    Store {
        /// What the blocks are of.
        what: String,
        /// The block store's error, which names it.
        source: block::Error,
    },
    /// The narinfo cannot be made.
    #[error("no narinfo can be written for {store_path}")]
    Narinfo {
        /// The full store path.
        store_path: String,
        /// What is in the way.
        source: NarinfoError,
    },
    /// Guix takes no store path whose name begins with a dot.
    #[error("{} cannot keep its name in /gnu/store, where none begins with a dot; give it one with --name, for example --name {proposal}", path.display())]
    DotName {
        /// The path.
        path: PathBuf,
        /// A name like it that is allowed.
        proposal: String,
    },
    /// The narinfo cannot be signed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// A cache that is mirrored does not give what is asked of it.
    #[error(transparent)]
    Substituter(#[from] substituter::Error),
    /// A cache that is mirrored has no narinfo of a path.
    #[error("{server} has no narinfo of {hash_part}")]
    Absent {
        /// The cache.
        server: String,
        /// What was asked for.
        hash_part: HashPart,
    },
    /// A cache that is mirrored has another path than the one asked for, or one of another store.
    #[error("{server}, asked for {hash_part} in {store_dir}, has {found}")]
    OtherPath {
        /// The cache.
        server: String,
        /// What was asked for.
        hash_part: HashPart,
        /// The store that is mirrored.
        store_dir: StoreDir,
        /// The full path that came.
        found: String,
    },
    /// A narinfo of a mirrored cache names no file that can be unpacked.
    #[error("the narinfo of {path} names no file that this program can unpack")]
    NoDownload {
        /// The store path.
        path: StorePath,
    },
    /// What a mirrored cache has for a NAR is not the NAR that was signed.
    #[error("{url} of {server} is not the NAR of {path}: {reason}")]
    OtherNar {
        /// The cache.
        server: String,
        /// The file.
        url: String,
        /// The store path.
        path: StorePath,
        /// What was found.
        reason: String,
    },
    /// The index of a directory of files fails.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The catalog cannot be made.
    #[error(transparent)]
    Catalog(#[from] WriteError),
    /// A file beside the narinfos cannot be read or written.
    #[error("cannot write {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory for narinfos is that of another store.
    #[error("{} is of the store {found:?}; narinfos of {expected} must go elsewhere", path.display())]
    OtherCache {
        /// The file that says so.
        path: PathBuf,
        /// The store in it.
        found: String,
        /// The store to be published.
        expected: StoreDir,
    },
    /// The content to be put cannot be read.
    #[error("the content cannot be read")]
    Input(#[source] io::Error),
}
