use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::time::SystemTime;

use tempfile::TempDir;

use super::*;
use crate::eris::{BlockSize, Encoder, ReadCapability, decode, reference_of};

/// A directory with its index beside it.
struct Folder {
    dir: TempDir,
}

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("files")).unwrap();
        Self { dir }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("files")
    }

    fn write(&self, name: &str, content: &[u8]) {
        let path = self.root().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn index(&self) -> PathBuf {
        self.dir.path().join("cache/index.sqlite")
    }

    /// Indexes as if everything had been written long ago.
    fn update(&self) -> Indexed {
        let later = SystemTime::now() + std::time::Duration::from_secs(3600);
        update_index(&self.root(), &self.index(), later, &mut |_| ()).unwrap()
    }

    fn store(&self) -> Files {
        Files::new(self.root(), self.index())
    }

    fn capability(&self, name: &str) -> ReadCapability {
        self.find(name).unwrap()
    }

    fn find(&self, name: &str) -> Option<ReadCapability> {
        let index = Index::open(&self.index()).unwrap().unwrap();
        Some(index.find(Path::new(name)).unwrap()?.capability)
    }

    fn set_modified(&self, name: &str, time: SystemTime) {
        fs::File::options().write(true).open(self.root().join(name)).unwrap().set_modified(time).unwrap();
    }

    /// Makes the index say that the file looked as it does now, as only a clock that was set back could.
    fn forge_stamp(&self, name: &str) {
        let found = fs::metadata(self.root().join(name)).unwrap();
        let ctime = found.ctime() * 1_000_000_000 + found.ctime_nsec();
        let database = rusqlite::Connection::open(self.index()).unwrap();
        database.execute("UPDATE files_2 SET ctime = ?1 WHERE path = ?2", (ctime, name.as_bytes())).unwrap();
    }

    fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        let index = Index::open(&self.index()).unwrap().unwrap();
        index
            .for_each(|file| {
                names.push(file.path.to_str().unwrap().to_owned());
                Ok::<_, IndexError>(())
            })
            .unwrap();
        names
    }
}

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed * 2 + 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}

/// The capability that everybody computes, and all blocks.
fn encoded(content: &[u8]) -> (ReadCapability, Vec<(Reference, Block)>) {
    let mut encoder = Encoder::new(BlockSize::for_length(content.len() as u64), ConvergenceSecret::NULL);
    let mut blocks = encoder.push(content);
    let (capability, last) = encoder.finish();
    blocks.extend(last);
    (capability, blocks.into_iter().map(|block| (block.reference, block.block)).collect())
}

#[tokio::test]
async fn every_block_of_every_file_is_had_and_is_the_one_that_the_encoder_makes() {
    let folder = Folder::new();
    // Around the sizes of blocks and of nodes, empty, and more than one level of nodes.
    let lengths = [0, 1, 1023, 1024, 1025, 16 << 10, (16 << 10) - 1, 32 << 10, (32 << 10) + 1, 18 << 20];
    for (seed, length) in lengths.into_iter().enumerate() {
        folder.write(&format!("sub/{length}"), &noise(length, seed as u64));
    }
    let indexed = folder.update();
    assert_eq!((indexed.files, indexed.read, indexed.left_out), (10, 10, 0));
    let store = folder.store();
    for (seed, length) in lengths.into_iter().enumerate() {
        let (capability, blocks) = encoded(&noise(length, seed as u64));
        assert_eq!(folder.capability(&format!("sub/{length}")), capability);
        for (reference, block) in &blocks {
            assert!(store.has(reference).await.unwrap());
            assert_eq!(store.get(reference).await.unwrap(), block);
        }
        let references = blocks.iter().map(|(reference, _)| *reference).collect::<Vec<_>>();
        let many: Vec<_> = store.get_many(references).collect().await;
        assert_eq!(many.len(), blocks.len());
        assert!(many.iter().all(|(reference, block)| reference_of(block.as_ref().unwrap()) == *reference));
    }
}

#[tokio::test]
async fn what_is_in_no_file_is_not_found_and_nothing_can_be_put() {
    let folder = Folder::new();
    folder.write("a", b"content");
    let block = Block::from(vec![1; 1024]);
    let reference = reference_of(&block);
    let before = folder.store();
    assert!(matches!(before.get(&reference).await, Err(Error::Refused { .. })));
    let told = before.has(&reference).await.unwrap_err().to_string();
    assert!(told.contains("erisfs index"), "{told}");
    folder.update();
    // The same store finds the index that has been made meanwhile.
    assert!(matches!(before.get(&reference).await, Err(Error::NotFound { .. })));
    assert!(!before.has(&reference).await.unwrap());
    let refused = before.put(&reference, block).await;
    assert!(matches!(refused, Err(Error::Refused { reason: Refusal::ReadOnly, .. })));
}

#[tokio::test]
async fn a_changed_file_never_yields_a_wrong_block() {
    let folder = Folder::new();
    let (old, new) = (noise(200_000, 1), noise(200_000, 2));
    folder.write("a", &old);
    folder.update();
    let (_, blocks) = encoded(&old);
    folder.write("a", &new);
    let store = folder.store();
    let leaf = blocks[0].0;
    assert!(!store.has(&leaf).await.unwrap());
    assert!(matches!(store.get(&leaf).await, Err(Error::NotFound { .. })));

    // Also where it looks as it did, which only the hash can tell.
    let settled = fs::metadata(folder.root().join("a")).unwrap().modified().unwrap();
    folder.update();
    assert!(store.has(&encoded(&new).1[0].0).await.unwrap());
    folder.write("a", &old);
    folder.set_modified("a", settled);
    folder.forge_stamp("a");
    let leaf = encoded(&new).1[0].0;
    assert!(store.has(&leaf).await.unwrap());
    assert!(matches!(store.get(&leaf).await, Err(Error::NotFound { .. })));
    assert!(!store.has(&leaf).await.unwrap(), "now it knows");
    assert!(!folder.store().has(&leaf).await.unwrap(), "and so does everybody else");
    assert_eq!(folder.update().read, 1, "and the next indexing");
    assert!(store.get(&encoded(&old).1[0].0).await.is_ok());
}

#[tokio::test]
async fn a_vanished_file_takes_its_blocks_along_but_not_those_of_its_copy() {
    let folder = Folder::new();
    let content = noise(100_000, 3);
    folder.write("a", &content);
    folder.write("b", &content);
    folder.update();
    let store = folder.store();
    let (capability, _) = encoded(&content);
    // Below the async calls, which only take the work elsewhere.
    let shared = store.shared.clone();
    let fetch = |reference: &Reference| shared.get(vec![*reference]).pop()?.1.ok();
    let read = || decode(&capability, fetch, 1 << 20).ok();
    fs::remove_file(folder.root().join("a")).unwrap();
    assert_eq!(read(), Some(content.clone()));
    let indexed = folder.update();
    assert_eq!((indexed.files, indexed.read, indexed.gone), (1, 0, 1));
    assert_eq!(read(), Some(content));
    fs::remove_file(folder.root().join("b")).unwrap();
    assert_eq!(read(), None);
    assert_eq!(folder.update().gone, 1);
    assert_eq!(folder.names(), [""; 0]);
}

#[tokio::test]
async fn nodes_go_with_their_file_and_come_back_with_its_disk() {
    let folder = Folder::new();
    folder.write("disk/a", &noise(100_000, 4));
    folder.update();
    let root = folder.capability("disk/a").reference;
    let store = folder.store();
    assert!(store.has(&root).await.unwrap() && store.get(&root).await.is_ok());
    let (mounted, elsewhere) = (folder.root().join("disk"), folder.dir.path().join("elsewhere"));
    fs::rename(&mounted, &elsewhere).unwrap();
    assert!(!store.has(&root).await.unwrap());
    assert!(matches!(store.get(&root).await, Err(Error::NotFound { .. })));
    fs::rename(&elsewhere, &mounted).unwrap();
    assert!(store.has(&root).await.unwrap() && store.get(&root).await.is_ok());
    folder.write("disk/a", b"other");
    assert!(!store.has(&root).await.unwrap());
    assert!(matches!(store.get(&root).await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn a_reader_does_not_wait_for_an_indexing_to_mark_a_file() {
    let folder = Folder::new();
    folder.write("a", b"old");
    folder.update();
    let (store, reference) = (folder.store(), folder.capability("a").reference);
    folder.write("a", b"newer");
    let indexing = Index::open_to_write(&folder.index()).unwrap();
    indexing.begin().unwrap();
    let started = std::time::Instant::now();
    assert!(!store.has(&reference).await.unwrap());
    assert!(started.elapsed() < std::time::Duration::from_secs(5));
    indexing.commit().unwrap();
    assert_eq!(folder.names(), ["a"]);
    assert!(!store.has(&reference).await.unwrap());
    assert_eq!(folder.names(), [""; 0], "marked when it was met again");
}

#[test]
fn only_what_looks_different_is_read_again() {
    let folder = Folder::new();
    folder.write("a", b"a");
    folder.write("b", b"b");
    assert_eq!(folder.update().read, 2);
    assert_eq!(folder.update().read, 0);
    folder.write("b", b"other");
    assert_eq!(folder.update().read, 1);
    // A file that was written just before may change once more within one tick of the clock.
    let now = SystemTime::now();
    folder.write("c", b"c");
    let update = || update_index(&folder.root(), &folder.index(), now, &mut |_| ()).unwrap().read;
    assert_eq!((update(), update()), (1, 1));
    assert_eq!((folder.update().read, folder.update().read), (1, 0));
}

#[test]
fn a_file_whose_time_was_set_back_after_a_change_is_read_again() {
    let folder = Folder::new();
    folder.write("a", b"old");
    folder.update();
    let look = || fs::metadata(folder.root().join("a")).unwrap();
    let before = look();
    // The clock of a file system ticks some hundred times a second.
    while look().ctime_nsec() == before.ctime_nsec() {
        folder.write("a", b"new");
        folder.set_modified("a", before.modified().unwrap());
    }
    assert_eq!(folder.update().read, 1);
    assert_eq!(folder.capability("a"), encoded(b"new").0);
}

#[tokio::test]
async fn an_index_of_an_older_version_is_made_anew() {
    let folder = Folder::new();
    folder.write("a", b"a");
    folder.update();
    let database = rusqlite::Connection::open(folder.index()).unwrap();
    let older = "DROP TABLE files_2; DROP TABLE leaves_2; DROP TABLE nodes_2; CREATE TABLE files_1 (id)";
    database.execute_batch(older).unwrap();
    drop(database);
    let reference = encoded(b"a").0.reference;
    assert!(matches!(folder.store().get(&reference).await, Err(Error::Refused { .. })));
    assert_eq!(folder.update().read, 1);
    assert!(folder.store().get(&reference).await.is_ok());
}

#[tokio::test]
async fn an_index_is_read_where_nothing_can_be_written_beside_it() {
    let folder = Folder::new();
    folder.write("a", b"a");
    folder.update();
    // SQLite makes no file where a link is; a mode would not stop the superuser.
    let beside = folder.dir.path().join("cache/index.sqlite-shm");
    symlink("/no/such/folder", &beside).unwrap();
    let store = folder.store();
    assert!(store.get(&encoded(b"a").0.reference).await.is_ok());
    fs::remove_file(&beside).unwrap();
    folder.write("b", b"b");
    folder.update();
    assert!(store.has(&encoded(b"b").0.reference).await.unwrap(), "what is indexed later is seen");
    drop(store);
    fs::write(folder.dir.path().join("cache/index.sqlite-wal"), "x").unwrap();
    symlink("/no/such/folder", &beside).unwrap();
    assert!(matches!(Index::open(&folder.index()), Err(IndexError::Pending { .. })));
}

#[test]
fn links_special_and_unfinished_files_are_passed_over_and_the_index_itself_too() {
    let folder = Folder::new();
    folder.write("a", b"a");
    folder.write("nar/.incoming-x", b"half of a");
    fs::write(folder.dir.path().join("outside"), b"outside").unwrap();
    symlink("../outside", folder.root().join("link")).unwrap();
    symlink("..", folder.root().join("up")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, folder.root().join("pipe"), 0o600.into()).unwrap();
    assert_eq!(folder.update(), Indexed { files: 1, bytes: 1, read: 1, ..Indexed::default() });
    let inside = folder.root().join("index.sqlite");
    for _ in 0..2 {
        let indexed = update_index(&folder.root(), &inside, SystemTime::now(), &mut |_| ()).unwrap();
        assert_eq!(indexed.files, 1);
    }
}

#[tokio::test]
async fn a_link_that_takes_the_place_of_a_file_leads_nowhere() {
    let folder = Folder::new();
    folder.write("sub/a", b"content");
    folder.update();
    let (capability, _) = encoded(b"content");
    let store = folder.store();
    assert!(store.get(&capability.reference).await.is_ok());
    // The same file, but by way of a link out of the directory.
    fs::rename(folder.root().join("sub"), folder.dir.path().join("moved")).unwrap();
    symlink("../moved", folder.root().join("sub")).unwrap();
    assert!(matches!(store.get(&capability.reference).await, Err(Error::NotFound { .. })));
}

#[test]
fn what_cannot_be_read_is_named() {
    let folder = Folder::new();
    folder.write("good", b"a");
    // Longer than any path that can be opened.
    let mut deep = folder.root();
    for _ in 0..20 {
        deep.push("d".repeat(250));
    }
    let root = open_root(&folder.root()).unwrap();
    let mut at = root;
    for _ in 0..20 {
        rustix::fs::mkdirat(&at, "d".repeat(250), 0o755.into()).unwrap();
        at = slice::open_below(&at, Path::new(&"d".repeat(250)), rustix::fs::OFlags::PATH).unwrap();
    }
    let mut named = Vec::new();
    let mut met = |met: Met<'_>| {
        if let Met::LeftOut { path, reason } = met {
            named.push((path.to_owned(), reason.to_owned()));
        }
    };
    let indexed = update_index(&folder.root(), &folder.index(), SystemTime::now(), &mut met).unwrap();
    assert_eq!((indexed.files, indexed.left_out), (1, 1));
    assert!(named[0].0.starts_with("d".repeat(250)) && named[0].1.contains("too long"), "{named:?}");
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_unavailable_and_forgets_nothing() {
    let folder = Folder::new();
    folder.write("a", b"content");
    folder.update();
    let (store, reference) = (folder.store(), folder.capability("a").reference);
    let elsewhere = folder.dir.path().join("unplugged");
    fs::rename(folder.root(), &elsewhere).unwrap();
    assert!(matches!(store.get(&reference).await, Err(Error::Unavailable { .. })));
    assert!(update_index(&folder.root(), &folder.index(), SystemTime::now(), &mut |_| ()).is_err());
    fs::rename(&elsewhere, folder.root()).unwrap();
    assert!(store.get(&reference).await.is_ok());
}

#[tokio::test]
async fn the_index_is_a_small_part_of_what_it_indexes() {
    let folder = Folder::new();
    let length = 32 << 20;
    folder.write("a", &noise(length, 7));
    folder.update();
    let size = fs::metadata(folder.index()).unwrap().len();
    let wal = fs::metadata(folder.dir.path().join("cache/index.sqlite-wal")).map_or(0, |wal| wal.len());
    // 64 bytes for each leaf of 32 KiB are 0.195 %, and as much again is more than where the leaves are.
    assert!((size + wal) * 256 < length as u64, "{size} + {wal}: more than 0.39 %");
}

#[test]
fn another_database_is_not_taken_for_an_index() {
    let folder = Folder::new();
    fs::create_dir(folder.dir.path().join("cache")).unwrap();
    let other = rusqlite::Connection::open(folder.index()).unwrap();
    other.execute_batch("CREATE TABLE a (b)").unwrap();
    let refused = update_index(&folder.root(), &folder.index(), SystemTime::now(), &mut |_| ());
    assert!(matches!(refused, Err(IndexError::Foreign { .. })));
}
