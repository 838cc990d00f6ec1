//! What a connection is doing, and until when it may do so.
//!
//! One place knows all deadlines of a connection: for a request head, between requests, for a client
//! that does not take its answer, and for an answer that makes no progress. Limits of hyper's own do not
//! cover the time between requests apart from the head's, nor a client that stops reading. Each answer
//! has a time of its own: what else goes on on the connection does not excuse one that stands still.

use std::collections::BTreeMap;
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
    /// The requests whose answer is not with the client's socket completely, and since when there is
    /// nothing new of each.
    requests: BTreeMap<u64, Instant>,
    /// What the next request is called.
    next: u64,
    /// When the last request ended.
    idle_since: Instant,
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
        let state = State {
            requests: BTreeMap::new(),
            next: 0,
            idle_since: now,
            head_since: Some(now),
            blocked_since: None,
            protocol: None,
        };
        Arc::new(Activity { limits, state: Mutex::new(state), changed: Notify::new() })
    }

    /// A request has come; it lasts until the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        let request = self.update(|state, now| {
            let request = state.next;
            state.next += 1;
            state.requests.insert(request, now);
            state.head_since = None;
            request
        });
        InFlight { activity: self.clone(), request }
    }

    /// Returns when the connection has done for too long what it is doing.
    pub(super) async fn overdue(&self) {
        loop {
            let changed = self.changed.notified();
            let deadline = self.state.lock().expect("no panic while held").deadline(&self.limits);
            if Instant::now() >= deadline {
                return;
            }
            tokio::select! {
                () = sleep_until(deadline) => {}
                () = changed => {}
            }
        }
    }

    fn received(&self, bytes: &[u8]) {
        self.update(|state, now| {
            let protocol = *state.protocol.get_or_insert(match bytes.starts_with(b"PRI ") {
                true => Protocol::Http2,
                false => Protocol::Http1,
            });
            // In HTTP/2 bytes come between requests that belong to none.
            if protocol == Protocol::Http1 && state.requests.is_empty() {
                state.head_since.get_or_insert(now);
            }
        });
    }

    fn written<T>(&self, outcome: &Poll<io::Result<T>>) {
        self.update(|state, now| match outcome {
            Poll::Pending => _ = state.blocked_since.get_or_insert(now),
            Poll::Ready(_) => state.blocked_since = None,
        });
    }

    /// Changes the state; who waits for the deadline hears of it if that has come closer.
    fn update<T>(&self, change: impl FnOnce(&mut State, Instant) -> T) -> T {
        let mut state = self.state.lock().expect("no panic while held");
        let before = state.deadline(&self.limits);
        let outcome = change(&mut state, Instant::now());
        if state.deadline(&self.limits) < before {
            self.changed.notify_one();
        }
        outcome
    }
}

impl State {
    fn deadline(&self, limits: &Limits) -> Instant {
        let usual = match (self.requests.values().min(), self.head_since) {
            (Some(&oldest), _) => oldest + limits.fetch + limits.stall,
            (None, Some(begun)) => begun + limits.head,
            (None, None) => self.idle_since + limits.idle,
        };
        self.blocked_since.map_or(usual, |blocked| usual.min(blocked + limits.stall))
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct InFlight {
    activity: Arc<Activity>,
    request: u64,
}

impl InFlight {
    /// The client asked for more of the answer.
    pub(super) fn advance(&self) {
        self.activity.update(|state, now| state.requests.insert(self.request, now));
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.activity.update(|state, now| {
            state.requests.remove(&self.request);
            state.idle_since = now;
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{advance, timeout};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limits() -> Limits {
        Limits { fetch: 20 * SECOND, stall: 40 * SECOND, idle: 50 * SECOND, ..Limits::default() }
    }

    async fn is_overdue(activity: &Activity) -> bool {
        timeout(Duration::from_millis(1), activity.overdue()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_stands_still_is_not_excused_by_others() {
        let activity = Activity::new(limits());
        let _stands_still = activity.begin();
        let advances = activity.begin();
        for _ in 0..5 {
            advance(11 * SECOND).await;
            assert!(!is_overdue(&activity).await);
            drop(activity.begin());
            advances.advance();
        }
        advance(11 * SECOND).await;
        assert!(is_overdue(&activity).await);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_advance_in_turn_may_take_long() {
        let activity = Activity::new(limits());
        let requests = [activity.begin(), activity.begin(), activity.begin()];
        for request in requests.iter().cycle().take(30) {
            advance(19 * SECOND).await;
            assert!(!is_overdue(&activity).await);
            request.advance();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_comes_closer_wakes_who_waits_for_it() {
        let activity = Activity::new(limits());
        let begun = Instant::now();
        let request = activity.begin();
        let waiting = tokio::spawn({
            let activity = activity.clone();
            async move { activity.overdue().await }
        });
        advance(SECOND).await;
        drop(request);
        waiting.await.unwrap();
        assert!(begun.elapsed() < 52 * SECOND, "{:?}", begun.elapsed());
    }
}
