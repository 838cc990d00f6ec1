//! A server and its clients, in a directory of their own.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::*;
use crate::block::{Memory, Race, Stack};
use crate::content::Fetch;
use crate::metrics::{Process, Requests};
use crate::tree::{Catalogs, Settings, Tree};

const LONG: Duration = Duration::from_secs(60);

fn daemon() -> Daemon {
    let stack = Arc::new(Stack::over(Race::new(vec![Arc::new(Memory::new())]), 1 << 20, None));
    let fetch = Fetch::new(stack.store(), 1 << 20);
    let tree = Arc::new(Tree::new(fetch, Catalogs::default(), Settings::default()));
    let process = Process::new(stack, tree, Requests::new(&["read"]));
    Daemon { face: Face::Mount, place: "/mnt/store".into(), process }
}

fn listening() -> (TempDir, Control) {
    let dir = tempfile::tempdir().unwrap();
    let control = Control::listen(&dir.path().join("erisfs"), daemon()).unwrap();
    (dir, control)
}

fn sockets_in(dir: &TempDir) -> std::path::PathBuf {
    dir.path().join("erisfs")
}

async fn connected(dir: &Path) -> BufReader<UnixStream> {
    let socket = dir.join(format!("{}.sock", std::process::id()));
    BufReader::new(UnixStream::connect(socket).await.unwrap())
}

/// Sends a line, and gives the answer.
async fn exchange(stream: &mut BufReader<UnixStream>, line: &[u8]) -> Value {
    stream.get_mut().write_all(line).await.unwrap();
    let mut answer = String::new();
    timeout(LONG, stream.read_line(&mut answer)).await.expect("in time").unwrap();
    serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{answer}: {error}"))
}

#[tokio::test]
async fn a_process_tells_who_it_is_and_how_it_is_doing() {
    let (dir, _control) = listening();
    let peers = peers(&sockets_in(&dir)).unwrap();
    assert_eq!(peers.iter().map(|peer| peer.pid).collect::<Vec<_>>(), [std::process::id()]);
    let status: Value = peers[0].ask(&Request::Status).await.unwrap();
    assert_eq!((&status["face"], &status["place"]), (&json!("mount"), &json!("/mnt/store")));
    assert_eq!(status["requests"][0]["kind"], "read");
    assert_eq!(status["blocks"]["memory"]["in_flight"], 0);
}

#[tokio::test]
async fn a_file_that_is_nowhere_is_an_error_with_its_name() {
    let (dir, _control) = listening();
    let peer = &peers(&sockets_in(&dir)).unwrap()[0];
    let error = peer.ask::<Why>(&Request::Why { path: "nowhere/bin".into() }).await.unwrap_err();
    assert!(matches!(&error, Error::Failed { reason } if reason.contains("nowhere/bin")), "{error}");
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_the_next_one_answered() {
    let (dir, _control) = listening();
    let mut stream = connected(&sockets_in(&dir)).await;
    for line in [&b"hello\n"[..], b"{}\n", b"{\"op\":\"reboot\"}\n", b"\xff\n", b"\n"] {
        assert!(exchange(&mut stream, line).await["error"].is_string(), "{line:?}");
    }
    assert!(exchange(&mut stream, b"{\"op\":\"status\"}\n").await["answer"].is_object());
}

#[tokio::test]
async fn a_request_without_end_is_refused_at_its_bound() {
    let (dir, _control) = listening();
    let mut stream = connected(&sockets_in(&dir)).await;
    assert!(exchange(&mut stream, &vec![b' '; MAX_REQUEST]).await["error"].is_string());
    let rest = timeout(LONG, stream.read_to_end(&mut Vec::new())).await.expect("in time");
    assert_eq!(rest.unwrap_or(0), 0, "the connection is closed");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_left_and_makes_room() {
    let (dir, _control) = listening();
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(connected(&sockets_in(&dir)).await);
    }
    for stream in &mut silent {
        let read = timeout(LONG, stream.read_to_end(&mut Vec::new())).await.expect("in time");
        assert_eq!(read.unwrap_or(0), 0);
    }
    let mut stream = connected(&sockets_in(&dir)).await;
    assert!(exchange(&mut stream, b"{\"op\":\"status\"}\n").await["answer"].is_object());
}

#[tokio::test]
async fn a_socket_goes_with_its_process_or_is_removed_by_the_next_who_looks() {
    let (dir, control) = listening();
    let stale = sockets_in(&dir).join("4194305.sock");
    drop(UnixListener::bind(&stale).unwrap());
    assert_eq!(peers(&sockets_in(&dir)).unwrap().len(), 1);
    assert!(!stale.exists());
    drop(control);
    // One that this process made, and at which it does not listen (any more, or yet).
    let own = sockets_in(&dir).join(format!("{}.sock", std::process::id()));
    drop(UnixListener::bind(&own).unwrap());
    assert!(peers(&sockets_in(&dir)).unwrap().is_empty() && own.exists());
    std::fs::remove_file(&own).unwrap();
    assert_eq!(std::fs::read_dir(sockets_in(&dir)).unwrap().count(), 0);
    assert_eq!(peers(&sockets_in(&dir)).unwrap(), []);
}

#[tokio::test]
async fn a_socket_that_was_left_behind_under_the_same_number_is_replaced() {
    let (dir, control) = listening();
    std::mem::forget(control);
    let _again = Control::listen(&sockets_in(&dir), daemon()).unwrap();
    let mut stream = connected(&sockets_in(&dir)).await;
    assert!(exchange(&mut stream, b"{\"op\":\"status\"}\n").await["answer"].is_object());
}
