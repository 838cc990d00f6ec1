//! Opening databases of SQLite that this process may read, but not write beside.
//!
//! A database in WAL mode needs a `-shm` file next to it even to be read. On a read-only file system, or for another user than
//! its owner, there may be none; then it can be read as a file that nobody changes, if all changes are in it.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags};

/// Why a database cannot be read.
#[derive(Debug)]
pub(crate) enum Unread {
    /// This file beside it holds changes that it lacks, and reading those means writing.
    Pending(PathBuf),
    /// SQLite fails.
    Failed(rusqlite::Error),
}

/// A database that was opened.
pub(crate) struct Opened<T> {
    /// What the first query gave.
    pub probed: T,
    /// Whether it is read as a file that nobody changes: for a short time only, as somebody may.
    pub immutable: bool,
}

/// Opens the database at `file` and runs a first query, `probe`, which shows whether it can be read at all.
pub(crate) fn open<T>(
    file: &Path,
    flags: OpenFlags,
    probe: impl Fn(Connection) -> rusqlite::Result<T>,
) -> Result<Opened<T>, Unread> {
    match Connection::open_with_flags(file, flags).and_then(&probe) {
        Ok(probed) => Ok(Opened { probed, immutable: false }),
        Err(error) if needs_write_access(&error) => {
            if let Some(pending) = pending_changes(file) {
                return Err(Unread::Pending(pending));
            }
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
                | OpenFlags::SQLITE_OPEN_NO_MUTEX
                | OpenFlags::SQLITE_OPEN_URI;
            let probed = Connection::open_with_flags(immutable_uri(file), flags).and_then(probe);
            Ok(Opened { probed: probed.map_err(Unread::Failed)?, immutable: true })
        }
        Err(error) => Err(Unread::Failed(error)),
    }
}

fn needs_write_access(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied)
    )
}

/// The file of changes that are not in the database file yet, if there is one. Reading the database
/// as immutable would not see them, or half of them.
fn pending_changes(file: &Path) -> Option<PathBuf> {
    ["-wal", "-journal"]
        .into_iter()
        .map(|suffix| {
            let mut name = file.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        })
        .find(|beside| beside.metadata().is_ok_and(|found| found.len() > 0))
}

/// SQLite's URI of a file, saying that nobody changes it.
fn immutable_uri(file: &Path) -> String {
    let mut uri = "file:".to_owned();
    for byte in file.as_os_str().as_encoded_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(byte) {
            uri.push(char::from(*byte));
        } else {
            uri += &format!("%{byte:02X}");
        }
    }
    uri + "?immutable=1"
}
