//! What the local Nix or Guix knows about its store paths: hash, size, references.
//!
//! Both keep it in the same SQLite schema; Guix's lacks the columns that Nix added later (`ultimate`,
//! `sigs`, `ca`). The database is opened read-only, also while the daemon writes to it, and also by a user who
//! may not create the files that SQLite wants beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row};

use crate::block::read_only::{self, Unread};
use crate::store::hash::HashError;
use crate::store::path::PathError;
use crate::store::{NarHash, StoreDir, StorePath};

/// Why the database does not give an answer.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// There is no database where one is expected.
    #[error(
        "no Nix or Guix database at {}: is {store_dir} a store of this machine? \
         (a directory outside the store can be published as it is, without --closure)",
        path.display()
    )]
    Missing {
        /// Where it should be.
        path: PathBuf,
        /// The store it should be about.
        store_dir: StoreDir,
    },
    /// It is not known where the database of this store directory is.
    #[error("no database is known for the store {store_dir}: name its db.sqlite")]
    UnknownStore {
        /// The store directory.
        store_dir: StoreDir,
    },
    /// The file cannot be opened, or is not such a database.
    #[error("cannot read the database {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// A query failed.
    #[error("database {}, asked for {store_path}: {source}", path.display())]
    Query {
        /// The file.
        path: PathBuf,
        /// The store path asked for.
        store_path: StorePath,
        /// What SQLite says.
        source: Box<rusqlite::Error>,
    },
    /// Somebody who could write left changes beside the database that only such a user can read.
    #[error(
        "cannot read the database {} without write access while {} holds unfinished changes: \
         start the daemon, or run this as the user who owns the database",
        path.display(),
        pending.display()
    )]
    Pending {
        /// The database.
        path: PathBuf,
        /// The write-ahead log or journal.
        pending: PathBuf,
    },
    /// The file is an SQLite database, but not a store's.
    #[error("{} is not the database of a store: it has no table ValidPaths", path.display())]
    OtherDatabase {
        /// The file.
        path: PathBuf,
    },
    /// The store path is not in the database, so it was never completely in the store.
    #[error("{full_path} is not a valid store path here: the database does not know it")]
    NotValid {
        /// The path.
        full_path: String,
    },
    /// A row holds something that is not a store path.
    #[error("database row of {store_path}: {source}")]
    Path {
        /// The store path asked for.
        store_path: StorePath,
        /// What is wrong.
        source: PathError,
    },
    /// A row holds something that is not a SHA-256.
    #[error("database row of {store_path}: {source}")]
    Hash {
        /// The store path asked for.
        store_path: StorePath,
        /// What is wrong.
        source: HashError,
    },
}

/// What the database says about a store path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathInfo {
    /// The store path.
    pub path: StorePath,
    /// SHA-256 of its NAR.
    pub nar_hash: NarHash,
    /// Size of its NAR in bytes; older databases do not have it.
    pub nar_size: Option<u64>,
    /// The store paths that it refers to, sorted; it may be among them.
    pub references: Vec<StorePath>,
    /// The derivation that built it.
    pub deriver: Option<StorePath>,
    /// Its content address as Nix writes it.
    pub ca: Option<String>,
}

/// The database of the local store.
#[derive(Debug)]
pub struct Database {
    connection: Connection,
    file: PathBuf,
    store_dir: StoreDir,
    has_ca: bool,
}

impl Database {
    /// Opens the database of `store_dir`, which is known for `/nix/store` and `/gnu/store`.
    pub fn open(store_dir: &StoreDir) -> Result<Self, DatabaseError> {
        let file = match store_dir.as_str() {
            "/nix/store" => "/nix/var/nix/db/db.sqlite",
            "/gnu/store" => "/var/guix/db/db.sqlite",
            _ => {
                return Err(DatabaseError::UnknownStore { store_dir: store_dir.clone() });
            }
        };
        Self::open_file(Path::new(file), store_dir)
    }

    /// Opens a database file that is about `store_dir`.
    pub fn open_file(file: &Path, store_dir: &StoreDir) -> Result<Self, DatabaseError> {
        if !file.is_file() {
            return Err(DatabaseError::Missing { path: file.to_owned(), store_dir: store_dir.clone() });
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = read_only::open(file, flags, with_columns).map_err(|unread| match unread {
            Unread::Pending(pending) => DatabaseError::Pending { path: file.to_owned(), pending },
            Unread::Failed(source) => DatabaseError::Open { path: file.to_owned(), source },
        })?;
        let (connection, columns) = opened.probed;
        if !columns.iter().any(|column| column == "hash") {
            return Err(DatabaseError::OtherDatabase { path: file.to_owned() });
        }
        Ok(Self {
            connection,
            file: file.to_owned(),
            store_dir: store_dir.clone(),
            has_ca: columns.iter().any(|column| column == "ca"),
        })
    }

    /// The store directory that the database is about.
    pub fn store_dir(&self) -> &StoreDir {
        &self.store_dir
    }

    /// What is known of a store path; none where it is not valid.
    pub fn path_info(&self, path: &StorePath) -> Result<Option<PathInfo>, DatabaseError> {
        let Some(stored) = self.stored(path).map_err(self.query_error(path))? else {
            return Ok(None);
        };
        let references = self.references(stored.id).map_err(self.query_error(path))?;
        let path_error = |source| DatabaseError::Path { store_path: path.clone(), source };
        let mut references = references
            .iter()
            .map(|reference| self.store_dir.parse(reference))
            .collect::<Result<Vec<_>, _>>()
            .map_err(path_error)?;
        references.sort();
        let deriver = stored
            .deriver
            .filter(|deriver| !deriver.is_empty())
            .map(|deriver| self.store_dir.parse(&deriver))
            .transpose()
            .map_err(path_error)?;
        let nar_hash =
            stored.hash.parse().map_err(|source| DatabaseError::Hash { store_path: path.clone(), source })?;
        Ok(Some(PathInfo {
            path: path.clone(),
            nar_hash,
            nar_size: stored.nar_size.and_then(|size| u64::try_from(size).ok()),
            references,
            deriver,
            ca: stored.ca.filter(|ca| !ca.is_empty()),
        }))
    }

    /// The paths and all that they refer to, directly or not, sorted by store path.
    pub fn closure(
        &self,
        paths: impl IntoIterator<Item = StorePath>,
    ) -> Result<Vec<PathInfo>, DatabaseError> {
        // One snapshot, so that nothing is collected as garbage half-way.
        let snapshot = self.connection.unchecked_transaction();
        let _snapshot = snapshot.map_err(|source| DatabaseError::Open { path: self.file.clone(), source })?;
        let mut found = BTreeMap::new();
        let mut wanted: Vec<StorePath> = paths.into_iter().collect();
        while let Some(path) = wanted.pop() {
            if found.contains_key(&path) {
                continue;
            }
            let info = self.path_info(&path)?;
            let info =
                info.ok_or_else(|| DatabaseError::NotValid { full_path: self.store_dir.join(&path) })?;
            let references = info.references.iter();
            wanted.extend(references.filter(|path| !found.contains_key(*path)).cloned());
            found.insert(path, info);
        }
        Ok(found.into_values().collect())
    }

    fn stored(&self, path: &StorePath) -> rusqlite::Result<Option<Stored>> {
        let sql = if self.has_ca {
            "SELECT id, hash, narSize, deriver, ca FROM ValidPaths WHERE path = ?1"
        } else {
            "SELECT id, hash, narSize, deriver, NULL FROM ValidPaths WHERE path = ?1"
        };
        let mut statement = self.connection.prepare_cached(sql)?;
        statement.query_row([self.store_dir.join(path)], Stored::read).optional()
    }

    fn references(&self, id: i64) -> rusqlite::Result<Vec<String>> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT path FROM Refs JOIN ValidPaths ON reference = id WHERE referrer = ?1")?;
        statement.query_map([id], |row| row.get(0))?.collect()
    }

    fn query_error(&self, path: &StorePath) -> impl Fn(rusqlite::Error) -> DatabaseError {
        let (file, store_path) = (self.file.clone(), path.clone());
        move |source| DatabaseError::Query {
            path: file.clone(),
            store_path: store_path.clone(),
            source: Box::new(source),
        }
    }
}

/// A row of `ValidPaths` as it is stored.
struct Stored {
    id: i64,
    hash: String,
    nar_size: Option<i64>,
    deriver: Option<String>,
    ca: Option<String>,
}

impl Stored {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            hash: row.get(1)?,
            nar_size: row.get(2)?,
            deriver: row.get(3)?,
            ca: row.get(4)?,
        })
    }
}

/// The connection and the columns of `ValidPaths`: the first query, which also shows whether the file
/// can be read at all.
fn with_columns(connection: Connection) -> rusqlite::Result<(Connection, Vec<String>)> {
    let columns = connection
        .prepare("SELECT name FROM pragma_table_info('ValidPaths')")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    Ok((connection, columns))
}

#[cfg(test)]
mod tests;
