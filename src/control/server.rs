//! The side that answers: one task that accepts, and one for each client.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::sockets::{make_directory, socket};
use super::{Daemon, Error, MAX_REQUEST, PATIENCE, Request, WORK};

/// Clients at a time; the next one is closed at once.
const CLIENTS: usize = 8;
/// How long to wait after a client could not be accepted: mostly there are too many open files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// A socket that answers. When it is dropped, the socket is gone.
#[derive(Debug)]
pub struct Control {
    socket: PathBuf,
    task: JoinHandle<()>,
}

impl Control {
    /// Answers for this process in `dir`, which is made if need be. A socket that an earlier process of the same number
    /// left behind is replaced. Inside a runtime only.
    pub fn listen(dir: &Path, daemon: Daemon) -> Result<Self, Error> {
        make_directory(dir)?;
        let socket = socket(dir, std::process::id());
        let wrong = |source| Error::Socket { socket: socket.clone(), source };
        match std::fs::remove_file(&socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(wrong(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&socket).map_err(wrong)?;
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).map_err(wrong)?;
        let task = tokio::spawn(accept(listener, Arc::new(daemon)));
        Ok(Control { socket, task })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
        // It may have been removed with its directory; then there is nothing to do.
        let _ = std::fs::remove_file(&self.socket);
    }
}

async fn accept(listener: UnixListener, daemon: Arc<Daemon>) {
    let room = Arc::new(Semaphore::new(CLIENTS));
    let mut clients = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            Some(_) = clients.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("control socket: {error}");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        if !is_allowed(&stream) {
            continue;
        }
        let Ok(permit) = room.clone().try_acquire_owned() else { continue };
        let daemon = daemon.clone();
        clients.spawn(async move {
            if let Err(error) = converse(stream, &daemon).await {
                tracing::debug!("control socket: {error}");
            }
            drop(permit);
        });
    }
}

/// The mode of the directory keeps others out; this holds also where a directory was opened up later.
fn is_allowed(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

/// Answers one request after the other, until the client is done or too slow.
async fn converse(stream: UnixStream, daemon: &Daemon) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        let mut bounded = (&mut read).take(MAX_REQUEST as u64);
        if timeout(PATIENCE, bounded.read_until(b'\n', &mut line)).await?? == 0 {
            return Ok(());
        }
        let is_whole = line.ends_with(b"\n");
        let answer = match is_whole {
            true => answer(&line, daemon).await,
            false => failure("the request is too long, or has no end"),
        };
        let mut text = answer.to_string();
        text.push('\n');
        timeout(PATIENCE, write.write_all(text.as_bytes())).await??;
        if !is_whole {
            return Ok(());
        }
    }
}

async fn answer(line: &[u8], daemon: &Daemon) -> serde_json::Value {
    let request = match serde_json::from_slice::<Request>(line) {
        Ok(request) => request,
        Err(error) => return failure(&format!("no such request: {error}")),
    };
    match timeout(WORK, daemon.answer(request)).await {
        Ok(Ok(answer)) => serde_json::json!({ "answer": answer }),
        Ok(Err(reason)) => failure(&reason),
        Err(_) => failure("it took too long"),
    }
}

fn failure(reason: &str) -> serde_json::Value {
    serde_json::json!({ "error": reason })
}
