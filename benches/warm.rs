//! Reading what was read before: from the kernel's page cache, and from the disk cache after a remount; against the same tree on the disk's own
//! file system, squashfs in the kernel, and squashfuse.
//!
//! `cargo bench --bench warm`, as root. The mount is on loopback and has read everything once. "Page cache" reads again; "after remount"
//! comes after an unmount and a mount with the same cache directory: what the kernel kept of the mount is gone, what it kept of the files that the
//! cache (or an image) consists of is not, and the origin should have nothing to do. What this machine lacks is skipped, and said.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use support::mount::Mount;
use support::origin::Seen;
use support::published::Published;
use support::table::{Sample, Table};
use support::{has, number, run, samples, trees};
use tempfile::TempDir;

/// Something that shows a tree at a path, and can be made to forget what it read.
trait Rival {
    fn name(&self) -> &str;
    fn top(&self) -> PathBuf;
    /// Unmounts and mounts again, so that nothing of it is in the page cache.
    fn remount(&mut self);
}

struct Ours<'a> {
    published: &'a Published,
    home: TempDir,
    mount: Option<Mount>,
}

impl Rival for Ours<'_> {
    fn name(&self) -> &str {
        "erisfs"
    }

    fn top(&self) -> PathBuf {
        self.mount.as_ref().expect("it is mounted").top.clone()
    }

    fn remount(&mut self) {
        drop(self.mount.take());
        self.mount = Some(Mount::new(self.published, self.home.path()));
    }
}

/// The tree that was published. It has no cache but that of pages, which the machine shares, so nothing is taken from it.
struct OnDisk(PathBuf);

impl Rival for OnDisk {
    fn name(&self) -> &str {
        "the disk's file system"
    }

    fn top(&self) -> PathBuf {
        self.0.clone()
    }

    fn remount(&mut self) {}
}

/// An image that `mount` or `squashfuse` shows.
struct Image {
    program: &'static str,
    image: PathBuf,
    point: TempDir,
    is_mounted: bool,
}

impl Image {
    fn unmount(&mut self) {
        if std::mem::take(&mut self.is_mounted) {
            run(Command::new("umount").arg(self.point.path()));
        }
    }
}

impl Rival for Image {
    fn name(&self) -> &str {
        if self.program == "mount" { "squashfs in the kernel" } else { "squashfuse" }
    }

    fn top(&self) -> PathBuf {
        self.point.path().to_owned()
    }

    fn remount(&mut self) {
        self.unmount();
        let options: &[&str] =
            if self.program == "mount" { &["-t", "squashfs", "-o", "loop,ro"] } else { &[] };
        run(Command::new(self.program).args(options).arg(&self.image).arg(self.point.path()));
        self.is_mounted = true;
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// What is done with a tree at this place.
type Act = (&'static str, fn(&Path));

fn main() {
    let tree = scratch();
    trees::large_file(tree.path(), number("BENCH_LARGE_MB", 256) * 1_000_000);
    trees::small_files(tree.path(), number("BENCH_FILES", 20_000));
    let published = Published::new(tree.path());
    let images = scratch();
    let mut rivals: Vec<Box<dyn Rival + '_>> =
        vec![Box::new(Ours { published: &published, home: scratch(), mount: None })];
    for (program, packer) in [("mount", "mksquashfs"), ("squashfuse", "mksquashfs")] {
        let image = images.path().join("image");
        match [program, packer].into_iter().find(|needed| !has(needed)) {
            Some(missing) => println!("SKIPPED {program} of squashfs: this machine has no {missing}"),
            None => {
                if !image.exists() {
                    let compression = ["-comp", "zstd", "-quiet", "-no-progress"];
                    run(Command::new(packer).arg(tree.path()).arg(&image).args(compression));
                }
                rivals.push(Box::new(Image { program, image, point: scratch(), is_mounted: false }));
            }
        }
    }
    rivals.push(Box::new(OnDisk(tree.path().to_owned())));

    let acts: [Act; 3] = [("large file", read_large), ("every small file", read_small), ("find", find)];
    let mut table = Table::default();
    for rival in &mut rivals {
        rival.remount();
        acts.iter().for_each(|(_, act)| act(&rival.top()));
    }
    for _ in 0..samples() {
        for (what, act) in acts {
            for rival in &mut rivals {
                let sample = timed(&published, || act(&rival.top()));
                table.add(&format!("{what}, page cache"), rival.name(), sample);
            }
        }
    }
    for _ in 0..samples() {
        for (what, act) in acts {
            for rival in &mut rivals {
                rival.remount();
                let sample = timed(&published, || act(&rival.top()));
                table.add(&format!("{what}, after remount"), rival.name(), sample);
            }
        }
    }
    table.print();
}

fn timed(published: &Published, act: impl FnOnce()) -> Sample {
    published.origin.seen();
    let begun = Instant::now();
    act();
    let took = begun.elapsed();
    let Seen { requests, bytes, .. } = published.origin.seen();
    Sample { took, seen: Seen { requests, bytes, ..Seen::default() } }
}

fn read_large(top: &Path) {
    let file = File::open(top.join("large")).expect("it was published");
    let (mut buffer, mut at) = (vec![0; 128 << 10], 0);
    loop {
        match file.read_at(&mut buffer, at).expect("readable") {
            0 => return,
            length => at += length as u64,
        }
    }
}

fn read_small(top: &Path) {
    for folder in fs::read_dir(top).expect("a directory").flatten().filter(|entry| entry.path().is_dir()) {
        for file in fs::read_dir(folder.path()).expect("a directory") {
            fs::read(file.expect("a directory that can be read").path()).expect("readable");
        }
    }
}

/// With the size of everything.
fn find(top: &Path) {
    run(Command::new("find").arg(top).args(["-size", "+1000G"]));
}

fn scratch() -> TempDir {
    TempDir::with_prefix("erisfs-bench-").expect("a temporary directory")
}
