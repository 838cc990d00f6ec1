//! Data that was read ahead, put into the kernel's page cache before the kernel asks for it.
//!
//! The kernel locks a page while it waits for a READ of it, and putting data there waits for that lock; so it is
//! done in a thread of its own, never while a request is answered. Nobody waits for the thread: it ends when the
//! tree has let go of its sender and the last piece is put, or with the connection.

use std::sync::mpsc::{Receiver, sync_channel};

use fuser::{INodeNo, Notifier};

use crate::tree::{Pushed, Tree};

/// Pieces that wait to be put, each of at most 1 MiB; what finds no room is left to be asked for.
const WAITING: usize = 64;

/// Puts what `tree` reads ahead into the kernel behind `notifier`, from now until [`Tree::push_to`] is called again.
pub(super) fn start(tree: &Tree, notifier: Notifier) {
    let (sender, pieces) = sync_channel(WAITING);
    let started =
        std::thread::Builder::new().name("erisfs-push".into()).spawn(move || put(&notifier, &pieces));
    match started {
        Ok(_) => tree.push_to(Some(sender)),
        Err(error) => tracing::debug!("nothing will be pushed into the page cache: {error}"),
    }
}

fn put(notifier: &Notifier, pieces: &Receiver<Pushed>) {
    for Pushed { inode, offset, bytes } in pieces {
        // That the kernel does not know the inode (any more) is no error here.
        if let Err(error) = notifier.store(INodeNo(inode.into()), offset, &bytes) {
            if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) {
                return;
            }
            tracing::debug!("pushing into the page cache: {error}");
        }
    }
}
