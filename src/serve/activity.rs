//! What a connection is doing, and until when it may do so.
//!
//! One place knows all deadlines of a connection: for a request head, between requests, for a client
//! that does not take its answer, and for an answer that makes no progress. Limits of hyper's own do not
//! cover the time between requests apart from the head's, nor a client that stops reading.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::Limits;

/// What one connection is doing.
#[derive(Debug)]
pub(super) struct Activity {
    limits: Limits,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    /// Requests whose answer is not with hyper completely.
    requests: usize,
    /// Since when there is nothing new of them, or since when there is none.
    since: Instant,
    /// Since when the head of the next request is coming.
    head_since: Option<Instant>,
    /// Since when the client takes no bytes, though there are some for it.
    blocked_since: Option<Instant>,
    protocol: Option<Protocol>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

impl Activity {
    /// A connection that was opened now: its first head is awaited.
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        let now = Instant::now();
        let state =
            State { requests: 0, since: now, head_since: Some(now), blocked_since: None, protocol: None };
        Arc::new(Activity { limits, state: Mutex::new(state), changed: Notify::new() })
    }

    /// A request has come; it lasts until the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        self.update(|state, now| {
            state.requests += 1;
            state.since = now;
            state.head_since = None;
        });
        InFlight(self.clone())
    }

    /// Returns when the connection has done for too long what it is doing.
    pub(super) async fn overdue(&self) {
        loop {
            let changed = self.changed.notified();
            let deadline = self.deadline();
            if Instant::now() >= deadline {
                return;
            }
            tokio::select! {
                () = sleep_until(deadline) => {}
                () = changed => {}
            }
        }
    }

    fn deadline(&self) -> Instant {
        let state = self.state.lock().expect("no panic while held");
        let usual = match state.head_since {
            _ if state.requests > 0 => state.since + self.limits.fetch + self.limits.stall,
            Some(begun) => begun + self.limits.head,
            None => state.since + self.limits.idle,
        };
        state.blocked_since.map_or(usual, |blocked| usual.min(blocked + self.limits.stall))
    }

    /// The deadline may come closer only here and in `blocked`: then who waits for it has to know.
    fn received(&self, bytes: &[u8]) {
        let mut head_begins = false;
        self.update(|state, now| {
            let protocol = *state.protocol.get_or_insert(match bytes.starts_with(b"PRI ") {
                true => Protocol::Http2,
                false => Protocol::Http1,
            });
            // In HTTP/2 bytes come between requests that belong to none.
            head_begins = protocol == Protocol::Http1 && state.requests == 0 && state.head_since.is_none();
            if head_begins {
                state.head_since = Some(now);
            }
        });
        if head_begins {
            self.changed.notify_one();
        }
    }

    fn written<T>(&self, outcome: &Poll<io::Result<T>>) {
        let mut blocks = false;
        self.update(|state, now| match outcome {
            Poll::Pending if state.blocked_since.is_none() => {
                state.blocked_since = Some(now);
                blocks = true;
            }
            Poll::Pending => {}
            Poll::Ready(_) => state.blocked_since = None,
        });
        if blocks {
            self.changed.notify_one();
        }
    }

    fn update(&self, change: impl FnOnce(&mut State, Instant)) {
        change(&mut self.state.lock().expect("no panic while held"), Instant::now());
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Activity>);

impl InFlight {
    /// The client asked for more of the answer.
    pub(super) fn advance(&self) {
        self.0.update(|state, now| state.since = now);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.update(|state, now| {
            state.requests = state.requests.saturating_sub(1);
            state.since = now;
        });
    }
}

/// A socket that tells the [`Activity`] of its connection what comes and goes.
#[derive(Debug)]
pub(super) struct Watched {
    socket: TcpStream,
    activity: Arc<Activity>,
}

impl Watched {
    pub(super) fn new(socket: TcpStream, activity: Arc<Activity>) -> Self {
        Watched { socket, activity }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.socket).poll_read(context, buffer);
        if let Some(bytes) = buffer.filled().get(before..).filter(|bytes| !bytes.is_empty()) {
            self.activity.received(bytes);
        }
        outcome
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.activity.written(&outcome);
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.socket).poll_write_vectored(context, slices);
        self.activity.written(&outcome);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
