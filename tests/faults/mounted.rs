//! The same through a mount: programs get the right bytes or EIO, and the kernel keeps nothing wrong.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use erisfs::content::Deadline;
use erisfs::fuse::{Mounted, Options};
use erisfs::tree::{Catalog, Catalogs, Settings, Tree};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::SECOND;
use crate::noise::noise;
use crate::origin::{Link, Origin};
use crate::reader::Reader;
use crate::shelf::Shelf;
use crate::trouble::{Source, Trouble};

const FILES: usize = 4;
/// Files of noise do not share blocks, apart from those at their ends.
const LENGTH: usize = 400_000;
/// What a crowded machine may need.
const SLACK: Duration = Duration::from_secs(4);

/// A published directory of a few files, mounted; the mount goes before the runtime that answers for it.
struct Stage {
    mounted: Option<Mounted>,
    point: TempDir,
    _reader: Reader,
    top: PathBuf,
    _runtime: Runtime,
}

impl Stage {
    /// Mounts while `source` is well, if it can be, as a machine that was up before the trouble began.
    fn new(urls: impl FnOnce(&Shelf) -> Vec<String>, options: &str) -> Self {
        let (mut shelf, disk) = (Shelf::new(), TempDir::new().unwrap());
        for number in 0..FILES {
            fs::write(disk.path().join(number.to_string()), noise(LENGTH + number)).unwrap();
        }
        let path = shelf.add("files", disk.path());
        let catalog = shelf.catalog();
        let runtime = Runtime::new().unwrap();
        let entered = runtime.enter();
        let reader = Reader::new(&urls(&shelf));
        let fetch = reader.fetch.clone();
        let opened = Catalog::open(fetch.clone(), catalog, Deadline::after(30 * SECOND));
        let catalog = runtime.block_on(opened).unwrap();
        let tree = Arc::new(Tree::new(fetch, Catalogs::new(vec![catalog]), Settings::default()));
        let point = TempDir::new().unwrap();
        let options = Options::parse([options]).unwrap();
        let mounted = Mounted::new(tree, point.path(), &options, runtime.handle().clone());
        let mounted = Some(mounted.unwrap_or_else(|error| panic!("{error}")));
        drop(entered);
        let top = point.path().join(path.to_string());
        // The listing is there before the trouble begins.
        assert_eq!(fs::read_dir(&top).unwrap().count(), FILES);
        Stage { mounted, point, _reader: reader, top, _runtime: runtime }
    }

    fn read(&self, number: usize) -> io::Result<Vec<u8>> {
        fs::read(self.top.join(number.to_string()))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        drop(self.mounted.take());
        assert!(!is_mounted(self.point.path()));
    }
}

fn is_mounted(point: &Path) -> bool {
    fs::read_to_string("/proc/self/mounts").unwrap().contains(point.to_str().unwrap())
}

pub fn a_mount_answers_in_time_and_keeps_nothing_wrong(trouble: Trouble) {
    let mut source = None;
    let stage = Stage::new(
        |shelf| {
            let source = source.insert(Source::new(shelf.blocks.clone(), trouble));
            vec![source.url()]
        },
        "timeout=1",
    );
    let source = source.unwrap();
    source.fall_ill();
    let begun = Instant::now();
    match stage.read(0) {
        Ok(bytes) => assert!(source.may_answer() && bytes == noise(LENGTH)),
        Err(error) => assert_eq!(error.raw_os_error(), Some(5), "{error}"),
    }
    assert!(begun.elapsed() < SECOND + SLACK, "{:?}", begun.elapsed());
    // What needs no block is there as always.
    assert_eq!(fs::read_dir(&stage.top).unwrap().count(), FILES);
    assert_eq!(fs::metadata(stage.top.join("none")).unwrap_err().kind(), ErrorKind::NotFound);

    source.heal();
    let end = Instant::now() + 60 * SECOND;
    for number in 0..2 {
        let bytes = loop {
            match stage.read(number) {
                Ok(bytes) => break bytes,
                Err(error) => assert!(Instant::now() < end, "it never recovers: {error}"),
            }
            std::thread::sleep(SECOND / 20);
        };
        assert!(bytes == noise(LENGTH + number), "wrong bytes in file {number}");
    }
    source.leave();
    for number in 0..2 {
        assert!(stage.read(number).unwrap() == noise(LENGTH + number), "wrong bytes in file {number}");
    }
}

pub fn a_mount_reads_from_the_good_source(trouble: Trouble) {
    let mut origins = None;
    let stage = Stage::new(
        |shelf| {
            let blocks = shelf.blocks.clone();
            let (source, good) =
                origins.insert((Source::new(blocks.clone(), trouble), Origin::start(blocks, Link::LOOPBACK)));
            vec![source.url(), good.url()]
        },
        "timeout=20",
    );
    let (source, _good) = origins.unwrap();
    source.fall_ill();
    for number in 0..FILES {
        let begun = Instant::now();
        assert!(stage.read(number).unwrap() == noise(LENGTH + number), "wrong bytes in file {number}");
        assert!(begun.elapsed() < SECOND + SLACK, "file {number}: {:?}", begun.elapsed());
    }
}
