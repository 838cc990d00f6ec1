//! The promises of the disk cache, within one process. Those between processes are in `tests/disk`.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt as _,
    path::PathBuf,
};

use super::{layout::PAGE, *};
use crate::eris::reference_of;

/// 25 buckets: 1,600 blocks of 32 KiB and 950 of 1 KiB.
const SIZE: u64 = 52 << 20;
const LARGE_SLOTS: usize = 25 * layout::LARGE;

struct Rig {
    folder: tempfile::TempDir,
    disk: Disk,
}

fn settings(size: u64) -> DiskSettings {
    DiskSettings { size, free_floor: 0, resize: true }
}

fn rig() -> Rig {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let disk = Disk::open(&folder.path().join("cache"), settings(SIZE)).expect("a good size");
    Rig { folder, disk }
}

impl Rig {
    fn dir(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    /// The cache as another process finds it.
    fn other(&self) -> Disk {
        Disk::open_existing(&self.dir()).expect("it is there")
    }

    fn file(&self) -> File {
        OpenOptions::new().read(true).write(true).open(self.dir().join("blocks")).expect("it is there")
    }
}

fn block(number: usize, size: BlockSize) -> (Reference, Block) {
    let mut bytes = vec![0; size.bytes()];
    bytes[..8].copy_from_slice(&(number as u64 + 1).to_le_bytes());
    (reference_of(&bytes), bytes.into())
}

fn large(numbers: std::ops::Range<usize>) -> Vec<(Reference, Block)> {
    numbers.map(|number| block(number, BlockSize::Large)).collect()
}

fn names(blocks: &[(Reference, Block)]) -> Vec<Reference> {
    blocks.iter().map(|(reference, _)| *reference).collect()
}

/// How many of the blocks are there; all that are must be right.
fn held(disk: &Disk, blocks: &[(Reference, Block)]) -> usize {
    let found = disk.get_many(&names(blocks));
    let right = found.into_iter().zip(blocks).map(|(found, (_, block))| match found {
        Some(found) => {
            assert!(found == *block, "a wrong block");
            1
        }
        None => 0,
    });
    right.sum()
}

#[test]
fn what_was_kept_is_there_for_others_and_after_the_end() {
    let rig = rig();
    let blocks: Vec<_> = (0..200)
        .flat_map(|number| [BlockSize::Small, BlockSize::Large].map(|size| block(number, size)))
        .collect();
    assert!(rig.disk.put_many(&blocks).iter().all(|stored| *stored == Stored::Written));
    assert!(rig.disk.put_many(&blocks).iter().all(|stored| *stored == Stored::Present));
    assert_eq!(held(&rig.other(), &blocks), blocks.len());
    let dir = rig.dir();
    let Rig { folder: _folder, disk } = rig;
    drop(disk);
    let disk = Disk::open(&dir, settings(SIZE)).expect("a good size");
    assert_eq!(held(&disk, &blocks), blocks.len());
    let (absent, _) = block(1000, BlockSize::Large);
    assert!(disk.get(&absent).is_none() && !disk.contains(&absent) && disk.contains(&blocks[0].0));
    let stat = disk.stat();
    assert_eq!((stat.used, stat.bytes, stat.hits, stat.misses, stat.bad), (400, 200 * 33 * 1024, 400, 1, 0));
    assert!(stat.read_through.is_none());
}

#[test]
fn it_fills_to_nine_tenths_before_a_block_must_go_and_never_takes_more_than_its_size() {
    let rig = rig();
    let blocks = large(0..4 * LARGE_SLOTS);
    let (first, rest) = blocks.split_at(LARGE_SLOTS * 9 / 10);
    rig.disk.put_many(first);
    assert_eq!((rig.disk.stat().used as usize, rig.disk.stat().evicted), (first.len(), 0));
    rig.disk.put_many(rest);
    let stat = rig.disk.stat();
    assert!(stat.used as usize > LARGE_SLOTS * 98 / 100, "{stat:?}");
    assert!(rig.file().metadata().expect("a file").len() <= SIZE && stat.on_disk <= SIZE, "{stat:?}");
    assert!(held(&rig.disk, &blocks[blocks.len() - LARGE_SLOTS / 2..]) == LARGE_SLOTS / 2, "the newest stay");
}

#[test]
fn a_working_set_that_is_read_again_and_again_survives_a_scan_of_four_times_the_cache() {
    let rig = rig();
    let blocks = large(0..5 * LARGE_SLOTS);
    let (working, scan) = blocks.split_at(LARGE_SLOTS * 2 / 5);
    rig.disk.put_many(working);
    rig.disk.put_many(&scan[..LARGE_SLOTS / 4]);
    assert_eq!(held(&rig.disk, working), working.len());
    rig.disk.sync().expect("a writable disk");
    // Nobody looks at it while the scan goes by.
    rig.disk.put_many(scan);
    assert_eq!(held(&rig.disk, working), working.len());
}

#[test]
fn what_is_used_no_more_gives_way_to_what_is() {
    let rig = rig();
    let blocks = large(0..6 * LARGE_SLOTS);
    let (old, rest) = blocks.split_at(LARGE_SLOTS * 9 / 10);
    for set in [old, &rest[..LARGE_SLOTS * 7 / 10]] {
        // A set that is larger than the part for new blocks gets in little by little.
        for _ in 0..6 {
            rig.disk.put_many(set);
            held(&rig.disk, set);
            rig.disk.sync().expect("a writable disk");
        }
        assert!(held(&rig.disk, set) > set.len() * 9 / 10);
    }
    assert!(held(&rig.disk, old) < old.len() / 2);
}

#[test]
fn the_pinned_stay_whatever_comes_also_if_they_come_later_and_go_when_the_pin_goes() {
    let rig = rig();
    let blocks = large(0..7 * LARGE_SLOTS);
    let (pinned, scan) = blocks.split_at(LARGE_SLOTS * 4 / 5);
    let (early, late) = pinned.split_at(pinned.len() / 2);
    rig.disk.put_many(early);
    let pin = rig.disk.pin("a/b", &names(pinned)).expect("there is room");
    let expected = Pin {
        name: "a/b".into(),
        blocks: pinned.len() as u64,
        missing: late.len() as u64,
        bytes: early.len() as u64 * 32768,
    };
    assert_eq!(pin, expected);
    // Others have to hear of it.
    let other = rig.other();
    other.put_many(&scan[..2 * LARGE_SLOTS]);
    other.put_many(late);
    other.put_many(scan);
    assert_eq!(held(&rig.disk, pinned), pinned.len());
    assert_eq!(rig.disk.stat().pinned, pinned.len() as u64);
    let full = Pin { missing: 0, bytes: pinned.len() as u64 * 32768, ..expected };
    assert_eq!(other.pins().expect("readable"), [full]);
    rig.disk.sync().expect("a writable disk");
    rig.disk.gc(Some(0)).expect("a writable disk");
    assert_eq!(rig.disk.stat().used as usize, pinned.len(), "all but the pinned went");

    rig.disk.unpin("a/b").expect("it is there");
    assert!(matches!(rig.disk.unpin("a/b"), Err(DiskError::NoSuchPin { .. })));
    other.put_many(scan);
    other.put_many(scan);
    assert!(held(&rig.disk, pinned) < pinned.len());
    assert!(rig.disk.pins().expect("readable").is_empty());
}

#[test]
fn a_pin_that_leaves_too_little_is_refused_and_changes_nothing() {
    let rig = rig();
    let blocks = names(&large(0..LARGE_SLOTS));
    let limit = LARGE_SLOTS * 4 / 5;
    rig.disk.pin("one", &blocks[..limit]).expect("there is room");
    rig.disk.pin("same", &blocks[..limit]).expect("the same blocks take no more room");
    let error = rig.disk.pin("two", &blocks[limit..limit + 1]).expect_err("too many");
    assert!(matches!(error, DiskError::PinsTooLarge { .. }), "{error}");
    rig.disk.pin("one", &blocks[..1]).expect("a smaller set in place of a large one");
    let pins = rig.disk.pins().expect("readable");
    assert_eq!(pins.iter().map(|pin| pin.blocks).collect::<Vec<_>>(), [1, limit as u64]);
    for name in ["", &"x".repeat(256)] {
        assert!(matches!(rig.disk.pin(name, &[]), Err(DiskError::BadPinName { .. })));
    }
}

/// Where in the file a block is.
fn position(rig: &Rig, reference: &Reference) -> u64 {
    let attached = rig.disk.handle.shared.attached().expect("it is open");
    let (place, _) = attached.slots.find(reference, Wait::Yes).expect("it may wait").expect("it is there");
    attached.slots.layout().slot_at(place)
}

#[test]
fn recent_figures_are_those_of_the_last_look_and_the_counts_are_new() {
    let rig = rig();
    rig.disk.put_many(&large(0..10));
    assert_eq!(rig.disk.recent_stat().used, 10);
    let measured = lock(&rig.disk.handle.recent).as_ref().expect("it was measured").0;
    rig.disk.put_many(&large(10..15));
    let stat = rig.disk.recent_stat();
    let is_old = lock(&rig.disk.handle.recent).as_ref().expect("it was measured").0 == measured;
    assert_eq!((stat.used, stat.writes), (if is_old { 10 } else { 15 }, 15));
    lock(&rig.disk.handle.recent).as_mut().expect("it was measured").0 =
        measured.checked_sub(RECENT).expect("a time");
    assert_eq!(rig.disk.recent_stat().used, 15);
}

#[test]
fn a_spoiled_block_is_a_miss_once_and_can_be_put_again() {
    let rig = rig();
    let blocks = large(0..100);
    rig.disk.put_many(&blocks);
    let at = position(&rig, &blocks[7].0);
    rig.file().write_all_at(b"x", at + 9).expect("a writable file");
    assert!(rig.disk.contains(&blocks[7].0));
    assert_eq!(held(&rig.disk, &blocks), 99);
    assert!(!rig.disk.contains(&blocks[7].0), "it was dropped");
    assert_eq!(rig.disk.stat().bad, 1);
    assert_eq!(rig.disk.put(&blocks[7].0, &blocks[7].1), Stored::Written);
    assert_eq!(held(&rig.disk, &blocks), 100);

    // Without anybody having noticed.
    rig.file().write_all_at(b"x", at + 9).expect("a writable file");
    assert_eq!(rig.other().put(&blocks[7].0, &blocks[7].1), Stored::Written);
    assert_eq!(held(&rig.disk, &blocks), 100);
}

#[test]
fn verify_finds_each_spoiled_block_and_no_other() {
    let rig = rig();
    let blocks = large(0..300);
    rig.disk.put_many(&blocks);
    for number in [3, 33, 299] {
        rig.file().write_all_at(b"x", position(&rig, &blocks[number].0)).expect("a writable file");
    }
    let mut told = Vec::new();
    let verified = rig.other().verify(|done, all| told.push((done, all))).expect("readable");
    assert_eq!(verified, Verified { checked: 300, bad: 3 });
    assert!(told.is_sorted() && told.last().is_some_and(|(done, all)| done == all));
    let verified = rig.disk.verify(|_, _| ()).expect("readable");
    assert_eq!(verified, Verified { checked: 297, bad: 0 });
}

#[test]
fn a_file_of_somebody_else_is_left_alone() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    fs::write(folder.path().join("blocks"), "my own notes").expect("room");
    let disk = Disk::open(folder.path(), settings(SIZE)).expect("a good size");
    let (reference, block) = block(1, BlockSize::Large);
    assert_eq!(disk.put(&reference, &block), Stored::Dropped);
    assert_eq!(fs::read(folder.path().join("blocks")).expect("it is there"), b"my own notes");
}

#[test]
fn no_garbage_in_the_file_gives_a_wrong_byte() {
    let rig = rig();
    let blocks = large(0..LARGE_SLOTS / 2);
    let mut state = 1_u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    for round in 0..20 {
        rig.disk.put_many(&blocks);
        let length = rig.file().metadata().expect("a file").len();
        for _ in 0..50 {
            let garbage: Vec<u8> = (0..noise() % 5000).map(|_| noise() as u8).collect();
            // The index more often than its share, and the header when the cache is opened anew.
            let end = if round % 2 == 0 { 25 * PAGE as u64 } else { length };
            let start = if round % 3 == 0 { 0 } else { PAGE as u64 };
            rig.file()
                .write_all_at(&garbage, start + noise() % (end - start - 5000))
                .expect("a writable file");
        }
        for disk in [rig.disk.clone(), Disk::open(&rig.dir(), settings(SIZE)).expect("a good size")] {
            held(&disk, &blocks);
            disk.verify(|_, _| ()).expect("readable");
            disk.put_many(&blocks);
            held(&disk, &blocks);
        }
    }
}

#[test]
fn a_file_that_is_cut_short_or_removed_under_the_reader_is_a_miss_and_is_made_anew() {
    let rig = rig();
    let blocks = large(0..100);
    let damages: [fn(&Rig); 4] = [
        |rig| rig.file().set_len(0).expect("a writable file"),
        |rig| rig.file().set_len(10 * PAGE as u64).expect("a writable file"),
        |rig| fs::remove_file(rig.dir().join("blocks")).expect("it is there"),
        |rig| fs::remove_dir_all(rig.dir()).expect("it is there"),
    ];
    for damage in damages {
        rig.disk.put_many(&blocks);
        assert_eq!(held(&rig.disk, &blocks), 100);
        damage(&rig);
        held(&rig.disk, &blocks);
        rig.disk.put_many(&blocks);
        assert_eq!(held(&rig.disk, &blocks), 100);
        assert_eq!(held(&rig.other(), &blocks), 100);
    }
}

#[test]
fn whatever_lies_in_its_place_is_replaced() {
    let rig = rig();
    let path = rig.dir().join("blocks");
    let blocks = large(0..10);
    let others: [fn(&std::path::Path); 5] = [
        |path| fs::write(path, b"").expect("a writable directory"),
        |path| fs::write(path, vec![b'x'; 3 * PAGE]).expect("a writable directory"),
        |path| {
            let file = OpenOptions::new().write(true).open(path).expect("a cache");
            file.write_all_at(&[99], 8).expect("a writable file");
        },
        |path| {
            fs::remove_file(path).expect("it is there");
            std::os::unix::fs::symlink("/dev/zero", path).expect("a writable directory");
        },
        |path| {
            fs::remove_file(path).expect("it is there");
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0)
                .expect("a pipe");
        },
    ];
    for other in others {
        other(&path);
        let disk = Disk::open(&rig.dir(), settings(SIZE)).expect("a good size");
        assert_eq!(held(&disk, &blocks), 0);
        disk.put_many(&blocks);
        assert_eq!(held(&disk, &blocks), 10);
        assert_eq!(disk.stat().read_through, None);
    }
}

#[test]
fn a_directory_that_cannot_be_made_is_done_without_until_it_can() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let obstacle = folder.path().join("file");
    fs::write(&obstacle, "").expect("a writable directory");
    let disk = Disk::open(&obstacle.join("cache"), settings(SIZE)).expect("no error");
    let (reference, block) = block(1, BlockSize::Large);
    assert!(disk.get(&reference).is_none() && !disk.contains(&reference));
    assert_eq!(disk.put(&reference, &block), Stored::Dropped);
    disk.put_later(reference, block.clone());
    disk.sync().expect("there is nothing to sync");
    let stat = disk.stat();
    assert!(stat.read_through.is_some_and(|reason| reason.contains("cannot make")) && stat.dropped == 2);
    assert!(disk.gc(None).is_err() && disk.pin("x", &[reference]).is_err());

    fs::remove_file(&obstacle).expect("it is there");
    disk.pin("x", &[reference]).expect("it can be made now");
    assert_eq!(disk.put(&reference, &block), Stored::Written);
    assert_eq!(disk.stat().read_through, None);
}

#[test]
fn a_size_that_is_no_cache_is_an_error_and_one_that_is_not_there_too() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    assert!(matches!(Disk::open(folder.path(), settings(1 << 20)), Err(DiskError::TooSmall { .. })));
    assert!(matches!(Disk::open_existing(folder.path()), Err(DiskError::Absent { .. })));
    assert!(fs::read_dir(folder.path()).expect("a directory").next().is_none(), "nothing was made");
    let smallest = Disk::open(folder.path(), settings(DiskSettings::MIN_SIZE)).expect("the smallest");
    let blocks = large(0..100);
    smallest.put_many(&blocks);
    assert_eq!(held(&smallest, &blocks), 100);
}

#[test]
fn another_size_keeps_what_was_used_last_and_others_change_over() {
    let rig = rig();
    let blocks = large(0..LARGE_SLOTS * 9 / 10);
    rig.disk.put_many(&blocks);
    rig.disk.pin("old", &names(&blocks[..10])).expect("there is room");
    let smaller = Disk::open(&rig.dir(), settings(SIZE / 4)).expect("a good size");
    smaller.sync().expect("a writable disk");
    assert_eq!(smaller.stat().size, SIZE / 4);
    assert!(rig.file().metadata().expect("a file").len() <= SIZE / 4);
    let newest = &blocks[blocks.len() - LARGE_SLOTS / 5..];
    assert!(held(&smaller, newest) >= newest.len() * 98 / 100);
    assert_eq!(held(&smaller, &blocks[..10]), 10, "the pinned came along");

    // Who had it open reads on, and writes to the new one.
    held(&rig.disk, &blocks);
    let more = large(5000..5050);
    rig.disk.put_many(&more);
    assert_eq!((held(&smaller, &more), rig.disk.stat().size), (50, SIZE / 4));

    let kept: Vec<_> = blocks.iter().filter(|(reference, _)| smaller.contains(reference)).cloned().collect();
    let larger = Disk::open(&rig.dir(), settings(4 * SIZE)).expect("a good size");
    larger.sync().expect("a writable disk");
    assert_eq!(held(&larger, &kept), kept.len());
    assert!(!rig.dir().join("blocks.new").exists());
}

#[test]
fn only_who_says_so_changes_the_size_and_never_at_the_cost_of_pinned_blocks() {
    let rig = rig();
    let blocks = large(0..LARGE_SLOTS * 4 / 5);
    rig.disk.put_many(&blocks);
    rig.disk.pin("kept", &names(&blocks[..LARGE_SLOTS / 2])).expect("there is room");
    for settings in [DiskSettings { resize: false, ..settings(4 * SIZE) }, settings(SIZE / 2)] {
        let disk = Disk::open(&rig.dir(), settings).expect("a good size");
        disk.ready(Duration::from_secs(60)).expect("nobody else has it");
        assert_eq!((disk.stat().size, held(&disk, &blocks)), (SIZE, blocks.len()), "{settings:?}");
    }
    let error = rig.disk.handle.shared.resize(SIZE / 2, Duration::ZERO).expect_err("they do not fit");
    assert!(
        error.to_string().contains("\"kept\"") && error.to_string().contains(&SIZE.to_string()),
        "{error}"
    );
}

#[test]
fn a_large_cache_is_moved_by_who_waits_for_it_and_not_by_who_only_opens_it() {
    let rig = rig();
    let wide = SIZE * 2;
    rig.disk.handle.shared.resize(wide, Duration::ZERO).expect("nobody else has it");
    let blocks = large(0..LARGE_SLOTS * 3 / 2);
    rig.disk.put_many(&blocks);
    assert!(rig.disk.stat().on_disk > MOMENT);
    let wider = || Disk::open(&rig.dir(), settings(2 * wide)).expect("a good size");
    assert_eq!(wider().stat().size, wide);
    let waiting = wider();
    let held_by_other = lock::Lock::open(&rig.dir().join("lock")).expect("a writable directory");
    let other = held_by_other.take(Duration::ZERO).expect("a lock").expect("it is free");
    assert!(matches!(waiting.ready(Duration::ZERO), Err(DiskError::Busy { .. })));
    drop(other);
    waiting.ready(Duration::from_secs(60)).expect("nobody else has it");
    assert_eq!((waiting.stat().size, held(&waiting, &blocks)), (2 * wide, blocks.len()));
}

#[test]
fn what_a_killed_process_left_of_a_move_is_removed_unless_it_is_still_about_it() {
    let rig = rig();
    let left = rig.dir().join("blocks.new");
    fs::write(&left, "half of it").expect("a writable directory");
    let lock = lock::Lock::open(&rig.dir().join("lock")).expect("a writable directory");
    let held_by_other = lock.take(Duration::ZERO).expect("a lock").expect("it is free");
    rig.other();
    assert!(left.exists());
    drop(held_by_other);
    rig.other();
    assert!(!left.exists());
}

#[test]
fn below_the_floor_nothing_new_is_taken_and_what_was_used_least_is_given_back() {
    let rig = rig();
    let blocks = large(0..LARGE_SLOTS);
    rig.disk.put_many(&blocks[..500]);
    rig.disk.pin("kept", &names(&blocks[..100])).expect("there is room");
    let before = rig.disk.stat().on_disk;
    let floor = DiskSettings { size: SIZE, free_floor: u64::MAX, resize: true };
    let poor = Disk::open(&rig.dir(), floor).expect("a good size");
    let stored = poor.put_many(&blocks[500..]);
    assert!(stored.iter().all(|stored| *stored == Stored::Dropped || poor.stat().evicted > 0));
    assert!(poor.stat().on_disk <= before + (256 << 10), "no slot was filled");
    let collected = poor.gc(None).expect("a writable disk");
    assert!(collected.evicted >= 400, "{collected:?}");
    assert_eq!(held(&poor, &blocks[..100]), 100);
    let stat = poor.stat();
    assert!(stat.used == 100 && stat.on_disk < before / 2, "{stat:?}");
}

#[test]
fn gc_gives_back_what_was_used_least_down_to_the_size_asked_for() {
    let rig = rig();
    let blocks = large(0..1000);
    rig.disk.put_many(&blocks);
    rig.disk.put_many(&(0..100).map(|number| block(number, BlockSize::Small)).collect::<Vec<_>>());
    assert_eq!(rig.disk.gc(None).expect("a writable disk"), Collected::default());
    rig.disk.gc(Some(400 * 32768)).expect("a writable disk");
    assert!(rig.disk.stat().bytes <= 400 * 32768);
    assert!(held(&rig.disk, &blocks[700..]) == 300 && held(&rig.disk, &blocks[..600]) == 0);
    // What was used since gc looked is left alone.
    rig.disk.sync().expect("a writable disk");
    rig.disk.gc(Some(0)).expect("a writable disk");
    let stat = rig.disk.stat();
    assert!(stat.used == 0 && stat.on_disk < 1 << 20, "{stat:?}");
}

#[test]
fn many_threads_and_openers_never_see_a_wrong_block() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    // Small, so that everything is replaced all the time.
    let small = || Disk::open(folder.path(), settings(DiskSettings::MIN_SIZE)).expect("a good size");
    let (one, other) = (small(), small());
    let blocks = large(0..1000);
    thread::scope(|scope| {
        for worker in 0..4 {
            let (disk, blocks) = (if worker % 2 == 0 { &one } else { &other }, &blocks);
            scope.spawn(move || {
                for round in 0..40 {
                    let start = (worker * 311 + round * 97) % 900;
                    disk.put_many(&blocks[start..start + 64]);
                    held(disk, &blocks[start..start + 100]);
                    if round % 10 == 9 {
                        disk.gc(Some(2 << 20)).expect("the lock is free again soon");
                    }
                }
            });
        }
    });
    assert_eq!(one.verify(|_, _| ()).expect("readable").bad, 0);
}

#[test]
fn the_end_waits_for_a_lock_that_others_keep_only_once() {
    let rig = rig();
    let lock = lock::Lock::open(&rig.dir().join("lock")).expect("a writable directory");
    let _held_by_other = lock.take(Duration::ZERO).expect("a lock").expect("it is free");
    // Sixteen batches, each of which would wait for two seconds.
    for (reference, block) in large(0..1000) {
        rig.disk.put_later(reference, block);
    }
    let start = Instant::now();
    let Rig { folder: _folder, disk } = rig;
    drop(disk);
    assert!(start.elapsed() < 8 * shared::PATIENCE, "{:?}", start.elapsed());
}

#[test]
fn what_is_queued_is_written_before_the_end_and_what_is_too_much_is_counted() {
    let rig = rig();
    let blocks = large(0..LARGE_SLOTS * 9 / 10);
    let dir = rig.dir();
    // While another holds the lock nothing can be written, and nobody is made to wait.
    let lock = lock::Lock::open(&dir.join("lock")).expect("a writable directory");
    let held_by_other = lock.take(Duration::ZERO).expect("a lock").expect("it is free");
    for (reference, block) in &blocks {
        rig.disk.put_later(*reference, block.clone());
    }
    assert_eq!(held(&rig.disk, &blocks), 0);
    let dropped = rig.disk.stat().dropped as usize;
    assert!(dropped > 0);
    drop(held_by_other);
    let Rig { folder: _folder, disk } = rig;
    drop(disk);
    let disk = Disk::open_existing(&dir).expect("it is there");
    // The batch that was about to be written may have lost its patience.
    assert!(held(&disk, &blocks) >= blocks.len() - dropped - 64);
}

#[test]
fn what_is_dear_stays_whole_beside_a_working_set_of_half_the_cache() {
    let [whole, partial] = [Disk::put_dear, Disk::put_many].map(|put| {
        let rig = rig();
        // Used again, as far as the cache lets them stay.
        for part in large(0..LARGE_SLOTS * 2).chunks(400) {
            rig.disk.put_many(part);
            held(&rig.disk, part);
            rig.disk.sync().expect("a writable disk");
        }
        let dear = large(10_000..10_000 + LARGE_SLOTS * 48 / 100);
        dear.chunks(32).for_each(|part| drop(put(&rig.disk, part)));
        dear.len() - held(&rig.disk, &dear)
    });
    assert_eq!(whole, 0);
    assert!(partial > 0, "otherwise it need not be dear");
}
