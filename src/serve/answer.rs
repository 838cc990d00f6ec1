//! Answers, and which status an error becomes.
//!
//! What went wrong inside is for the log of the server; a client learns only what it can act on, and
//! nothing of where the blocks come from.

use bytes::Bytes;
use hyper::header::{
    ACCEPT_RANGES, ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, HeaderValue,
    RETRY_AFTER,
};
use hyper::{Response, StatusCode};

use super::body::{Payload, PieceError};
use crate::{block, content, tree};

/// An answer whose payload nobody has begun to send.
pub(super) type Answer = Response<Payload>;

/// Bytes of a media type.
pub(super) fn whole(status: StatusCode, media_type: &'static str, bytes: impl Into<Bytes>) -> Answer {
    with_payload(status, media_type, Payload::Whole(bytes.into()))
}

/// A payload of a media type.
pub(super) fn with_payload(status: StatusCode, media_type: &'static str, payload: Payload) -> Answer {
    let length = payload.length();
    let mut answer = empty(status);
    *answer.body_mut() = payload;
    set(&mut answer, CONTENT_TYPE, HeaderValue::from_static(media_type));
    set(&mut answer, CONTENT_LENGTH, length.into());
    answer
}

/// What HEAD says of bytes that nobody fetched.
pub(super) fn head(media_type: &'static str, length: u64) -> Answer {
    let mut answer = empty(StatusCode::OK);
    set(&mut answer, CONTENT_TYPE, HeaderValue::from_static(media_type));
    set(&mut answer, CONTENT_LENGTH, length.into());
    answer
}

/// A line for people.
pub(super) fn line(status: StatusCode, line: impl Into<String>) -> Answer {
    whole(status, "text/plain; charset=utf-8", line.into() + "\n")
}

/// A status that says it all.
pub(super) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Payload::Whole(Bytes::new()));
    *answer.status_mut() = status;
    answer
}

/// There is nothing under this name.
pub(super) fn not_found() -> Answer {
    line(StatusCode::NOT_FOUND, "not found")
}

/// The client has it already.
pub(super) fn not_modified(entity_tag: &str) -> Answer {
    tagged(empty(StatusCode::NOT_MODIFIED), entity_tag)
}

/// The resource does not do this.
pub(super) fn wrong_method(allowed: &'static str) -> Answer {
    let mut answer = line(StatusCode::METHOD_NOT_ALLOWED, format!("only {allowed}"));
    set(&mut answer, ALLOW, HeaderValue::from_static(allowed));
    answer
}

/// The range begins at the end, or beyond.
pub(super) fn beyond_the_end(entity_tag: &str, length: u64) -> Answer {
    let mut answer = line(StatusCode::RANGE_NOT_SATISFIABLE, format!("there are {length} bytes"));
    set_text(&mut answer, CONTENT_RANGE, &format!("bytes */{length}"));
    tagged(answer, entity_tag)
}

/// Says that parts may be asked for, and of what.
pub(super) fn ranged(mut answer: Answer, entity_tag: &str) -> Answer {
    set(&mut answer, ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    tagged(answer, entity_tag)
}

/// Gives the answer an entity tag.
pub(super) fn tagged(mut answer: Answer, entity_tag: &str) -> Answer {
    set_text(&mut answer, ETAG, entity_tag);
    answer
}

/// Sets a field to a value made of numbers, base32 and punctuation.
pub(super) fn set_text(answer: &mut Answer, name: HeaderName, value: &str) {
    set(answer, name, HeaderValue::from_str(value).expect("made of visible ASCII here"));
}

pub(super) fn set(answer: &mut Answer, name: HeaderName, value: HeaderValue) {
    answer.headers_mut().insert(name, value);
}

/// The answer where the view, a content or a block store failed. `what` is for the log.
pub(super) fn failed(what: &dyn std::fmt::Display, error: &dyn Failure) -> Answer {
    let status = error.status();
    match status {
        StatusCode::NOT_FOUND => tracing::debug!("{what}: {error}"),
        _ => tracing::warn!("{what}: {error}"),
    }
    let mut answer = line(status, status.canonical_reason().unwrap_or("failed").to_lowercase());
    if status == StatusCode::GATEWAY_TIMEOUT {
        set(&mut answer, RETRY_AFTER, HeaderValue::from_static(COME_AGAIN));
    }
    answer
}

/// Seconds after which what was late may be there: what is under way goes on.
const COME_AGAIN: &str = "5";

/// An error that stands for a status.
pub(super) trait Failure: std::fmt::Display {
    /// To the client this server is a gateway to where the blocks are (RFC 9110, sections 15.6.3, 15.6.5).
    fn status(&self) -> StatusCode;
}

impl Failure for block::Error {
    fn status(&self) -> StatusCode {
        match self.most_telling() {
            block::Error::NotFound { .. } => StatusCode::NOT_FOUND,
            block::Error::TimedOut { .. } => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::BAD_GATEWAY,
        }
    }
}

/// Of an object that is published, a block that is not there is a fault of whoever should have it.
impl Failure for content::Error {
    fn status(&self) -> StatusCode {
        match self {
            content::Error::TimedOut { .. } => StatusCode::GATEWAY_TIMEOUT,
            content::Error::Block(error) if error.status() == StatusCode::GATEWAY_TIMEOUT => error.status(),
            _ => StatusCode::BAD_GATEWAY,
        }
    }
}

impl Failure for tree::Error {
    fn status(&self) -> StatusCode {
        match self {
            tree::Error::NoBinding { .. } => StatusCode::NOT_FOUND,
            tree::Error::Read { source, .. } => source.status(),
            error if error.is_overdue() => StatusCode::GATEWAY_TIMEOUT,
            tree::Error::Catalog { source, .. } => match &**source {
                tree::CatalogError::Content(source) => source.status(),
                tree::CatalogError::Format(_) => StatusCode::BAD_GATEWAY,
            },
            _ => StatusCode::BAD_GATEWAY,
        }
    }
}

impl Failure for PieceError {
    fn status(&self) -> StatusCode {
        match self {
            PieceError::View(source) => source.status(),
            PieceError::Hash(_) => StatusCode::BAD_GATEWAY,
            PieceError::Task(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}
