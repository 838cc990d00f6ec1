//! What stock `nix` and `guix` ask a substitute server for, answered from the view.

use std::ops::Range;
use std::sync::Arc;

use hyper::header::{CONTENT_RANGE, RETRY_AFTER};
use hyper::{HeaderMap, Method, StatusCode};
use tokio::sync::OwnedSemaphorePermit;

use super::answer::{self, Answer};
use super::body::{Budget, Payload, Pieces, Source, held};
use super::range::{Selection, is_held};
use crate::compress::Compression;
use crate::content::Deadline;
use crate::store::HashPart;
use crate::tree::{Object, Tree};

const NAR: &str = "application/x-nix-nar";

/// The store paths of catalogs as resources.
#[derive(Debug)]
pub(super) struct BinaryCache {
    tree: Arc<Tree>,
    budget: Arc<Budget>,
}

/// The two forms in which an archive is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As it was published: a seekable zstd stream.
    Encoded,
    /// Not compressed.
    Nar,
}

impl BinaryCache {
    pub(super) fn new(tree: Arc<Tree>, budget: Arc<Budget>) -> Self {
        BinaryCache { tree, budget }
    }

    /// What the catalogs are, a line each. Not by which URN: whoever knows that can read them.
    pub(super) fn description(&self) -> String {
        let lines = self.tree.catalogs().iter().map(|catalog| {
            let paths = catalog.len();
            format!("catalog: {paths} store path{} of {}\n", plural(paths), catalog.store_dir().as_str())
        });
        lines.collect()
    }

    /// `/nix-cache-info`: the store directory decides whether a client takes anything from here.
    pub(super) fn info(&self) -> Answer {
        let Some(store_dir) = self.tree.catalogs().store_dir() else { return answer::not_found() };
        let info = format!("StoreDir: {}\nWantMassQuery: 1\nPriority: 40\n", store_dir.as_str());
        answer::whole(StatusCode::OK, "text/x-nix-cache-info", info)
    }

    /// The narinfo as the catalog has it, byte for byte.
    pub(super) async fn narinfo(&self, hash_part: HashPart) -> Answer {
        match self.tree.catalogs().narinfo(hash_part, self.deadline()).await {
            Ok(Some(narinfo)) => {
                answer::whole(StatusCode::OK, "text/x-nix-narinfo", narinfo.as_str().to_owned())
            }
            Ok(None) => answer::not_found(),
            Err(error) => answer::failed(&format_args!("narinfo of {hash_part}"), &error),
        }
    }

    /// The tree of a store path, as Nix lists it.
    pub(super) async fn listing(&self, hash_part: HashPart) -> Answer {
        let (object, body) = match self.open(hash_part).await {
            Ok(opened) => opened,
            Err(refusal) => return refusal,
        };
        if object.compression().is_none() {
            return answer::not_found();
        }
        // A large tree takes milliseconds.
        let written = tokio::task::spawn_blocking(move || {
            let mut json = Vec::new();
            object.listing().to_json(&mut json).map(|()| json)
        });
        match written.await {
            Ok(Ok(json)) => answer::whole(StatusCode::OK, "application/json", held(json.into(), body)),
            // JSON cannot hold a name that is not UTF-8: then there is no listing of this kind.
            Ok(Err(error)) => {
                tracing::debug!("listing of {hash_part}: {error}");
                answer::not_found()
            }
            Err(error) => {
                tracing::error!("listing of {hash_part}: {error}");
                answer::line(StatusCode::INTERNAL_SERVER_ERROR, "internal server error")
            }
        }
    }

    /// The archive of a store path, or the part that the request asks for.
    pub(super) async fn archive(
        &self,
        hash_part: HashPart,
        form: Form,
        method: &Method,
        headers: &HeaderMap,
    ) -> Answer {
        let (object, body) = match self.open(hash_part).await {
            Ok(opened) => opened,
            Err(refusal) => return refusal,
        };
        let reference = object.capability().reference;
        let (source, length, entity_tag) = match (form, object.compression()) {
            (Form::Encoded, Some(Compression::Zstd)) => {
                let length = object.content().length();
                (Source::Encoded(object, self.tree.clone()), length, format!("\"{reference}\""))
            }
            (Form::Nar, Some(_)) => {
                let length = object.nar_size();
                (Source::Nar(object, self.tree.clone()), length, format!("\"{reference}.nar\""))
            }
            _ => return answer::not_found(),
        };
        if is_held(headers, &entity_tag) {
            return answer::not_modified(&entity_tag);
        }
        // RFC 9110 gives Range a meaning for GET only.
        if method == Method::HEAD {
            return answer::ranged(answer::head(NAR, length), &entity_tag);
        }
        let (status, range) = match Selection::of(headers, &entity_tag, length) {
            Selection::Whole => (StatusCode::OK, 0..length),
            Selection::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
            Selection::Unsatisfiable => return answer::beyond_the_end(&entity_tag, length),
        };
        let pieces = match Pieces::start(source, range.clone(), self.budget.clone(), body).await {
            Ok(pieces) => pieces,
            Err(error) => return answer::failed(&format_args!("archive of {hash_part}"), &error),
        };
        let mut answer =
            answer::ranged(answer::with_payload(status, NAR, Payload::Pieces(pieces)), &entity_tag);
        if status == StatusCode::PARTIAL_CONTENT {
            answer::set_text(&mut answer, CONTENT_RANGE, &content_range(&range, length));
        }
        answer
    }

    /// The object of a store path, and the right to send it; else the refusal.
    async fn open(&self, hash_part: HashPart) -> Result<(Arc<Object>, OwnedSemaphorePermit), Answer> {
        let Some(body) = self.budget.body().await else {
            let mut busy = answer::line(StatusCode::SERVICE_UNAVAILABLE, "too many archives are being sent");
            answer::set_text(&mut busy, RETRY_AFTER, "10");
            return Err(busy);
        };
        match self.tree.object(hash_part, self.deadline()).await {
            Ok(Some(object)) => Ok((object, body)),
            Ok(None) => Err(answer::not_found()),
            Err(error) => Err(answer::failed(&format_args!("opening {hash_part}"), &error)),
        }
    }

    fn deadline(&self) -> Deadline {
        Deadline::after(self.budget.patience())
    }
}

fn content_range(range: &Range<u64>, length: u64) -> String {
    format!("bytes {}-{}/{length}", range.start, range.end - 1)
}

fn plural(number: u64) -> &'static str {
    if number == 1 { "" } else { "s" }
}
