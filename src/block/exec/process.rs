//! A running plug-in: requests go in, answers come out in any order, and its end fails whatever is under way.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, timeout},
};

use super::log::Log;
use super::wire::{Abilities, Answer, Breach, Request, read_answer, read_hello};

/// Time for the first line of a plug-in: it may have a network to join.
const HELLO: Duration = Duration::from_secs(10);
/// Requests that wait to be written. Those who ask wait for room.
const QUEUE: usize = 16;
/// A plug-in that leaves a request unanswered for so long hangs, or has lost it and with it one of the turns that it gave.
const UNANSWERED: Duration = Duration::from_secs(60);
/// How long the end of its stderr is waited for once it has been killed: only what it let go of itself can hold that open.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Why a plug-in is of no use any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cause {
    #[error("it said no hello within {HELLO:?}")]
    Silent,
    #[error(transparent)]
    Breach(#[from] Breach),
    #[error("it answered request {0}, which was not asked or is answered already")]
    NotAsked(u64),
    #[error("it takes no requests any more")]
    Deaf,
    #[error("it left a request unanswered for {UNANSWERED:?}")]
    Hangs,
}

/// The end of a plug-in: why, and what it wrote to its stderr last.
#[derive(Debug)]
pub(super) struct End {
    cause: Cause,
    last_words: String,
}

impl End {
    /// Whether it did what it should before.
    pub(super) fn was_well(&self) -> bool {
        !matches!(self.cause, Cause::Hangs)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cause)?;
        if self.last_words.is_empty() { Ok(()) } else { write!(f, " (its last words: {})", self.last_words) }
    }
}

impl std::error::Error for End {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.source()
    }
}

/// How far a plug-in has come.
#[derive(Debug, Clone)]
enum State {
    Starting,
    Speaking(Abilities),
    Over(Instant, Arc<End>),
}

/// A plug-in that was started. It ends with this.
#[derive(Debug)]
pub(super) struct Process {
    state: watch::Receiver<State>,
    requests: mpsc::Sender<Vec<u8>>,
    /// As many as it said that it likes to have at a time; none before its hello.
    turns: Arc<Semaphore>,
    asked: Arc<Asked>,
    stop: mpsc::Sender<Cause>,
    group: Arc<Group>,
    /// Reads, writes and logs.
    tasks: JoinSet<()>,
}

/// The requests that it has not answered.
type Asked = Mutex<Table>;

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// By number. Those that nobody waits for any more are among them: the plug-in still works on them.
    waiting: BTreeMap<u64, Waiting>,
    is_over: bool,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    answer: oneshot::Sender<Answer>,
    _turn: Turn,
}

/// The right to ask a plug-in. It is back when the plug-in has answered.
#[derive(Debug)]
pub(super) struct Turn(#[expect(dead_code, reason = "it is held")] OwnedSemaphorePermit);

/// The process, and all that it started.
#[derive(Debug)]
struct Group(Child);

impl Group {
    fn kill(&self) {
        // Nobody waits for it before this is dropped, so that the number is still its own.
        if let Some(group) = self.0.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Process {
    /// Starts `command` by the shell, in the directory `at`. It has not said hello yet. `name` is what the log calls it.
    pub(super) fn start(name: Arc<str>, command: &str, at: &Path) -> io::Result<Self> {
        let mut child = Command::new("/bin/sh")
            .args(["-c", command])
            .current_dir(at)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let piped = "it was asked for";
        let stdin = child.stdin.take().expect(piped);
        let stdout = BufReader::new(child.stdout.take().expect(piped));
        let log = Log::new(name.clone(), child.stderr.take().expect(piped));
        let (requests, queue) = mpsc::channel(QUEUE);
        let (stop, stopped) = mpsc::channel(1);
        let (says, state) = watch::channel(State::Starting);
        let (turns, asked) = (Arc::new(Semaphore::new(0)), Arc::<Asked>::default());
        let group = Arc::new(Group(child));
        let reader =
            Reader { name, stdout, says, turns: turns.clone(), asked: asked.clone(), group: group.clone() };
        let mut tasks = JoinSet::new();
        let last_words = log.last_words();
        let (logging, logged) = oneshot::channel::<()>();
        tasks.spawn(async move {
            log.follow().await;
            drop(logging);
        });
        tasks.spawn(write(queue, stdin, stop.clone()));
        tasks.spawn(async move {
            let (reader, cause) = reader.run(stopped).await;
            // Whether or not it came to its end.
            let _ = timeout(LAST_WORDS, logged).await;
            reader.end(End { cause, last_words: last_words.take() });
        });
        Ok(Process { state, requests, turns, asked, stop, group, tasks })
    }

    /// When and why it ended, if it did.
    pub(super) fn over(&self) -> Option<(Instant, Arc<End>)> {
        match &*self.state.borrow() {
            State::Over(when, end) => Some((*when, end.clone())),
            State::Starting | State::Speaking(_) => None,
        }
    }

    /// What it can do, once it has said so.
    pub(super) async fn abilities(&self) -> Result<Abilities, Arc<End>> {
        match self.when(|state| !matches!(state, State::Starting)).await {
            State::Speaking(abilities) => Ok(abilities),
            State::Over(_, end) => Err(end),
            State::Starting => unreachable!("it was waited for something else"),
        }
    }

    /// What it can do, if it has said so and has not ended.
    pub(super) fn known_abilities(&self) -> Option<Abilities> {
        match &*self.state.borrow() {
            State::Speaking(abilities) => Some(*abilities),
            State::Starting | State::Over(..) => None,
        }
    }

    /// The right to ask it, once it has so few requests that it likes another, or why it ended before.
    pub(super) async fn turn(&self) -> Result<Turn, Arc<End>> {
        self.stop_if_it_hangs();
        match self.turns.clone().acquire_owned().await {
            Ok(permit) => Ok(Turn(permit)),
            Err(_) => Err(self.end().await),
        }
    }

    /// Its answer, or why it ended before. Whoever drops this future is not answered.
    pub(super) async fn ask(&self, turn: Turn, request: &Request) -> Result<Answer, Arc<End>> {
        let Ok(room) = self.requests.reserve().await else { return Err(self.end().await) };
        let (answer, answered) = oneshot::channel();
        let Some(number) = lock(&self.asked).add(answer, turn) else { return Err(self.end().await) };
        room.send(request.to_bytes(number));
        match answered.await {
            Ok(answer) => Ok(answer),
            Err(_) => Err(self.end().await),
        }
    }

    /// Ends it, if a request has waited too long for its answer.
    pub(super) fn stop_if_it_hangs(&self) {
        let oldest = lock(&self.asked).waiting.values().next().map(|waiting| waiting.since);
        if oldest.is_some_and(|since| since.elapsed() >= UNANSWERED) {
            // If there is no room, it is being ended.
            let _ = self.stop.try_send(Cause::Hangs);
        }
    }

    async fn end(&self) -> Arc<End> {
        match self.when(|state| matches!(state, State::Over(..))).await {
            State::Over(_, end) => end,
            State::Starting | State::Speaking(_) => unreachable!("it was waited for something else"),
        }
    }

    async fn when(&self, is_it: impl FnMut(&State) -> bool) -> State {
        let mut state = self.state.clone();
        let state = state.wait_for(is_it).await;
        state.expect("the reader says that it is over before it ends, and is stopped by nothing but the drop of this").clone()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // First, so that nobody is told of an end that was wanted.
        self.tasks.abort_all();
        self.group.kill();
    }
}

fn lock(asked: &Asked) -> MutexGuard<'_, Table> {
    asked.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Table {
    /// The number of a new request; `None`: it is too late for one.
    fn add(&mut self, answer: oneshot::Sender<Answer>, turn: Turn) -> Option<u64> {
        if self.is_over {
            return None;
        }
        let number = self.next;
        self.next += 1;
        self.waiting.insert(number, Waiting { since: Instant::now(), answer, _turn: turn });
        Some(number)
    }
}

async fn write(mut queue: mpsc::Receiver<Vec<u8>>, mut stdin: ChildStdin, stop: mpsc::Sender<Cause>) {
    while let Some(bytes) = queue.recv().await {
        if stdin.write_all(&bytes).await.is_err() {
            let _ = stop.try_send(Cause::Deaf);
            return;
        }
    }
}

/// What hears a plug-in, up to its end.
struct Reader {
    name: Arc<str>,
    stdout: BufReader<ChildStdout>,
    says: watch::Sender<State>,
    turns: Arc<Semaphore>,
    asked: Arc<Asked>,
    group: Arc<Group>,
}

impl Reader {
    /// Hands out its answers until it ends, or has to be ended; then it is dead.
    async fn run(mut self, mut stopped: mpsc::Receiver<Cause>) -> (Self, Cause) {
        let cause = tokio::select! {
            // What it says itself tells more than that it takes no requests.
            biased;
            cause = self.hear() => cause,
            Some(cause) = stopped.recv() => cause,
        };
        self.group.kill();
        (self, cause)
    }

    async fn hear(&mut self) -> Cause {
        match timeout(HELLO, read_hello(&mut self.stdout)).await {
            Err(_) => return Cause::Silent,
            Ok(Err(breach)) => return breach.into(),
            Ok(Ok(abilities)) => {
                self.turns.add_permits(abilities.concurrency);
                self.says.send_replace(State::Speaking(abilities));
            }
        }
        loop {
            match read_answer(&mut self.stdout).await {
                Ok((number, answer)) => match lock(&self.asked).waiting.remove(&number) {
                    // What is too late has nobody who waits for it.
                    Some(waiting) => drop(waiting.answer.send(answer)),
                    None => return Cause::NotAsked(number),
                },
                Err(breach) => return breach.into(),
            }
        }
    }

    /// Nobody gets an answer any more.
    fn end(self, end: End) {
        tracing::warn!("{}: {end}; it is started again when it is needed", self.name);
        self.says.send_replace(State::Over(Instant::now(), Arc::new(end)));
        let mut asked = lock(&self.asked);
        asked.is_over = true;
        asked.waiting.clear();
        self.turns.close();
    }
}
