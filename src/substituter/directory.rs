//! A binary cache in a directory: `file:DIR`.
//!
//! Files are opened by the kernel's own rule that nothing leads out of the directory (`openat2`), since a narinfo
//! names its NAR and whoever wrote it may be hostile: no `..`, no absolute path, and no symbolic link to elsewhere.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::validators::Validators;
use super::web::{Files, NarUrl};
use super::{Error, Info, MAX_LISTING_LENGTH, NarFile, Substituter, Web, info};
use crate::store::{HashPart, Narinfo, narinfo};

/// Bytes read from a file at a time: few enough to be held for many readers, many enough for a disk.
const PIECE: usize = 256 << 10;

/// How long a disk is waited for. One that sleeps is back within seconds; a server behind a file system may be gone
/// for good.
const PATIENCE: Duration = Duration::from_secs(15);

/// Threads that wait for it at a time: a dead file system keeps them, and others need threads, too.
const THREADS: usize = 32;

/// A directory with `HASHPART.narinfo` files, and NARs where they say: what `nix copy --to file://DIR` and
/// `erisfs publish --narinfo DIR` write.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    name: Arc<str>,
    validators: Validators<State>,
    files: Files,
    turns: Arc<Semaphore>,
}

/// What a file was when it was first asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl State {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

impl Directory {
    /// The directory at `root`, which need not be there now. Absolute URLs in its narinfos are followed by way of
    /// `web`.
    pub fn new(root: &Path, web: Arc<Web>) -> Self {
        let name: Arc<str> = format!("file:{}", root.display()).into();
        // The process may change its directory later, as a mount in the background does.
        let root = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
        let files = Files::new(Arc::clone(&name), web);
        Self { root, name, validators: Validators::new(), files, turns: Arc::new(Semaphore::new(THREADS)) }
    }

    /// Runs `work` where it may wait for a disk, and waits for it within bounds.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<Option<T>, Error> {
        match blocking(&self.name, &self.turns, work).await {
            Ok(done) => Ok(Some(done)),
            Err(Failure::Io(error)) if is_absence(&error) => Ok(None),
            Err(failure) => Err(failure.into_error(&self.name)),
        }
    }

    /// A small file, of which no more is read than `limit`; `None`: it is not there.
    async fn small(&self, file: String, limit: usize) -> Result<Option<Vec<u8>>, Error> {
        let (root, path) = (self.root.clone(), PathBuf::from(&file));
        let read = self.blocking(move || {
            let mut content = Vec::new();
            open_beneath(&root, &path)?.0.take(limit as u64 + 1).read_to_end(&mut content)?;
            Ok(content)
        });
        match read.await? {
            Some(content) if content.len() > limit => {
                Err(Error::TooLong { server: Arc::clone(&self.name), what: file, limit })
            }
            content => Ok(content),
        }
    }

    async fn own_file(&self, url: &str, from: u64) -> Result<NarFile, Error> {
        let path = PathBuf::from(url);
        if !path.components().all(|component| matches!(component, Component::Normal(_) | Component::CurDir)) {
            return Err(self.files.bad_url(url, "it leads out of the directory".to_owned()));
        }
        let root = self.root.clone();
        let opened = self.blocking(move || open_beneath(&root, &path)).await?;
        let (file, metadata) = opened.ok_or_else(|| self.files.no_file(url))?;
        let state = State::of(&metadata);
        let same = self.validators.get(url) == Some(state) && from <= state.length;
        let from = if same { from } else { 0 };
        self.validators.set(url, Some(state));
        let reading = Reading {
            file,
            server: Arc::clone(&self.name),
            turns: Arc::clone(&self.turns),
            url: url.to_owned(),
            at: from,
            length: state.length,
        };
        Ok(NarFile { from, length: Some(state.length), body: reading.stream() })
    }
}

/// Opens a regular file below `root`.
fn open_beneath(root: &Path, path: &Path) -> io::Result<(File, Metadata)> {
    // A root that is not there, such as a stick's, has not said that it lacks the file.
    let root = File::open(root).map_err(|error| io::Error::other(NoRoot(error)))?;
    // Not waiting for a writer, where the name is that of a pipe.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file: File = rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve)?.into();
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok((file, metadata))
}

/// The directory itself cannot be entered.
#[derive(Debug, thiserror::Error)]
#[error("the directory cannot be entered: {0}")]
struct NoRoot(io::Error);

/// Whether the file is simply not there. A link that leads out of the directory is as good as none.
fn is_absence(error: &io::Error) -> bool {
    let cross_link = rustix::io::Errno::XDEV.raw_os_error();
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(cross_link)
}

/// Why a piece of work on a disk came to nothing.
enum Failure {
    Io(io::Error),
    Late,
}

impl Failure {
    fn into_error(self, server: &Arc<str>) -> Error {
        let server = Arc::clone(server);
        match self {
            Failure::Io(error) => Error::Unavailable { server, retry_after: None, source: Arc::new(error) },
            Failure::Late => Error::TimedOut { server, after: PATIENCE },
        }
    }
}

async fn blocking<T: Send + 'static>(
    server: &Arc<str>,
    turns: &Arc<Semaphore>,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    let worked = async {
        let turn = Arc::clone(turns).acquire_owned().await.expect("it is never closed");
        tokio::task::spawn_blocking(move || {
            // Held by the thread: whoever gives up waiting leaves it behind.
            let _turn = turn;
            work()
        })
        .await
    };
    match timeout(PATIENCE, worked).await {
        Ok(Ok(done)) => done.map_err(Failure::Io),
        Ok(Err(ended)) => {
            tracing::debug!("{server}: {ended}");
            Err(Failure::Io(io::Error::other("the program is ending")))
        }
        Err(_) => Err(Failure::Late),
    }
}

/// A file on its way.
struct Reading {
    file: File,
    server: Arc<str>,
    turns: Arc<Semaphore>,
    url: String,
    at: u64,
    length: u64,
}

impl Reading {
    fn stream(self) -> BoxStream<'static, Result<Bytes, Error>> {
        // Behind an error there is nothing more.
        stream::unfold(Some(self), |reading| async {
            let (server, reading) = (reading.as_ref()?.server.clone(), reading?);
            if reading.at >= reading.length {
                return None;
            }
            let turns = Arc::clone(&reading.turns);
            match blocking(&server, &turns, move || reading.piece()).await {
                Ok((piece, reading)) if piece.is_empty() => {
                    let Reading { server, url, at: found, length: expected, .. } = reading;
                    Some((Err(Error::Truncated { server, url, found, expected }), None))
                }
                Ok((piece, reading)) => Some((Ok(piece), Some(reading))),
                Err(failure) => Some((Err(failure.into_error(&server)), None)),
            }
        })
        .boxed()
    }

    fn piece(mut self) -> io::Result<(Bytes, Self)> {
        let wanted = (self.length - self.at).min(PIECE as u64);
        let mut piece = Vec::with_capacity(wanted as usize);
        self.file.seek(SeekFrom::Start(self.at))?;
        (&self.file).take(wanted).read_to_end(&mut piece)?;
        self.at += piece.len() as u64;
        Ok((piece.into(), self))
    }
}

#[async_trait]
impl Substituter for Directory {
    fn name(&self) -> &str {
        &self.name
    }

    async fn info(&self) -> Result<Info, Error> {
        let failed = |source| Error::Info { server: Arc::clone(&self.name), source };
        match self.small("nix-cache-info".to_owned(), info::MAX_LENGTH).await? {
            Some(text) => Info::parse(&text).map_err(failed),
            None => Ok(Info::default()),
        }
    }

    async fn narinfo(&self, hash_part: HashPart) -> Result<Option<Narinfo>, Error> {
        let failed =
            |source| Error::Narinfo { server: Arc::clone(&self.name), hash_part, source: Arc::new(source) };
        let text = self.small(format!("{hash_part}.narinfo"), narinfo::MAX_LENGTH).await?;
        text.map(|text| Narinfo::parse(&text).map_err(failed)).transpose()
    }

    async fn listing(&self, hash_part: HashPart) -> Result<Option<Bytes>, Error> {
        Ok(self.small(format!("{hash_part}.ls"), MAX_LISTING_LENGTH).await?.map(Bytes::from))
    }

    async fn nar(&self, url: &str, from: u64) -> Result<NarFile, Error> {
        match NarUrl::parse(url).map_err(|reason| self.files.bad_url(url, reason))? {
            NarUrl::Relative(path) => self.own_file(path, from).await,
            NarUrl::Web(url) => self.files.open(&url, None, from).await,
            NarUrl::Ipfs(cid) => self.files.open_ipfs(cid, from).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use futures::TryStreamExt;

    use super::*;
    use crate::store::StoreDir;

    const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/samples/nix/cache-zstd");

    fn directory(root: &Path) -> Directory {
        Directory::new(root, Arc::new(Web::new(Default::default()).expect("a client")))
    }

    fn hash_part(text: &str) -> HashPart {
        text.parse().expect("a hash part")
    }

    async fn read(file: NarFile) -> Result<Vec<u8>, Error> {
        Ok(file.body.try_collect::<Vec<_>>().await?.concat())
    }

    #[tokio::test]
    async fn narinfos_of_a_cache_that_nix_wrote_are_found() {
        let cache = directory(Path::new(SAMPLES));
        let found = cache.narinfo(hash_part("6nr3qnk6x3dvkj2crggl5ny5zywz5gbj")).await.unwrap().unwrap();
        let file = Path::new(SAMPLES).join("6nr3qnk6x3dvkj2crggl5ny5zywz5gbj.narinfo");
        assert_eq!(found.as_str(), fs::read_to_string(file).unwrap());
        assert_eq!(cache.narinfo(hash_part("00000000000000000000000000000000")).await.unwrap(), None);
        assert_eq!(cache.listing(hash_part("00000000000000000000000000000000")).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_directory_without_a_cache_info_has_the_defaults() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(directory(folder.path()).info().await.unwrap(), Info::default());
        fs::write(folder.path().join("nix-cache-info"), "StoreDir: /gnu/store\n").unwrap();
        assert_eq!(directory(folder.path()).info().await.unwrap().store_dir, Some(StoreDir::guix()));
    }

    #[tokio::test]
    async fn a_directory_that_is_gone_has_not_said_that_it_lacks_anything() {
        let folder = tempfile::tempdir().unwrap();
        let gone = directory(&folder.path().join("stick"));
        assert!(matches!(gone.info().await, Err(Error::Unavailable { .. })));
        let narinfo = gone.narinfo(hash_part("00000000000000000000000000000000")).await;
        assert!(matches!(narinfo, Err(Error::Unavailable { .. })), "{narinfo:?}");
    }

    #[tokio::test]
    async fn what_is_too_long_or_no_narinfo_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let cache = directory(folder.path());
        let part = hash_part("6nr3qnk6x3dvkj2crggl5ny5zywz5gbj");
        let file = folder.path().join(format!("{part}.narinfo"));
        fs::write(&file, "StorePath: x\n").unwrap();
        assert!(matches!(cache.narinfo(part).await, Err(Error::Narinfo { .. })));
        fs::write(&file, vec![b'a'; narinfo::MAX_LENGTH + 1]).unwrap();
        assert!(matches!(cache.narinfo(part).await, Err(Error::TooLong { .. })));
    }

    #[tokio::test]
    async fn a_file_is_read_from_any_place_as_long_as_it_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..PIECE + 1000).map(|byte| byte as u8).collect();
        fs::create_dir(folder.path().join("nar")).unwrap();
        fs::write(folder.path().join("nar/a"), &content).unwrap();
        let cache = directory(folder.path());
        let whole = cache.nar("nar/a", 0).await.unwrap();
        assert_eq!((whole.from, whole.length), (0, Some(content.len() as u64)));
        assert!(read(whole).await.unwrap() == content);
        let rest = cache.nar("nar/a", 1000).await.unwrap();
        assert_eq!(rest.from, 1000);
        assert!(read(rest).await.unwrap() == content[1000..]);
        let end = cache.nar("nar/a", content.len() as u64).await.unwrap();
        assert_eq!((end.from, read(end).await.unwrap().len()), (content.len() as u64, 0));

        fs::write(folder.path().join("new"), &content).unwrap();
        fs::rename(folder.path().join("new"), folder.path().join("nar/a")).unwrap();
        assert_eq!(cache.nar("nar/a", 1000).await.unwrap().from, 0, "another file of the same name");
        assert_eq!(
            directory(folder.path()).nar("nar/a", 1000).await.unwrap().from,
            0,
            "nothing is remembered"
        );
    }

    #[tokio::test]
    async fn a_file_that_shrinks_while_it_is_read_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), vec![1; 3 * PIECE]).unwrap();
        let mut file = directory(folder.path()).nar("a", 0).await.unwrap();
        assert_eq!(file.body.next().await.unwrap().unwrap().len(), PIECE);
        File::options().write(true).open(folder.path().join("a")).unwrap().set_len(PIECE as u64).unwrap();
        let error = file.body.try_collect::<Vec<_>>().await.unwrap_err();
        assert!(matches!(error, Error::Truncated { found, .. } if found == PIECE as u64), "{error}");
    }

    #[tokio::test]
    async fn nothing_leads_out_of_the_directory() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("secret"), "secret").unwrap();
        let root = folder.path().join("cache");
        fs::create_dir_all(root.join("nar")).unwrap();
        fs::write(root.join("nar/a"), "a").unwrap();
        symlink("../../secret", root.join("nar/relative")).unwrap();
        symlink(folder.path().join("secret"), root.join("nar/absolute")).unwrap();
        symlink(folder.path(), root.join("up")).unwrap();
        symlink("a", root.join("nar/inside")).unwrap();
        symlink("/proc/self/root/etc/passwd", root.join("nar/magic")).unwrap();
        let part = hash_part("6nr3qnk6x3dvkj2crggl5ny5zywz5gbj");
        symlink("../secret", root.join(format!("{part}.narinfo"))).unwrap();
        symlink("../secret", root.join(format!("{part}.ls"))).unwrap();
        let cache = directory(&root);
        let secret = folder.path().join("secret").display().to_string();
        for url in ["../secret", "nar/../../secret", "nar/..", &secret, "/etc/passwd", "//etc/passwd"] {
            assert!(matches!(cache.nar(url, 0).await, Err(Error::BadNarUrl { .. })), "{url}");
        }
        assert!(matches!(cache.nar(&format!("file://{secret}"), 0).await, Err(Error::BadNarUrl { .. })));
        for url in ["nar/relative", "nar/absolute", "nar/magic", "up/secret", "nar", "nar/none"] {
            assert!(matches!(cache.nar(url, 0).await, Err(Error::NoFile { .. })), "{url}");
        }
        assert_eq!(read(cache.nar("nar/inside", 0).await.unwrap()).await.unwrap(), b"a");
        assert_eq!(cache.narinfo(part).await.unwrap(), None);
        assert_eq!(cache.listing(part).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_pipe_is_no_file_and_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, folder.path().join("a"), Mode::RUSR).unwrap();
        assert!(matches!(directory(folder.path()).nar("a", 0).await, Err(Error::NoFile { .. })));
    }
}
