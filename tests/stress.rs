//! Many readers of one mount, while its sources come and go, its caches are far too small, and its process is killed.
//!
//! It goes on for STRESS_SECONDS (10). Whatever happens, a reader gets the right bytes or an error within the deadline, no
//! reader stands still, and when all is quiet nothing is left under way.

#[path = "support/origin/mod.rs"]
mod origin;
#[path = "cli/process.rs"]
#[allow(dead_code)]
mod process;
#[path = "cli/scratch.rs"]
#[allow(dead_code)]
mod scratch;
#[path = "support/shelf.rs"]
mod shelf;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::Advice;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;
use serde_json::Value;

use origin::{Fault, Link, Origin};
use process::{Running, until};
use scratch::{Scratch, mounts_in, text};
use shelf::Shelf;

const READERS: usize = 8;
const FILES: usize = 200;
/// Three times what the disk cache holds, and 24 times what memory holds.
const LARGEST: usize = 240_000;
/// What the mount promises of a read.
const DEADLINE: Duration = Duration::from_secs(5);
/// The kernel may cut a read into several, each with its deadline, and the machine may be busy.
const SLACK: Duration = Duration::from_secs(15);

/// The seed of everything that is left to chance, so that a failure can be repeated more or less.
const SEED: u64 = 3;

/// xorshift64*: good enough to choose files.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }
}

fn size(number: usize) -> usize {
    number * 7919 % LARGEST
}

/// What stands at this offset of a file: a function of both, so that bytes of elsewhere are found out.
fn byte(number: usize, offset: usize) -> u8 {
    let mixed = ((number as u64) << 32 | offset as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ mixed >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9).to_be_bytes()[0]
}

fn name(number: usize) -> String {
    format!("{}/{number}", number % 7)
}

/// What the readers share with those who make trouble.
struct Stage {
    top: PathBuf,
    over: AtomicBool,
    /// Odd while there is no mount.
    mounts: AtomicU64,
    /// When each reader last got an answer.
    progress: Vec<Mutex<Instant>>,
    read: Vec<AtomicU64>,
    failures: Mutex<Vec<String>>,
}

impl Stage {
    fn fail(&self, what: String) {
        self.failures.lock().unwrap().push(what);
        self.over.store(true, SeqCst);
    }

    /// Reads a part of a file, past the kernel's cache, and looks at every byte and at the clock.
    fn read(&self, number: usize, offset: usize, length: usize) -> io::Result<usize> {
        let path = self.top.join(name(number));
        let file = self.timed(&path, || File::open(&path))?;
        let mut bytes = vec![0; length.min(size(number) - offset)];
        let mut read = 0;
        // Where a later page fails, the kernel gives those before it.
        while read < bytes.len() {
            let rest = &mut bytes[read..];
            match self.timed(&path, || file.read_at(rest, (offset + read) as u64))? {
                0 => {
                    self.fail(format!("{}: it ends at {}", path.display(), offset + read));
                    break;
                }
                some => read += some,
            }
        }
        if let Some(wrong) = (0..read).find(|&at| bytes[at] != byte(number, offset + at)) {
            self.fail(format!("{}: a wrong byte at {}", path.display(), offset + wrong));
        }
        // So that the next reader asks the mount again.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        Ok(read)
    }

    fn timed<T>(&self, path: &Path, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let begun = Instant::now();
        let answer = call();
        if begun.elapsed() > DEADLINE + SLACK {
            let outcome = answer.as_ref().map(drop);
            self.fail(format!("{}: {:?} for a call, {outcome:?}", path.display(), begun.elapsed()));
        }
        answer
    }

    fn reader(&self, place: usize) {
        let mut dice = Dice(SEED + place as u64 * 1_000_003);
        while !self.over.load(SeqCst) {
            let number = dice.below(FILES);
            let (offset, length) = match dice.below(3) {
                0 => (0, size(number)),
                _ => (dice.below(size(number) + 1), 1 + dice.below(64 << 10)),
            };
            let mounts = self.mounts.load(SeqCst);
            match self.read(number, offset, length) {
                Ok(read) => drop(self.read[place].fetch_add(read as u64, SeqCst)),
                Err(error) if error.raw_os_error() == Some(5) => {}
                // Not connected, aborted, no such file: as long as there is no mount, or because one went.
                Err(_) if mounts % 2 == 1 || mounts != self.mounts.load(SeqCst) => {
                    thread::sleep(Duration::from_millis(5));
                }
                Err(error) => self.fail(format!("{}: {error}", name(number))),
            }
            *self.progress[place].lock().unwrap() = Instant::now();
        }
    }

    fn watch(&self) {
        while !self.over.load(SeqCst) {
            for (place, progress) in self.progress.iter().enumerate() {
                let idle = progress.lock().unwrap().elapsed();
                if idle > 2 * (DEADLINE + SLACK) {
                    self.fail(format!("reader {place} stands still for {idle:?}"));
                }
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Lets the sources fail in every way, one after the other and together.
    fn trouble(&self, origins: &[Origin]) {
        let some = Duration::from_millis(200);
        let faults = [
            Fault::Flapping { up: 3 * some, down: some },
            Fault::Refused,
            Fault::Status(500),
            Fault::SlowFirstByte(some),
            Fault::OtherBlock,
            Fault::Truncated,
            Fault::Reset,
            Fault::Stalled,
            Fault::Silent,
        ];
        let mut dice = Dice(SEED + 77);
        while !self.over.load(SeqCst) {
            let origin = &origins[dice.below(origins.len())];
            match dice.below(2 * faults.len()) {
                fault if fault < faults.len() => origin.break_with(faults[fault]),
                _ => origin.heal(),
            }
            thread::sleep(Duration::from_millis(100 + dice.below(400) as u64));
        }
    }
}

fn mount(scratch: &Scratch) -> Running {
    let point = scratch.at("mnt");
    let options = format!("timeout={}", DEADLINE.as_secs());
    let mut mount = Running::start(&mut scratch.erisfs(["mount", "-f", "-o", &options, text(&point)]));
    mount.line("mounted at ");
    mount
}

/// Takes the mount of a process away that was killed.
fn bury(point: &Path) {
    if mounts_in(point).is_empty() {
        return;
    }
    if unmount(point, UnmountFlags::DETACH).is_err() {
        let _ = Command::new("fusermount3").args(["-u", "-z", "--"]).arg(point).status();
    }
}

fn status(scratch: &Scratch) -> Value {
    let told = scratch.run(["status", "--json", text(&scratch.at("mnt"))]).text();
    serde_json::from_str(&told).unwrap_or_else(|error| panic!("{told}: {error}"))
}

/// Whatever should be zero when nobody reads, and is not.
fn under_way(status: &Value) -> Vec<String> {
    let mut left = Vec::new();
    let mut check = |what: String, gauge: &Value| match gauge.as_u64() {
        Some(0) => {}
        _ => left.push(format!("{what}: {gauge}")),
    };
    check("blocks".into(), &status["blocks"]["memory"]["in_flight"]);
    for source in status["blocks"]["sources"].as_array().unwrap() {
        check(source["name"].to_string(), &source["in_flight"]);
    }
    for requests in status["requests"].as_array().unwrap() {
        check(requests["kind"].to_string(), &requests["in_flight"]);
    }
    left
}

#[test]
fn whatever_happens_readers_get_the_right_bytes_or_an_error_in_time() {
    let seconds = std::env::var("STRESS_SECONDS").map_or(10, |seconds| seconds.parse().unwrap());
    let scratch = Scratch::new();
    let tree = scratch.folder("tree");
    for number in 0..FILES {
        let path = tree.join(name(number));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, (0..size(number)).map(|offset| byte(number, offset)).collect::<Vec<u8>>()).unwrap();
    }
    let mut shelf = Shelf::new();
    let store_path = shelf.add("stress", &tree);
    let catalog = shelf.catalog();
    let origins: Vec<Origin> =
        [0, 5, 20].map(|millis| Origin::start(shelf.blocks.clone(), Link::new(millis, None))).into();
    let config = format!(
        "stores = [{}]\ncatalogs = [\"{}\"]\n[cache]\nsize = \"8M\"\nfree-floor = \"0\"\nmemory = \"1M\"\nframes = \"1M\"\n",
        origins.iter().map(|origin| format!("{:?}", origin.url())).collect::<Vec<_>>().join(", "),
        catalog,
    );
    fs::write(scratch.folder("config/erisfs").join("config.toml"), config).unwrap();

    let point = scratch.folder("mnt");
    let mut daemon = mount(&scratch);
    let stage = Stage {
        top: point.join(store_path.to_string()),
        over: AtomicBool::new(false),
        mounts: AtomicU64::new(0),
        progress: (0..READERS).map(|_| Mutex::new(Instant::now())).collect(),
        read: (0..READERS).map(|_| AtomicU64::new(0)).collect(),
        failures: Mutex::default(),
    };
    let end = Instant::now() + Duration::from_secs(seconds);
    let daemon = thread::scope(|scope| {
        for place in 0..READERS {
            let stage = &stage;
            scope.spawn(move || stage.reader(place));
        }
        scope.spawn(|| stage.watch());
        scope.spawn(|| stage.trouble(&origins));
        let pause = Duration::from_secs(seconds).div_f64(5.0).min(Duration::from_secs(20));
        let mut kill = true;
        while Instant::now() + pause < end && !stage.over.load(SeqCst) {
            thread::sleep(pause);
            stage.mounts.fetch_add(1, SeqCst);
            daemon.signal(if kill { Signal::KILL } else { Signal::TERM });
            daemon.finish();
            bury(&point);
            // Without a source there is no catalog to begin with.
            origins.iter().for_each(Origin::heal);
            daemon = mount(&scratch);
            stage.mounts.fetch_add(1, SeqCst);
            kill = !kill;
        }
        thread::sleep(end.saturating_duration_since(Instant::now()));
        stage.over.store(true, SeqCst);
        daemon
    });
    assert_eq!(*stage.failures.lock().unwrap(), [""; 0], "{}", daemon.log());
    let read: Vec<u64> = stage.read.iter().map(|read| read.load(SeqCst)).collect();
    assert!(read.iter().all(|&read| read > 0), "a reader got nothing: {read:?}");

    // When the sources are back, everything can be had, and then nothing is left under way.
    origins.iter().for_each(Origin::heal);
    until("sources are asked again", || (0..FILES).all(|number| stage.read(number, 0, size(number)).is_ok()));
    let mut left = Vec::new();
    until("nothing is under way", || {
        left = under_way(&status(&scratch));
        left.is_empty()
    });
    let disk = &status(&scratch)["blocks"]["disk"];
    assert!(disk["bytes"].as_u64() <= disk["size"].as_u64(), "{disk}");
    assert!(disk["evicted"].as_u64() > Some(0), "the cache was to be too small: {disk}");
    assert_eq!(*stage.failures.lock().unwrap(), [""; 0]);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.finish().code, Some(0));
}
