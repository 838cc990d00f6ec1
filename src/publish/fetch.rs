//! The file of a NAR from a substitute server to a thread that reads it: what breaks off goes on where it was.
//!
//! The two are joined by a bounded queue, so a slow reader slows the transfer down. A reader that goes away ends it, and so
//! does whoever drops the future.

use std::io::{self, Read};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::substituter::{Error, NarFile, Substituter};

/// Pieces that wait for the reader; servers send some 16 KiB at a time.
const QUEUE: usize = 64;

/// How often one thing is asked for while nothing comes of it.
const ATTEMPTS: u32 = 5;

/// Before the second attempt; twice as long before each one after it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Longest pause that a server may ask for. A large NAR takes Guix's publisher minutes to prepare.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Asks again while that may help.
pub(super) async fn retried<T, F: Future<Output = Result<T, Error>>>(
    mut ask: impl FnMut() -> F,
) -> Result<T, Error> {
    let mut attempt = 0;
    loop {
        match ask().await {
            Err(error) if error.is_transient() && attempt + 1 < ATTEMPTS => pause(&error, attempt).await,
            answer => return answer,
        }
        attempt += 1;
    }
}

async fn pause(error: &Error, attempt: u32) {
    let asked = match error {
        Error::Unavailable { retry_after, .. } | Error::Baking { retry_after, .. } => *retry_after,
        _ => None,
    };
    sleep(asked.unwrap_or(FIRST_PAUSE * 2_u32.pow(attempt)).min(MAX_PAUSE)).await;
}

/// What goes through the queue. That it closes without an end means that the transfer was given up.
enum Piece {
    Bytes(Bytes),
    End,
    Failed(io::Error),
}

/// The reader's end, for a blocking thread.
pub(super) struct Reader {
    pieces: mpsc::Receiver<Piece>,
    current: Bytes,
    ended: bool,
}

/// The transfer's end.
pub(super) struct Transfer {
    pieces: mpsc::Sender<Piece>,
}

/// The two ends of a transfer.
pub(super) fn transfer() -> (Transfer, Reader) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Transfer { pieces: sender }, Reader { pieces: receiver, current: Bytes::new(), ended: false })
}

impl Transfer {
    /// Transfers the file that `url` names on this server; the reader hears of what goes wrong.
    pub async fn run(self, server: &dyn Substituter, url: &str) {
        let mut sent = 0;
        let mut attempt = 0;
        let last = loop {
            let before = sent;
            match self.send(server, url, &mut sent).await {
                Ok(()) => break Piece::End,
                Err(error) => {
                    attempt = if sent > before { 0 } else { attempt + 1 };
                    if !error.is_transient() || attempt >= ATTEMPTS {
                        break Piece::Failed(io::Error::other(error));
                    }
                    tracing::debug!("{url}: goes on at byte {sent}: {error}");
                    pause(&error, attempt).await;
                }
            }
        };
        // A reader that is gone wants no more.
        let _ = self.pieces.send(last).await;
    }

    /// Passes on what comes from elsewhere.
    pub async fn pass(self, mut body: impl Stream<Item = io::Result<Bytes>> + Unpin) {
        let last = loop {
            match body.next().await {
                Some(Ok(bytes)) => {
                    if self.pieces.send(Piece::Bytes(bytes)).await.is_err() {
                        return;
                    }
                }
                Some(Err(error)) => break Piece::Failed(error),
                None => break Piece::End,
            }
        };
        // A reader that is gone wants no more.
        let _ = self.pieces.send(last).await;
    }

    /// Sends the file from byte `sent` on, to its end or as far as it comes.
    async fn send(&self, server: &dyn Substituter, url: &str, sent: &mut u64) -> Result<(), Error> {
        let NarFile { from, mut body, .. } = server.nar(url, *sent).await?;
        // A server that cannot begin there sends what the reader has already.
        let mut skip = sent.saturating_sub(from);
        while let Some(bytes) = body.next().await {
            let mut bytes = bytes?;
            let passed_over = skip.min(bytes.len() as u64);
            bytes.advance(passed_over as usize);
            skip -= passed_over;
            if !bytes.is_empty() {
                *sent += bytes.len() as u64;
                if self.pieces.send(Piece::Bytes(bytes)).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Bytes(bytes)) => self.current = bytes,
                Some(Piece::End) => self.ended = true,
                Some(Piece::Failed(error)) => return Err(error),
                None => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
        let length = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use futures::stream;

    use super::*;
    use crate::store::{HashPart, Narinfo};
    use crate::substituter::Info;

    /// A server that sends at most so many bytes at a time, and begins where asked or not.
    #[derive(Debug)]
    struct Flaky {
        content: Vec<u8>,
        step: usize,
        knows_ranges: bool,
        asked: Mutex<Vec<u64>>,
    }

    #[async_trait]
    impl Substituter for Flaky {
        fn name(&self) -> &str {
            "flaky"
        }

        async fn info(&self) -> Result<Info, Error> {
            Ok(Info::default())
        }

        async fn narinfo(&self, _: HashPart) -> Result<Option<Narinfo>, Error> {
            Ok(None)
        }

        async fn listing(&self, _: HashPart) -> Result<Option<Bytes>, Error> {
            Ok(None)
        }

        async fn nar(&self, url: &str, from: u64) -> Result<NarFile, Error> {
            let mut asked = self.asked.lock().unwrap();
            asked.push(from);
            let start = if self.knows_ranges { from as usize } else { 0 };
            let sends = if self.knows_ranges { self.step } else { self.step * asked.len() };
            let end = (start + sends).min(self.content.len());
            let body = Bytes::copy_from_slice(&self.content[start..end]);
            let broken = (end < self.content.len()).then(|| {
                let (server, expected) = ("flaky".into(), self.content.len() as u64);
                Err(Error::Truncated { server, url: url.to_owned(), found: end as u64, expected })
            });
            let body = stream::iter(std::iter::once(Ok(body)).chain(broken)).boxed();
            Ok(NarFile { from: start as u64, length: Some(self.content.len() as u64), body })
        }
    }

    async fn transferred(server: &Flaky) -> io::Result<Vec<u8>> {
        let (sender, mut reader) = transfer();
        // Not on a thread of the runtime, whose paused clock would wait for it.
        let read = std::thread::spawn(move || {
            let mut content = Vec::new();
            reader.read_to_end(&mut content).map(|_| content)
        });
        sender.run(server, "nar/x").await;
        read.join().unwrap()
    }

    fn flaky(step: usize, knows_ranges: bool) -> Flaky {
        let content = (0..1000_u32).flat_map(u32::to_le_bytes).collect();
        Flaky { content, step, knows_ranges, asked: Mutex::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn what_breaks_off_goes_on_where_it_was() {
        for knows_ranges in [true, false] {
            let server = flaky(1500, knows_ranges);
            assert_eq!(transferred(&server).await.unwrap(), server.content);
            assert_eq!(*server.asked.lock().unwrap(), [0, 1500, 3000]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_gets_further_is_given_up() {
        let server = flaky(0, true);
        assert!(transferred(&server).await.is_err());
        assert_eq!(server.asked.lock().unwrap().len(), ATTEMPTS as usize);
    }

    #[tokio::test]
    async fn a_transfer_that_was_given_up_is_no_end_of_the_file() {
        let (sender, mut reader) = transfer();
        drop(sender);
        let read = tokio::task::spawn_blocking(move || reader.read(&mut [0; 8]));
        assert_eq!(read.await.unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
