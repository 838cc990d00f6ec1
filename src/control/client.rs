//! The side that asks.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::sockets::{check_directory, pid_of};
use super::{Error, MAX_ANSWER, Request, WAIT};

/// A process that can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its number.
    pub pid: u32,
    socket: PathBuf,
}

/// The processes with a socket in `dir`, by their numbers. Sockets whose process is gone are removed.
pub fn peers(dir: &Path) -> Result<Vec<Peer>, Error> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    check_directory(dir)?;
    let listed = fs::read_dir(dir).map_err(|source| Error::Socket { socket: dir.to_owned(), source })?;
    let mut peers: Vec<Peer> = listed
        .flatten()
        .filter_map(|entry| Some(Peer { pid: pid_of(&entry.path())?, socket: entry.path() }))
        .filter(Peer::is_alive)
        .collect();
    peers.sort_by_key(|peer| peer.pid);
    Ok(peers)
}

impl Peer {
    /// Whether somebody listens. The socket of a process that was killed is removed; one that starts up may have made its own and not
    /// listen yet.
    fn is_alive(&self) -> bool {
        match std::os::unix::net::UnixStream::connect(&self.socket) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                if self.is_gone() {
                    let _ = fs::remove_file(&self.socket);
                }
                false
            }
            Err(error) => error.kind() != io::ErrorKind::NotFound,
            Ok(_) => true,
        }
    }

    fn is_gone(&self) -> bool {
        // A number that no process can have is that of none.
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        pid.is_none_or(|pid| test_kill_process(pid) == Err(Errno::SRCH))
    }

    /// Asks, and waits for the answer, but not for ever.
    pub async fn ask<A: DeserializeOwned>(&self, request: &Request) -> Result<A, Error> {
        self.ask_within(WAIT, request).await
    }

    /// Asks, and waits no longer than `wait`.
    pub async fn ask_within<A: DeserializeOwned>(
        &self,
        wait: Duration,
        request: &Request,
    ) -> Result<A, Error> {
        let answer = match timeout(wait, self.exchange(request)).await {
            Ok(answer) => answer.map_err(|source| Error::Socket { socket: self.socket.clone(), source })?,
            Err(_) => return Err(Error::Silent { pid: self.pid }),
        };
        let garbled = Error::Garbled { pid: self.pid };
        let Ok(Value::Object(mut answer)) = serde_json::from_slice(&answer) else { return Err(garbled) };
        if let Some(Value::String(reason)) = answer.remove("error") {
            return Err(Error::Failed { reason });
        }
        let answer = answer.remove("answer").and_then(|answer| serde_json::from_value(answer).ok());
        answer.ok_or(garbled)
    }

    async fn exchange(&self, request: &Request) -> io::Result<Vec<u8>> {
        let (read, mut write) = UnixStream::connect(&self.socket).await?.into_split();
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        write.write_all(&line).await?;
        let mut answer = Vec::new();
        BufReader::new(read.take(MAX_ANSWER)).read_until(b'\n', &mut answer).await?;
        match answer.is_empty() {
            true => Err(io::ErrorKind::UnexpectedEof.into()),
            false => Ok(answer),
        }
    }
}
