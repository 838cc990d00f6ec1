//! Blocks in one SQLite file, for a store that is easier to move than a million files.
//!
//! A plain table in WAL mode: readers do not wait for the writer, other processes may use the file at the same time, and a batch
//! of blocks is one transaction. Also works on a file that cannot be written, on a medium that cannot.

use std::{
    fs::{File, OpenOptions},
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures::{StreamExt as _, stream, stream::BoxStream};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, TransactionBehavior};

use super::{Block, BlockStore, Error, Found, Refusal, is_block_size};
use crate::eris::{BlockSize, Reference};

/// "ERIS" in the file's header: tells our databases from others.
const APPLICATION_ID: i32 = 0x4552_4953;
/// How long another process's transaction is waited for; a batch of blocks takes well under a second.
const BUSY: Duration = Duration::from_secs(10);
/// Blocks read in one transaction, on one blocking thread.
const CHUNK: usize = 64;
/// Transactions at a time, each with a connection of its own.
const CHUNKS: usize = 4;

/// A row has a number of its own and the reference is in an index beside it: with the blocks inside the index (`WITHOUT ROWID`)
/// the file is more than twice as large.
const SCHEMA: &str =
    "CREATE TABLE IF NOT EXISTS blocks (reference BLOB NOT NULL PRIMARY KEY, block BLOB NOT NULL)";
/// A value that is longer than a block, or is no blob, is not read: whoever made the file may be hostile.
const GET: &str = "SELECT iif(typeof(block) = 'blob', length(block), 0),
    iif(typeof(block) = 'blob' AND length(block) <= ?2, block, x'') FROM blocks WHERE reference = ?1";
const HAS: &str = "SELECT 1 FROM blocks WHERE reference = ?1";
/// What is there is replaced if it differs; it is not read if its length tells that already.
const PUT: &str =
    "INSERT INTO blocks (reference, block) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET block = excluded.block
    WHERE iif(typeof(block) = 'blob' AND length(block) = length(excluded.block), block <> excluded.block, 1)";

/// A database of blocks: `sqlite:PATH`.
///
/// It is created by the first put. A put of a block that is there reads and compares it, and replaces what differs;
/// [`has`](BlockStore::has) only looks for the reference, and so may vouch for a block that reads as corrupt. Blocks are safe
/// from a crash of the program as soon as they are put, and from a power cut after [`sync`](BlockStore::sync).
#[derive(Clone, Debug)]
pub struct Sqlite {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    name: Arc<str>,
    /// Connections that nobody uses just now.
    readers: Mutex<Vec<Connection>>,
    /// SQLite takes one writer at a time; here they queue fairly, which its own waiting does not do.
    writer: Mutex<Option<Connection>>,
}

impl Sqlite {
    /// The database at `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let name = format!("sqlite:{}", path.display()).into();
        // The process may change its directory later, as a mount in the background does.
        let path = std::path::absolute(&path).unwrap_or(path);
        Self { shared: Arc::new(Shared { path, name, readers: Mutex::default(), writer: Mutex::default() }) }
    }

    /// Runs `work` where it may wait for a disk.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Shared) -> T + Send + 'static) -> T {
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || work(&shared))
            .await
            .expect("the queries neither panic nor are aborted")
    }
}

impl Shared {
    /// Runs `query` on a connection in one read transaction; `None` if there is no database yet.
    fn read<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<Option<T>, Error> {
        let idle = lock(&self.readers).pop();
        let Some(connection) = idle.map_or_else(|| self.open_reader(), |connection| Ok(Some(connection)))?
        else {
            return Ok(None);
        };
        // A read transaction spares a lock and an unlock of the file for each block; it ends with its drop.
        let answer = connection.unchecked_transaction().and_then(|transaction| query(&transaction));
        let answer = answer.map_err(|error| self.failed(error))?;
        let mut readers = lock(&self.readers);
        if readers.len() < CHUNKS {
            readers.push(connection);
        }
        Ok(Some(answer))
    }

    fn open_reader(&self) -> Result<Option<Connection>, Error> {
        let exists = self.path.try_exists().map_err(|error| self.unavailable(error))?;
        if !exists {
            return Ok(None);
        }
        let opened = self.open(OpenFlags::empty()).or_else(|error| match error.sqlite_error_code() {
            // WAL wants files beside the database. Where none can be made, on a medium that cannot be written, nobody else
            // changes the database either, and it may be read as it stands.
            Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly) => self.open_immutable(),
            _ => Err(error),
        });
        let (connection, kind) = opened.map_err(|error| self.failed(error))?;
        match kind {
            Kind::Blocks => Ok(Some(connection)),
            Kind::Empty => Ok(None),
            Kind::Foreign => Err(self.foreign("a database of something else")),
        }
    }

    fn open(&self, more: OpenFlags) -> rusqlite::Result<(Connection, Kind)> {
        // Falls back to reading alone by itself where the file cannot be written.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
        probed(Connection::open_with_flags(&self.path, flags)?)
    }

    fn open_immutable(&self) -> rusqlite::Result<(Connection, Kind)> {
        let mut uri = "file:".to_owned();
        for byte in self.path.as_os_str().as_encoded_bytes() {
            match byte {
                b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                    uri.push(char::from(*byte))
                }
                byte => uri.push_str(&format!("%{byte:02x}")),
            }
        }
        uri.push_str("?immutable=1");
        let flags =
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
        probed(Connection::open_with_flags(uri, flags)?)
    }

    /// Runs `work` in one write transaction, in a database that is created if need be.
    fn write(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<()>) -> Result<(), Error> {
        let mut writer = lock(&self.writer);
        let connection = match writer.take() {
            Some(connection) => connection,
            None => self.open_writer()?,
        };
        let connection = writer.insert(connection);
        connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .and_then(|transaction| {
                work(&transaction)?;
                transaction.commit()
            })
            .map_err(|error| self.failed(error))
    }

    fn open_writer(&self) -> Result<Connection, Error> {
        let (mut connection, kind) =
            self.open(OpenFlags::SQLITE_OPEN_CREATE).map_err(|error| self.failed_to_open_writer(error))?;
        match kind {
            Kind::Blocks => return Ok(connection),
            Kind::Empty => {}
            Kind::Foreign => return Err(self.foreign("a database of something else")),
        }
        match create(&mut connection).map_err(|error| self.failed(error))? {
            Kind::Foreign => Err(self.foreign("a database of something else")),
            Kind::Blocks | Kind::Empty => Ok(connection),
        }
    }

    fn get(&self, references: Vec<Reference>) -> Vec<(Reference, Result<Block, Error>)> {
        let rows = self.read(|connection| {
            let mut statement = connection.prepare_cached(GET)?;
            let mut row = |reference: &Reference| {
                let parameters = rusqlite::params![reference.as_bytes(), BlockSize::MAX as i64];
                statement.query_row(parameters, |row| Ok((row.get(0)?, row.get(1)?))).optional()
            };
            references.iter().map(&mut row).collect::<rusqlite::Result<Vec<Option<(i64, Vec<u8>)>>>>()
        });
        let answer = |reference: Reference, row: Option<(i64, Vec<u8>)>| {
            let store = self.name.clone();
            match row {
                Some((length, block)) if is_block_size(length.unsigned_abs()) => Ok(block.into()),
                Some((length, _)) => {
                    Err(Error::Corrupt { reference, store, found: Found::Length(length.unsigned_abs()) })
                }
                None => Err(Error::NotFound { reference, store }),
            }
        };
        match rows {
            Ok(Some(rows)) => references
                .into_iter()
                .zip(rows)
                .map(|(reference, row)| (reference, answer(reference, row)))
                .collect(),
            // A file that is not there is not the same as a block that is not in it.
            Ok(None) => {
                let error = io::Error::new(io::ErrorKind::NotFound, "there is no database yet");
                self.all_failed(references, self.unavailable(error))
            }
            Err(error) => self.all_failed(references, error),
        }
    }

    fn all_failed(&self, references: Vec<Reference>, error: Error) -> Vec<(Reference, Result<Block, Error>)> {
        references.into_iter().map(|reference| (reference, Err(error.clone()))).collect()
    }

    fn put(&self, blocks: &[(Reference, Block)]) -> Result<(), Error> {
        self.write(|connection| {
            let mut statement = connection.prepare_cached(PUT)?;
            for (reference, block) in blocks {
                statement.execute((reference.as_bytes(), &block[..]))?;
            }
            Ok(())
        })
    }

    fn sync(&self) -> Result<(), Error> {
        let writer = lock(&self.writer);
        let Some(connection) = writer.as_ref() else { return Ok(()) };
        // Moves the log into the database and syncs both.
        connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .map_err(|error| self.failed(error))?;
        // A reader may have kept a part of the log in use; it stays there, not necessarily synced.
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        match File::open(log).and_then(|log| log.sync_all()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.unavailable(error)),
            _ => Ok(()),
        }
    }

    fn unavailable(&self, error: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::Unavailable {
            reference: None,
            store: self.name.clone(),
            retry_after: None,
            source: Arc::new(error),
        }
    }

    fn foreign(&self, what: &str) -> Error {
        Error::Refused { store: self.name.clone(), reason: Refusal::Foreign(what.to_owned()) }
    }

    /// SQLite says only that it cannot open the file; the system says why.
    fn failed_to_open_writer(&self, error: rusqlite::Error) -> Error {
        let refused = [io::ErrorKind::ReadOnlyFilesystem, io::ErrorKind::PermissionDenied];
        match OpenOptions::new().append(true).open(&self.path) {
            Err(why) if refused.contains(&why.kind()) => {
                Error::Refused { store: self.name.clone(), reason: Refusal::ReadOnly }
            }
            _ => self.failed(error),
        }
    }

    fn failed(&self, error: rusqlite::Error) -> Error {
        let store = self.name.clone();
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => self.foreign("not an SQLite database"),
            Some(ErrorCode::ReadOnly) => Error::Refused { store, reason: Refusal::ReadOnly },
            Some(ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied) => {
                Error::Refused { store, reason: Refusal::Denied(error.to_string()) }
            }
            _ => self.unavailable(error),
        }
    }
}

/// What a database holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Blocks,
    Empty,
    Foreign,
}

fn probed(connection: Connection) -> rusqlite::Result<(Connection, Kind)> {
    connection.busy_timeout(BUSY)?;
    let kind = kind_of(&connection)?;
    Ok((connection, kind))
}

fn kind_of(connection: &Connection) -> rusqlite::Result<Kind> {
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    Ok(match (application, tables) {
        (APPLICATION_ID, _) => Kind::Blocks,
        (0, 0) => Kind::Empty,
        _ => Kind::Foreign,
    })
}

/// Makes an empty database one of blocks, and says what it found when it had the file for itself: another process may have been
/// quicker, with ours or with something else.
fn create(connection: &mut Connection) -> rusqlite::Result<Kind> {
    wal_mode(connection)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let kind = kind_of(&transaction)?;
    if kind == Kind::Empty {
        transaction.execute(SCHEMA, [])?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.commit()?;
    }
    Ok(kind)
}

/// Switches the database to WAL. SQLite does not wait for others here by itself.
fn wal_mode(connection: &Connection) -> rusqlite::Result<()> {
    let end = Instant::now() + BUSY;
    loop {
        match connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())) {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && Instant::now() < end =>
            {
                thread::sleep(Duration::from_millis(10));
            }
            done => return done,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl BlockStore for Sqlite {
    fn name(&self) -> &str {
        &self.shared.name
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        let references = vec![*reference];
        let mut answers = self.blocking(move |database| database.get(references)).await;
        answers.pop().expect("one answer for each reference").1
    }

    fn get_many<'a>(
        &'a self,
        references: Vec<Reference>,
    ) -> BoxStream<'a, (Reference, Result<Block, Error>)> {
        let chunks: Vec<Vec<Reference>> = references.chunks(CHUNK).map(<[_]>::to_vec).collect();
        stream::iter(chunks)
            .map(move |chunk| self.blocking(move |database| database.get(chunk)))
            .buffer_unordered(CHUNKS)
            .flat_map(stream::iter)
            .boxed()
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        let reference = *reference;
        let has =
            move |connection: &Connection| connection.prepare_cached(HAS)?.exists([reference.as_bytes()]);
        Ok(self.blocking(move |database| database.read(has)).await?.unwrap_or(false))
    }

    async fn put(&self, reference: &Reference, block: Block) -> Result<(), Error> {
        self.put_many(vec![(*reference, block)]).await
    }

    async fn put_many(&self, blocks: Vec<(Reference, Block)>) -> Result<(), Error> {
        self.blocking(move |database| database.put(&blocks)).await
    }

    async fn sync(&self) -> Result<(), Error> {
        self.blocking(Shared::sync).await
    }

    fn concurrency(&self) -> usize {
        CHUNKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eris::reference_of;

    fn block(byte: u8) -> (Reference, Block) {
        let block = Block::from(vec![byte; 1024]);
        (reference_of(&block), block)
    }

    #[tokio::test]
    async fn nothing_is_created_by_asking_and_a_missing_file_is_not_a_missing_block() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("blocks");
        let database = Sqlite::new(&path);
        let (reference, block) = block(1);
        assert!(!database.has(&reference).await.expect("an answer"));
        assert!(matches!(database.get(&reference).await, Err(Error::Unavailable { .. })));
        database.sync().await.expect("nothing to sync");
        assert!(!path.exists());
        database.put(&reference, block.clone()).await.expect("it is made");
        assert_eq!(database.get(&reference).await.expect("it is there"), block);
    }

    #[tokio::test]
    async fn other_databases_and_other_files_are_refused_and_left_alone() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let foreign = folder.path().join("foreign");
        let connection = Connection::open(&foreign).expect("a new database");
        connection.execute_batch("CREATE TABLE blocks (id INTEGER)").expect("a table");
        drop(connection);
        let text = folder.path().join("text");
        std::fs::write(&text, "This is a letter, and a rather long one at that. ".repeat(50))
            .expect("a new file");
        for path in [foreign, text] {
            let before = std::fs::read(&path).expect("a file");
            let database = Sqlite::new(&path);
            let (reference, block) = block(1);
            let errors = [
                database.get(&reference).await.expect_err("foreign"),
                database.has(&reference).await.expect_err("foreign"),
                database.put(&reference, block).await.expect_err("foreign"),
            ];
            for error in errors {
                assert!(matches!(error, Error::Refused { reason: Refusal::Foreign(_), .. }), "{error}");
            }
            assert_eq!(std::fs::read(&path).expect("a file"), before);
        }
    }

    #[tokio::test]
    async fn a_value_of_another_length_or_kind_is_corrupt_and_its_neighbours_are_fine() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("blocks");
        let database = Sqlite::new(&path);
        let blocks: Vec<_> = (0..4).map(block).collect();
        database.put_many(blocks.clone()).await.expect("a writable file");
        let connection = Connection::open(&path).expect("a database");
        for (place, value) in [(0, "zeroblob(100000000)"), (1, "'text'"), (2, "zeroblob(0)")] {
            let update = format!("UPDATE blocks SET block = {value} WHERE reference = ?1");
            assert_eq!(connection.execute(&update, [blocks[place].0.as_bytes()]).expect("an update"), 1);
        }
        let answers: Vec<_> =
            database.get_many(blocks.iter().map(|(reference, _)| *reference).collect()).collect().await;
        let corrupt = |place: usize, length| matches!(&answers[place].1, Err(Error::Corrupt { found: Found::Length(found), .. }) if *found == length);
        assert!(corrupt(0, 100_000_000) && corrupt(1, 0) && corrupt(2, 0), "{answers:?}");
        assert_eq!(answers[3].1.as_ref().expect("untouched"), &blocks[3].1);
    }

    #[tokio::test]
    async fn a_spoiled_block_is_mended_by_the_next_put_and_a_good_one_is_left_alone() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("blocks");
        let database = Sqlite::new(&path);
        let (reference, block) = block(1);
        database.put(&reference, block.clone()).await.expect("a writable file");
        let connection = Connection::open(&path).expect("a database");
        for value in ["zeroblob(1024)", "zeroblob(7)", "'text'", "7"] {
            connection.execute(&format!("UPDATE blocks SET block = {value}"), []).expect("an update");
            database.put(&reference, block.clone()).await.expect("a writable file");
            assert_eq!(database.get(&reference).await.expect("it is mended"), block, "{value}");
        }
        let frozen = "CREATE TRIGGER frozen BEFORE UPDATE ON blocks BEGIN SELECT raise(FAIL, 'written'); END";
        connection.execute_batch(frozen).expect("a trigger");
        database.put(&reference, block).await.expect("nothing is written");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn stores_that_know_nothing_of_each_other_write_to_one_new_file() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("blocks");
        let writers = (0..8).map(|writer| {
            let database = Sqlite::new(&path);
            tokio::spawn(async move {
                for byte in 0..20 {
                    let (reference, block) = block(writer * 20 + byte);
                    database.put(&reference, block).await?;
                }
                Ok::<_, Error>(())
            })
        });
        for writer in futures::future::join_all(writers).await {
            writer.expect("no panic").expect("it waited its turn");
        }
        let reader = Sqlite::new(&path);
        for byte in 0..160 {
            assert!(reader.has(&block(byte).0).await.expect("an answer"));
        }
    }

    #[tokio::test]
    async fn after_sync_the_file_alone_holds_every_block() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let database = Sqlite::new(folder.path().join("blocks"));
        let (reference, block) = block(1);
        database.put(&reference, block.clone()).await.expect("a writable file");
        database.sync().await.expect("it can sync");
        let copy = folder.path().join("copy? of #1%");
        std::fs::copy(folder.path().join("blocks"), &copy).expect("a copy");
        let (connection, _) = Sqlite::new(&copy).shared.open_immutable().expect("any path can be opened so");
        let kept: i64 =
            connection.query_row("SELECT count(*) FROM blocks", [], |row| row.get(0)).expect("a count");
        assert_eq!(kept, 1);
        assert_eq!(Sqlite::new(&copy).get(&reference).await.expect("it is there"), block);
    }
}
