//! A real mount: what programs see is what was published, the kernel keeps it, and faults stay where they are.

#[path = "support/noise.rs"]
mod noise;
#[path = "support/shelf.rs"]
mod shelf;

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use erisfs::block::{BlockStore, Cache, Counted, Fault, Faulty};
use erisfs::content::{Deadline, Fetch};
use erisfs::eris::BlockSize;
use erisfs::fuse::{Mounted, Options};
use erisfs::store::StorePath;
use erisfs::tree::{Catalog, Catalogs, Settings, Tree};
use noise::noise;
use shelf::Shelf;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// A shelf, mounted. The mount goes before the runtime that answers for it.
struct Stage {
    mounted: Option<Mounted>,
    tree: Arc<Tree>,
    point: TempDir,
    fault: Arc<Fault>,
    counted: Arc<Counted>,
    _runtime: Runtime,
}

impl Stage {
    fn new(shelf: &mut Shelf, options: &str) -> Self {
        Self::with(shelf, options, Settings::default())
    }

    fn with(shelf: &mut Shelf, options: &str, settings: Settings) -> Self {
        let runtime = Runtime::new().unwrap();
        let options = Options::parse([options]).unwrap();
        let catalog = shelf.catalog();
        let fault = Arc::new(Fault::new(shelf.blocks.clone()));
        let counted = Arc::new(Counted::new(fault.clone() as Arc<dyn BlockStore>));
        let fetch = Fetch::new(Arc::new(Cache::new(counted.clone(), 1 << 20)), 1 << 20);
        let tree = Arc::new(runtime.block_on(async {
            let deadline = Deadline::after(Duration::from_secs(20));
            let catalog = Catalog::open(fetch.clone(), catalog, deadline).await.unwrap();
            let settings = Settings { symlinks: options.symlinks, ..settings };
            Tree::new(fetch, Catalogs::new(vec![catalog]), settings)
        }));
        let point = TempDir::new().unwrap();
        // Without the right to mount this fails with the sentence that says what is missing.
        let mounted = Mounted::new(tree.clone(), point.path(), &options, runtime.handle().clone());
        let mounted = Some(mounted.unwrap_or_else(|error| panic!("{error}")));
        Stage { mounted, tree, point, fault, counted, _runtime: runtime }
    }

    fn at(&self, path: &StorePath) -> PathBuf {
        self.point.path().join(path.to_string())
    }

    /// READs that the kernel sent.
    fn reads(&self) -> u64 {
        let status = self.mounted.as_ref().unwrap().requests().status();
        status.iter().find(|kind| kind.kind == "read").map_or(0, |kind| kind.count)
    }

    fn requests(&self) -> u64 {
        self.counted.counts().requests()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        drop(self.mounted.take());
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// A tree with a program, a large file, many small ones, links and an empty directory.
fn specimen() -> TempDir {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("bin")).unwrap();
    fs::create_dir_all(at("lib/empty")).unwrap();
    fs::copy(fs::canonicalize("/bin/sh").unwrap(), at("bin/sh")).unwrap();
    fs::write(at("lib/large"), noise(3_000_000)).unwrap();
    for number in 0..1500 {
        fs::write(at(&format!("lib/small-{number}")), noise(number)).unwrap();
    }
    symlink("../bin/sh", at("lib/link")).unwrap();
    symlink("/nix/store", at("lib/store")).unwrap();
    dir
}

#[test]
fn programs_see_the_tree_that_was_published() {
    let (mut shelf, disk) = (Shelf::new(), specimen());
    let path = shelf.add("specimen", disk.path());
    let plain = shelf.add_plain("plain", disk.path());
    let stage = Stage::new(&mut shelf, "");
    for path in [path, plain] {
        let mounted = stage.at(&path);
        let (mounted, disk) = (mounted.to_str().unwrap(), disk.path().to_str().unwrap());
        run("diff", &["-r", "--no-dereference", disk, mounted]);
        let list = |top: &str, format: &str| {
            let mut lines: Vec<_> =
                run("find", &[top, "-printf", format]).lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(list(mounted, "%P %y %l\n"), list(disk, "%P %y %l\n"));
        assert_eq!(list(mounted, "%P %y %n\n"), list(disk, "%P %y %n\n"), "link counts");
        for line in list(mounted, "%y %m %T@ %U %G\n") {
            let expected = match &line[..1] {
                "d" => "d 555 1.0000000000 0 0",
                "l" => "l 777 1.0000000000 0 0",
                _ if line.contains("555") => "f 555 1.0000000000 0 0",
                _ => "f 444 1.0000000000 0 0",
            };
            assert_eq!(line, expected);
        }
        let tar = format!("tar -C {mounted} -cf - . | tar -tf - | wc -l");
        assert_eq!(run("sh", &["-c", &tar]).trim(), list(disk, "x\n").len().to_string());
        assert_eq!(run(&format!("{mounted}/bin/sh"), &["-c", "echo from the mount"]), "from the mount\n");
    }
}

#[test]
fn pages_are_mapped_from_the_mount() {
    let (mut shelf, disk) = (Shelf::new(), specimen());
    let path = shelf.add("specimen", disk.path());
    let stage = Stage::new(&mut shelf, "");
    // grep maps nothing, python does; both shells exec, which maps too. cmp --bytes reads in the middle.
    let program = "import mmap,sys\n\
        with open(sys.argv[1],'rb') as f:\n\
        \x20   m=mmap.mmap(f.fileno(),0,access=mmap.ACCESS_READ)\n\
        \x20   sys.stdout.write(','.join(str(m[i]) for i in (0,65536,2999999,1234567)))";
    let file = stage.at(&path).join("lib/large");
    let printed = run("python3", &["-c", program, file.to_str().unwrap()]);
    let expected = noise(3_000_000);
    let expected = [0, 65536, 2_999_999, 1_234_567].map(|at: usize| expected[at].to_string());
    assert_eq!(printed, expected.join(","));
}

#[test]
fn what_was_seen_once_is_answered_by_the_kernel() {
    let (mut shelf, disk) = (Shelf::new(), specimen());
    let path = shelf.add("specimen", disk.path());
    let stage = Stage::new(&mut shelf, "");
    let (file, missing) = (stage.at(&path).join("lib/large"), stage.at(&path).join("lib/missing"));
    let look = || {
        assert_eq!(fs::read(&file).unwrap().len(), 3_000_000);
        assert_eq!(fs::metadata(&missing).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(fs::read_dir(stage.at(&path).join("lib")).unwrap().count(), 1504);
        fs::read_link(stage.at(&path).join("lib/link")).unwrap();
    };
    look();
    // Everything that could be asked of the daemon would now end in an error.
    stage.fault.set_all(Faulty::Missing);
    let before = stage.requests();
    look();
    assert_eq!(stage.requests(), before);
}

#[test]
fn listing_a_directory_fetches_no_contents() {
    let (mut shelf, disk) = (Shelf::new(), TempDir::new().unwrap());
    for number in 0..40 {
        fs::write(disk.path().join(number.to_string()), noise(100_000 + number)).unwrap();
    }
    let path = shelf.add("large", disk.path());
    let stage = Stage::new(&mut shelf, "");
    run("ls", &["-lR", stage.at(&path).to_str().unwrap()]);
    let travelled = stage.counted.counts().bytes();
    assert!(travelled < 300_000, "{travelled} bytes of 4 MB travelled");
}

#[test]
fn nothing_can_be_written() {
    let (mut shelf, disk) = (Shelf::new(), specimen());
    let path = shelf.add("specimen", disk.path());
    let stage = Stage::new(&mut shelf, "");
    let top = stage.at(&path);
    let refused = [
        File::create(top.join("new")).map(drop),
        File::options().write(true).open(top.join("lib/large")).map(drop),
        fs::remove_file(top.join("lib/large")),
        fs::create_dir(stage.point.path().join("new")),
        fs::rename(top.join("lib"), top.join("bib")),
        symlink("a", top.join("b")),
        fs::set_permissions(top.join("lib"), fs::Permissions::from_mode(0o777)),
    ];
    for (number, answer) in refused.into_iter().enumerate() {
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem, "{number}");
    }
}

#[test]
fn extended_attributes_say_where_a_file_comes_from() {
    let (mut shelf, disk) = (Shelf::new(), specimen());
    let path = shelf.add("specimen", disk.path());
    let stage = Stage::new(&mut shelf, "");
    let file = stage.at(&path).join("lib/large");
    let program = "import os,sys\n\
        for n in sorted(os.listxattr(sys.argv[1])): print(n, os.getxattr(sys.argv[1],n).decode())";
    let printed = run("python3", &["-c", program, file.to_str().unwrap()]);
    let value = |name: &str| {
        let name = format!("user.erisfs.{name} ");
        printed.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or_else(|| panic!("{printed}"))
    };
    assert!(value("urn").starts_with("urn:eris:"));
    assert!(value("narhash").starts_with("sha256:"));
    assert_eq!(value("storepath"), format!("/nix/store/{path}"));
    assert_eq!(value("trust"), "catalog");
    let absent = format!("import os; os.getxattr({:?}, 'user.erisfs.nothing')", file.to_str().unwrap());
    let output = Command::new("python3").args(["-c", &absent]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("No data available"));
}

#[test]
fn a_content_is_found_under_its_urn_but_not_listed() {
    let mut shelf = Shelf::new();
    let urn = shelf.put(&noise(100_000), BlockSize::Large).to_string();
    let stage = Stage::new(&mut shelf, "");
    assert_eq!(fs::read(stage.point.path().join(&urn)).unwrap(), noise(100_000));
    assert_eq!(fs::read_dir(stage.point.path()).unwrap().count(), 0);
}

#[test]
fn a_fault_ends_in_eio_for_that_file_alone() {
    let (mut shelf, disk) = (Shelf::new(), specimen());
    let path = shelf.add("specimen", disk.path());
    let stage = Stage::new(&mut shelf, "");
    let (large, small) = (stage.at(&path).join("lib/large"), stage.at(&path).join("lib/small-1000"));
    assert_eq!(fs::read(&small).unwrap(), noise(1000));
    for fault in [Faulty::Missing, Faulty::Unavailable] {
        stage.fault.set_all(fault);
        let mut bytes = Vec::new();
        let error = File::open(&large).unwrap().read_to_end(&mut bytes).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5), "{fault:?}");
        assert_eq!(fs::read(&small).unwrap(), noise(1000));
    }
    stage.fault.clear();
    assert_eq!(fs::read(&large).unwrap(), noise(3_000_000));
}

#[test]
fn a_read_that_cannot_be_answered_ends_at_its_deadline_and_blocks_nobody() {
    let (mut shelf, disk) = (Shelf::new(), specimen());
    let path = shelf.add("specimen", disk.path());
    let stage = Stage::new(&mut shelf, "timeout=2");
    let large = File::open(stage.at(&path).join("lib/large")).unwrap();
    let small = stage.at(&path).join("lib/small-1000");
    fs::read(&small).unwrap();
    stage.fault.set_all(Faulty::Silent);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for reader in 0..8 {
            let large = &large;
            scope.spawn(move || {
                let error = large.read_at(&mut [0; 4096], 300_000 * reader).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(5));
            });
        }
        let others = Instant::now();
        for name in ["lib", "bin/sh", "lib/nothing", "lib/small-3"] {
            let _ = fs::symlink_metadata(stage.at(&path).join(name));
        }
        fs::read(&small).unwrap();
        assert!(others.elapsed() < Duration::from_secs(1), "{:?}", others.elapsed());
    });
    let took = begun.elapsed();
    assert!(Duration::from_secs(2) <= took && took < Duration::from_secs(6), "{took:?}");
}

#[test]
fn a_mount_that_is_busy_goes_away_all_the_same() {
    let (mut shelf, disk) = (Shelf::new(), specimen());
    let path = shelf.add("specimen", disk.path());
    let mut stage = Stage::new(&mut shelf, "");
    let open = File::open(stage.at(&path).join("bin/sh")).unwrap();
    stage.mounted.take().unwrap().unmount().unwrap();
    assert!(!stage.at(&path).exists());
    drop(open);
}

#[test]
fn a_read_ahead_that_fails_does_not_cost_a_second_deadline() {
    let (mut shelf, disk) = (Shelf::new(), specimen());
    let path = shelf.add("specimen", disk.path());
    let stage = Stage::new(&mut shelf, "timeout=2");
    let large = File::open(stage.at(&path).join("lib/large")).unwrap();
    stage.fault.set_all(Faulty::Silent);
    let begun = Instant::now();
    // From the start on the kernel reads ahead, and asks again for what it was asked for itself.
    assert_eq!(large.read_at(&mut [0; 4096], 0).unwrap_err().raw_os_error(), Some(5));
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(3500), "{took:?}");
}

#[test]
fn a_mount_that_somebody_else_took_away_leaves_the_next_one_alone() {
    let (mut shelf, disk) = (Shelf::new(), specimen());
    shelf.add("specimen", disk.path());
    let mut stage = Stage::new(&mut shelf, "");
    let point = stage.point.path().to_str().unwrap().to_owned();
    run("umount", &[&point]);
    run("mount", &["-t", "tmpfs", "tmpfs", &point]);
    let mounted = stage.mounted.take().unwrap();
    let begun = Instant::now();
    while !mounted.has_ended() {
        assert!(begun.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(mounted);
    let still_there = Command::new("umount").arg(&point).status().unwrap().success();
    assert!(still_there, "the tmpfs at the same path was unmounted");
}

#[test]
fn statfs_counts_the_store_paths() {
    let (mut shelf, disk) = (Shelf::new(), specimen());
    shelf.add("specimen", disk.path());
    let stage = Stage::new(&mut shelf, "fsname=a-store");
    let point = stage.point.path().to_str().unwrap();
    assert_eq!(run("stat", &["-f", "-c", "%c %l %a", point]).trim(), "1 255 0");
    assert!(fs::read_to_string("/proc/mounts").unwrap().contains("a-store"));
    assert_eq!(Path::new(point).metadata().unwrap().ino(), 1);
}

#[test]
fn what_is_read_ahead_is_in_the_page_cache_before_it_is_asked_for() {
    let (mut shelf, disk) = (Shelf::new(), TempDir::new().unwrap());
    let expected = noise(32 << 20);
    fs::write(disk.path().join("large"), &expected).unwrap();
    let path = shelf.add("large", disk.path());
    let mut reads = [0, 0];
    for push in [false, true] {
        let stage = Stage::with(&mut shelf, "", Settings { push, ..Settings::default() });
        stage.fault.set_all(Faulty::Slow(Duration::from_millis(20)));
        assert!(fs::read(stage.at(&path).join("large")).unwrap() == expected);
        reads[usize::from(push)] = stage.reads();
    }
    assert!(reads[1] * 4 <= reads[0] * 3, "{reads:?} reads without and with");
}

#[test]
fn a_second_mount_with_a_profile_waits_much_less() {
    let (mut shelf, disk) = (Shelf::new(), specimen());
    let path = shelf.add("specimen", disk.path());
    let profiles = TempDir::new().unwrap();
    let settings = Settings { profiles: Some(profiles.path().to_owned()), ..Settings::default() };
    let mut took = Vec::new();
    for _ in 0..2 {
        let stage = Stage::with(&mut shelf, "", settings.clone());
        stage.tree.start_recording(None);
        stage.fault.set_all(Faulty::Slow(Duration::from_millis(50)));
        let begun = Instant::now();
        let large = File::open(stage.at(&path).join("lib/large")).unwrap();
        for place in [0, 20, 7, 14, 3, 17, 11, 22, 5, 9, 19, 2, 13, 16, 21] {
            large.read_at(&mut [0; 100], place << 17).unwrap();
        }
        took.push(begun.elapsed());
        stage.tree.profiles().unwrap().save(&stage.tree.stop_recording().unwrap()).unwrap();
    }
    assert!(took[1] * 2 <= took[0], "{took:?}");
}
