//! One writer at a time, among all threads and processes.
//!
//! The kernel lets go of the lock when its holder dies, however it dies. Readers never wait for it, and whoever does waits for a
//! limited time: a holder may have been stopped by its user.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, OFlags};

use super::slots::Identity;

/// Between two attempts to take the lock. A batch of blocks is written in about as long.
const PAUSE: Duration = Duration::from_millis(1);

/// A lock file.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    identity: Identity,
    /// Threads share the file, and with it its lock.
    is_held: AtomicBool,
}

/// Lets go of the lock when it is dropped.
#[derive(Debug)]
pub(super) struct Held<'a>(&'a Lock);

impl Lock {
    /// The lock file at `path`, which is made if need be.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
        let file = options.open(path)?;
        let identity = Identity::of(&file.metadata()?);
        Ok(Self { file, identity, is_held: AtomicBool::new(false) })
    }

    /// Whether this is the file with that status, and not one that was removed.
    pub(super) fn is(&self, status: &std::fs::Metadata) -> bool {
        Identity::of(status) == self.identity
    }

    /// Takes the lock; nothing if others hold it for all of `patience`.
    pub(super) fn take(&self, patience: Duration) -> io::Result<Option<Held<'_>>> {
        let end = Instant::now() + patience;
        loop {
            if !self.is_held.swap(true, Ordering::Acquire) {
                let held = Held(self);
                match rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
                    Ok(()) => return Ok(Some(held)),
                    Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => drop(held),
                    Err(error) => return Err(error.into()),
                }
            }
            if Instant::now() >= end {
                return Ok(None);
            }
            thread::sleep(PAUSE);
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // If it was never locked this changes nothing, and a lock cannot fail to be let go.
        let _ = rustix::fs::flock(&self.0.file, FlockOperation::Unlock);
        self.0.is_held.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_by_one_and_waited_for_only_so_long() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("lock");
        let [one, other] = [(); 2].map(|()| Lock::open(&path).expect("a writable directory"));
        let held = one.take(Duration::ZERO).expect("a lock").expect("it is free");
        for lock in [&one, &other] {
            assert!(lock.take(Duration::from_millis(5)).expect("a lock").is_none());
        }
        drop(held);
        for lock in [&one, &other] {
            assert!(lock.take(Duration::ZERO).expect("a lock").is_some());
        }
    }

    #[test]
    fn threads_exclude_each_other() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let lock = Lock::open(&folder.path().join("lock")).expect("a writable directory");
        let inside = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let held = lock.take(Duration::from_secs(60)).expect("a lock");
                        assert!(held.is_some() && !inside.swap(true, Ordering::SeqCst));
                        thread::yield_now();
                        inside.store(false, Ordering::SeqCst);
                        drop(held);
                    }
                });
            }
        });
    }
}
