//! Where the sockets are: a directory that no other user can write to, and one file a process.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::Error;

/// The name of the directory, in that of the user's session or of the system's for the user.
const NAME: &str = "erisfs";

/// The directory of this user's sockets: in `runtime_dir` (`XDG_RUNTIME_DIR`) if it exists, else in
/// `/run/user/UID`, else in `/tmp`.
pub fn directory(runtime_dir: Option<&Path>) -> PathBuf {
    let uid = rustix::process::geteuid().as_raw();
    let session = PathBuf::from(format!("/run/user/{uid}"));
    match runtime_dir {
        Some(dir) if dir.is_dir() => dir.join(NAME),
        _ if session.is_dir() => session.join(NAME),
        _ => PathBuf::from(format!("/tmp/{NAME}-{uid}")),
    }
}

/// The socket of a process.
pub(super) fn socket(dir: &Path, pid: u32) -> PathBuf {
    dir.join(format!("{pid}.sock"))
}

/// The process whose socket has this name.
pub(super) fn pid_of(socket: &Path) -> Option<u32> {
    socket.file_name()?.to_str()?.strip_suffix(".sock")?.parse().ok()
}

/// Makes the directory if need be, and sees to it that it is this user's alone: in `/tmp` anybody could have made it.
pub(super) fn make_directory(dir: &Path) -> Result<(), Error> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::Directory { dir: dir.to_owned(), reason: error.to_string() })
        }
        _ => check_directory(dir),
    }
}

/// That the directory is one, and no link to one, and this user's alone.
pub(super) fn check_directory(dir: &Path) -> Result<(), Error> {
    let wrong = |reason: String| Error::Directory { dir: dir.to_owned(), reason };
    let found = fs::symlink_metadata(dir).map_err(|error| wrong(error.to_string()))?;
    if !found.is_dir() {
        return Err(wrong("it is not a directory".into()));
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(wrong(format!("it belongs to user {}", found.uid())));
    }
    if found.mode() & 0o077 != 0 {
        return Err(wrong(format!("others may use it (mode {:o}): chmod 700 it", found.mode() & 0o777)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_directory_is_made_for_its_user_alone() {
        let dir = tempfile::tempdir().unwrap();
        let sockets = directory(Some(dir.path()));
        make_directory(&sockets).unwrap();
        assert_eq!(fs::metadata(&sockets).unwrap().mode() & 0o777, 0o700);
        make_directory(&sockets).unwrap();
    }

    #[test]
    fn a_directory_of_others_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(make_directory(&open), Err(Error::Directory { .. })));

        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(matches!(make_directory(&link), Err(Error::Directory { .. })));

        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(make_directory(&file), Err(Error::Directory { .. })));
    }

    #[test]
    fn a_socket_is_named_by_its_process() {
        let socket = socket(Path::new("/run/user/0/erisfs"), 42);
        assert_eq!((socket.to_str(), pid_of(&socket)), (Some("/run/user/0/erisfs/42.sock"), Some(42)));
        for other in ["/x/42", "/x/a.sock", "/x/.sock", "/x/-1.sock"] {
            assert_eq!(pid_of(Path::new(other)), None, "{other}");
        }
    }
}
