//! `POST /erisfs/seed/HASHPART`: a client asks that the blocks of a store path be kept here, for instance since it lacked one.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{CACHE_CONTROL, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{HeaderMap, Method, StatusCode};
use serde_json::json;

use super::answer::{self, Answer};
use super::token::Token;
use crate::availability::{Keeper, Outcome, Standing};
use crate::store::HashPart;

/// How long a client waits for the outcome before it is told to come back: small paths are done by then.
const WAIT: Duration = Duration::from_secs(5);
/// Seconds after which a client that was told so finds more.
const COME_AGAIN: HeaderValue = HeaderValue::from_static("5");

/// Who may ask, and who does it.
#[derive(Debug, Clone)]
pub struct Seeding {
    /// What whoever asks has to know.
    pub token: Token,
    /// Who does it.
    pub keeper: Arc<Keeper>,
}

/// Answers a request to keep a store path.
pub(super) async fn answer(
    seeding: Option<&Seeding>,
    method: &Method,
    headers: &HeaderMap,
    hash_part: Option<HashPart>,
) -> Answer {
    if method != Method::POST {
        return answer::wrong_method("POST");
    }
    let Some(Seeding { token, keeper }) = seeding else {
        return state(StatusCode::FORBIDDEN, "refused");
    };
    if !token.is_in(headers) {
        let mut refusal = state(StatusCode::UNAUTHORIZED, "unauthorized");
        answer::set(&mut refusal, WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return refusal;
    }
    let Some(hash_part) = hash_part else { return state(StatusCode::BAD_REQUEST, "no-hash-part") };
    let outcome = match keeper.ask(hash_part, WAIT).await {
        Standing::Done(outcome) => outcome,
        Standing::UnderWay => return later(state(StatusCode::ACCEPTED, "under-way")),
        Standing::Busy => return later(state(StatusCode::SERVICE_UNAVAILABLE, "busy")),
    };
    let status = match &*outcome {
        Outcome::Complete { .. } => StatusCode::OK,
        Outcome::Absent | Outcome::NoContent { .. } => StatusCode::NOT_FOUND,
        Outcome::Lost { .. } => StatusCode::CONFLICT,
        Outcome::Failed { .. } => StatusCode::BAD_GATEWAY,
    };
    body(status, json!(*outcome))
}

fn state(status: StatusCode, state: &str) -> Answer {
    body(status, json!({ "state": state }))
}

fn body(status: StatusCode, value: serde_json::Value) -> Answer {
    let mut answer = answer::whole(status, "application/json", format!("{value}\n"));
    answer::set(&mut answer, CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn later(mut answer: Answer) -> Answer {
    answer::set(&mut answer, RETRY_AFTER, COME_AGAIN);
    answer
}
