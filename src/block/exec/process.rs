//! A running plug-in: requests go in, answers come out in any order, and its end fails whatever is under way.

use std::{
    collections::HashMap,
    io,
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    sync::{Semaphore, mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

use super::wire::{self, Abilities, Answer, Breach, Request, read_answer, read_hello};

/// Time for the first line of a plug-in: it may have a network to join.
const HELLO: Duration = Duration::from_secs(10);
/// Requests that wait to be written. Those who ask wait for room.
const QUEUE: usize = 16;
/// Longest line of its stderr that is logged.
const MAX_LOG_LINE: u64 = 1024;

/// Why a plug-in could not be started.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error("it cannot be started")]
    Spawn(#[from] io::Error),
    #[error("it said no hello within {HELLO:?}")]
    Silent,
    #[error("no hello came")]
    Breach(#[from] Breach),
}

type Pending = Mutex<HashMap<u64, oneshot::Sender<Answer>>>;

/// A plug-in that has said hello. It ends with this.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) abilities: Abilities,
    requests: mpsc::Sender<Vec<u8>>,
    turns: Semaphore,
    shared: Arc<Shared>,
    /// Reads, writes and logs.
    _tasks: JoinSet<()>,
    _group: Group,
}

#[derive(Debug, Default)]
struct Shared {
    pending: Pending,
    asked: AtomicU64,
    is_over: AtomicBool,
}

/// The process, and all that it started.
#[derive(Debug)]
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // Before anybody has waited for it the number is still its own.
        if let Some(group) = self.0.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Process {
    /// Starts `command` by the shell and waits for its hello. `name` is what the log calls it.
    pub(super) async fn start(name: Arc<str>, command: &str) -> Result<Self, StartError> {
        let mut child = Command::new("/bin/sh")
            .args(["-c", command])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let piped = "it was asked for";
        let stdin = child.stdin.take().expect(piped);
        let mut stdout = BufReader::new(child.stdout.take().expect(piped));
        let stderr = child.stderr.take().expect(piped);
        let group = Group(child);
        let mut tasks = JoinSet::new();
        tasks.spawn(log(name.clone(), stderr));
        let abilities = timeout(HELLO, read_hello(&mut stdout)).await.map_err(|_| StartError::Silent)??;
        let (requests, queue) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared::default());
        tasks.spawn(write(queue, stdin, shared.clone()));
        tasks.spawn(read(name, stdout, shared.clone()));
        let turns = Semaphore::new(abilities.concurrency);
        Ok(Process { abilities, requests, turns, shared, _tasks: tasks, _group: group })
    }

    /// Whether it is of no use any more.
    pub(super) fn is_over(&self) -> bool {
        self.shared.is_over.load(Relaxed)
    }

    /// Its answer; `None` if it ended before. Whoever drops this future is not answered.
    pub(super) async fn ask(&self, request: &Request) -> Option<Answer> {
        let _turn = self.turns.acquire().await.ok()?;
        let (answer, answered) = oneshot::channel();
        let number = self.shared.asked.fetch_add(1, Relaxed);
        self.shared.pending().insert(number, answer);
        let _forgotten = Forget { shared: &self.shared, number };
        if self.is_over() {
            return None;
        }
        self.requests.send(request.to_bytes(number)).await.ok()?;
        answered.await.ok()
    }

    /// Ends it: it answers nobody.
    pub(super) fn give_up(&self) {
        self.shared.end();
    }
}

/// Takes a request out of the table when nobody waits for its answer any more.
struct Forget<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.pending().remove(&self.number);
    }
}

impl Shared {
    fn pending(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody gets an answer any more.
    fn end(&self) {
        self.is_over.store(true, Relaxed);
        self.pending().clear();
    }
}

async fn write(mut queue: mpsc::Receiver<Vec<u8>>, mut stdin: ChildStdin, shared: Arc<Shared>) {
    while let Some(bytes) = queue.recv().await {
        // The reader says why it ended.
        if stdin.write_all(&bytes).await.is_err() {
            break;
        }
    }
    shared.end();
}

async fn read(name: Arc<str>, mut stdout: BufReader<ChildStdout>, shared: Arc<Shared>) {
    let breach = loop {
        match read_answer(&mut stdout).await {
            Ok((number, answer)) => {
                // What is too late has nobody who waits for it.
                if let Some(asked) = shared.pending().remove(&number) {
                    let _ = asked.send(answer);
                }
            }
            Err(breach) => break breach,
        }
    };
    tracing::warn!("{name}: {breach}; it is started again when it is needed");
    shared.end();
}

async fn log(name: Arc<str>, stderr: ChildStderr) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut stderr).take(MAX_LOG_LINE).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => tracing::info!("{name}: {}", wire::shortened(&String::from_utf8_lossy(&line))),
        }
    }
}
