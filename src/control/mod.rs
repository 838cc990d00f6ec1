//! The way in for `erisfs status` and its like: a Unix socket of each process that mounts or serves.
//!
//! One JSON object a line is a request, and one is its answer. Only the user who started the process, and root, are heard.
//! Nothing here waits for a block, so that it works while no source does; every answer has a deadline and a bound, and so
//! has the number of clients.

mod client;
mod ops;
mod server;
mod sockets;
#[cfg(test)]
mod tests;
mod why;

pub use client::{Peer, peers};
pub use ops::{Daemon, Face, Request, Status};
pub use server::Control;
pub use sockets::directory;
pub use why::{Places, Why};

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Longest request, with its line end: a path of the kernel has 4096 bytes, which JSON may spell with six each.
const MAX_REQUEST: usize = 32 << 10;
/// Longest answer that a client reads; a status has a few KiB for each source.
const MAX_ANSWER: u64 = 4 << 20;
/// How long a client may take to ask, and to take its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer may take to make. Only a disk that hangs takes so long.
const WORK: Duration = Duration::from_secs(8);
/// How long a client waits for the whole: longer than the server may take.
const WAIT: Duration = Duration::from_secs(15);

/// Why a process could not be asked, or cannot be asked by others.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory of the sockets is not usable.
    #[error("{}: {reason}", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A socket cannot be made, found or used.
    #[error("{}: {source}", socket.display())]
    Socket {
        /// The socket, or the directory that holds it.
        socket: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The process did not answer in time.
    #[error("process {pid} does not answer")]
    Silent {
        /// The process.
        pid: u32,
    },
    /// The process answered with something else.
    #[error("process {pid} answered with something that this version does not understand")]
    Garbled {
        /// The process.
        pid: u32,
    },
    /// The process could not do it.
    #[error("{reason}")]
    Failed {
        /// Its words.
        reason: String,
    },
}
