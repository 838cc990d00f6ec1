//! What was published where, kept from run to run so that nothing is encoded twice.
//!
//! One SQLite file. It only saves work: what it says is checked against the block store, and without it
//! everything is encoded again, to the same blocks.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::eris::ReadCapability;
use crate::store::NarHash;
use crate::store::catalog::Kind;

/// How long another run may hold the file: it writes some rows at a time.
const BUSY: Duration = Duration::from_secs(5);

/// The table carries the version of its columns in its name.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS published_1 (
    store TEXT NOT NULL, path TEXT NOT NULL, nar_hash BLOB NOT NULL, format TEXT NOT NULL,
    urn TEXT NOT NULL, nar_size INTEGER NOT NULL, packed_size INTEGER NOT NULL, packed_hash BLOB NOT NULL,
    kind INTEGER NOT NULL, number INTEGER NOT NULL,
    PRIMARY KEY (store, path, nar_hash, format)) WITHOUT ROWID";

/// What was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    /// The name of the block store.
    pub store: String,
    /// The full store path.
    pub path: String,
    /// The NAR.
    pub nar_hash: NarHash,
    /// How it was packed and encoded.
    pub format: String,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub capability: ReadCapability,
    pub nar_size: u64,
    pub packed_size: u64,
    pub packed_hash: NarHash,
    /// What the path is at its top, as in a catalog's entry.
    pub kind: Kind,
    pub number: u64,
}

/// The state file.
#[derive(Debug)]
pub(super) struct State(Mutex<Connection>);

impl State {
    /// Opens the file, which is created with its directory if need be.
    pub fn open(file: &Path) -> rusqlite::Result<Self> {
        if let Some(directory) = file.parent() {
            // Where this fails, so does what follows, with a message that names the file.
            let _ = std::fs::create_dir_all(directory);
        }
        let connection = Connection::open(file)?;
        connection.busy_timeout(BUSY)?;
        connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")?;
        connection.execute_batch(TABLE)?;
        Ok(Self(Mutex::new(connection)))
    }

    /// The record of a path that was published.
    pub fn find(&self, key: &Key) -> rusqlite::Result<Option<Record>> {
        let connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = connection
            .prepare_cached(
                "SELECT urn, nar_size, packed_size, packed_hash, kind, number FROM published_1
                 WHERE store = ?1 AND path = ?2 AND nar_hash = ?3 AND format = ?4",
            )?
            .query_row(params![key.store, key.path, key.nar_hash.as_bytes(), key.format], |row| Ok(read(row)))
            .optional()?;
        // A row that cannot be read is as good as none.
        found.map_or(Ok(None), |record| Ok(record.ok().flatten()))
    }

    /// Remembers what was published, all of it or, on an error, nothing.
    pub fn record(&self, published: &[(Key, Record)]) -> rusqlite::Result<()> {
        let mut connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = connection.transaction()?;
        for (key, record) in published {
            transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO published_1 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                )?
                .execute(params![
                    key.store,
                    key.path,
                    key.nar_hash.as_bytes(),
                    key.format,
                    record.capability.to_string(),
                    record.nar_size.cast_signed(),
                    record.packed_size.cast_signed(),
                    record.packed_hash.as_bytes(),
                    kind_number(record.kind),
                    record.number.cast_signed(),
                ])?;
        }
        transaction.commit()
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<Option<Record>> {
    let urn: String = row.get(0)?;
    let kind = match row.get(4)? {
        0 => Kind::Directory,
        1 => Kind::Regular,
        2 => Kind::Executable,
        3 => Kind::Symlink,
        _ => return Ok(None),
    };
    let Ok(capability) = urn.parse() else { return Ok(None) };
    Ok(Some(Record {
        capability,
        nar_size: row.get::<_, i64>(1)?.cast_unsigned(),
        packed_size: row.get::<_, i64>(2)?.cast_unsigned(),
        packed_hash: NarHash::new(row.get(3)?),
        kind,
        number: row.get::<_, i64>(5)?.cast_unsigned(),
    }))
}

fn kind_number(kind: Kind) -> i64 {
    match kind {
        Kind::Directory => 0,
        Kind::Regular => 1,
        Kind::Executable => 2,
        Kind::Symlink => 3,
    }
}
