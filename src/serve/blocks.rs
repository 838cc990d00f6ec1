//! Blocks by reference: RFC 2169's N2R as ERIS uses it, with HEAD and PUT as eris-nim has them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE,
};
use hyper::{HeaderMap, Method, Request, StatusCode};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::answer::{self, Answer};
use super::range::is_held;
use super::route::block_target;
use super::token::PutPolicy;
use crate::block::{self, BlockStore};
use crate::eris::{BlockSize, Reference, reference_of};

const MEDIA_TYPE: &str = "application/octet-stream";
/// A block never changes: its name is its hash.
const FOREVER: HeaderValue = HeaderValue::from_static("public, immutable, max-age=31536000");

/// The blocks of a store as resources.
#[derive(Debug)]
pub(super) struct Blocks {
    store: Arc<dyn BlockStore>,
    put: PutPolicy,
    /// How long getting or putting a block may take.
    patience: Duration,
    durable: Durable,
}

impl Blocks {
    pub(super) fn new(store: Arc<dyn BlockStore>, put: PutPolicy, patience: Duration) -> Self {
        Blocks { store, put, patience, durable: Durable::default() }
    }

    /// Answers a request for the block `reference`; `None` where the query named none.
    pub(super) async fn answer(&self, reference: Option<Reference>, request: Request<Incoming>) -> Answer {
        let malformed =
            || answer::line(StatusCode::BAD_REQUEST, "urn:blake2b: and 52 characters of base32 expected");
        let reference = match (request.method(), &self.put) {
            (&Method::GET | &Method::HEAD, _) => reference,
            (&Method::PUT, PutPolicy::Refuse) => {
                return answer::line(StatusCode::FORBIDDEN, "this server takes no blocks");
            }
            (&Method::PUT, PutPolicy::Token(token)) if !token.is_in(request.headers()) => {
                let mut refusal = answer::line(StatusCode::UNAUTHORIZED, "the token is missing or wrong");
                answer::set(&mut refusal, WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                return refusal;
            }
            (&Method::PUT, _) => reference,
            (_, PutPolicy::Refuse) => return answer::wrong_method("GET, HEAD"),
            (_, PutPolicy::Token(_)) => return answer::wrong_method("GET, HEAD, PUT"),
        };
        let Some(reference) = reference else { return malformed() };
        let answered = match *request.method() {
            Method::PUT => self.put(&reference, request).await,
            Method::HEAD => self.has(&reference, request.headers()).await,
            _ => self.get(&reference, request.headers()).await,
        };
        answered.unwrap_or_else(|error| answer::failed(&format_args!("block {reference}"), &error))
    }

    async fn get(&self, reference: &Reference, headers: &HeaderMap) -> Result<Answer, block::Error> {
        let entity_tag = format!("\"{reference}\"");
        if is_held(headers, &entity_tag) {
            return self.has(reference, headers).await;
        }
        let block = self.in_time(reference, self.store.get(reference)).await?;
        Ok(kept_forever(answer::whole(StatusCode::OK, MEDIA_TYPE, block), &entity_tag))
    }

    /// Without the length: it would take the block itself to know.
    async fn has(&self, reference: &Reference, headers: &HeaderMap) -> Result<Answer, block::Error> {
        let entity_tag = format!("\"{reference}\"");
        if !self.in_time(reference, self.store.has(reference)).await? {
            return Ok(answer::not_found());
        }
        let mut answer = match is_held(headers, &entity_tag) {
            true => answer::not_modified(&entity_tag),
            false => answer::empty(StatusCode::OK),
        };
        answer::set(&mut answer, CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        Ok(kept_forever(answer, &entity_tag))
    }

    async fn put(&self, reference: &Reference, request: Request<Incoming>) -> Result<Answer, block::Error> {
        let block = match self.read_block(request).await {
            Ok(block) => block,
            Err(refusal) => return Ok(refusal),
        };
        if reference_of(&block) != *reference {
            return Ok(answer::line(StatusCode::BAD_REQUEST, "the body is not the block of this reference"));
        }
        let kept = async {
            self.store.put(reference, block).await?;
            self.durable.sync(&*self.store).await
        };
        if let Err(error) = self.in_time(reference, kept).await {
            if let block::Error::Refused { .. } = error.most_telling() {
                tracing::warn!("block {reference} was not kept: {error}");
                return Ok(answer::line(StatusCode::FORBIDDEN, "the block store refuses blocks"));
            }
            return Err(error);
        }
        let mut answer = answer::line(StatusCode::OK, "kept");
        answer::set_text(&mut answer, CONTENT_LOCATION, &block_target(reference));
        Ok(answer)
    }

    /// The body, which has the size of a block; else the refusal.
    async fn read_block(&self, request: Request<Incoming>) -> Result<Bytes, Answer> {
        let too_large = || answer::line(StatusCode::PAYLOAD_TOO_LARGE, "a block has 1024 or 32768 bytes");
        let announced =
            request.headers().contains_key(CONTENT_LENGTH).then(|| request.body().size_hint().lower());
        if announced.is_some_and(|length| length > BlockSize::MAX as u64) {
            return Err(too_large());
        }
        let body = timeout(self.patience, Limited::new(request.into_body(), BlockSize::MAX).collect()).await;
        let body = body.map_err(|_| answer::line(StatusCode::REQUEST_TIMEOUT, "the body came too slowly"))?;
        let block = body.map_err(|error| match error.is::<LengthLimitError>() {
            true => too_large(),
            false => answer::line(StatusCode::BAD_REQUEST, "the body ended early"),
        })?;
        let block = block.to_bytes();
        match BlockSize::from_bytes(block.len()) {
            Some(_) => Ok(block),
            None => Err(answer::line(StatusCode::BAD_REQUEST, "a block has 1024 or 32768 bytes")),
        }
    }

    async fn in_time<T>(
        &self,
        reference: &Reference,
        answer: impl Future<Output = Result<T, block::Error>>,
    ) -> Result<T, block::Error> {
        let timed_out = || block::Error::TimedOut {
            reference: *reference,
            store: self.store.name().into(),
            after: self.patience,
        };
        timeout(self.patience, answer).await.unwrap_or_else(|_| Err(timed_out()))
    }
}

fn kept_forever(mut answer: Answer, entity_tag: &str) -> Answer {
    answer::set(&mut answer, CACHE_CONTROL, FOREVER);
    answer::tagged(answer, entity_tag)
}

/// Makes puts durable before they are confirmed. Those that wait at the same time share one sync: it
/// is the slow part, and it covers all puts before it.
#[derive(Debug, Default)]
struct Durable {
    ended_puts: AtomicU64,
    synced: Mutex<u64>,
}

impl Durable {
    /// Called after a put has ended; returns when it is durable.
    async fn sync(&self, store: &dyn BlockStore) -> Result<(), block::Error> {
        let own = self.ended_puts.fetch_add(1, Ordering::SeqCst) + 1;
        let mut synced = self.synced.lock().await;
        if *synced < own {
            let covered = self.ended_puts.load(Ordering::SeqCst);
            store.sync().await?;
            *synced = covered;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use async_trait::async_trait;

    use super::*;
    use crate::block::{Block, Refusal};

    /// A store whose disk is slow, or full.
    #[derive(Debug, Default)]
    struct Disk {
        syncs: AtomicU32,
        full: bool,
    }

    #[async_trait]
    impl BlockStore for Disk {
        fn name(&self) -> &str {
            "disk:"
        }

        async fn get(&self, reference: &Reference) -> Result<Block, block::Error> {
            Err(block::Error::NotFound { reference: *reference, store: self.name().into() })
        }

        async fn has(&self, _: &Reference) -> Result<bool, block::Error> {
            Ok(false)
        }

        async fn put(&self, _: &Reference, _: Block) -> Result<(), block::Error> {
            Ok(())
        }

        async fn sync(&self) -> Result<(), block::Error> {
            tokio::time::sleep(Duration::from_millis(10)).await;
            self.syncs.fetch_add(1, Ordering::SeqCst);
            match self.full {
                true => Err(block::Error::Refused { store: self.name().into(), reason: Refusal::ReadOnly }),
                false => Ok(()),
            }
        }

        fn concurrency(&self) -> usize {
            1
        }
    }

    #[tokio::test(start_paused = true)]
    async fn puts_that_wait_together_share_a_sync_that_began_after_them() {
        let (disk, durable) = (Disk::default(), Durable::default());
        let confirmed = futures::future::join_all((0..64).map(|_| durable.sync(&disk))).await;
        assert!(confirmed.iter().all(Result::is_ok));
        assert_eq!(disk.syncs.load(Ordering::SeqCst), 2, "one under way, one for all that came meanwhile");
        durable.sync(&disk).await.unwrap();
        assert_eq!(disk.syncs.load(Ordering::SeqCst), 3, "an older sync does not cover a later put");
    }

    #[tokio::test(start_paused = true)]
    async fn no_put_is_confirmed_that_may_be_lost() {
        let (disk, durable) = (Disk { full: true, ..Disk::default() }, Durable::default());
        let confirmed = futures::future::join_all((0..3).map(|_| durable.sync(&disk))).await;
        assert!(confirmed.iter().all(Result::is_err));
    }
}
