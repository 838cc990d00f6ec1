//! One mount from its beginning to its end: the checks before it, the threads, the unmounting.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use fuser::BackgroundSession;
use rustix::mount::UnmountFlags;
use tokio::runtime::Handle;

use super::{Filesystem, Options};
use crate::metrics::Requests;
use crate::tree::Tree;

const DEVICE: &str = "/dev/fuse";
/// How long unmounting may take before what is left of it is left to the end of the process.
const LINGER: Duration = Duration::from_secs(2);

/// Why nothing was mounted, or not unmounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The mountpoint is missing, or is no directory.
    #[error("{}: cannot be a mountpoint: {source}", mountpoint.display())]
    Mountpoint {
        /// As it was given.
        mountpoint: PathBuf,
        /// What the system says of it.
        source: io::Error,
    },
    /// A mount whose process is gone is still there.
    #[error("{}: a mount is there whose process is gone: umount it first", mountpoint.display())]
    Dead {
        /// As it was given.
        mountpoint: PathBuf,
    },
    /// The kernel offers no FUSE.
    #[error("{DEVICE} does not exist: this kernel or container offers no FUSE (try `modprobe fuse`)")]
    NoDevice,
    /// The device is not for this user.
    #[error(
        "{DEVICE} is not open to this user (mode {mode:o}): mount as root, or let root `chmod 666 {DEVICE}`"
    )]
    NotPermitted {
        /// The permission bits of the device.
        mode: u32,
    },
    /// An ordinary user needs the helper of Debian's, Guix's or Nix's package fuse3.
    #[error("fusermount3 is not in PATH: a user other than root mounts with its help (package fuse3)")]
    NoHelper,
    /// Mounting itself failed.
    #[error("cannot mount at {}: {source}", mountpoint.display())]
    Mount {
        /// The mountpoint.
        mountpoint: PathBuf,
        /// What the kernel or fusermount3 says.
        source: io::Error,
    },
    /// Unmounting failed.
    #[error("cannot unmount {}: {source}", mountpoint.display())]
    Unmount {
        /// The mountpoint.
        mountpoint: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// A mount that is up. It ends with [`Mounted::unmount`], or when it is dropped.
#[derive(Debug)]
pub struct Mounted {
    mountpoint: PathBuf,
    session: Option<BackgroundSession>,
    requests: Arc<Requests>,
}

impl Mounted {
    /// Shows `tree` at `mountpoint`, an existing directory. Misses wait in `runtime`.
    pub fn new(
        tree: Arc<Tree>,
        mountpoint: &Path,
        options: &Options,
        runtime: Handle,
    ) -> Result<Self, MountError> {
        let given = mountpoint;
        let mountpoint = given
            .canonicalize()
            .and_then(|path| match path.metadata()?.is_dir() {
                true => Ok(path),
                false => Err(io::Error::from(io::ErrorKind::NotADirectory)),
            })
            .map_err(|source| match source.kind() {
                io::ErrorKind::NotConnected => MountError::Dead { mountpoint: given.to_owned() },
                _ => MountError::Mountpoint { mountpoint: given.to_owned(), source },
            })?;
        check_device()?;
        let filesystem = Filesystem::new(tree, runtime, options);
        let requests = filesystem.requests.clone();
        let session = fuser::Session::new(filesystem, &mountpoint, &options.config())
            .and_then(fuser::Session::spawn)
            .map_err(|source| match source.kind() {
                // The device and the mountpoint were found above: what is missing is the helper.
                io::ErrorKind::NotFound => MountError::NoHelper,
                _ => MountError::Mount { mountpoint: mountpoint.clone(), source },
            })?;
        Ok(Mounted { mountpoint, session: Some(session), requests })
    }

    /// Where it is.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// What the kernel asked, by kind.
    pub fn requests(&self) -> &Arc<Requests> {
        &self.requests
    }

    /// Whether somebody else (`umount`, `fusermount3 -u`) ended it.
    pub fn has_ended(&self) -> bool {
        self.session.as_ref().is_none_or(|session| session.guard.is_finished())
    }

    /// Takes the mount away. Files that are open stay readable for no longer than this process lives.
    pub fn unmount(mut self) -> Result<(), MountError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), MountError> {
        let Some(session) = self.session.take() else { return Ok(()) };
        let failed = |source| MountError::Unmount { mountpoint: self.mountpoint.clone(), source };
        if session.guard.is_finished() {
            // Somebody else unmounted it. Dropped, the session would unmount whatever is at that path by now: fuser
            // 0.18 takes the error that the device shows from then on for a sign that it is still mounted.
            std::mem::forget(session);
            return Ok(());
        }
        // fusermount3 takes also a busy mount away, but its threads end only with the last open file.
        let (ended, answer) = mpsc::channel();
        std::thread::spawn(move || drop(ended.send(session.umount_and_join())));
        match answer.recv_timeout(LINGER).unwrap_or(Ok(())) {
            // Somebody stands in it or has a file open: it goes away when they leave, or with us.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
                rustix::mount::unmount(&self.mountpoint, UnmountFlags::DETACH)
                    .map_err(|errno| failed(errno.into()))
            }
            answer => answer.map_err(failed),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!("{error}");
        }
    }
}

fn check_device() -> Result<(), MountError> {
    use std::os::unix::fs::PermissionsExt;
    match std::fs::File::options().read(true).write(true).open(DEVICE) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let mode = std::fs::metadata(DEVICE).map(|device| device.permissions().mode() & 0o7777);
            Err(MountError::NotPermitted { mode: mode.unwrap_or(0) })
        }
        Err(_) => Err(MountError::NoDevice),
    }
}
