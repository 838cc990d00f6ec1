//! Blocks in a directory: one file a block, flat, named by the 52 base32 characters of its reference.
//!
//! This is the layout of eris-go, and of a USB stick. A block is written under a name that is no reference and then renamed, so
//! a reader never sees half of one, and a crash leaves no more than a file that is removed later. Works on a directory that
//! cannot be written.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Once, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};

use super::{Block, BlockStore, Error, Found, Refusal, is_block_size};
use crate::eris::Reference;

/// Blocks read or written by one blocking task: the hand-over to its thread is then small next to the work.
const CHUNK: usize = 32;
/// Tasks at a time: enough to keep a disk's queue filled, few enough to leave blocking threads to others.
const CHUNKS: usize = 8;
/// Where blocks are written before they are renamed. Inside the directory, hence on the same file system; a folder, so that
/// finding leftovers does not mean listing millions of blocks; not base32, so never taken for a block.
const INCOMING: &str = ".incoming";
/// A file in [`INCOMING`] this old has been left by a crash: writing a block takes milliseconds.
const LEFTOVER_AGE: Duration = Duration::from_secs(3600);

/// A directory of blocks: `dir:PATH`.
///
/// It is created by the first put. A put of a block that is there reads and compares it, and replaces what differs;
/// [`has`](BlockStore::has) only looks at the length, and so may vouch for a block that reads as corrupt. After
/// [`sync`](BlockStore::sync) (`syncfs`) all blocks survive a power cut; without it, a power cut may lose the last ones or
/// leave them cut short, which reads as corrupt and is mended by the next put.
#[derive(Clone, Debug)]
pub struct Dir {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    name: Arc<str>,
    prepared: Once,
    /// Open from the first put on: a descriptor tells of blocks that could not be written back only if it was there before
    /// somebody else was told (errseq in the kernel).
    directory: OnceLock<File>,
}

impl Dir {
    /// The directory at `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let name = format!("dir:{}", path.display()).into();
        // The process may change its directory later, as a mount in the background does.
        let path = std::path::absolute(&path).unwrap_or(path);
        let (prepared, directory) = (Once::new(), OnceLock::new());
        Self { shared: Arc::new(Shared { path, name, prepared, directory }) }
    }

    /// Runs `work` where it may wait for a disk.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Shared) -> T + Send + 'static) -> T {
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || work(&shared))
            .await
            .expect("file access neither panics nor is aborted")
    }
}

impl Shared {
    fn read(&self, reference: &Reference) -> Result<Block, Error> {
        let corrupt = |found| Error::Corrupt { reference: *reference, store: self.name.clone(), found };
        // Not blocking: a named pipe in a foreign directory must not hang the reader.
        let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(self.file(reference));
        let mut file = opened.map_err(|error| self.failed(Some(reference), error))?;
        let status = file.metadata().map_err(|error| self.failed(Some(reference), error))?;
        if !status.is_file() {
            return Err(corrupt(Found::NoFile));
        }
        if !is_block_size(status.len()) {
            return Err(corrupt(Found::Length(status.len())));
        }
        let mut block = vec![0; status.len() as usize];
        match file.read_exact(&mut block) {
            Ok(()) => Ok(block.into()),
            // Cut short between the two calls.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(corrupt(Found::Length(0))),
            Err(error) => Err(self.failed(Some(reference), error)),
        }
    }

    /// Whether a file of a block's length is there. One of another length is the trace of a power cut, and is not the block.
    fn has(&self, reference: &Reference) -> Result<bool, Error> {
        match fs::metadata(self.file(reference)) {
            Ok(status) => Ok(status.is_file() && is_block_size(status.len())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.failed(Some(reference), error)),
        }
    }

    fn write(&self, reference: &Reference, block: &[u8]) -> Result<(), Error> {
        // It need not exist yet, and a put of a block that is there needs no more than that block.
        let _ = self.directory();
        // What cannot be read is as good as not there: it is replaced, or the attempt tells why not.
        if self.read(reference).is_ok_and(|found| found == block) {
            return Ok(());
        }
        let failed = |error| self.failed_write(reference, error);
        self.prepare().map_err(failed)?;
        // By chance, and never a file that is there: others may write here that share no numbers with this process, such as
        // containers on one volume. What is not renamed is removed.
        let incoming = tempfile::Builder::new()
            .prefix("")
            .rand_bytes(16)
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(self.path.join(INCOMING));
        incoming
            .and_then(|mut file| {
                file.write_all(block)?;
                file.persist(self.file(reference))?;
                Ok(())
            })
            .map_err(failed)
    }

    /// Makes the directory if need be, and once in the life of this store removes what crashes have left.
    fn prepare(&self) -> io::Result<()> {
        let incoming = self.path.join(INCOMING);
        if !incoming.is_dir() {
            fs::create_dir_all(&incoming)?;
        }
        self.prepared.call_once(|| remove_leftovers(&incoming));
        self.directory().map(drop)
    }

    fn directory(&self) -> io::Result<&File> {
        match self.directory.get() {
            Some(directory) => Ok(directory),
            None => {
                let directory = File::open(&self.path)?;
                Ok(self.directory.get_or_init(|| directory))
            }
        }
    }

    fn sync(&self) -> Result<(), Error> {
        match self.directory() {
            // Nothing was ever put.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            opened => opened
                .and_then(|directory| Ok(rustix::fs::syncfs(directory)?))
                .map_err(|error| self.failed(None, error)),
        }
    }

    fn file(&self, reference: &Reference) -> PathBuf {
        self.path.join(reference.to_string())
    }

    fn failed(&self, reference: Option<&Reference>, error: io::Error) -> Error {
        let store = self.name.clone();
        match (error.kind(), reference) {
            // A directory that is not there (a stick not plugged in) is not the same as a block that is not in it.
            (ErrorKind::NotFound, Some(&reference)) if self.path.is_dir() => {
                Error::NotFound { reference, store }
            }
            (ErrorKind::PermissionDenied, _) => {
                Error::Refused { store, reason: Refusal::Denied(error.to_string()) }
            }
            _ => Error::Unavailable {
                reference: reference.copied(),
                store,
                retry_after: None,
                source: Arc::new(error),
            },
        }
    }

    fn failed_write(&self, reference: &Reference, error: io::Error) -> Error {
        match error.kind() {
            ErrorKind::ReadOnlyFilesystem => {
                Error::Refused { store: self.name.clone(), reason: Refusal::ReadOnly }
            }
            ErrorKind::NotFound => Error::Unavailable {
                reference: Some(*reference),
                retry_after: None,
                store: self.name.clone(),
                source: Arc::new(error),
            },
            _ => self.failed(Some(reference), error),
        }
    }
}

fn remove_leftovers(incoming: &Path) {
    let Ok(entries) = fs::read_dir(incoming) else { return };
    for entry in entries.flatten() {
        let age =
            entry.metadata().and_then(|status| status.modified()).ok().and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age > LEFTOVER_AGE) {
            // Another process may be doing the same.
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[async_trait]
impl BlockStore for Dir {
    fn name(&self) -> &str {
        &self.shared.name
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        let reference = *reference;
        self.blocking(move |dir| dir.read(&reference)).await
    }

    fn get_many<'a>(
        &'a self,
        references: Vec<Reference>,
    ) -> BoxStream<'a, (Reference, Result<Block, Error>)> {
        let chunks: Vec<Vec<Reference>> = references.chunks(CHUNK).map(<[_]>::to_vec).collect();
        stream::iter(chunks)
            .map(move |chunk| {
                self.blocking(move |dir| {
                    chunk.into_iter().map(|reference| (reference, dir.read(&reference))).collect::<Vec<_>>()
                })
            })
            .buffer_unordered(CHUNKS)
            .flat_map(stream::iter)
            .boxed()
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        let reference = *reference;
        self.blocking(move |dir| dir.has(&reference)).await
    }

    async fn put(&self, reference: &Reference, block: Block) -> Result<(), Error> {
        let reference = *reference;
        self.blocking(move |dir| dir.write(&reference, &block)).await
    }

    async fn put_many(&self, blocks: Vec<(Reference, Block)>) -> Result<(), Error> {
        let chunks: Vec<Vec<(Reference, Block)>> = blocks.chunks(CHUNK).map(<[_]>::to_vec).collect();
        stream::iter(chunks.into_iter().map(Ok))
            .try_for_each_concurrent(CHUNKS, |chunk| {
                self.blocking(move |dir| {
                    chunk.iter().try_for_each(|(reference, block)| dir.write(reference, block))
                })
            })
            .await
    }

    async fn sync(&self) -> Result<(), Error> {
        self.blocking(Shared::sync).await
    }

    fn concurrency(&self) -> usize {
        CHUNKS
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::eris::reference_of;

    fn block() -> (Reference, Block) {
        let block = Block::from(vec![9; 1024]);
        (reference_of(&block), block)
    }

    /// The names in a directory, sorted.
    fn names(path: &Path) -> Vec<String> {
        let entries = fs::read_dir(path).expect("a directory");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("ASCII")).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn the_layout_is_that_of_eris_go_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let dir = Dir::new(folder.path());
        let (reference, block) = block();
        dir.put(&reference, block.clone()).await.expect("a writable directory");
        assert_eq!(names(folder.path()), [INCOMING.to_owned(), reference.to_string()]);
        assert_eq!(names(&folder.path().join(INCOMING)), [""; 0]);
        assert_eq!(fs::read(folder.path().join(reference.to_string())).expect("a file"), block);
    }

    #[tokio::test]
    async fn nothing_is_created_by_asking_and_a_missing_directory_is_not_a_missing_block() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("not/there");
        let dir = Dir::new(&path);
        let (reference, block) = block();
        assert!(!dir.has(&reference).await.expect("an answer"));
        assert!(matches!(dir.get(&reference).await, Err(Error::Unavailable { .. })));
        dir.sync().await.expect("nothing to sync");
        assert!(!path.exists());
        dir.put(&reference, block.clone()).await.expect("it is made");
        assert_eq!(dir.get(&reference).await.expect("it is there"), block);
    }

    #[tokio::test]
    async fn a_file_of_another_length_is_corrupt_and_mended_by_the_next_put() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let dir = Dir::new(folder.path());
        let (reference, block) = block();
        for length in [0, 1023, 1025, 1 << 30] {
            let file = File::create(folder.path().join(reference.to_string())).expect("a writable directory");
            file.set_len(length).expect("a sparse file");
            match dir.get(&reference).await {
                Err(Error::Corrupt { found: Found::Length(found), .. }) => assert_eq!(found, length),
                other => panic!("{other:?}"),
            }
            assert!(!dir.has(&reference).await.expect("an answer"));
            dir.put(&reference, block.clone()).await.expect("a writable directory");
            assert_eq!(dir.get(&reference).await.expect("it is mended"), block);
        }
    }

    #[tokio::test]
    async fn a_spoiled_block_is_mended_by_the_next_put_and_a_good_one_is_left_alone() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let dir = Dir::new(folder.path());
        let (reference, block) = block();
        let file = folder.path().join(reference.to_string());
        fs::write(&file, [8; 1024]).expect("a writable directory");
        dir.put(&reference, block.clone()).await.expect("a writable directory");
        assert_eq!(dir.get(&reference).await.expect("it is there"), block);
        let inode = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(&file).expect("a file"));
        let before = inode();
        dir.put(&reference, block).await.expect("it is there");
        assert_eq!(inode(), before);
    }

    #[tokio::test]
    async fn a_pipe_or_a_directory_in_a_blocks_place_does_not_hang_the_reader() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let dir = Dir::new(folder.path());
        let (reference, _) = block();
        let file = folder.path().join(reference.to_string());
        rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .expect("a pipe");
        assert!(matches!(dir.get(&reference).await, Err(Error::Corrupt { found: Found::NoFile, .. })));
        fs::remove_file(&file).expect("it is there");
        fs::create_dir(&file).expect("a writable directory");
        assert!(matches!(dir.get(&reference).await, Err(Error::Corrupt { found: Found::NoFile, .. })));
    }

    #[tokio::test]
    async fn old_leftovers_go_and_young_ones_stay() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let incoming = folder.path().join(INCOMING);
        fs::create_dir(&incoming).expect("a writable directory");
        fs::write(incoming.join("young"), "x").expect("a writable directory");
        let old = File::create(incoming.join("old")).expect("a writable directory");
        old.set_modified(SystemTime::now() - 2 * LEFTOVER_AGE).expect("our own file");
        let (reference, block) = block();
        Dir::new(folder.path()).put(&reference, block).await.expect("a writable directory");
        assert_eq!(names(&incoming), ["young"]);
    }

    #[tokio::test]
    async fn a_file_that_another_is_writing_is_left_alone() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let incoming = folder.path().join(INCOMING);
        fs::create_dir(&incoming).expect("a writable directory");
        // What a store in another container, with the same process number, has half written as its first block.
        let others = incoming.join(format!("{}-0", std::process::id()));
        fs::write(&others, "half").expect("a writable directory");
        let (reference, block) = block();
        Dir::new(folder.path()).put(&reference, block).await.expect("a writable directory");
        assert_eq!(fs::read(&others).expect("it is still there"), b"half");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn stores_that_know_nothing_of_each_other_write_to_one_directory() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let blocks: Vec<_> = (0..200)
            .map(|byte| Block::from(vec![byte; 32768]))
            .map(|block| (reference_of(&block), block))
            .collect();
        let puts = (0..4).map(|_| {
            let (dir, blocks) = (Dir::new(folder.path()), blocks.clone());
            tokio::spawn(async move { dir.put_many(blocks).await })
        });
        for put in futures::future::join_all(puts).await {
            put.expect("no panic").expect("a writable directory");
        }
        for (reference, block) in blocks {
            assert_eq!(Dir::new(folder.path()).get(&reference).await.expect("it is there"), block);
        }
    }

    #[tokio::test]
    async fn sync_is_of_the_directory_that_was_open_at_the_first_put() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("blocks");
        let dir = Dir::new(&path);
        let (reference, block) = block();
        dir.put(&reference, block).await.expect("a writable directory");
        fs::rename(&path, folder.path().join("moved")).expect("a writable directory");
        std::os::unix::fs::symlink("blocks", &path).expect("a writable directory");
        File::open(&path).expect_err("a link to itself");
        dir.sync().await.expect("the directory is still open");
    }

    #[tokio::test]
    async fn a_path_that_is_no_directory_is_told_as_such() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let (reference, block) = block();
        let error = Dir::new(file.path()).put(&reference, block).await.expect_err("a file");
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    }
}
