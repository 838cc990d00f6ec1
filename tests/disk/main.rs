//! The promises of the disk cache between processes, and on disks that are full or cannot be written.
//!
//! The other process is this test binary again, told by the environment to run one of the parts below. Where a file system must be
//! mounted, the test needs root, and says so where it is not.

use std::{
    env, fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use erisfs::{
    block::{Block, Disk, DiskSettings, Stored},
    eris::{Reference, reference_of},
};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

const PART: &str = "ERISFS_TEST_DISK_PART";
const DIR: &str = "ERISFS_TEST_DISK_DIR";
/// Longer than anything takes on a crowded machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn settings(size: u64) -> DiskSettings {
    DiskSettings { size, free_floor: 0, resize: true }
}

fn open(dir: &Path) -> Disk {
    Disk::open(dir, settings(64 << 20)).unwrap()
}

fn block(number: u64) -> (Reference, Block) {
    let mut bytes = vec![0; if number % 4 == 3 { 1024 } else { 32768 }];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    (reference_of(&bytes), bytes.into())
}

fn blocks(numbers: std::ops::Range<u64>) -> Vec<(Reference, Block)> {
    numbers.map(block).collect()
}

/// How many of the blocks are there; all that are must be right.
fn held(disk: &Disk, blocks: &[(Reference, Block)]) -> usize {
    let references: Vec<_> = blocks.iter().map(|(reference, _)| *reference).collect();
    let found = disk.get_many(&references).into_iter().zip(blocks);
    found.filter(|(found, (_, block))| found.as_ref().is_some_and(|found| *found == block)).count()
}

/// Another process, killed when this is dropped.
struct Other(Child);

impl Other {
    fn start(part: &str, dir: &Path) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "part_of_another_process", "--nocapture"]).env(PART, part).env(DIR, dir);
        Other(command.stdout(Stdio::null()).spawn().unwrap())
    }

    fn finish(mut self) {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return;
            }
            assert!(Instant::now() < end, "the other process hangs");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the other process does; nothing in a run of the tests.
#[test]
fn part_of_another_process() {
    let (Ok(part), Some(dir)) = (env::var(PART), env::var_os(DIR)) else { return };
    let disk = open(Path::new(&dir));
    match part.as_str() {
        "reads and writes" => {
            assert_eq!(held(&disk, &blocks(0..200)), 200);
            assert!(disk.put_many(&blocks(200..400)).iter().all(|stored| *stored == Stored::Written));
        }
        "pins" => {
            let references: Vec<_> = blocks(0..300).iter().map(|(reference, _)| *reference).collect();
            disk.pin("other's", &references).unwrap();
        }
        "writes without end" => loop {
            for start in (0..8000).step_by(64) {
                disk.put_many(&blocks(start..start + 64));
            }
        },
        part => panic!("{part}"),
    }
}

#[test]
fn two_processes_share_what_either_has() {
    let folder = tempfile::tempdir().unwrap();
    let disk = open(folder.path());
    disk.put_many(&blocks(0..200));
    Other::start("reads and writes", folder.path()).finish();
    assert_eq!(held(&disk, &blocks(0..400)), 400);
}

#[test]
fn a_pin_of_one_process_binds_all() {
    let folder = tempfile::tempdir().unwrap();
    let disk = open(folder.path());
    disk.put_many(&blocks(0..300));
    Other::start("pins", folder.path()).finish();
    (0..3).for_each(|_| drop(disk.put_many(&blocks(1000..9000))));
    assert_eq!(held(&disk, &blocks(0..300)), 300);
}

#[test]
fn after_kill_9_in_the_middle_of_writing_all_that_is_read_is_right_and_nobody_is_held_up() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..6 {
        let other = Other::start("writes without end", folder.path());
        let end = Instant::now() + PATIENCE;
        let disk = open(folder.path());
        // It is at it when what it replaces changes.
        let before = held(&disk, &blocks(0..8000));
        while round == 0 && held(&disk, &blocks(0..8000)) < 1000 {
            assert!(Instant::now() < end, "the other process writes nothing: {before}");
        }
        thread::sleep(Duration::from_millis(60 + 37 * round));
        drop(other);
        let all = blocks(0..8000);
        let found = held(&disk, &all);
        assert!(found > 1000, "{found}");
        let again = disk.put_many(&all[..500]);
        assert!(again.iter().all(|stored| *stored != Stored::Dropped), "the lock went with its holder");
        // It keeps blocks again; how many gave way to others is up to what was used meanwhile.
        assert!(held(&disk, &all[..500]) > 100);
        let verified = disk.verify(|_, _| ()).unwrap();
        // At most the block that was being written.
        assert!(verified.bad <= 1, "{verified:?}");
    }
}

/// A file system in memory at a new directory, and away when it is dropped.
struct Small(tempfile::TempDir);

impl Small {
    fn new(size: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("NOT TESTED: mounting a small file system needs root");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(format!("size={size}")).unwrap();
        mount("tmpfs", folder.path(), "tmpfs", MountFlags::empty(), Some(options.as_c_str())).unwrap();
        Some(Small(folder))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_is_no_error_and_what_is_there_is_read() {
    let Some(small) = Small::new("16m") else { return };
    let disk = open(small.0.path());
    let all = blocks(0..2000);
    // Once the disk is full, new blocks take the place of old ones.
    for (reference, block) in &all {
        disk.put(reference, block);
    }
    assert!(held(&disk, &all[1990..]) == 10 && held(&disk, &all) as u64 == disk.stat().used);

    // Less than what is free is there now: the disk is full before the cache knows.
    disk.gc(Some(8 << 20)).unwrap();
    let late = open(small.0.path());
    late.put(&all[0].0, &all[0].1);
    let other = small.0.path().join("other");
    let filled = fs::write(&other, vec![1; 16 << 20]);
    assert!(filled.is_err(), "the disk is full");
    let before = held(&late, &all);
    for (reference, block) in blocks(3000..3200) {
        late.put(&reference, &block);
    }
    let stat = late.stat();
    assert!(held(&late, &all) > 0 && before > 200 && stat.free == 0 && stat.bad == 0, "{stat:?}");

    fs::remove_file(&other).unwrap();
    let again = open(small.0.path());
    assert!(again.put_many(&blocks(4000..4010)).iter().all(|stored| *stored == Stored::Written));
    assert_eq!(held(&again, &blocks(4000..4010)), 10);
}

#[test]
fn the_floor_of_free_space_is_kept() {
    let Some(small) = Small::new("32m") else { return };
    let floor = DiskSettings { size: 64 << 20, free_floor: 16 << 20, resize: true };
    let disk = Disk::open(small.0.path(), floor).unwrap();
    let all = blocks(0..2000);
    for batch in all.chunks(64) {
        disk.put_many(batch);
        let free = disk.stat().free;
        // The index takes a page now and then, beside the blocks that are reckoned with.
        assert!(free >= (16 << 20) - (512 << 10), "{free}");
    }
    assert!(held(&disk, &all[1900..]) > 80, "new blocks take the place of old ones");

    // Somebody else fills the disk: the cache gives way by itself.
    fs::write(small.0.path().join("other"), vec![1; 8 << 20]).unwrap();
    let end = Instant::now() + PATIENCE;
    while disk.stat().free < 16 << 20 {
        assert!(Instant::now() < end, "{:?}", disk.stat());
        held(&disk, &all[..1]);
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_disk_that_cannot_be_written_is_read_from() {
    let Some(small) = Small::new("32m") else { return };
    let all = blocks(0..200);
    let dir = small.0.path().join("cache");
    drop(open(&dir).put_many(&all));
    mount_remount(small.0.path(), MountFlags::RDONLY, "").unwrap();
    let disk = open(&dir);
    assert_eq!(held(&disk, &all), 200);
    let (reference, bytes) = block(500);
    assert_eq!(disk.put(&reference, &bytes), Stored::Dropped);
    disk.sync().unwrap();
    assert!(disk.gc(Some(0)).is_err() && disk.pin("x", &[reference]).is_err());
    assert!(disk.stat().read_through.is_some_and(|reason| reason.contains("read-only")));
    // Where there is none, none is made.
    let none = open(&small.0.path().join("none"));
    assert!(none.get(&reference).is_none() && none.stat().read_through.is_some());

    mount_remount(small.0.path(), MountFlags::empty(), "").unwrap();
    disk.pin("x", &[reference]).unwrap();
    assert_eq!(disk.put(&reference, &bytes), Stored::Written);
}
