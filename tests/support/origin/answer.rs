//! One request of the origin: what is asked for, what the fault makes of it, and a body that keeps to the line.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use erisfs::{
    block::{BlockStore, Error},
    eris::Reference,
};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Frame, Incoming},
    header::{CONTENT_LENGTH, HeaderValue, LOCATION, RETRY_AFTER},
};
use tokio::sync::watch;

use super::{
    Fault,
    link::Line,
    timer::{Sleep, Timer},
};

/// What all connections share.
pub struct Site {
    pub blocks: Arc<dyn BlockStore>,
    pub files: Mutex<HashMap<String, Bytes>>,
    pub line: Line,
    pub timer: Timer,
    pub fault: watch::Sender<Option<Fault>>,
    pub counts: Counts,
}

#[derive(Default)]
pub struct Counts {
    pub connections: AtomicU64,
    pub requests: AtomicU64,
    pub bytes: AtomicU64,
    /// Requests that are being answered now, and the most there were at a time.
    pub now: AtomicU64,
    pub most: AtomicU64,
}

/// Half of an answer is out for so long before the connection breaks, so that the client has seen it.
const SEEN: Duration = Duration::from_millis(20);
/// What follows a block that is too long.
const TOO_MUCH: usize = 64 << 10;

impl Site {
    /// Returns when the origin is not (or no longer) one that says nothing.
    pub async fn spoken(&self) {
        let mut fault = self.fault.subscribe();
        // The sender lives as long as this.
        let _ = fault.wait_for(|fault| *fault != Some(Fault::Silent)).await;
    }

    /// Answers a request; `is_new` is whether the connection has had none yet.
    pub async fn answer(
        self: Arc<Self>,
        is_new: Arc<AtomicBool>,
        request: Request<Incoming>,
    ) -> Result<Response<Paced>, Infallible> {
        let counted = Counted::new(self.clone());
        let mut ready = Instant::now() + self.line.link().latency;
        if is_new.swap(false, Relaxed) {
            ready += self.line.link().latency;
        }
        self.timer.until(ready).await;
        self.spoken().await;
        let fault = *self.fault.borrow();
        if let Some(Fault::SlowFirstByte(delay)) = fault {
            ready += delay;
            self.timer.until(ready).await;
        }
        let refused = match fault {
            Some(Fault::Status(status)) => Some((status, None)),
            Some(Fault::Busy { retry_after }) => {
                Some((429, Some((RETRY_AFTER, retry_after.as_secs().to_string()))))
            }
            Some(Fault::RedirectLoop) => Some((302, Some((LOCATION, "/round".to_owned())))),
            _ => None,
        };
        if let Some((status, header)) = refused {
            let mut response = self.response(counted, status, ready, (Bytes::new(), End::Whole));
            if let Some((name, value)) = header {
                let value = HeaderValue::try_from(value).expect("numbers and paths are good values");
                response.headers_mut().insert(name, value);
            }
            return Ok(response);
        }
        let (status, body) = self.find(&request).await;
        if *request.method() == Method::HEAD {
            return Ok(self.response(counted, status, ready, (Bytes::new(), End::Whole)));
        }
        let half = body.slice(..body.len() / 2);
        let (sent, end) = match fault {
            Some(Fault::OtherBlock) => (body.iter().map(|byte| !byte).collect(), End::Whole),
            Some(Fault::TooLong) => ([&body[..], &[0; TOO_MUCH]].concat().into(), End::Whole),
            Some(Fault::Stalled) => (half, End::Never),
            Some(Fault::Truncated | Fault::Reset) => (half, End::Broken),
            _ => (body.clone(), End::Whole),
        };
        let mut response = self.response(counted, status, ready, (sent, end));
        // Too long a body does not say so beforehand.
        if fault != Some(Fault::TooLong) {
            response.headers_mut().insert(CONTENT_LENGTH, body.len().into());
        }
        Ok(response)
    }

    async fn find(&self, request: &Request<Incoming>) -> (u16, Bytes) {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return (405, Bytes::new());
        }
        let path = request.uri().path();
        if path != "/uri-res/N2R" {
            let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            return files.get(path).map_or((404, Bytes::new()), |file| (200, file.clone()));
        }
        let query = request.uri().query().and_then(|query| query.strip_prefix("urn:blake2b:"));
        let Some(reference) = query.and_then(|text| text.parse::<Reference>().ok()) else {
            return (400, Bytes::new());
        };
        match self.blocks.get(&reference).await {
            Ok(block) => (200, block),
            Err(Error::NotFound { .. }) => (404, Bytes::new()),
            Err(_) => (500, Bytes::new()),
        }
    }

    fn response(
        &self,
        counted: Counted,
        status: u16,
        ready: Instant,
        (rest, end): (Bytes, End),
    ) -> Response<Paced> {
        let body = Paced { counted, rest, ready, under_way: None, end, last: None };
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
        response
    }
}

/// A request among those that are being answered.
struct Counted(Arc<Site>);

impl Counted {
    fn new(site: Arc<Site>) -> Self {
        let counts = &site.counts;
        counts.requests.fetch_add(1, Relaxed);
        counts.most.fetch_max(counts.now.fetch_add(1, Relaxed) + 1, Relaxed);
        Counted(site)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.counts.now.fetch_sub(1, Relaxed);
    }
}

/// What comes after the bytes of a body.
enum End {
    Whole,
    /// Nothing, and the connection stays.
    Never,
    /// The connection ends.
    Broken,
}

/// A body that comes as fast as the line allows.
pub struct Paced {
    counted: Counted,
    rest: Bytes,
    /// Since when the rest could be on the line.
    ready: Instant,
    /// A piece that is on the line, and when it has passed.
    under_way: Option<(Bytes, Option<Sleep>)>,
    end: End,
    last: Option<Sleep>,
}

impl Body for Paced {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let site = self.counted.0.clone();
        if self.under_way.is_none() && !self.rest.is_empty() {
            let (length, passed) = site.line.book(self.rest.len(), self.ready);
            self.ready = passed.unwrap_or(self.ready);
            let piece = self.rest.split_to(length);
            self.under_way = Some((piece, passed.map(|at| site.timer.until(at))));
        }
        if let Some((_, sleep)) = &mut self.under_way {
            if let Some(sleep) = sleep {
                ready!(Pin::new(sleep).poll(context));
            }
            let (piece, _) = self.under_way.take().expect("it was there a line ago");
            site.counts.bytes.fetch_add(piece.len() as u64, Relaxed);
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match self.end {
            End::Whole => Poll::Ready(None),
            End::Never => Poll::Pending,
            End::Broken => {
                let last = self.last.get_or_insert_with(|| site.timer.until(Instant::now() + SEEN));
                ready!(Pin::new(last).poll(context));
                Poll::Ready(Some(Err(io::Error::other("a fault was asked for"))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.end, End::Whole) && self.rest.is_empty() && self.under_way.is_none()
    }
}
