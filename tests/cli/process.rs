//! Child processes with limits: none outlives its test, and none is waited for without end.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Longer than anything takes on a crowded machine, so that only what hangs is cut off.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What a process that has ended left.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Finished {
    /// The bytes on stdout; anything but success ends the test with what stderr says.
    #[track_caller]
    pub fn bytes(self) -> Vec<u8> {
        assert_eq!(self.code, Some(0), "stderr: {}", self.stderr);
        self.stdout
    }

    /// As [`bytes`](Self::bytes), for text.
    #[track_caller]
    pub fn text(self) -> String {
        String::from_utf8(self.bytes()).unwrap()
    }

    /// The one line on stderr of a call that ended with `code` and wrote nothing to stdout.
    #[track_caller]
    pub fn refusal(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "stderr: {}", self.stderr);
        assert!(self.stdout.is_empty(), "stdout: {}", String::from_utf8_lossy(&self.stdout));
        assert_eq!(self.stderr.lines().count(), 1, "one line says why, not {}", self.stderr);
        self.stderr.trim_end().to_owned()
    }
}

/// Runs a command to its end, until nobody holds its stdout and stderr any more.
#[track_caller]
pub fn run(command: &mut Command) -> Finished {
    feed(command, b"")
}

/// As [`run`], with something on stdin.
#[track_caller]
pub fn feed(command: &mut Command, input: &[u8]) -> Finished {
    let mut running = Running::start(command.stdin(Stdio::piped()));
    let (mut stdin, input) = (running.child.stdin.take().unwrap(), input.to_vec());
    // A process that ends before it has read everything closes the pipe; that is its affair.
    thread::spawn(move || drop(stdin.write_all(&input)));
    running.finish()
}

/// A process that is killed when this is dropped.
pub struct Running {
    child: Child,
    called: String,
    stdout: Stream,
    stderr: Stream,
}

impl Running {
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let called = format!("{command:?}");
        let spawned = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("{called}: {error}"));
        let stdout = Stream::of(child.stdout.take().unwrap());
        let stderr = Stream::of(child.stderr.take().unwrap());
        Running { child, called, stdout, stderr }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to stderr so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&self.stderr.text.lock().unwrap()).into_owned()
    }

    /// Waits for a line on stdout or stderr with `words` in it.
    #[track_caller]
    pub fn line(&mut self, words: &str) -> String {
        self.either(words, words)
    }

    /// Waits for a line with these words or those in it.
    #[track_caller]
    pub fn either(&mut self, these: &str, those: &str) -> String {
        let mut end = Instant::now() + PATIENCE;
        loop {
            if self.child.try_wait().unwrap().is_some() {
                // Its last words may still be in the pipe.
                end = end.min(Instant::now() + Duration::from_secs(1));
            }
            for stream in [&self.stdout, &self.stderr] {
                let text = String::from_utf8_lossy(&stream.text.lock().unwrap()).into_owned();
                let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
                if let Some(line) = complete.lines().find(|line| line.contains(these) || line.contains(those))
                {
                    return line.to_owned();
                }
            }
            assert!(Instant::now() < end, "{}: no line with {these:?}: {}", self.called, self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    #[track_caller]
    pub fn finish(mut self) -> Finished {
        let end = Instant::now() + PATIENCE;
        let outputs = [&self.stdout, &self.stderr].map(|stream| {
            let left = end.saturating_duration_since(Instant::now());
            stream
                .ended
                .recv_timeout(left)
                .unwrap_or_else(|_| panic!("{} hangs: {}", self.called, self.log()));
            stream.text.lock().unwrap().clone()
        });
        let status = self.wait(end);
        let [stdout, stderr] = outputs;
        Finished { code: status.code(), stdout, stderr: String::from_utf8(stderr).unwrap() }
    }

    #[track_caller]
    fn wait(&mut self, end: Instant) -> ExitStatus {
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "{} does not end: {}", self.called, self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One output of a process, read by a thread of its own.
struct Stream {
    text: Arc<Mutex<Vec<u8>>>,
    ended: Receiver<()>,
}

impl Stream {
    fn of(mut source: impl Read + Send + 'static) -> Self {
        let (text, (end, ended)) = (Arc::new(Mutex::new(Vec::new())), mpsc::channel());
        let written = Arc::clone(&text);
        thread::spawn(move || {
            let mut piece = [0; 16 * 1024];
            while let Ok(length @ 1..) = source.read(&mut piece) {
                written.lock().unwrap().extend_from_slice(&piece[..length]);
            }
            let _ = end.send(());
        });
        Stream { text, ended }
    }
}

/// Waits until `condition` holds.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "never: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
