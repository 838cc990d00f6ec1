//! A cache that exists, mirrored: its NARs packed anew as ERIS contents, its narinfos with their signatures and the URNs added.
//!
//! A NAR is streamed once, from the server through the decoder into the encoder, and what comes out counts only if it has
//! the hash of the narinfo. What was mirrored before, also by another run that was interrupted, is only checked in the
//! block store. One path that cannot be had does not keep the others from being mirrored.

use std::collections::{HashSet, VecDeque};
use std::io::{self, Read, Write};
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::{Either, select};

use super::check::is_complete;
use super::encode::{Failure, Puts};
use super::fetch::{retried, transfer};
use super::pack::{Put, Unpacked, pack_nar};
use super::publisher::{Finished, Publisher, Step, Urgency};
use super::state::Key;
use super::{Error, Event, FORMAT, Observer, Published, Settings, blocking};
use crate::block::BlockStore;
use crate::compress::{Compression, decoder};
use crate::nar::seekable::{FRAME_SIZE, LEVEL};
use crate::store::narinfo::Download;
use crate::store::{HashPart, Narinfo, StoreDir};
use crate::substituter::Substituter;

/// Paths under way: enough to keep the processors busy while some wait for the server.
const AT_ONCE: usize = 8;

/// Bytes that are unpacked at once.
const PIECE: usize = 256 << 10;

/// Mirrors store paths of a cache into `store`, with `settings.closure` also what they refer to.
///
/// Narinfos go to `settings.narinfo` and `settings.overlay`, and into a catalog. They keep their text; keys of
/// `settings` bind the content to the path, and vouch for nothing else. Dropping the future ends the work.
///
/// # Errors
/// Those of the block store, and of what is written here; keys that are not for this store. What the cache does not give, or what
/// the keys cannot sign, is told to the observer and counted.
pub async fn mirror(
    store: Arc<dyn BlockStore>,
    from: Arc<dyn Substituter>,
    paths: Vec<HashPart>,
    settings: Settings,
    observer: Arc<dyn Observer>,
) -> Result<Published, Error> {
    let store_dir = store_dir_of(&*from, &paths, &settings).await?;
    settings.keys.check(&store_dir)?;
    let closure = settings.closure;
    let publisher = blocking(move || Publisher::new(store, store_dir, &settings, observer)).await?;
    let publisher = Arc::new(publisher);
    let mut met = HashSet::new();
    let jobs: VecDeque<_> = paths
        .into_iter()
        .filter(|path| met.insert(*path))
        .map(|path| Job::Find { hash_part: path })
        .collect();
    let mirror = Arc::new(Mirror { from, closure, met: Mutex::new(met), left_out: Mutex::new(0) });
    mirror.plan(&publisher);
    let start = |publisher: Arc<Publisher>, job| {
        let mirror = mirror.clone();
        async move { mirror.step(&publisher, job).await }
    };
    let done = publisher.clone().work(jobs, AT_ONCE, start).await?;
    let left_out = *lock(&mirror.left_out);
    Ok(Published { left_out, ..publisher.conclude(done).await? })
}

/// The paths of a cache in a directory: those of which it has a narinfo.
pub fn hash_parts_in(directory: &Path) -> Result<Vec<HashPart>, Error> {
    let unreadable = |source| Error::Unreadable { path: directory.to_owned(), source };
    let mut found = Vec::new();
    for entry in directory.read_dir().map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let hash_part = name.to_str().and_then(|name| name.strip_suffix(".narinfo"));
        found.extend(hash_part.and_then(|hash_part| hash_part.parse::<HashPart>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

/// The store that the user named, or the cache says it is of, or its first path is in.
async fn store_dir_of(
    from: &dyn Substituter,
    paths: &[HashPart],
    settings: &Settings,
) -> Result<StoreDir, Error> {
    if let Some(store_dir) = &settings.store_dir {
        return Ok(store_dir.clone());
    }
    if let Some(store_dir) = retried(|| from.info()).await?.store_dir {
        return Ok(store_dir);
    }
    let Some(&first) = paths.first() else { return Ok(StoreDir::nix()) };
    let narinfo = retried(|| from.narinfo(first)).await?;
    let absent = || Error::Absent { server: from.name().to_owned(), hash_part: first };
    Ok(narinfo.ok_or_else(absent)?.store_dir().clone())
}

enum Job {
    /// Find out what this is.
    Find { hash_part: HashPart },
    /// Pack its NAR.
    Pack { narinfo: Box<Narinfo> },
}

struct Mirror {
    from: Arc<dyn Substituter>,
    closure: bool,
    /// What is done or waits.
    met: Mutex<HashSet<HashPart>>,
    left_out: Mutex<u64>,
}

impl Mirror {
    /// Does a job. An error of the cache, or a narinfo that cannot be signed, leaves its path out; others end the work.
    async fn step(&self, publisher: &Arc<Publisher>, job: Job) -> Result<Step<Job>, Error> {
        let hash_part = match &job {
            Job::Find { hash_part } => *hash_part,
            Job::Pack { narinfo } => narinfo.store_path().hash_part(),
        };
        let done = match job {
            Job::Find { hash_part } => self.find(publisher, hash_part).await,
            Job::Pack { narinfo } => self.pack(publisher, &narinfo).await,
        };
        match done {
            Err(
                error @ (Error::Substituter(_)
                | Error::Absent { .. }
                | Error::OtherPath { .. }
                | Error::NoDownload { .. }
                | Error::Sign(_)
                | Error::OtherNar { .. }),
            ) => {
                publisher.observer.observe(Event::LeftOut { hash_part, error: &error });
                *lock(&self.left_out) += 1;
                Ok(Step { finished: None, more: Vec::new() })
            }
            done => done,
        }
    }

    fn plan(&self, publisher: &Publisher) {
        publisher.observer.observe(Event::Planned { paths: lock(&self.met).len() as u64, nar_bytes: 0 });
    }

    async fn find(&self, publisher: &Arc<Publisher>, hash_part: HashPart) -> Result<Step<Job>, Error> {
        let server = || self.from.name().to_owned();
        let narinfo = retried(|| self.from.narinfo(hash_part)).await?;
        let narinfo = narinfo.ok_or_else(|| Error::Absent { server: server(), hash_part })?;
        if narinfo.store_path().hash_part() != hash_part || *narinfo.store_dir() != publisher.store_dir {
            let found = narinfo.store_dir().join(narinfo.store_path());
            let store_dir = publisher.store_dir.clone();
            return Err(Error::OtherPath { server: server(), hash_part, store_dir, found });
        }
        let mut more = Vec::new();
        if self.closure {
            let mut met = lock(&self.met);
            let references = narinfo.references().iter().map(|path| path.hash_part());
            let new = references.filter(|hash_part| met.insert(*hash_part));
            more.extend(new.map(|hash_part| (Urgency::Later, Job::Find { hash_part })));
        }
        self.plan(publisher);
        // At once: narinfos that wait would fill the memory.
        more.push((Urgency::Next, Job::Pack { narinfo: Box::new(narinfo) }));
        Ok(Step { finished: None, more })
    }

    async fn pack(&self, publisher: &Arc<Publisher>, narinfo: &Narinfo) -> Result<Step<Job>, Error> {
        let path = narinfo.store_path();
        let what = publisher.store_dir.join(path);
        let key = Key {
            store: publisher.store.name().to_owned(),
            path: what.clone(),
            nar_hash: narinfo.nar_hash(),
            format: format!("{FORMAT}; frame={FRAME_SIZE}; level={LEVEL}"),
        };
        let finish = |key, record, listing, blocks, reused| {
            let record: super::state::Record = record;
            let narinfo = publisher.keys.bind(narinfo, FORMAT, &record.capability.to_string())?;
            let listing = if publisher.files.is_some() { listing } else { None };
            let finished = Finished { key, record, narinfo, listing, reused, blocks };
            Ok(Step { finished: Some(finished), more: Vec::new() })
        };
        let mut puts = Puts::All;
        if let Some(record) = publisher.clone().recorded(key.clone()).await {
            let complete = is_complete(&*publisher.store, &record.capability).await;
            if complete.map_err(|source| Error::Store { what: what.clone(), source })? {
                publisher.observer.observe(Event::Done { path, reused: Some(0) });
                return finish(key, record, None, 0, true);
            }
            puts = Puts::Missing;
        }
        publisher.observer.observe(Event::Packing { path, nar_bytes: Some(narinfo.nar_size()) });
        let mut failure = Error::NoDownload { path: path.clone() };
        for (download, compression) in by_preference(narinfo) {
            match self.download(publisher, narinfo, download, compression, puts).await {
                Ok(put) => {
                    publisher.observer.observe(Event::Done { path, reused: None });
                    return finish(key, put.record, Some(put.listing), put.blocks, false);
                }
                Err(error @ (Error::Substituter(_) | Error::OtherNar { .. })) => failure = error,
                Err(error) => return Err(error),
            }
        }
        Err(failure)
    }

    /// Packs the NAR in one of the files that a narinfo names.
    async fn download(
        &self,
        publisher: &Publisher,
        narinfo: &Narinfo,
        download: &Download,
        compression: Compression,
        puts: Puts,
    ) -> Result<Put, Error> {
        let (sender, reader) = transfer();
        let (nar_size, observer) = (narinfo.nar_size(), publisher.observer.clone());
        let feed =
            move |packer: &mut dyn Write| feed(decoder(compression, reader), nar_size, &*observer, packer);
        let mut packing = pin!(pack_nar(&*publisher.store, puts, None, None, feed));
        let sending = pin!(sender.run(&*self.from, &download.url));
        let packed = match select(sending, packing.as_mut()).await {
            Either::Left(((), packing)) => packing.await,
            Either::Right((packed, _)) => packed,
        };
        let other = |reason: String| Error::OtherNar {
            server: self.from.name().to_owned(),
            url: download.url.clone(),
            path: narinfo.store_path().clone(),
            reason,
        };
        let put = packed.map_err(|failure| match failure {
            Failure::Store(source) => Error::Store { what: narinfo.store_path().to_string(), source },
            Failure::Content(Unpacked::Fed(error)) => match error.downcast() {
                Ok(error) => Error::Substituter(error),
                Err(error) => other(error.to_string()),
            },
            Failure::Content(Unpacked::Pack(error)) => other(error.to_string()),
            Failure::Content(Unpacked::Copy { path, source }) => Error::File { path, source },
        })?;
        let (found, expected) = (put.nar_hash, narinfo.nar_hash());
        match found == expected && put.record.nar_size == nar_size {
            true => Ok(put),
            false => Err(other(format!("its hash is {found}, not {expected}"))),
        }
    }
}

/// Unpacks a NAR, which must not be longer than the narinfo says.
fn feed(
    mut nar: impl Read,
    nar_size: u64,
    observer: &dyn Observer,
    packer: &mut dyn Write,
) -> Result<(), Unpacked<io::Error>> {
    let mut buffer = vec![0; PIECE];
    let mut length = 0;
    loop {
        let read = match nar.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Unpacked::Fed(error)),
        };
        length += read as u64;
        if length > nar_size {
            return Err(Unpacked::Fed(io::Error::other(format!("it is longer than {nar_size} bytes"))));
        }
        packer.write_all(&buffer[..read]).map_err(Unpacked::Pack)?;
        observer.observe(Event::Read { bytes: read as u64 });
    }
    match length == nar_size {
        true => Ok(()),
        false => Err(Unpacked::Fed(io::Error::other(format!("it has {length} bytes, not {nar_size}")))),
    }
}

/// The files that can be unpacked: zstd first, which costs least, then the smallest.
fn by_preference(narinfo: &Narinfo) -> Vec<(&Download, Compression)> {
    let known = narinfo
        .downloads()
        .iter()
        .filter_map(|download| Some((download, download.compression_in(narinfo.store_dir()).ok()?)));
    let mut known: Vec<_> = known.collect();
    known.sort_by_key(|(download, compression)| {
        (*compression != Compression::Zstd, download.file_size.unwrap_or(u64::MAX))
    });
    known
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
