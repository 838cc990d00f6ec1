use std::fs;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use clap::Args;
use indicatif::{DecimalBytes, HumanCount};
use rustix::mount::UnmountFlags;
use tempfile::TempDir;

use super::view::NODE_BYTES;
use super::{Session, Signals, print};
use crate::block::{self, Counted, Counts, Race, Stack};
use crate::config::Config;
use crate::content::{Deadline, Fetch};
use crate::eris::ReadCapability;
use crate::fuse::{Mounted, Options};
use crate::publish::{self, Published};
use crate::serve::{Limits, PutPolicy, Server, Service};
use crate::tree::{Catalog, Catalogs, Settings, Tree};

/// Trees that most machines have, of a size that is published in seconds.
const TREES: [&str; 6] =
    ["/usr/lib/python3.11", "/usr/lib/python3", "/usr/share/perl", "/usr/lib/gcc", "/usr/share/doc", "/etc"];
/// What the name of the temporary directory begins with.
const PREFIX: &str = "erisfs-demo-";
/// How often removing that directory is tried, 100 ms apart.
const REMOVALS: u32 = 30;
/// Longest wait for anything on loopback.
const PATIENCE: Duration = Duration::from_secs(30);
/// The file that is read is the one whose size is nearest to this.
const SAMPLE_SIZE: u64 = 50_000;

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// End after the report instead of waiting for Ctrl-C
    #[arg(long)]
    once: bool,
    /// How the demo starts the process that cleans up after it, also when it is killed
    #[arg(long, hide = true, value_name = "DIR")]
    clean_up: Option<PathBuf>,
    /// The tree [default: a tree of this machine]
    path: Option<PathBuf>,
}

impl Demo {
    pub(super) fn run(&self, session: &Session) -> anyhow::Result<()> {
        if let Some(dir) = &self.clean_up {
            // The other end is closed when the demo ends, however it ends.
            let _ = io::stdin().read_to_end(&mut Vec::new());
            return clean_up(dir);
        }
        let tree = match &self.path {
            Some(path) => path.canonicalize().with_context(|| path.display().to_string())?,
            None => TREES.iter().map(PathBuf::from).find(|tree| tree.is_dir()).ok_or_else(|| {
                anyhow!("none of {} is on this machine: name a directory", TREES.join(", "))
            })?,
        };
        ensure!(tree.is_dir(), "{} is not a directory", tree.display());
        let dir = TempDir::with_prefix(PREFIX).context("cannot make a temporary directory")?;
        let dir = dir.keep();
        let janitor = Janitor::start(&dir)?;
        let answer = session.runtime.block_on(async {
            let mut signals = Signals::catch()?;
            tokio::select! {
                answer = self.show(&tree, &dir) => answer,
                () = signals.any() => Ok(()),
            }
        });
        janitor.finish()?;
        answer
    }

    async fn show(&self, tree: &Path, dir: &Path) -> anyhow::Result<()> {
        let on_disk = Survey::of(tree.to_owned()).await?;
        print(format_args!("tree       {}: {}", tree.display(), on_disk))?;

        let begun = Instant::now();
        let blocks = format!("dir:{}", dir.join("blocks").display());
        let store = block::open(&blocks)?;
        let published = publish::publish(store.clone(), vec![tree.into()], Default::default(), Arc::new(()));
        let published = published.await?;
        print(format_args!(
            "published  in {:.1} s as {} blocks in {}, all reached from one URN:\n           {}",
            begun.elapsed().as_secs_f64(),
            HumanCount(published.blocks),
            blocks,
            published.catalog,
        ))?;

        let limits = Limits::default();
        let service = Service { store, tree: None, put: PutPolicy::Refuse, limits };
        let server = Server::bind("127.0.0.1:0", service).await.context("cannot listen on loopback")?;
        let url = format!("http://{}/", server.local_addr());
        print(format_args!("served     at {url}, block by block"))?;
        tokio::spawn(server.run(std::future::pending()));

        let begun = Instant::now();
        let counted = Arc::new(Counted::new(block::open(&url)?));
        let counts = counted.counts();
        let mounted = mount(counted, published.catalog, &dir.join(STORE)).await?;
        let top = mounted.mountpoint().join(store_path(&published)?);
        print(format_args!("mounted    in {:.0} ms at {}", millis(begun), mounted.mountpoint().display()))?;

        let begun = Instant::now();
        let in_mount = Survey::of(top.clone()).await?;
        print(format_args!(
            "listed     {in_mount} in {:.0} ms; {} so far",
            millis(begun),
            travelled(&counts)
        ))?;
        ensure!(in_mount.entries == on_disk.entries, "the mount lists something else than the disk holds");

        let Some(sample) = on_disk.sample else { return Err(anyhow!("{} holds no file", tree.display())) };
        let begun = Instant::now();
        let (from_mount, from_disk) = (top.join(&sample), tree.join(&sample));
        let (read, expected) =
            tokio::task::spawn_blocking(move || (fs::read(from_mount), fs::read(from_disk))).await?;
        let (read, expected) = (read?, expected?);
        ensure!(read == expected, "{} is not what is on the disk", sample.display());
        print(format_args!(
            "read       {} ({}, equal to the original) in {:.0} ms; {} so far",
            sample.display(),
            DecimalBytes(read.len() as u64),
            millis(begun),
            travelled(&counts),
        ))?;
        let packed: u64 = published.paths.iter().map(|path| path.packed_size).sum();
        print(format_args!(
            "in all     {} of {} travelled ({:.1} % of the whole, which is {} unpacked)",
            DecimalBytes(counts.bytes()),
            DecimalBytes(packed),
            counts.bytes() as f64 * 100.0 / packed as f64,
            DecimalBytes(published.paths.iter().map(|path| path.narinfo.nar_size()).sum()),
        ))?;
        if !self.once {
            print(format_args!("\nLook around:  ls {}\nCtrl-C ends it and cleans up.", top.display()))?;
            while !mounted.has_ended() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        tokio::task::spawn_blocking(|| mounted.unmount()).await??;
        Ok(())
    }
}

/// Where in the temporary directory the mount is.
const STORE: &str = "store";

async fn mount(counted: Arc<Counted>, catalog: ReadCapability, at: &Path) -> anyhow::Result<Mounted> {
    fs::create_dir(at)?;
    let stack = Stack::over(Race::new(vec![counted]), Config::default().cache.memory.bytes(), None);
    let fetch = Fetch::new(stack.store(), NODE_BYTES);
    let catalog = Catalog::open(fetch.clone(), catalog, Deadline::after(PATIENCE)).await?;
    let tree = Arc::new(Tree::new(fetch, Catalogs::new(vec![catalog]), Settings::default()));
    let (at, runtime) = (at.to_owned(), tokio::runtime::Handle::current());
    let mounted =
        tokio::task::spawn_blocking(move || Mounted::new(tree, &at, &Options::default(), runtime)).await??;
    Ok(mounted)
}

fn store_path(published: &Published) -> anyhow::Result<String> {
    let path = published.paths.first().ok_or_else(|| anyhow!("nothing was published"))?;
    Ok(path.narinfo.store_path().to_string())
}

fn millis(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1000.0
}

fn travelled(counts: &Counts) -> String {
    format!("{} in {} blocks travelled", DecimalBytes(counts.bytes()), HumanCount(counts.blocks()))
}

/// What `ls -lR` sees of a tree.
struct Survey {
    entries: u64,
    bytes: u64,
    /// The file to read, below the top.
    sample: Option<PathBuf>,
}

impl Survey {
    async fn of(top: PathBuf) -> anyhow::Result<Self> {
        let name = top.display().to_string();
        tokio::task::spawn_blocking(move || Self::walk(&top)).await?.context(name)
    }

    fn walk(top: &Path) -> io::Result<Self> {
        let mut survey = Survey { entries: 0, bytes: 0, sample: None };
        let mut nearest = u64::MAX;
        let mut folders = vec![top.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                let metadata = path.symlink_metadata()?;
                survey.entries += 1;
                if metadata.is_dir() {
                    folders.push(path);
                } else if metadata.is_symlink() {
                    fs::read_link(&path)?;
                } else {
                    survey.bytes += metadata.len();
                    if metadata.len().abs_diff(SAMPLE_SIZE) < nearest {
                        nearest = metadata.len().abs_diff(SAMPLE_SIZE);
                        survey.sample = path.strip_prefix(top).ok().map(Path::to_owned);
                    }
                }
            }
        }
        Ok(survey)
    }
}

impl std::fmt::Display for Survey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} files and directories, {}", HumanCount(self.entries), DecimalBytes(self.bytes))
    }
}

/// A process of its own that takes mount and directory away once this one is gone.
struct Janitor {
    process: Child,
    line: Option<ChildStdin>,
}

impl Janitor {
    fn start(dir: &Path) -> anyhow::Result<Self> {
        let mut process = Command::new(std::env::current_exe().context("cannot find this program")?)
            .args(["demo", "--clean-up"])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // Ctrl-C is for the demo; this one has to outlive it.
            .process_group(0)
            .spawn()
            .context("cannot start the process that cleans up")?;
        let line = process.stdin.take();
        Ok(Janitor { process, line })
    }

    fn finish(mut self) -> anyhow::Result<()> {
        drop(self.line.take());
        let status = self.process.wait()?;
        ensure!(status.success(), "the temporary directory could not be removed");
        Ok(())
    }
}

/// Takes mount and directory away. Threads that were writing blocks may need a moment to end.
fn clean_up(dir: &Path) -> anyhow::Result<()> {
    let is_ours = dir.parent() == Some(&tempfile::env::temp_dir())
        && dir.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()));
    ensure!(is_ours, "{} is not the directory of a demo", dir.display());
    let mountpoint = dir.join(STORE);
    if rustix::mount::unmount(&mountpoint, UnmountFlags::DETACH) == Err(rustix::io::Errno::PERM) {
        // A user's mount, or none; if one is left, removing says so.
        let _ = Command::new("fusermount3").args(["-u", "-z", "-q", "--"]).arg(&mountpoint).status();
    }
    for _ in 0..REMOVALS {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            _ => std::thread::sleep(Duration::from_millis(100)),
        }
    }
    fs::remove_dir_all(dir).with_context(|| dir.display().to_string())
}
