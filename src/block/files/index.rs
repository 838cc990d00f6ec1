//! The index: which reference is which slice of which file, in one SQLite database.
//!
//! A leaf costs half of its reference, the number of its file and its own, about 35 bytes. Of the nodes above the leaves the
//! pairs are kept, 64 bytes for each leaf, because making the root of a file anew would mean reading all of it. It is a cache: what it says is checked against
//! the files, and without it they are read again.

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};

use super::IndexError;
use super::slice::Stamp;
use crate::block::read_only::{self, Unread};
use crate::eris::{BlockSize, ReadCapability, Reference, seal_node};

/// "ERIF" in the header of the database: tells our indices from other files.
const APPLICATION_ID: i32 = 0x4552_4946;

/// How long another process's transaction is waited for.
const BUSY: Duration = Duration::from_secs(10);

/// Bytes of a reference that are kept: no two blocks of a world agree in them by chance, and what is found is hashed anyway.
const PREFIX: usize = 16;

/// Places that are tried for one block. Blocks of zeros are in many files.
const MAX_PLACES: usize = 8;

/// Also a reader marks files; where it may not write, SQLite opens the database for reading.
const FLAGS: OpenFlags = OpenFlags::SQLITE_OPEN_READ_WRITE.union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

/// Kibibytes of the database that the writer keeps in memory: references come in no order.
const WRITER_CACHE: i64 = 64 << 10;

/// The tables carry the version of their columns in their names. Those of an older one are not read.
const SCHEMA: &str = "
    DROP TABLE IF EXISTS files_1;
    DROP TABLE IF EXISTS leaves_1;
    DROP TABLE IF EXISTS nodes_1;
    CREATE TABLE IF NOT EXISTS files_2 (id INTEGER PRIMARY KEY AUTOINCREMENT, path BLOB NOT NULL UNIQUE,
        size INTEGER NOT NULL, mtime INTEGER NOT NULL, ctime INTEGER NOT NULL, inode INTEGER NOT NULL,
        state INTEGER NOT NULL, capability BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS leaves_2 (reference BLOB NOT NULL, file INTEGER NOT NULL, leaf INTEGER NOT NULL,
        PRIMARY KEY (reference, file)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS nodes_2 (reference BLOB NOT NULL, file INTEGER NOT NULL, level INTEGER NOT NULL,
        pairs BLOB NOT NULL);
    CREATE INDEX IF NOT EXISTS nodes_2_reference ON nodes_2 (reference, file);";

/// How much an entry for a file is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It stands until the file looks different.
    Settled = 0,
    /// The file was written so shortly before that another change need not show: it is read again next time.
    Fresh = 1,
    /// It is wrong, or not complete yet.
    Stale = 2,
}

/// Where a block comes from.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub file: i64,
    pub path: PathBuf,
    pub stamp: Stamp,
    pub block_size: BlockSize,
}

/// Where a leaf is.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub origin: Origin,
    pub leaf: u64,
}

/// What a node is made of.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub origin: Origin,
    pairs: Vec<u8>,
    level: u8,
}

impl Node {
    /// The node, if it comes out right.
    pub fn make(self, reference: &Reference) -> Option<Vec<u8>> {
        let (found, node) = seal_node(self.pairs, self.level, self.origin.block_size);
        (found == *reference).then_some(node)
    }
}

/// A file of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedFile {
    /// Where it is below the directory.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// The capability to read it.
    pub capability: ReadCapability,
}

/// A connection to an index.
#[derive(Debug)]
pub struct Index {
    connection: Connection,
    path: PathBuf,
    /// Whether it is read as a file that nobody changes.
    immutable: bool,
}

/// A database that was opened.
struct Probed {
    connection: Connection,
    application: i32,
    tables: i64,
    /// Whether it has the tables of this version.
    current: bool,
}

fn probe(connection: Connection) -> rusqlite::Result<Probed> {
    connection.busy_timeout(BUSY)?;
    let application = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let query = "SELECT count(*), count(*) FILTER (WHERE name = 'files_2') FROM sqlite_schema";
    let (tables, current): (i64, i64) =
        connection.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(Probed { connection, application, tables, current: current > 0 })
}

type Result<T> = std::result::Result<T, IndexError>;

impl Index {
    /// Opens an index that is there; `None` if there is none, or one of an older version, which is made anew.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        if !path.try_exists().map_err(|source| IndexError::File { path: path.to_owned(), source })? {
            return Ok(None);
        }
        let opened = read_only::open(path, FLAGS, probe).map_err(|unread| match unread {
            Unread::Pending(pending) => IndexError::Pending { path: path.to_owned(), pending },
            Unread::Failed(source) => IndexError::Database { path: path.to_owned(), source },
        })?;
        let current = opened.probed.current;
        let index = Self::new(path, opened.probed, opened.immutable)?;
        Ok(current.then_some(index))
    }

    /// Opens an index to be written, which is created with its directory if need be.
    pub(super) fn open_to_write(path: &Path) -> Result<Self> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)
                .map_err(|source| IndexError::File { path: directory.to_owned(), source })?;
        }
        let opened = Connection::open_with_flags(path, FLAGS | OpenFlags::SQLITE_OPEN_CREATE).and_then(probe);
        let probed = opened.map_err(|source| IndexError::Database { path: path.to_owned(), source })?;
        let index = Self::new(path, probed, false)?;
        let made = (|| {
            index.connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
            index.connection.pragma_update(None, "synchronous", "NORMAL")?;
            index.connection.pragma_update(None, "cache_size", -WRITER_CACHE)?;
            index.connection.pragma_update(None, "application_id", APPLICATION_ID)?;
            index.connection.execute_batch(SCHEMA)?;
            // Which files were met; in a file of its own where there are many.
            index.connection.execute_batch("CREATE TEMP TABLE met (id INTEGER PRIMARY KEY)")
        })();
        made.map_err(|source| index.failed(source))?;
        Ok(index)
    }

    fn new(path: &Path, probed: Probed, immutable: bool) -> Result<Self> {
        match probed {
            Probed { application: APPLICATION_ID, connection, .. }
            | Probed { application: 0, tables: 0, connection, .. } => {
                Ok(Self { connection, path: path.to_owned(), immutable })
            }
            _ => Err(IndexError::Foreign { path: path.to_owned() }),
        }
    }

    /// Whether this may be used for as long as one likes, and shows what is changed meanwhile.
    pub(super) fn is_lasting(&self) -> bool {
        !self.immutable
    }

    fn failed(&self, source: rusqlite::Error) -> IndexError {
        IndexError::Database { path: self.path.clone(), source }
    }

    fn run<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        work(&self.connection).map_err(|source| self.failed(source))
    }

    /// The files in the order of their paths, one after the other, for as long as `take` succeeds.
    pub fn for_each<E: From<IndexError>>(
        &self,
        mut take: impl FnMut(IndexedFile) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let failed = |source| E::from(self.failed(source));
        let query = "SELECT path, size, capability FROM files_2 WHERE state < 2 ORDER BY path";
        let mut statement = self.connection.prepare(query).map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            if let Some(file) = indexed(row).map_err(failed)? {
                take(file)?;
            }
        }
        Ok(())
    }

    /// The file at this path below the directory.
    pub fn find(&self, path: &Path) -> Result<Option<IndexedFile>> {
        let query = "SELECT path, size, capability FROM files_2 WHERE path = ?1 AND state < 2";
        let found = self.run(|connection| {
            connection.prepare_cached(query)?.query_row([path.as_os_str().as_bytes()], indexed).optional()
        })?;
        Ok(found.flatten())
    }

    /// Where a leaf is said to be.
    pub(super) fn places(&self, reference: &Reference) -> Result<Vec<Place>> {
        let query = "SELECT id, path, size, mtime, ctime, inode, capability, leaf
            FROM leaves_2 JOIN files_2 ON file = id WHERE reference = ?1 AND state < 2 LIMIT ?2";
        self.origins(query, reference, |origin, row| {
            Ok(Place { origin, leaf: row.get::<_, i64>(7)?.cast_unsigned() })
        })
    }

    /// The nodes that are said to have this reference, one for each file.
    pub(super) fn nodes(&self, reference: &Reference) -> Result<Vec<Node>> {
        let query = "SELECT id, path, size, mtime, ctime, inode, capability, pairs, level
            FROM nodes_2 JOIN files_2 ON file = id WHERE reference = ?1 AND state < 2 LIMIT ?2";
        self.origins(query, reference, |origin, row| {
            Ok(Node { origin, pairs: row.get(7)?, level: row.get(8)? })
        })
    }

    fn origins<T>(
        &self,
        query: &str,
        reference: &Reference,
        read: impl Fn(Origin, &Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        self.run(|connection| {
            let mut statement = connection.prepare_cached(query)?;
            let rows = statement.query_map(params![prefix(reference), MAX_PLACES as i64], |row| {
                let Ok(capability) = ReadCapability::from_bytes(&row.get::<_, Vec<u8>>(6)?) else {
                    return Ok(None);
                };
                let (file, path, stamp) = (row.get(0)?, path_of(row.get(1)?), stamp(row, 2)?);
                let origin = Origin { file, path, stamp, block_size: capability.block_size };
                read(origin, row).map(Some)
            })?;
            rows.filter_map(rusqlite::Result::transpose).collect()
        })
    }

    /// What was known of the file at this path.
    pub(super) fn known(&self, path: &Path) -> Result<Option<(i64, Stamp, bool)>> {
        let query = "SELECT id, size, mtime, ctime, inode, state FROM files_2 WHERE path = ?1";
        self.run(|connection| {
            connection
                .prepare_cached(query)?
                .query_row([path.as_os_str().as_bytes()], |row| {
                    Ok((row.get(0)?, stamp(row, 1)?, row.get::<_, i64>(5)? == State::Settled as i64))
                })
                .optional()
        })
    }

    pub(super) fn begin(&self) -> Result<()> {
        self.run(|connection| connection.execute_batch("BEGIN IMMEDIATE"))
    }

    pub(super) fn commit(&self) -> Result<()> {
        self.run(|connection| connection.execute_batch("COMMIT"))
    }

    /// Puts a file in the place of whatever had its path; its number. Nobody is given blocks of it before [`Self::finish`].
    pub(super) fn add(&self, path: &Path, stamp: Stamp) -> Result<i64> {
        self.run(|connection| {
            let path = path.as_os_str().as_bytes();
            connection.prepare_cached("DELETE FROM files_2 WHERE path = ?1")?.execute([path])?;
            let Stamp { size, mtime, ctime, inode } = stamp;
            connection
                .prepare_cached(
                    "INSERT INTO files_2 (path, size, mtime, ctime, inode, state, capability)
                    VALUES (?1, ?2, ?3, ?4, ?5, ?6, x'')",
                )?
                .execute(params![
                    path,
                    size.cast_signed(),
                    mtime,
                    ctime,
                    inode.cast_signed(),
                    State::Stale as i64
                ])?;
            Ok(connection.last_insert_rowid())
        })
    }

    pub(super) fn finish(&self, file: i64, capability: &ReadCapability, state: State) -> Result<()> {
        self.run(|connection| {
            connection
                .prepare_cached("UPDATE files_2 SET capability = ?2, state = ?3 WHERE id = ?1")?
                .execute(params![file, &capability.to_bytes()[..], state as i64])?;
            Ok(())
        })?;
        self.meet(file)
    }

    /// Takes back a file that was not finished.
    pub(super) fn remove(&self, file: i64) -> Result<()> {
        self.run(|connection| connection.execute("DELETE FROM files_2 WHERE id = ?1", [file]))?;
        Ok(())
    }

    /// Notes that a file is there.
    pub(super) fn meet(&self, file: i64) -> Result<()> {
        self.run(|connection| {
            connection.prepare_cached("INSERT OR IGNORE INTO met VALUES (?1)")?.execute([file])?;
            Ok(())
        })
    }

    /// Adds leaves. One that is in a file several times is kept once.
    pub(super) fn add_leaves(&self, leaves: &[Leaf]) -> Result<()> {
        self.run(|connection| {
            let mut insert =
                connection.prepare_cached("INSERT OR IGNORE INTO leaves_2 VALUES (?1, ?2, ?3)")?;
            for leaf in leaves {
                insert.execute(params![&leaf.reference[..], leaf.file, leaf.number.cast_signed()])?;
            }
            Ok(())
        })
    }

    pub(super) fn add_node(&self, reference: &Reference, file: i64, level: u8, pairs: &[u8]) -> Result<()> {
        self.run(|connection| {
            connection.prepare_cached("INSERT INTO nodes_2 VALUES (?1, ?2, ?3, ?4)")?.execute(params![
                prefix(reference),
                file,
                level,
                pairs
            ])?;
            Ok(())
        })
    }

    /// Forgets the files that were not met, and what belongs to no file any more. Returns how many were not met.
    pub(super) fn sweep(&self, any_gone: bool) -> Result<u64> {
        self.run(|connection| {
            let gone = connection.execute("DELETE FROM files_2 WHERE id NOT IN (SELECT id FROM met)", [])?;
            // Reads the whole index, so only where something is to be found.
            if gone > 0 || any_gone {
                connection.execute("DELETE FROM leaves_2 WHERE file NOT IN (SELECT id FROM files_2)", [])?;
                connection.execute("DELETE FROM nodes_2 WHERE file NOT IN (SELECT id FROM files_2)", [])?;
            }
            connection.execute("DELETE FROM met", [])?;
            Ok(gone as u64)
        })
    }

    /// Moves what SQLite has in its log into the database, for as long as no reader needs it there.
    pub(super) fn checkpoint(&self) -> Result<()> {
        self.run(|connection| connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())))
    }

    /// Marks a file that does not hold what was indexed, for other readers and the next indexing. Waits for nobody.
    pub(super) fn mark_stale(&self, file: i64) -> Result<()> {
        self.run(|connection| {
            connection.busy_timeout(Duration::ZERO)?;
            let mark = "UPDATE files_2 SET state = ?2 WHERE id = ?1";
            let marked = connection
                .prepare_cached(mark)
                .and_then(|mut statement| statement.execute(params![file, State::Stale as i64]));
            connection.busy_timeout(BUSY)?;
            marked.map(drop)
        })
    }
}

/// A leaf of a file that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Leaf {
    reference: [u8; PREFIX],
    file: i64,
    number: u64,
}

impl Leaf {
    pub fn new(reference: &Reference, file: i64, number: u64) -> Self {
        let mut kept = [0; PREFIX];
        kept.copy_from_slice(prefix(reference));
        Self { reference: kept, file, number }
    }

    pub fn file(&self) -> i64 {
        self.file
    }
}

fn prefix(reference: &Reference) -> &[u8] {
    &reference.as_bytes()[..PREFIX]
}

fn path_of(bytes: Vec<u8>) -> PathBuf {
    std::ffi::OsString::from_vec(bytes).into()
}

fn stamp(row: &Row<'_>, first: usize) -> rusqlite::Result<Stamp> {
    Ok(Stamp {
        size: row.get::<_, i64>(first)?.cast_unsigned(),
        mtime: row.get(first + 1)?,
        ctime: row.get(first + 2)?,
        inode: row.get::<_, i64>(first + 3)?.cast_unsigned(),
    })
}

fn indexed(row: &Row<'_>) -> rusqlite::Result<Option<IndexedFile>> {
    let capability: Vec<u8> = row.get(2)?;
    let Ok(capability) = ReadCapability::from_bytes(&capability) else { return Ok(None) };
    Ok(Some(IndexedFile {
        path: path_of(row.get(0)?),
        size: row.get::<_, i64>(1)?.cast_unsigned(),
        capability,
    }))
}
