//! The bodies of answers: some bytes, or a part of an object that is fetched while it is sent.
//!
//! An object is read in pieces, a few ahead of what the client has taken, by tasks of their own, so that
//! fetching goes on while the client reads. A piece that cannot be had ends the connection in mid-body:
//! with the announced length the client sees that something is missing.

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

use super::activity::InFlight;
use super::budget::{Budget, Pace, Turn};
use super::checked::{Checked, Link, WrongHash};
use crate::content::Deadline;
use crate::tree::{self, NarStream, Object, Tree};

/// Bytes that are read of an object at once.
const PIECE: u64 = 1 << 20;
/// Pieces of one answer that are being read or wait for the client.
const AHEAD: usize = 4;

/// Bytes that hyper gets of an answer at once, and of which a client has to take so many in the time of a
/// stall: few enough for a slow one with many answers on a connection.
const FRAME: usize = 64 << 10;

/// What an answer carries.
#[derive(Debug)]
pub(super) enum Payload {
    /// These bytes.
    Whole(Bytes),
    /// A part of an object.
    Pieces(Pieces),
}

impl Payload {
    /// Bytes that are still to be sent.
    pub(super) fn length(&self) -> u64 {
        match self {
            Payload::Whole(bytes) => bytes.len() as u64,
            Payload::Pieces(pieces) => pieces.end - pieces.sent,
        }
    }
}

/// A payload on its way to the client.
#[derive(Debug)]
pub(super) struct Body {
    payload: Payload,
    /// What has been taken from the payload and is not with hyper yet.
    taken: Bytes,
    pace: Pace,
    budget: Arc<Budget>,
    /// Lasts until hyper has sent the last byte.
    request: Arc<InFlight>,
}

impl Body {
    pub(super) fn new(payload: Payload, budget: Arc<Budget>, request: InFlight) -> Self {
        Body { payload, taken: Bytes::new(), pace: Pace::default(), budget, request: Arc::new(request) }
    }

    fn length(&self) -> u64 {
        self.taken.len() as u64 + self.payload.length()
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Incomplete;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Incomplete>>> {
        let body = &mut *self;
        body.pace.asked();
        if body.length() > 0 && body.budget.needs_room_of(&body.pace) {
            let sent = body.pace.bytes();
            tracing::info!("an answer is cut after {sent} bytes: its client is slow, and others wait");
            return Poll::Ready(Some(Err(Incomplete { sent })));
        }
        if body.taken.is_empty() {
            let next = match &mut body.payload {
                Payload::Whole(bytes) if bytes.is_empty() => None,
                Payload::Whole(bytes) => Some(Ok(std::mem::take(bytes))),
                Payload::Pieces(pieces) => ready!(pieces.poll_next(context)),
            };
            match next {
                Some(Ok(bytes)) => body.taken = held(bytes, body.request.clone()),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        body.request.advance();
        let frame = body.taken.split_to(FRAME.min(body.taken.len()));
        body.pace.gave(frame.len());
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.length() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length())
    }
}

/// `bytes`, which keep `by` until the last part of them is sent or dropped: hyper may have them for long
/// after the body that gave them is gone.
pub(super) fn held<T: Send + 'static>(bytes: Bytes, by: T) -> Bytes {
    struct Held<T> {
        bytes: Bytes,
        _by: T,
    }

    impl<T> AsRef<[u8]> for Held<T> {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }

    Bytes::from_owner(Held { bytes, _by: by })
}

/// The rest of the body cannot be had. What was in the way is in the log.
#[derive(Debug, thiserror::Error)]
#[error("the body ends early, after {sent} bytes")]
pub(super) struct Incomplete {
    sent: u64,
}

/// Why a piece could not be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum PieceError {
    /// Its bytes could not be read.
    #[error(transparent)]
    View(#[from] tree::Error),
    /// All bytes are there, and they are not what they should be.
    #[error(transparent)]
    Hash(#[from] WrongHash),
    /// Reading it panicked.
    #[error("reading failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// What is read in pieces.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// The object as it was published.
    Encoded(Arc<Object>, Arc<Tree>),
    /// The NAR.
    Nar(Arc<NarStream>),
}

impl Source {
    /// Reads a piece, hashes it by `link` if it is one of all, and remembers what comes of that.
    async fn piece(
        &self,
        range: Range<u64>,
        link: Option<Link>,
        deadline: Deadline,
    ) -> Result<Bytes, PieceError> {
        let (Source::Nar(nar), Some(link)) = (self, link) else {
            return Ok(self.read(range, deadline).await?);
        };
        let bytes = nar.read(range, deadline).await?;
        match link.take(&bytes).await {
            Ok(true) => nar.is_right(),
            Ok(false) => {}
            Err(wrong) => {
                nar.is_wrong(wrong.found);
                return Err(wrong.into());
            }
        }
        Ok(bytes)
    }

    /// Reads a piece of a part.
    async fn read(&self, range: Range<u64>, deadline: Deadline) -> Result<Bytes, tree::Error> {
        match self {
            Source::Nar(nar) => nar.read_part(range, deadline).await,
            Source::Encoded(object, tree) => {
                let read = object.content().read_at(range, deadline).await;
                let bytes =
                    read.map_err(|source| tree::Error::Read { name: object.name().to_owned(), source })?;
                tree.count_read(bytes.len() as u64);
                Ok(bytes)
            }
        }
    }
}

/// A range of an object, read ahead of the client.
#[derive(Debug)]
pub(super) struct Pieces {
    /// For the log.
    name: String,
    source: Source,
    /// Checks what is sent, where all of a NAR is.
    checked: Option<Checked>,
    /// Everything before is with the client.
    sent: u64,
    /// Everything before is being read.
    asked: u64,
    end: u64,
    first: Option<Bytes>,
    ahead: VecDeque<Piece>,
    budget: Arc<Budget>,
    turn: Arc<Turn>,
}

#[derive(Debug)]
struct Piece {
    reading: JoinHandle<Result<Bytes, PieceError>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Pieces {
    /// Starts reading `range`, and waits for the first piece: while nothing is sent, a failure can
    /// still be told by the status.
    pub(super) async fn start(
        name: String,
        source: Source,
        range: Range<u64>,
        budget: Arc<Budget>,
        turn: Turn,
    ) -> Result<Self, PieceError> {
        let (sent, asked, end) = (range.start, range.start, range.end);
        let (ahead, begins_by, turn) = (VecDeque::with_capacity(AHEAD), turn.deadline(), Arc::new(turn));
        let checked = match &source {
            Source::Nar(nar) if range == (0..nar.size()) => Some(Checked::new(nar.nar_hash())),
            _ => None,
        };
        let mut pieces = Pieces { name, source, checked, sent, asked, end, first: None, ahead, budget, turn };
        pieces.read_ahead(Some(begins_by));
        if let Some(piece) = pieces.ahead.front_mut() {
            pieces.first = Some((&mut piece.reading).await??);
            pieces.ahead.pop_front();
        }
        Ok(pieces)
    }

    /// Keeps pieces on their way; the next one is there by `first_by`, if that is given.
    fn read_ahead(&mut self, mut first_by: Option<Deadline>) {
        while self.asked < self.end && self.ahead.len() < AHEAD {
            let permit = match self.ahead.is_empty() {
                true => None,
                false => match self.budget.ahead() {
                    Some(permit) => Some(permit),
                    None => return,
                },
            };
            // Pieces begin at multiples of their size, as frames and blocks do.
            let until = (self.asked / PIECE + 1).saturating_mul(PIECE).min(self.end);
            let range = self.asked..until;
            // One piece after the other has its time: over a thin link they come in order.
            let patience = self.budget.patience() * (1 + self.ahead.len() as u32);
            let deadline = first_by.take().unwrap_or_else(|| Deadline::after(patience));
            let source = self.source.clone();
            let link = self.checked.as_mut().map(|checked| checked.link(until == self.end));
            let reading = tokio::spawn(async move { source.piece(range, link, deadline).await });
            self.ahead.push_back(Piece { reading, _permit: permit });
            self.asked = until;
        }
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Incomplete>>> {
        self.read_ahead(None);
        let piece = match (self.first.take(), self.ahead.front_mut()) {
            (Some(first), _) => Ok(first),
            (None, None) => return Poll::Ready(None),
            (None, Some(piece)) => {
                let outcome = ready!(Pin::new(&mut piece.reading).poll(context));
                self.ahead.pop_front();
                outcome.map_err(PieceError::from).flatten()
            }
        };
        match piece {
            Ok(bytes) => {
                self.sent += bytes.len() as u64;
                self.read_ahead(None);
                Poll::Ready(Some(Ok(held(bytes, self.turn.clone()))))
            }
            Err(error) => {
                self.ahead.clear();
                let (name, sent) = (&self.name, self.sent);
                tracing::warn!("{name}: the answer ends early, at byte {sent} of {}: {error}", self.end);
                self.end = sent;
                Poll::Ready(Some(Err(Incomplete { sent })))
            }
        }
    }
}
