//! The order of the work: find out what a path is, look whether it was published, pack it, sync, then say so.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::check::is_complete;
use super::database::PathInfo;
use super::encode::{Encoded, Failure, Puts, Sink, encode};
use super::files::Files;
use super::plan::{Identity, Subject};
use super::sign::SigningKeys;
use super::state::{Key, Record, State};
use super::{Error, Event, FORMAT, Observer, Published, PublishedPath, Settings, blocking, pack};
use crate::block::{self, BlockStore};
use crate::eris::{ConvergenceSecret, ReadCapability};
use crate::nar::Listing;
use crate::nar::seekable::{FRAME_SIZE, LEVEL};
use crate::store::catalog::{WriteError, Writer};
use crate::store::narinfo::{Download, NarinfoError};
use crate::store::{ContentAddress, HashPart, NarHash, Narinfo, Profile, StoreDir};
use crate::substituter::Sqlite;

/// Most paths that are worked on side by side: each has some frames and batches in memory.
const MAX_AT_ONCE: usize = 8;
/// How long finished paths wait to be synced together; what is lost when a run is interrupted.
const SYNC_AFTER: Duration = Duration::from_secs(2);

/// Publishes paths of one store into one block store.
pub(super) struct Publisher {
    pub(super) store: Arc<dyn BlockStore>,
    pub(super) store_dir: StoreDir,
    pub(super) files: Option<Files>,
    overlay: Option<Sqlite>,
    nars: bool,
    pub(super) keys: SigningKeys,
    state: Option<State>,
    profile: Option<Profile>,
    pub(super) observer: Arc<dyn Observer>,
}

/// A path whose blocks were put, but perhaps not synced.
pub(super) struct Finished {
    pub key: Key,
    pub record: Record,
    pub narinfo: Narinfo,
    /// The tree, where a listing is to be written.
    pub listing: Option<Listing>,
    pub reused: bool,
    pub blocks: u64,
}

/// What came of a job.
pub(super) struct Step<J> {
    pub finished: Option<Finished>,
    /// Jobs that follow from it.
    pub more: Vec<(Urgency, J)>,
}

/// When a job is done.
#[derive(Debug, Clone, Copy)]
pub(super) enum Urgency {
    /// Before those that wait.
    Next,
    /// After them.
    Later,
}

/// Paths that are published, their blocks synced.
#[derive(Default)]
pub(super) struct Work {
    paths: BTreeMap<HashPart, PublishedPath>,
    blocks: u64,
}

impl Publisher {
    /// Opens the state, and where narinfos go. Blocks on the disk.
    pub fn new(
        store: Arc<dyn BlockStore>,
        store_dir: StoreDir,
        settings: &Settings,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, Error> {
        let files = settings.narinfo.as_ref().map(|directory| Files::open(directory, &store_dir));
        let overlay = settings.overlay.as_ref().map(|file| Sqlite::create(file)).transpose()?;
        let state = settings.state.as_ref().and_then(|file| {
            let opened = State::open(file);
            opened.inspect_err(|error| forgets(file, error)).ok()
        });
        let (nars, keys, profile) = (settings.nars, settings.keys.clone(), settings.profile.clone());
        Ok(Self {
            store,
            store_dir,
            files: files.transpose()?,
            overlay,
            nars,
            keys,
            state,
            profile,
            observer,
        })
    }

    /// Publishes everything, then the catalog. After an error, what is done is made to last before the error is returned.
    pub async fn publish(self: Arc<Self>, subjects: Vec<Subject>) -> Result<Published, Error> {
        let nar_bytes = subjects.iter().filter_map(Subject::nar_size).sum();
        self.observer.observe(Event::Planned { paths: subjects.len() as u64, nar_bytes });
        let at_once = available_parallelism().map_or(1, |cores| cores.get().min(MAX_AT_ONCE));
        let start = |publisher: Arc<Self>, subject| async move {
            Ok(Step { finished: Some(publisher.publish_path(subject).await?), more: Vec::new() })
        };
        let done = self.clone().work(subjects.into(), at_once, start).await?;
        if let Some(profile) = &self.profile
            && !done.paths.contains_key(&profile.path().hash_part())
        {
            return Err(Error::ProfileUnused { path: profile.path().clone() });
        }
        self.conclude(done).await
    }

    /// Does the jobs, `at_once` side by side, and makes what is finished last every other second.
    pub(super) async fn work<J, F>(
        self: Arc<Self>,
        mut waiting: VecDeque<J>,
        at_once: usize,
        start: impl Fn(Arc<Self>, J) -> F,
    ) -> Result<Work, Error>
    where
        J: Send + 'static,
        F: Future<Output = Result<Step<J>, Error>> + Send + 'static,
    {
        let mut working = JoinSet::new();
        let mut finished = Vec::new();
        let mut last_sync = Instant::now();
        let mut done = Work::default();
        let mut failure = None;
        loop {
            while failure.is_none()
                && working.len() < at_once
                && let Some(job) = waiting.pop_front()
            {
                working.spawn(start(self.clone(), job));
            }
            match working.join_next().await {
                Some(Ok(Ok(step))) => {
                    finished.extend(step.finished);
                    for (urgency, job) in step.more {
                        match urgency {
                            Urgency::Next => waiting.push_front(job),
                            Urgency::Later => waiting.push_back(job),
                        }
                    }
                }
                Some(Ok(Err(error))) => {
                    // Those under way end here, except for what is done by now.
                    working.abort_all();
                    failure.get_or_insert(error);
                }
                Some(Err(ended)) if ended.is_cancelled() => {}
                Some(Err(ended)) => std::panic::resume_unwind(ended.into_panic()),
                None => break,
            }
            if failure.is_none() && last_sync.elapsed() >= SYNC_AFTER {
                self.clone().settle(std::mem::take(&mut finished), &mut done).await?;
                last_sync = Instant::now();
            }
        }
        let settled = self.settle(finished, &mut done).await;
        // The first error is the one that tells.
        failure.map_or(settled, Err).map(|()| done)
    }

    /// Puts the catalog of what was done.
    pub(super) async fn conclude(&self, done: Work) -> Result<Published, Error> {
        let (catalog, paths, put) = self.put_catalog(done.paths.into_values().collect()).await?;
        Ok(Published {
            catalog,
            store_dir: self.store_dir.clone(),
            paths,
            blocks: done.blocks + put,
            left_out: 0,
        })
    }

    async fn publish_path(self: Arc<Self>, subject: Subject) -> Result<Finished, Error> {
        let Subject { location, identity } = subject;
        let registered = matches!(identity, Identity::Registered(_));
        let counted = matches!(&identity, Identity::Registered(info) if info.nar_size.is_some());
        let (info, mut listing) = self.identify(&location, identity).await?;
        let path = &info.path;
        let what = self.store_dir.join(path);
        let profile = self.profile.as_ref().filter(|profile| profile.path() == path).map(Profile::to_string);
        let profiled = profile.as_ref().map(|text| format!("; profile={}", NarHash::of(text.as_bytes())));
        let key = Key {
            store: self.store.name().to_owned(),
            path: what.clone(),
            nar_hash: info.nar_hash,
            format: format!("{FORMAT}; frame={FRAME_SIZE}; level={LEVEL}{}", profiled.unwrap_or_default()),
        };
        let before = self.clone().recorded(key.clone()).await;
        let nar_file =
            self.files.as_ref().filter(|_| self.nars).map(|files| files.nar_file(path)).transpose()?;
        let mut puts = Puts::All;
        if let Some(record) = before {
            let complete = is_complete(&*self.store, &record.capability).await;
            let complete = complete.map_err(|source| Error::Store { what, source })?;
            let has_nar = match &nar_file {
                Some(file) if complete => pack::is_archive(file.clone(), &record).await,
                _ => true,
            };
            if complete && has_nar {
                if listing.is_none() && self.files.as_ref().is_some_and(|files| !files.has_listing(path)) {
                    listing = Some(self.hash(&location, info.nar_hash).await?);
                }
                self.observer.observe(Event::Done { path, reused: Some(record.nar_size) });
                let narinfo = self.narinfo(&info, &record)?;
                return Ok(Finished { key, record, narinfo, listing, reused: true, blocks: 0 });
            }
            puts = Puts::Missing;
        }
        let nar_bytes = info.nar_size.filter(|_| !counted);
        self.observer.observe(Event::Packing { path, nar_bytes });
        let put = pack::pack(&*self.store, puts, &location, profile, nar_file, self.observer.clone()).await?;
        if put.nar_hash != info.nar_hash {
            let (path, expected) = (location, info.nar_hash);
            return Err(match registered {
                true => Error::NarHash { path, expected, found: put.nar_hash },
                false => Error::Changed { path },
            });
        }
        if let Some(nar) = put.nar {
            blocking(move || nar.keep()).await?;
        }
        self.observer.observe(Event::Done { path, reused: None });
        let narinfo = self.narinfo(&info, &put.record)?;
        let listing = self.files.is_some().then_some(put.listing);
        Ok(Finished { key, record: put.record, narinfo, listing, reused: false, blocks: put.blocks })
    }

    /// What a database would say of a path; and its tree, where it had to be read for that.
    async fn identify(
        &self,
        location: &Path,
        identity: Identity,
    ) -> Result<(PathInfo, Option<Listing>), Error> {
        let name = match identity {
            Identity::Registered(info) => return Ok((*info, None)),
            Identity::Unregistered(path) => Ok(path),
            Identity::Added(name) => Err(name),
        };
        self.observer.observe(Event::Hashing { location });
        let hashed = pack::hash(location.to_owned()).await?;
        let nar_hash = NarHash::new(hashed.nar_hash);
        let (path, ca) = match name {
            Ok(path) => (path, None),
            Err(name) => {
                let ca = ContentAddress::Nar(nar_hash);
                (ca.store_path(&self.store_dir, &name, &[], false)?, Some(ca.to_string()))
            }
        };
        let (references, deriver) = (Vec::new(), None);
        let info = PathInfo { path, nar_hash, nar_size: Some(hashed.nar_size), references, deriver, ca };
        Ok((info, Some(hashed.listing)))
    }

    /// The tree of a path that is known to have this hash.
    async fn hash(&self, location: &Path, expected: NarHash) -> Result<Listing, Error> {
        let hashed = pack::hash(location.to_owned()).await?;
        let found = NarHash::new(hashed.nar_hash);
        match found == expected {
            true => Ok(hashed.listing),
            false => Err(Error::NarHash { path: location.to_owned(), expected, found }),
        }
    }

    pub(super) async fn recorded(self: Arc<Self>, key: Key) -> Option<Record> {
        blocking(move || {
            let found = self.state.as_ref()?.find(&key);
            found.unwrap_or_else(|error| {
                tracing::warn!("cannot tell whether {} was published before: {error}", key.path);
                None
            })
        })
        .await
    }

    fn narinfo(&self, info: &PathInfo, record: &Record) -> Result<Narinfo, Error> {
        let path = info.path.clone();
        let download = Download {
            url: format!("nar/{}.nar.zst", path.hash_part()),
            compression: Some("zstd".to_owned()),
            file_hash: Some(record.packed_hash),
            file_size: Some(record.packed_size),
        };
        let failed = |source: NarinfoError| {
            let store_path = self.store_dir.join(&info.path);
            Error::Narinfo { store_path, source }
        };
        let narinfo = Narinfo::builder(self.store_dir.clone(), path, info.nar_hash, record.nar_size)
            .references(info.references.iter().cloned())
            .deriver(info.deriver.clone())
            // One of a kind that this program does not know is left out.
            .ca(info.ca.as_deref().and_then(|ca| ca.parse().ok()))
            .download(download)
            .eris(FORMAT, &record.capability.to_string())
            .build()
            .map_err(failed)?;
        Ok(self.keys.sign(&narinfo)?)
    }

    /// Makes finished paths last: syncs their blocks, then writes narinfos and state. Blocks that
    /// were found are synced too: they may come from a run that ended before its sync.
    async fn settle(self: Arc<Self>, finished: Vec<Finished>, done: &mut Work) -> Result<(), Error> {
        done.blocks += finished.iter().map(|path| path.blocks).sum::<u64>();
        if !finished.is_empty() {
            self.sync("the last paths").await?;
        }
        let finished = blocking(move || {
            if let Some(files) = &self.files {
                finished.iter().try_for_each(|path| files.add(&path.narinfo, path.listing.as_ref()))?;
            }
            if let Some(overlay) = &self.overlay {
                let narinfos: Vec<_> = finished.iter().map(|path| path.narinfo.clone()).collect();
                overlay.insert(&narinfos)?;
            }
            if let Some(state) = &self.state {
                let new = finished.iter().filter(|path| !path.reused);
                let rows: Vec<_> = new.map(|path| (path.key.clone(), path.record.clone())).collect();
                if let Err(error) = state.record(&rows) {
                    tracing::warn!("what was published will not be remembered: {error}");
                }
            }
            Ok::<_, Error>(finished)
        })
        .await?;
        for Finished { record, narinfo, reused, .. } in finished {
            let Record { capability, packed_size, kind, number, .. } = record;
            let hash_part = narinfo.store_path().hash_part();
            let path = PublishedPath { narinfo, capability, packed_size, kind, number, reused };
            done.paths.insert(hash_part, path);
        }
        Ok(())
    }

    /// Puts what the store lacks of the catalog, and syncs even if that is nothing, since a run that put it may have ended before
    /// its sync. Returns its capability, the paths, and the number of blocks put.
    async fn put_catalog(
        &self,
        paths: Vec<PublishedPath>,
    ) -> Result<(ReadCapability, Vec<PublishedPath>, u64), Error> {
        let store_dir = self.store_dir.clone();
        let write = move |sink: &mut Sink| {
            let mut writer = Writer::new(sink, store_dir)?;
            for path in &paths {
                writer.add(&path.narinfo, path.kind, path.number)?;
            }
            writer.finish()?;
            Ok::<_, WriteError>(paths)
        };
        let encoded = encode(&*self.store, Puts::Missing, None, ConvergenceSecret::NULL, write).await;
        let Encoded { capability, blocks, made: paths } = encoded.map_err(|failure| match failure {
            Failure::Store(source) => store_error("the catalog", source),
            Failure::Content(error) => error.into(),
        })?;
        self.sync("the catalog").await?;
        Ok((capability, paths, blocks))
    }

    async fn sync(&self, what: &str) -> Result<(), Error> {
        self.store.sync().await.map_err(|source| store_error(what, source))
    }
}

fn store_error(what: &str, source: block::Error) -> Error {
    Error::Store { what: what.to_owned(), source }
}

fn forgets(file: &Path, error: &rusqlite::Error) {
    tracing::warn!("{}: what was published is not remembered: {error}", file.display());
}
