//! What a plug-in writes to its stderr: lines for our log, as many as a log can bear.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader},
    time::Instant,
};

use super::wire::shortened;

/// Longest line; what is longer becomes several.
const MAX_LINE: u64 = 1024;
/// Lines that are logged in one [`PERIOD`]; the others are counted. A traceback has some dozens.
const LINES: u32 = 100;
/// See [`LINES`].
const PERIOD: Duration = Duration::from_secs(10);

/// The stderr of a plug-in. It is read to its end, however much that is: else the plug-in would wait.
#[derive(Debug)]
pub(super) struct Log<R> {
    name: Arc<str>,
    stderr: BufReader<R>,
    last_words: LastWords,
    period: Instant,
    lines: u32,
    left_out: u64,
}

/// The last line that was not empty.
#[derive(Debug, Clone, Default)]
pub(super) struct LastWords(Arc<Mutex<String>>);

impl LastWords {
    pub(super) fn take(&self) -> String {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<R: AsyncRead + Unpin> Log<R> {
    pub(super) fn new(name: Arc<str>, stderr: R) -> Self {
        let (stderr, period) = (BufReader::new(stderr), Instant::now());
        Log { name, stderr, last_words: LastWords::default(), period, lines: 0, left_out: 0 }
    }

    pub(super) fn last_words(&self) -> LastWords {
        self.last_words.clone()
    }

    /// Logs until the end. Only the last line is kept.
    pub(super) async fn follow(mut self) {
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut self.stderr).take(MAX_LINE).read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    let words = shortened(&String::from_utf8_lossy(&line));
                    if !words.is_empty() {
                        self.say(&words);
                        *self.last_words.0.lock().unwrap_or_else(PoisonError::into_inner) = words;
                    }
                }
            }
        }
    }

    fn say(&mut self, words: &str) {
        if self.period.elapsed() >= PERIOD {
            if self.left_out > 0 {
                tracing::info!("{}: {} more lines are left out", self.name, self.left_out);
            }
            (self.period, self.lines, self.left_out) = (Instant::now(), 0, 0);
        }
        if self.lines < LINES {
            self.lines += 1;
            tracing::info!("{}: {words}", self.name);
        } else {
            self.left_out += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_words_are_those_of_the_last_line_without_what_a_terminal_would_obey() {
        let log = Log::new("exec:x".into(), &b"first\nlast \x1b[2Jwords\n\n"[..]);
        let last_words = log.last_words();
        log.follow().await;
        assert_eq!(last_words.take(), "last [2Jwords");
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_read_to_its_end_and_logged_in_part() {
        let flood = "words\n".repeat(10_000);
        let mut log = Log::new("exec:x".into(), flood.as_bytes());
        for _ in 0..250 {
            log.say("words");
        }
        assert_eq!((log.lines, log.left_out), (LINES, 150));
        tokio::time::advance(PERIOD).await;
        log.say("words");
        assert_eq!((log.lines, log.left_out), (1, 0));
        let last_words = log.last_words();
        log.follow().await;
        assert_eq!(last_words.take(), "words");
    }
}
