//! Narinfos in one SQLite file: `sqlite:FILE`, for an overlay that is easier to move than a hundred thousand files.
//!
//! One table, `narinfos`: the hash part and the narinfo, both as text. The journal is the one that leaves a single
//! file behind, so that the file can be copied, and read from a medium that cannot be written.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::web::{Files, NarUrl};
use super::{Error, Info, NarFile, Substituter, Web};
use crate::store::{HashPart, Narinfo, narinfo};

/// "ERNI" in the file's header: tells our databases from others.
const APPLICATION_ID: i32 = 0x4552_4e49;
const SCHEMA: &str =
    "CREATE TABLE narinfos (hash_part TEXT NOT NULL PRIMARY KEY, narinfo TEXT NOT NULL) WITHOUT ROWID";
/// What is longer than a narinfo can be is not read: whoever made the file may be hostile.
const GET: &str = "SELECT octet_length(narinfo), iif(octet_length(narinfo) <= ?2, CAST(narinfo AS BLOB), x'')
    FROM narinfos WHERE hash_part = ?1";
/// What is there already is not written again.
const PUT: &str = "INSERT INTO narinfos (hash_part, narinfo) VALUES (?1, ?2)
    ON CONFLICT (hash_part) DO UPDATE SET narinfo = excluded.narinfo WHERE narinfo IS NOT excluded.narinfo";
/// Bytes of a page of our databases.
const PAGE: u64 = 4096;
/// How long another process's transaction is waited for, and a disk.
const BUSY: Duration = Duration::from_secs(10);
/// For a look into a database that is made to take long, too.
const PATIENCE: Duration = Duration::from_secs(15);

/// A database of narinfos by hash part. It has no NAR files; absolute URLs in its narinfos are followed.
#[derive(Debug)]
pub struct Sqlite {
    shared: Arc<Shared>,
    files: Files,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    name: Arc<str>,
    connection: Mutex<Option<Connection>>,
    /// One thread at a time: those that a dead disk keeps must not become more and more.
    turn: Arc<Semaphore>,
}

impl Sqlite {
    /// The database at `path`, which need not be there yet, to be read.
    pub fn open(path: &Path, web: Arc<Web>) -> Self {
        let name: Arc<str> = format!("sqlite:{}", path.display()).into();
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let files = Files::new(Arc::clone(&name), web);
        Self {
            shared: Arc::new(Shared {
                path,
                name,
                connection: Mutex::default(),
                turn: Arc::new(Semaphore::new(1)),
            }),
            files,
        }
    }

    /// The database at `path`, created if it is not there, to be written. Waits for the disk, so not for an async
    /// thread.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let database = Self::open(path, Arc::new(Web::new(Default::default())?));
        let shared = &database.shared;
        let mut connection =
            shared.opened(OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        let made =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).and_then(|transaction| {
                // Another process may have been quicker.
                if kind(&transaction)? == Kind::Empty {
                    transaction.execute(SCHEMA, [])?;
                    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
                }
                transaction.commit()
            });
        made.and_then(|()| kind(&connection)).map_err(|error| shared.failed(error)).and_then(|kind| {
            match kind {
                Kind::Narinfos => Ok(()),
                Kind::Empty | Kind::Foreign => Err(shared.foreign()),
            }
        })?;
        *shared.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
        Ok(database)
    }

    /// A cache at `path` of at most `bytes`, created if it is not there. One that cannot be read is begun anew: what is in it can be had
    /// again. It does not survive a power cut. Waits for the disk, so not for an async thread.
    pub(super) fn cache(path: &Path, bytes: u64) -> Result<Self, Error> {
        if let Some(folder) = path.parent() {
            // If it cannot be made, the database says so.
            let _ = std::fs::create_dir_all(folder);
        }
        let database = Self::create(path).or_else(|error| {
            tracing::warn!("{error}; it is begun anew");
            // If it cannot be removed, the next attempt says why.
            let _ = std::fs::remove_file(path);
            Self::create(path)
        })?;
        let bounded = {
            let connection = database.shared.connection.lock().unwrap_or_else(PoisonError::into_inner);
            let connection = connection.as_ref().expect("it was created");
            connection.pragma_update(None, "synchronous", "OFF").and_then(|()| {
                let pages = format!("PRAGMA max_page_count = {}", bytes / PAGE);
                connection.query_row(&pages, [], |_| Ok(()))
            })
        };
        bounded.map_err(|error| database.shared.failed(error))?;
        Ok(database)
    }

    /// Puts a narinfo into a [cache](Self::cache). One that is full is emptied first. Waits for the disk, so not for an async thread.
    pub(super) fn keep(&self, narinfo: &Narinfo) -> Result<(), Error> {
        let connection = self.shared.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = connection.as_ref().ok_or_else(|| self.shared.foreign())?;
        let hash_part = narinfo.store_path().hash_part().to_string();
        let put = || connection.prepare_cached(PUT)?.execute((&hash_part, narinfo.as_str()));
        let kept = put().or_else(|error| match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => connection.execute("DELETE FROM narinfos", []).and_then(|_| put()),
            _ => Err(error),
        });
        kept.map(drop).map_err(|error| self.shared.failed(error))
    }

    /// Puts narinfos in, all or none, safe from a power cut when it returns; one that was there for the same hash
    /// part is replaced. Only for a database that was [created](Self::create). Waits for the disk, so not for an
    /// async thread.
    pub fn insert(&self, narinfos: &[Narinfo]) -> Result<(), Error> {
        let mut connection = self.shared.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = connection.as_mut().ok_or_else(|| self.shared.foreign())?;
        let put =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).and_then(|transaction| {
                let mut statement = transaction.prepare_cached(PUT)?;
                for narinfo in narinfos {
                    statement.execute((narinfo.store_path().hash_part().to_string(), narinfo.as_str()))?;
                }
                drop(statement);
                transaction.commit()
            });
        put.map_err(|error| self.shared.failed(error))
    }
}

impl Shared {
    fn opened(&self, flags: OpenFlags) -> Result<Connection, Error> {
        let opened = Connection::open_with_flags(&self.path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX);
        let opened = opened.and_then(|connection| {
            connection.busy_timeout(BUSY)?;
            Ok(connection)
        });
        opened.map_err(|error| self.failed(error))
    }

    /// The narinfo's text; `None` where there is none, or no database yet.
    fn get(&self, hash_part: HashPart) -> Result<Option<Vec<u8>>, Error> {
        let mut kept = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = match kept.take() {
            Some(connection) => connection,
            None if !self.is_there()? => return Ok(None),
            None => {
                let connection = self.opened(OpenFlags::SQLITE_OPEN_READ_ONLY)?;
                match kind(&connection).map_err(|error| self.failed(error))? {
                    Kind::Narinfos => connection,
                    Kind::Empty => return Ok(None),
                    Kind::Foreign => return Err(self.foreign()),
                }
            }
        };
        let row: Option<(i64, Vec<u8>)> = connection
            .prepare_cached(GET)
            .and_then(|mut statement| {
                let parameters = (hash_part.to_string(), narinfo::MAX_LENGTH as i64);
                statement.query_row(parameters, |row| Ok((row.get(0)?, row.get(1)?))).optional()
            })
            .map_err(|error| self.failed(error))?;
        *kept = Some(connection);
        match row {
            Some((length, _)) if length > narinfo::MAX_LENGTH as i64 => Err(Error::TooLong {
                server: Arc::clone(&self.name),
                what: format!("the narinfo of {hash_part}"),
                limit: narinfo::MAX_LENGTH,
            }),
            row => Ok(row.map(|(_, text)| text)),
        }
    }

    /// Whether there is a file. A folder that is gone, such as a stick's, is not the same as a file that is not there yet.
    fn is_there(&self) -> Result<bool, Error> {
        let there = self.path.try_exists().and_then(|there| match self.path.parent() {
            Some(folder) if !there => folder.metadata().map(|_| false),
            _ => Ok(there),
        });
        there.map_err(|error| self.unavailable(error))
    }

    fn failed(&self, error: rusqlite::Error) -> Error {
        self.unavailable(error)
    }

    fn unavailable(&self, error: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::Unavailable { server: Arc::clone(&self.name), retry_after: None, source: Arc::new(error) }
    }

    fn foreign(&self) -> Error {
        Error::Refused {
            server: Arc::clone(&self.name),
            reason: "it is no database of narinfos that erisfs may write".to_owned(),
        }
    }
}

/// What a database holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Narinfos,
    Empty,
    Foreign,
}

fn kind(connection: &Connection) -> rusqlite::Result<Kind> {
    // Any other text, of a view or of columns that are computed, could make a look take for ever.
    let tables = "SELECT count(*), count(*) FILTER (WHERE name = 'narinfos' AND type = 'table' AND sql = ?1) FROM sqlite_schema";
    let (all, narinfos): (i64, i64) =
        connection.query_row(tables, [SCHEMA], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    Ok(match (application, all, narinfos) {
        (APPLICATION_ID, _, 1) => Kind::Narinfos,
        (0, 0, _) => Kind::Empty,
        _ => Kind::Foreign,
    })
}

#[async_trait]
impl Substituter for Sqlite {
    fn name(&self) -> &str {
        &self.shared.name
    }

    async fn info(&self) -> Result<Info, Error> {
        Ok(Info::default())
    }

    async fn narinfo(&self, hash_part: HashPart) -> Result<Option<Narinfo>, Error> {
        let shared = Arc::clone(&self.shared);
        let server = || Arc::clone(&self.shared.name);
        let looked = async {
            let turn = Arc::clone(&shared.turn).acquire_owned().await.expect("it is never closed");
            tokio::task::spawn_blocking(move || {
                let _turn = turn;
                shared.get(hash_part)
            })
            .await
        };
        let text = match timeout(PATIENCE, looked).await {
            Ok(Ok(text)) => text?,
            Ok(Err(ended)) => {
                return Err(Error::Unavailable {
                    server: server(),
                    retry_after: None,
                    source: Arc::new(ended),
                });
            }
            Err(_) => return Err(Error::TimedOut { server: server(), after: PATIENCE }),
        };
        let failed = |source| Error::Narinfo { server: server(), hash_part, source: Arc::new(source) };
        text.map(|text| Narinfo::parse(&text).map_err(failed)).transpose()
    }

    async fn listing(&self, _: HashPart) -> Result<Option<Bytes>, Error> {
        Ok(None)
    }

    async fn nar(&self, url: &str, from: u64) -> Result<NarFile, Error> {
        match NarUrl::parse(url).map_err(|reason| self.files.bad_url(url, reason))? {
            NarUrl::Relative(_) => Err(self.files.no_file(url)),
            NarUrl::Web(url) => self.files.open(&url, None, from).await,
            NarUrl::Ipfs(cid) => self.files.open_ipfs(cid, from).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = include_str!("../../tests/samples/nix/none/6nr3qnk6x3dvkj2crggl5ny5zywz5gbj.narinfo");
    const OTHER: &str = include_str!("../../tests/samples/nix/none/mki6bjxfsqzb5gbl0igsbqmlv57jjryv.narinfo");

    fn read(path: &Path) -> Sqlite {
        Sqlite::open(path, Arc::new(Web::new(Default::default()).expect("a client")))
    }

    fn narinfo(text: &str) -> Narinfo {
        text.parse().expect("a narinfo")
    }

    fn part(text: &str) -> HashPart {
        narinfo(text).store_path().hash_part()
    }

    #[tokio::test]
    async fn what_was_put_in_is_found_byte_for_byte_by_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("overlay.db");
        let reader = read(&path);
        assert_eq!(reader.narinfo(part(ONE)).await.unwrap(), None, "there is no database yet");
        let writer = Sqlite::create(&path).unwrap();
        writer.insert(&[narinfo(ONE), narinfo(OTHER)]).unwrap();
        let changed = narinfo(ONE).with_line("ERIS", "urn:eris:A").unwrap();
        Sqlite::create(&path).unwrap().insert(std::slice::from_ref(&changed)).unwrap();
        assert_eq!(reader.narinfo(part(ONE)).await.unwrap(), Some(changed));
        assert_eq!(reader.narinfo(part(OTHER)).await.unwrap().unwrap().as_str(), OTHER);
        drop((writer, reader));
        let names: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["overlay.db"], "one file holds it all");
    }

    #[tokio::test]
    async fn a_cache_keeps_within_its_size_and_is_begun_anew_where_it_cannot_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/narinfos.sqlite");
        let cache = Sqlite::cache(&path, 32 << 10).unwrap();
        for number in 0..100_u32 {
            let line = format!("{number}{}", "x".repeat(1000));
            cache.keep(&narinfo(ONE).with_line("Note", &line).unwrap()).unwrap();
            cache.keep(&narinfo(OTHER)).unwrap();
            let mut hash_part = [0; 20];
            hash_part[..4].copy_from_slice(&number.to_le_bytes());
            let row = (HashPart::from_digest(hash_part).to_string(), line);
            // Until it is full; then it is emptied by the next one that is kept.
            let _ = cache.shared.connection.lock().unwrap().as_ref().unwrap().execute(PUT, row);
        }
        assert!(std::fs::metadata(&path).unwrap().len() <= 32 << 10);
        assert_eq!(cache.narinfo(part(OTHER)).await.unwrap(), Some(narinfo(OTHER)));
        drop(cache);
        std::fs::write(&path, "not a database any more, since the power went in the wrong moment").unwrap();
        let cache = Sqlite::cache(&path, 32 << 10).unwrap();
        assert_eq!(cache.narinfo(part(OTHER)).await.unwrap(), None);
        cache.keep(&narinfo(OTHER)).unwrap();
        assert_eq!(read(&path).narinfo(part(OTHER)).await.unwrap(), Some(narinfo(OTHER)));
    }

    #[tokio::test]
    async fn another_database_is_neither_read_nor_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("foreign.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE narinfos (hash_part, narinfo)").unwrap();
        assert!(matches!(Sqlite::create(&path), Err(Error::Refused { .. })));
        assert!(matches!(read(&path).narinfo(part(ONE)).await, Err(Error::Refused { .. })));
        std::fs::write(&path, "this is no database, and long enough to be looked at as one").unwrap();
        assert!(matches!(Sqlite::create(&path), Err(Error::Unavailable { .. })));
        assert!(matches!(read(&path).narinfo(part(ONE)).await, Err(Error::Unavailable { .. })));
        assert!(matches!(read(&path).insert(&[]), Err(Error::Refused { .. })), "it was opened to be read");
    }

    #[tokio::test]
    async fn hostile_rows_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("overlay.db");
        drop(Sqlite::create(&path).unwrap());
        let hostile = Connection::open(&path).unwrap();
        for (hash_part, length) in [(part(ONE), narinfo::MAX_LENGTH + 1), (part(OTHER), 100)] {
            hostile.execute(PUT, (hash_part.to_string(), vec![0_u8; length])).unwrap();
        }
        assert!(matches!(read(&path).narinfo(part(ONE)).await, Err(Error::TooLong { .. })));
        assert!(matches!(read(&path).narinfo(part(OTHER)).await, Err(Error::Narinfo { .. })));
        let computed =
            "DROP TABLE narinfos; CREATE TABLE narinfos (hash_part TEXT NOT NULL PRIMARY KEY, narinfo TEXT AS
            (printf('%.*c', 900000000, 'x'))) WITHOUT ROWID";
        hostile.execute_batch(computed).unwrap();
        assert!(matches!(read(&path).narinfo(part(ONE)).await, Err(Error::Refused { .. })));
        hostile
            .execute_batch("DROP TABLE narinfos; CREATE VIEW narinfos AS SELECT 1 AS hash_part, 2 AS narinfo")
            .unwrap();
        assert!(matches!(read(&path).narinfo(part(ONE)).await, Err(Error::Refused { .. })));
    }

    #[tokio::test]
    async fn it_has_no_files_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let database = read(&folder.path().join("overlay.db"));
        assert!(matches!(database.nar("nar/a", 0).await, Err(Error::NoFile { .. })));
        assert!(matches!(database.nar("file:///etc/passwd", 0).await, Err(Error::BadNarUrl { .. })));
    }
}
