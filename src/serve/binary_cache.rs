//! What stock `nix` and `guix` ask a substitute server for, answered from the view.

use std::ops::Range;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyper::header::{CACHE_CONTROL, CONTENT_RANGE, HeaderValue, RETRY_AFTER};
use hyper::{HeaderMap, Method, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::answer::{self, Answer};
use super::body::{Payload, Pieces, Source, held};
use super::budget::{Budget, Turn};
use super::range::{Selection, is_held};
use crate::compress::Compression;
use crate::content::Deadline;
use crate::store::{HashPart, StoreDir};
use crate::tree::{self, Object, Substitutes, Tree};

const NAR: &str = "application/x-nix-nar";
/// How long a client may remember that there is no such path: as long as it is remembered here that no server has it.
const ABSENT: HeaderValue = HeaderValue::from_static("max-age=60");
/// How long a client may remember that nobody could say whether there is such a path: long enough to do without it now.
const UNKNOWN: HeaderValue = HeaderValue::from_static("max-age=10");

/// For so long servers that were silent are expected to be silent.
const LATE: Duration = Duration::from_secs(30);
/// Then so many narinfos are looked up in the time of one.
const HURRY: u32 = 10;
/// For so long a narinfo that a server is still preparing is waited for: small ones are ready by then, and `guix publish` itself
/// answers at once.
const BAKING: Duration = Duration::from_secs(1);
/// Listings of servers behind that are in memory at a time: each can have 64 MiB.
const LISTINGS: usize = 8;
/// That of cache.nixos.org.
const CATALOG_PRIORITY: u32 = 40;

/// Store paths as resources: those that catalogs list, and those that substitute servers have.
#[derive(Debug)]
pub(super) struct BinaryCache {
    tree: Arc<Tree>,
    budget: Arc<Budget>,
    lookup: Duration,
    /// When a look-up last took all of this time, and failed. Those that succeed in between say nothing of it: they come from
    /// memory, from a catalog, or from another server than the silent one.
    late: Mutex<Option<Instant>>,
    /// For listings of servers behind.
    listings: Arc<Semaphore>,
}

impl BinaryCache {
    /// Narinfos are looked up for no longer than `lookup`.
    pub(super) fn new(tree: Arc<Tree>, budget: Arc<Budget>, lookup: Duration) -> Self {
        let listings = Arc::new(Semaphore::new(LISTINGS));
        BinaryCache { tree, budget, lookup, late: Mutex::default(), listings }
    }

    /// What the catalogs and the servers are, a line each. Not by which URN: whoever knows that can read them.
    pub(super) fn description(&self) -> String {
        let catalogs = self.tree.catalogs().iter().map(|catalog| {
            let paths = catalog.len();
            format!("catalog: {paths} store path{} of {}\n", plural(paths), catalog.store_dir().as_str())
        });
        let servers =
            self.tree.sources().substitutes.as_ref().map(|substitutes| substitutes.substituters().status());
        let servers = servers.into_iter().flatten().filter(|server| !server.overlay);
        catalogs.chain(servers.map(|server| format!("substitute server: {}\n", server.name))).collect()
    }

    /// `/nix-cache-info`: the store directory decides whether a client takes anything from here. This server stands for those
    /// behind it: it has the best of their priorities.
    pub(super) async fn info(&self) -> Answer {
        let catalogs =
            self.tree.catalogs().store_dir().map(|store_dir| (store_dir.clone(), CATALOG_PRIORITY));
        let (store_dir, priority) = match (self.servers_info().await, catalogs) {
            (Some((_, of_servers)), Some((store_dir, of_catalogs))) => {
                (store_dir, of_servers.min(of_catalogs))
            }
            (Some(known), None) | (None, Some(known)) => known,
            // Nix goes on without this server, as it would not at once if it were told that something failed.
            (None, None) => return answer::not_found(),
        };
        let info = format!("StoreDir: {}\nWantMassQuery: 1\nPriority: {priority}\n", store_dir.as_str());
        answer::whole(StatusCode::OK, "text/x-nix-cache-info", info)
    }

    /// What the substitute servers say of themselves, as far as they do.
    async fn servers_info(&self) -> Option<(StoreDir, u32)> {
        let substitutes = self.tree.sources().substitutes.as_ref()?;
        match substitutes.learn_store_dir(Deadline::after(self.lookup)).await {
            Ok(store_dir) => {
                let servers = substitutes.substituters().status();
                let stated =
                    servers.iter().filter(|server| !server.overlay).filter_map(|server| server.priority);
                Some((store_dir.clone(), stated.min().unwrap_or(CATALOG_PRIORITY)))
            }
            Err(error) => {
                tracing::warn!("nix-cache-info: {error}");
                None
            }
        }
    }

    /// The narinfo byte for byte, but for where it leads, which is here.
    ///
    /// What nobody could say in time is not there for the moment: at this status both clients go on to their next server,
    /// while at any other Nix asks five times and then ends the build.
    pub(super) async fn narinfo(&self, hash_part: HashPart) -> Answer {
        let (patience, begun) = (self.patience(), Instant::now());
        let outcome = self.baked_narinfo(hash_part, Deadline::after(patience)).await;
        // Whatever the failure is called, it is known by its time. One in a hurry proves nothing new.
        if outcome.is_err() && patience == self.lookup && begun.elapsed() >= patience / 2 {
            *self.late.lock().expect("no panic while held") = Some(Instant::now());
        }
        match outcome {
            Ok(Some(text)) => answer::whole(StatusCode::OK, "text/x-nix-narinfo", text),
            Ok(None) => absent(ABSENT),
            Err(error) => {
                tracing::warn!("narinfo of {hash_part}: {error}");
                absent(UNKNOWN)
            }
        }
    }

    /// How long to look for a narinfo: not long where one was late shortly before, since a client asks for one after the other.
    fn patience(&self) -> Duration {
        match *self.late.lock().expect("no panic while held") {
            Some(late) if late.elapsed() < LATE => self.lookup / HURRY,
            _ => self.lookup,
        }
    }

    /// The narinfo, but if it is not there soon and a server is still preparing it: then that is the answer.
    async fn baked_narinfo(
        &self,
        hash_part: HashPart,
        deadline: Deadline,
    ) -> Result<Option<String>, tree::Error> {
        let substituters = self.tree.sources().substitutes.as_ref().map(Substitutes::substituters);
        let mut text = pin!(self.narinfo_text(hash_part, deadline));
        loop {
            if let Ok(outcome) = timeout(BAKING, &mut text).await {
                return outcome;
            }
            if let Some(baking) = substituters.and_then(|substituters| substituters.baking(hash_part)) {
                return Err(tree::Error::Lookup(baking));
            }
        }
    }

    async fn narinfo_text(
        &self,
        hash_part: HashPart,
        deadline: Deadline,
    ) -> Result<Option<String>, tree::Error> {
        let Some(narinfo) = self.tree.narinfo(hash_part, deadline).await? else { return Ok(None) };
        // What was published for being served by this program says where, and in a form that takes fewer bytes.
        let encoded = format!("nar/{hash_part}.nar.zst");
        let downloads = narinfo.downloads();
        // A narinfo may have an ERIS content and no URL: no stock client takes that.
        let leads_here = !downloads.is_empty() && downloads.iter().all(|download| download.url == encoded);
        if leads_here && self.tree.catalogs().find(hash_part, deadline).await?.is_some() {
            return Ok(Some(narinfo.as_str().to_owned()));
        }
        match narinfo.redirected(&format!("nar/{hash_part}.nar")) {
            Ok(redirected) => Ok(Some(redirected.as_str().to_owned())),
            // It was at the limit of what a narinfo may have.
            Err(error) => {
                tracing::warn!("narinfo of {hash_part}, led here: {error}");
                Ok(None)
            }
        }
    }

    /// The tree of a store path, as Nix lists it: ours, where it is known without a download, else that of the server behind.
    pub(super) async fn listing(&self, hash_part: HashPart) -> Answer {
        let turn = match self.turn().await {
            Ok(turn) => turn,
            Err(refusal) => return refusal,
        };
        let object = match self.tree.object_in_parts(hash_part, turn.deadline()).await {
            Ok(Some(object)) if object.compression().is_some() => object,
            Ok(_) => return self.listing_behind(hash_part, turn).await,
            Err(error) => return answer::failed(&format_args!("listing of {hash_part}"), &error),
        };
        // A large tree takes milliseconds.
        let written = tokio::task::spawn_blocking(move || {
            let mut json = Vec::new();
            object.listing().to_json(&mut json).map(|()| json)
        });
        match written.await {
            Ok(Ok(json)) => answer::whole(StatusCode::OK, "application/json", held(json.into(), turn)),
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

    /// The listing of the server that gave the narinfo, as it is: to the client it is as unsigned as there.
    async fn listing_behind(&self, hash_part: HashPart, turn: Turn) -> Answer {
        let Some(substitutes) = &self.tree.sources().substitutes else { return answer::not_found() };
        let deadline = turn.deadline();
        let Some(Ok(room)) = deadline.bound(self.listings.clone().acquire_owned()).await else {
            return busy("too many listings are being sent");
        };
        match substitutes.listing(hash_part, deadline).await {
            Ok(Some(json)) => answer::whole(StatusCode::OK, "application/json", held(json, (turn, room))),
            Ok(None) => answer::not_found(),
            // Clients do without it.
            Err(error) => {
                tracing::debug!("listing of {hash_part}: {error}");
                absent(UNKNOWN)
            }
        }
    }

    /// The object of a store path as it was published, or the part that the request asks for.
    pub(super) async fn encoded(&self, hash_part: HashPart, method: &Method, headers: &HeaderMap) -> Answer {
        let (object, turn) = match self.open(hash_part).await {
            Ok(opened) => opened,
            Err(refusal) => return refusal,
        };
        if object.compression() != Some(Compression::Zstd) {
            return answer::not_found();
        }
        let archive = Archive {
            name: object.name().to_owned(),
            length: object.content().length(),
            entity_tag: format!("\"{}\"", object.capability().reference),
            source: Source::Encoded(object, self.tree.clone()),
        };
        self.archive(archive, turn, method, headers).await
    }

    /// The NAR of a store path, or the part that the request asks for.
    pub(super) async fn nar(&self, hash_part: HashPart, method: &Method, headers: &HeaderMap) -> Answer {
        let turn = match self.turn().await {
            Ok(turn) => turn,
            Err(refusal) => return refusal,
        };
        let nar = match self.tree.archive(hash_part, turn.deadline()).await {
            Ok(Some(nar)) => Arc::new(nar),
            Ok(None) => return answer::not_found(),
            Err(error) => return answer::failed(&format_args!("NAR of {hash_part}"), &error),
        };
        let archive = Archive {
            name: hash_part.to_string(),
            length: nar.size(),
            entity_tag: format!("\"{}\"", nar.nar_hash()),
            source: Source::Nar(nar),
        };
        self.archive(archive, turn, method, headers).await
    }

    async fn archive(&self, archive: Archive, turn: Turn, method: &Method, headers: &HeaderMap) -> Answer {
        let Archive { name, length, entity_tag, source } = archive;
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
        let what = format!("archive of {name}");
        let pieces = match Pieces::start(name, source, range.clone(), self.budget.clone(), turn).await {
            Ok(pieces) => pieces,
            Err(error) => return answer::failed(&what, &error),
        };
        let mut answer =
            answer::ranged(answer::with_payload(status, NAR, Payload::Pieces(pieces)), &entity_tag);
        if status == StatusCode::PARTIAL_CONTENT {
            answer::set_text(&mut answer, CONTENT_RANGE, &content_range(&range, length));
        }
        answer
    }

    /// The object of a store path, and the right to send it; else the refusal.
    async fn open(&self, hash_part: HashPart) -> Result<(Arc<Object>, Turn), Answer> {
        let turn = self.turn().await?;
        match self.tree.object_in_parts(hash_part, turn.deadline()).await {
            Ok(Some(object)) => Ok((object, turn)),
            Ok(None) => Err(answer::not_found()),
            Err(error) => Err(answer::failed(&format_args!("opening {hash_part}"), &error)),
        }
    }

    /// The right to send an archive or a listing; else the refusal.
    async fn turn(&self) -> Result<Turn, Answer> {
        self.budget.turn().await.ok_or_else(|| busy("too many archives are being sent"))
    }
}

/// Something that is sent whole or in part.
struct Archive {
    name: String,
    length: u64,
    entity_tag: String,
    source: Source,
}

/// There is no room now.
fn busy(why: &str) -> Answer {
    let mut answer = answer::line(StatusCode::SERVICE_UNAVAILABLE, why);
    answer::set_text(&mut answer, RETRY_AFTER, "10");
    answer
}

/// There is no such path, for as long as `cache_control` says.
fn absent(cache_control: HeaderValue) -> Answer {
    let mut answer = answer::not_found();
    answer::set(&mut answer, CACHE_CONTROL, cache_control);
    answer
}

fn content_range(range: &Range<u64>, length: u64) -> String {
    format!("bytes {}-{}/{length}", range.start, range.end - 1)
}

fn plural(number: u64) -> &'static str {
    if number == 1 { "" } else { "s" }
}
