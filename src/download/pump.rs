//! The way from a source to a decoder: resumed after breaks, given up after too many.
//!
//! The pump is async and hands the bytes of the file, each once and in order, to a thread that decodes. It ends the transfer when
//! nobody takes them any more.

use std::io::{self, Read};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::{NarSource, Reason, SourceError};

/// What is borne of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patience {
    /// How long it may be silent, until it is asked again.
    stall: Duration,
    /// How long so many bytes may take, and how many: what counts as getting on.
    step: (Duration, u64),
    /// How often in a row it is asked without getting on.
    attempts: u32,
}

impl Patience {
    /// Where another source may do better: so little that somebody who waits 30 s sees the other one, and more than one lost packet takes.
    pub(super) const BESIDE_OTHERS: Self =
        Patience { stall: Duration::from_secs(3), step: (Duration::from_secs(10), STEP), attempts: 2 };
    /// Where there is no other, or all others failed. 4 KB/s are a slow link; less is a server that keeps others waiting.
    pub(super) const ALONE: Self =
        Patience { stall: Duration::from_secs(10), step: (Duration::from_secs(60), STEP), attempts: 5 };
    /// For a neighbour, where another source may do better: nobody chose him, and he may say that he has what he hardly gives. A
    /// megabyte a second is what a bad link to one who is near brings.
    pub(super) const OF_NEIGHBOUR: Self =
        Patience { stall: Duration::from_secs(3), step: (Duration::from_secs(3), 3 << 20), attempts: 1 };
}

/// How often a source is asked in all: one that breaks off all the time costs no more than this.
const MOST_ATTEMPTS: u32 = 100;
/// Bytes that count as getting on: what a slow link brings in some seconds.
const STEP: u64 = 256 * 1024;
/// The pause before a source is asked again, doubled each time, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(4)];
/// Pieces between the pump and the decoder: of a web server about a megabyte.
const QUEUE: usize = 16;

/// Bytes of the file, or its end: a channel that closes without it was cut off.
enum Piece {
    Bytes(Bytes),
    End,
}

/// What the pump puts bytes into.
pub(super) struct Inlet(mpsc::Sender<Piece>);

/// What the decoder reads; to be read by a thread that may wait.
pub(super) struct Outlet {
    pieces: mpsc::Receiver<Piece>,
    piece: Bytes,
    at_end: bool,
}

/// The two ends of the way.
pub(super) fn pipe() -> (Inlet, Outlet) {
    let (sender, pieces) = mpsc::channel(QUEUE);
    (Inlet(sender), Outlet { pieces, piece: Bytes::new(), at_end: false })
}

impl Read for Outlet {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.at_end {
            match self.pieces.blocking_recv() {
                Some(Piece::Bytes(bytes)) => self.piece = bytes,
                Some(Piece::End) => self.at_end = true,
                None => return Err(io::Error::other("the transfer was broken off")),
            }
        }
        let length = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// How far a source is.
struct Pump<'a> {
    source: &'a dyn NarSource,
    inlet: Inlet,
    limit: u64,
    /// Bytes that were handed on.
    position: u64,
    /// It began anew, and what had come was passed over: it may be another file by now.
    is_spliced: bool,
    /// The end of the file is where the last stream ended, by nothing else.
    is_end_guessed: bool,
    patience: Patience,
}

/// What became of a source.
pub(super) struct Pumped {
    pub(super) ended: Result<(), Reason>,
    is_spliced: bool,
    is_end_guessed: bool,
}

impl Pumped {
    /// Whether that the bytes are wrong for `reason` may come of how they were put together.
    pub(super) fn excuses(&self, reason: &Reason) -> bool {
        self.is_spliced || (self.is_end_guessed && reason.is_short())
    }
}

/// Why one attempt ended before the file.
enum Break {
    /// Nobody takes the bytes.
    Closed,
    Error(SourceError),
    Silence,
    Endless,
}

/// Hands all that `source` gives to `inlet`: at most `limit` bytes. `received` is told of bytes as they come. That nobody takes them any more is no
/// error: whoever should have taken them knows why.
pub(super) async fn pump(
    source: &dyn NarSource,
    inlet: Inlet,
    limit: u64,
    patience: Patience,
    received: impl Fn(u64),
) -> Pumped {
    let mut pump =
        Pump { source, inlet, limit, position: 0, is_spliced: false, is_end_guessed: false, patience };
    let ended = pump.run(received).await;
    Pumped { ended, is_spliced: pump.is_spliced, is_end_guessed: pump.is_end_guessed }
}

impl Pump<'_> {
    async fn run(&mut self, received: impl Fn(u64)) -> Result<(), Reason> {
        let (mut attempts, mut in_row, mut mark, mut pause) = (0, 0, 0, PAUSES[0]);
        loop {
            (attempts, in_row) = (attempts + 1, in_row + 1);
            let Err(end) = self.attempt(&received).await else { return Ok(()) };
            if self.position >= mark + self.patience.step.1 {
                (in_row, mark, pause) = (0, self.position, PAUSES[0]);
            }
            let is_last = in_row >= self.patience.attempts || attempts >= MOST_ATTEMPTS;
            let received = self.position;
            match end {
                Break::Closed => return Ok(()),
                Break::Endless => return Err(Reason::Endless { limit: self.limit }),
                Break::Error(source) if is_last || !source.is_transient => {
                    return Err(Reason::Broken { attempts, received, source });
                }
                Break::Silence if is_last => {
                    return Err(Reason::Stalled { attempts, received, after: self.patience.stall });
                }
                Break::Error(error) => {
                    tracing::debug!("{} broke off at byte {received}: {error}", self.source.name())
                }
                Break::Silence => tracing::debug!("{} went silent at byte {received}", self.source.name()),
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSES[1]);
        }
    }

    /// Opens the file where it broke off, and hands on what comes.
    async fn attempt(&mut self, received: &impl Fn(u64)) -> Result<(), Break> {
        let Patience { stall, step: (step, bytes_of_step), .. } = self.patience;
        let opened = timeout(stall, self.source.open(self.position)).await.map_err(|_| Break::Silence)?;
        let mut stream = opened.map_err(Break::Error)?;
        if stream.from > self.position {
            return Err(Break::Error(SourceError::lasting(io::Error::other(
                "it began beyond what was asked for",
            ))));
        }
        self.is_spliced |= stream.from == 0 && self.position > 0;
        self.is_end_guessed = stream.length.is_none();
        // What came before comes again.
        let mut skip = self.position - stream.from;
        // Of the time, only what the source takes.
        let (mut came, mut waited) = (0, Duration::ZERO);
        loop {
            let asked = Instant::now();
            let next = timeout(stall, stream.body.next()).await.map_err(|_| Break::Silence)?;
            let Some(bytes) = next else { break };
            let mut bytes = bytes.map_err(Break::Error)?;
            received(bytes.len() as u64);
            (came, waited) = (came + bytes.len() as u64, waited + asked.elapsed());
            if came >= bytes_of_step {
                (came, waited) = (0, Duration::ZERO);
            } else if waited > step {
                return Err(Break::Silence);
            }
            let known = skip.min(bytes.len() as u64);
            bytes.advance(known as usize);
            skip -= known;
            if bytes.is_empty() {
                continue;
            }
            self.position += bytes.len() as u64;
            if self.position > self.limit {
                return Err(Break::Endless);
            }
            self.inlet.0.send(Piece::Bytes(bytes)).await.map_err(|_| Break::Closed)?;
        }
        if skip > 0 || stream.length.is_some_and(|length| self.position < length) {
            let early = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(Break::Error(SourceError::transient(early)));
        }
        self.inlet.0.send(Piece::End).await.map_err(|_| Break::Closed)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use async_trait::async_trait;
    use futures::stream;

    use super::super::NarStream;
    use super::*;
    use crate::compress::Compression;

    const PATIENCE: Patience = Patience::ALONE;
    const FILE: usize = 3_000_000;

    fn byte(at: usize) -> u8 {
        (at / 1000 + at) as u8
    }

    fn file() -> Bytes {
        (0..FILE).map(byte).collect::<Vec<_>>().into()
    }

    /// What a source does when it is opened once more.
    #[derive(Clone, Copy)]
    enum Turn {
        /// Gives so many bytes of what was asked for, then fails.
        Break(usize),
        /// Gives so many bytes, then nothing any more.
        Silence(usize),
        /// Ends early, in the way that the length tells.
        Early(usize),
        /// Gives a byte every two seconds.
        Trickle,
        /// Does not answer.
        Nothing,
        /// Fails for good.
        Gone,
        /// Knows no ranges: gives all from the beginning.
        FromStart,
        /// As a good server does.
        Good,
    }

    #[derive(Debug)]
    struct Scripted {
        turns: Mutex<VecDeque<Turn>>,
        asked: Mutex<Vec<u64>>,
        length: Option<u64>,
    }

    impl std::fmt::Debug for Turn {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Turn")
        }
    }

    #[async_trait]
    impl NarSource for Scripted {
        fn name(&self) -> &str {
            "scripted"
        }

        fn compression(&self) -> Compression {
            Compression::None
        }

        async fn open(&self, from: u64) -> Result<NarStream, SourceError> {
            self.asked.lock().unwrap().push(from);
            let turn = {
                let mut turns = self.turns.lock().unwrap();
                // The last one stays.
                if turns.len() > 1 { turns.pop_front() } else { turns.front().copied() }
            };
            let turn = turn.expect("a script");
            let from = if matches!(turn, Turn::FromStart) { 0 } else { from };
            let rest = file().slice(from as usize..);
            let chunks = |bytes: Bytes| {
                let chunks: Vec<_> = bytes.chunks(50_000).map(Bytes::copy_from_slice).map(Ok).collect();
                stream::iter(chunks)
            };
            let failure = || SourceError::transient(io::Error::other("connection reset"));
            let body = match turn {
                Turn::Break(length) => {
                    chunks(rest.slice(..length)).chain(stream::iter([Err(failure())])).boxed()
                }
                Turn::Silence(length) => chunks(rest.slice(..length)).chain(stream::pending()).boxed(),
                Turn::Early(length) => chunks(rest.slice(..length)).boxed(),
                Turn::Trickle => stream::unfold(rest, |mut rest| async {
                    sleep(Duration::from_secs(2)).await;
                    Some((Ok(rest.split_to(1)), rest))
                })
                .boxed(),
                Turn::Nothing => std::future::pending().await,
                Turn::Gone => return Err(SourceError::lasting(io::Error::other("404"))),
                Turn::FromStart | Turn::Good => chunks(rest).boxed(),
            };
            Ok(NarStream { from, length: self.length, body })
        }
    }

    fn scripted(turns: &[Turn]) -> Scripted {
        let turns = Mutex::new(turns.iter().copied().collect());
        Scripted { turns, asked: Mutex::default(), length: Some(FILE as u64) }
    }

    /// What came out, and how it ended.
    async fn run(source: &Scripted, limit: u64) -> (Vec<u8>, bool, Result<(), Reason>) {
        let (inlet, mut outlet) = pipe();
        let all = async {
            let mut bytes = Vec::new();
            loop {
                match outlet.pieces.recv().await {
                    Some(Piece::Bytes(piece)) => bytes.extend_from_slice(&piece),
                    Some(Piece::End) => return (bytes, true),
                    None => return (bytes, false),
                }
            }
        };
        let ((bytes, at_end), result) = tokio::join!(all, pump(source, inlet, limit, PATIENCE, |_| ()));
        (bytes, at_end, result.ended)
    }

    async fn assert_whole(source: &Scripted) {
        let (bytes, at_end, result) = run(source, u64::MAX).await;
        assert!(result.is_ok(), "{result:?}");
        assert!(at_end && bytes == file());
    }

    #[tokio::test(start_paused = true)]
    async fn what_breaks_off_is_resumed_where_it_broke_off() {
        let source = scripted(&[Turn::Break(700_000), Turn::Early(1_000_000), Turn::Break(0), Turn::Good]);
        assert_whole(&source).await;
        assert_eq!(*source.asked.lock().unwrap(), [0, 700_000, 1_700_000, 1_700_000]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_without_ranges_begins_anew_and_what_came_is_passed_over() {
        let source = scripted(&[Turn::Break(1_234_567), Turn::FromStart]);
        assert_whole(&source).await;
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_borne_for_ten_seconds() {
        let source = scripted(&[Turn::Silence(600_000), Turn::Nothing, Turn::Good]);
        let start = Instant::now();
        assert_whole(&source).await;
        let waited = start.elapsed();
        assert!(
            waited >= PATIENCE.stall * 2 && waited < PATIENCE.stall * 2 + Duration::from_secs(2),
            "{waited:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_never_answers_is_given_up() {
        let source = scripted(&[Turn::Nothing]);
        let (_, at_end, result) = run(&source, u64::MAX).await;
        assert!(matches!(result, Err(Reason::Stalled { attempts: 5, received: 0, .. })), "{result:?}");
        assert!(!at_end, "what is cut off does not look like the end");
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_hardly_gets_on_is_given_up_and_one_that_does_is_not() {
        let source = scripted(&[Turn::Break(1000)]);
        let (_, _, result) = run(&source, u64::MAX).await;
        assert!(matches!(result, Err(Reason::Broken { attempts: 5, .. })), "{result:?}");
        let source = scripted(&[Turn::Break(300_000); 9].into_iter().chain([Turn::Good]).collect::<Vec<_>>());
        assert_whole(&source).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_only_trickles_is_given_up() {
        let source = scripted(&[Turn::Trickle]);
        let start = Instant::now();
        let (_, _, result) = run(&source, u64::MAX).await;
        assert!(matches!(result, Err(Reason::Stalled { attempts: 5, .. })), "{result:?}");
        assert!(start.elapsed() < PATIENCE.step.0 * 6, "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_for_good_is_not_asked_again() {
        let source = scripted(&[Turn::Gone]);
        let (_, _, result) = run(&source, u64::MAX).await;
        assert!(matches!(result, Err(Reason::Broken { attempts: 1, .. })), "{result:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_neighbour_that_trickles_costs_seconds_where_there_are_others() {
        let source = scripted(&[Turn::Trickle]);
        let (inlet, _outlet) = pipe();
        let start = Instant::now();
        let pumped = pump(&source, inlet, u64::MAX, Patience::OF_NEIGHBOUR, |_| ()).await;
        assert!(matches!(pumped.ended, Err(Reason::Stalled { attempts: 1, .. })), "{:?}", pumped.ended);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_on_for_ever_is_cut_off() {
        let source = scripted(&[Turn::Good]);
        let (bytes, _, result) = run(&source, 1_000_000).await;
        assert!(matches!(result, Err(Reason::Endless { limit: 1_000_000 })), "{result:?}");
        assert!(bytes.len() <= 1_000_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_decoder_that_has_enough_ends_the_transfer() {
        let source = scripted(&[Turn::Silence(100_000)]);
        let (inlet, outlet) = pipe();
        drop(outlet);
        let start = Instant::now();
        assert!(pump(&source, inlet, u64::MAX, PATIENCE, |_| ()).await.ended.is_ok());
        assert!(start.elapsed() < PATIENCE.stall);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_decoder_is_no_stall_of_the_source() {
        let source = scripted(&[Turn::Good]);
        let (inlet, mut outlet) = pipe();
        let all = async {
            let mut length = 0;
            while let Some(Piece::Bytes(piece)) = outlet.pieces.recv().await {
                length += piece.len();
                tokio::time::sleep(PATIENCE.stall * 2).await;
            }
            length
        };
        let (length, result) = tokio::join!(all, pump(&source, inlet, u64::MAX, PATIENCE, |_| ()));
        assert!(result.ended.is_ok() && length == FILE);
        assert_eq!(source.asked.lock().unwrap().len(), 1);
    }

    #[test]
    fn a_transfer_that_was_broken_off_is_an_error_for_the_decoder() {
        let (inlet, mut outlet) = pipe();
        inlet
            .0
            .try_send(Piece::Bytes(Bytes::from_static(b"some")))
            .unwrap_or_else(|_| panic!("there is room"));
        drop(inlet);
        let mut bytes = Vec::new();
        assert!(outlet.read_to_end(&mut bytes).is_err());
        assert_eq!(bytes, b"some");
    }
}
