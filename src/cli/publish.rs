use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::Args;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde_json::json;

use super::substituters::web;
use super::{Blocks, Session, Signals, Usage, print};
use crate::block::BlockStore;
use crate::publish::{self, Error, Event, Observer, Published, Settings, SigningKeys};
use crate::store::{HashPart, StoreDir};
use crate::substituter;
use crate::tree::read_profile;

/// Where the program remembers what it published, below the user's cache directory.
const STATE: &str = "erisfs/published.sqlite";
/// How often the progress bar is drawn anew when nothing happens.
const TICK: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(super) struct Publish {
    #[command(flatten)]
    blocks: Blocks,
    /// Write narinfos, listings and nix-cache-info to this directory
    #[arg(long, value_name = "DIR")]
    narinfo: Option<PathBuf>,
    /// Write also the archives there, so that any web server of DIR serves stock Nix and Guix; the block store files:DIR
    /// then needs no copy of them
    #[arg(long, requires = "narinfo")]
    nars: bool,
    /// Sign the narinfos with this secret key of Nix (`nix key generate-secret`) or Guix (/etc/guix/signing-key.sec)
    #[arg(long = "sign-key", value_name = "FILE")]
    sign_keys: Vec<PathBuf>,
    /// Publish also everything that the store paths refer to
    #[arg(long)]
    closure: bool,
    /// Mirror store paths of this substitute server, which need not be on this machine: http(s)://HOST/, file:DIR. Their
    /// narinfos keep their text and signatures; with --sign-key, a key binds the URN to the path and vouches for nothing else
    #[arg(long, value_name = "URL", conflicts_with_all = ["nars", "name", "profile"])]
    from: Option<String>,
    /// With --from file:DIR: every store path that it has
    #[arg(long, requires = "from", conflicts_with = "paths")]
    all: bool,
    /// Write the narinfos also to this SQLite file, for `--overlay sqlite:FILE`
    #[arg(long, value_name = "FILE")]
    overlay: Option<PathBuf>,
    /// The store that other directories and files are named for [default: that of the store paths given,
    /// else the one of this machine]
    #[arg(long, value_name = "DIR")]
    store_dir: Option<StoreDir>,
    /// The name of the only PATH in its store path [default: its own]
    #[arg(long)]
    name: Option<String>,
    /// Put this startup profile (from `erisfs profile`) into the archive of the store path that it is for
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Store paths, or any other directories and files; with --from store paths or their hash parts
    #[arg(required_unless_present = "all", value_name = "PATH")]
    paths: Vec<PathBuf>,
}

impl Publish {
    pub(super) fn run(&self, session: &Session) -> anyhow::Result<()> {
        self.check_places(session)?;
        let store = self.blocks.open_to_put(session)?;
        let settings = Settings {
            narinfo: self.narinfo.clone(),
            overlay: self.overlay.as_deref().map(overlay_file),
            nars: self.nars,
            keys: SigningKeys::read(&self.sign_keys)?,
            closure: self.closure,
            store_dir: self.store_dir.clone(),
            name: self.name.clone(),
            profile: self.profile.as_deref().map(read_profile).transpose()?,
            state: session.environment.cache_home.as_ref().map(|home| home.join(STATE)),
        };
        let progress = Arc::new(Progress::start());
        let started = Instant::now();
        let work = async {
            match &self.from {
                Some(url) => self.mirror(session, url, store, settings, progress.clone()).await,
                None => Ok(publish::publish(store, self.paths.clone(), settings, progress.clone()).await?),
            }
        };
        let published = session.runtime.block_on(async {
            let mut signals = Signals::catch()?;
            tokio::select! {
                published = work => published,
                () = signals.any() => {
                    Err(anyhow!("stopped; paths that were done stay published, and the same command does the others"))
                }
            }
        });
        progress.bar.finish_and_clear();
        let published = published.map_err(|error| match error.downcast_ref() {
            Some(Error::NameUnused) => Usage(format!("--name: {error}")).into(),
            _ => error,
        })?;
        if self.json {
            print(as_json(&published))?;
        } else {
            for path in &published.paths {
                print(published.store_dir.join(path.narinfo.store_path()))?;
            }
            print(published.catalog)?;
        }
        eprintln!("{}", summary(&published, progress.read.load(Relaxed), started.elapsed()));
        match published.left_out {
            0 => Ok(()),
            left_out => Err(anyhow!(
                "{left_out} store paths could not be mirrored; run again for what may come later"
            )),
        }
    }

    async fn mirror(
        &self,
        session: &Session,
        url: &str,
        store: Arc<dyn BlockStore>,
        settings: Settings,
        progress: Arc<Progress>,
    ) -> anyhow::Result<Published> {
        let web = web(session, None)?;
        let from = substituter::open(url, &web).map_err(|error| match error {
            substituter::Error::BadUrl { .. } => Usage(error.to_string()).into(),
            error => anyhow::Error::from(error),
        })?;
        let paths = match self.all {
            true => publish::hash_parts_in(enumerable(url)?)?,
            false => self.paths.iter().map(|path| hash_part(path)).collect::<anyhow::Result<_>>()?,
        };
        Ok(publish::mirror(store, from, paths, settings, progress).await?)
    }

    /// What is written inside a tree that is published would go into it, and a block store would never be done.
    fn check_places(&self, session: &Session) -> anyhow::Result<()> {
        let stores = self.blocks.urls(session)?.into_iter().filter_map(|url| {
            let path = url.strip_prefix("dir:").or_else(|| url.strip_prefix("sqlite:"))?;
            Some((PathBuf::from(path), format!("the block store {url}")))
        });
        let narinfo = self.narinfo.iter().map(|path| (path.clone(), format!("--narinfo {}", path.display())));
        let overlay =
            self.overlay.iter().map(|path| (overlay_file(path), format!("--overlay {}", path.display())));
        // Of another cache nothing is read here.
        let trees = if self.from.is_none() { &self.paths[..] } else { &[] };
        for (place, what) in stores.chain(narinfo).chain(overlay) {
            let Some(place) = real(&place) else { continue };
            for tree in trees {
                if tree.canonicalize().is_ok_and(|tree| place.starts_with(tree)) {
                    let tree = tree.display();
                    return Err(Usage(format!("{tree}: {what} lies in it: put it elsewhere")).into());
                }
            }
        }
        Ok(())
    }
}

/// The path without links, also of what is not made yet.
fn real(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    path.ancestors().find_map(|there| Some(there.canonicalize().ok()?.join(path.strip_prefix(there).ok()?)))
}

/// The directory of a cache that says what it has.
fn enumerable(url: &str) -> anyhow::Result<&Path> {
    let path = url.strip_prefix("file:").map(|path| path.strip_prefix("//").unwrap_or(path));
    let path = path.ok_or_else(|| {
        Usage(format!("--all: {url} does not say which store paths it has; name them, or mirror a file:DIR"))
    })?;
    Ok(Path::new(path))
}

/// The hash part of what is given as a store path, its name, or a hash part.
fn hash_part(path: &Path) -> anyhow::Result<HashPart> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let parsed = name.split_once('-').map_or(&*name, |(hash_part, _)| hash_part).parse();
    parsed.map_err(|error| Usage(format!("{}: no store path: {error}", path.display())).into())
}

/// The file that is named, also where it is named as the URL under which it is read.
fn overlay_file(named: &Path) -> PathBuf {
    named.to_str().and_then(|name| name.strip_prefix("sqlite:")).map_or(named, Path::new).to_owned()
}

fn as_json(published: &Published) -> serde_json::Value {
    let paths = published.paths.iter().map(|path| {
        json!({
            "storePath": published.store_dir.join(path.narinfo.store_path()),
            "urn": path.capability.to_string(),
            "narHash": path.narinfo.nar_hash().to_string(),
            "narSize": path.narinfo.nar_size(),
            "packedSize": path.packed_size,
            "reused": path.reused,
        })
    });
    json!({
        "catalog": published.catalog.to_string(),
        "storeDir": published.store_dir.as_str(),
        "paths": paths.collect::<Vec<_>>(),
    })
}

fn summary(published: &Published, read: u64, took: Duration) -> String {
    let paths = &published.paths;
    let reused = paths.iter().filter(|path| path.reused).count();
    let nar: u64 = paths.iter().map(|path| path.narinfo.nar_size()).sum();
    let packed: u64 = paths.iter().map(|path| path.packed_size).sum();
    let seconds = took.as_secs_f64();
    let rate = match read {
        0 => String::new(),
        _ => format!(", {}/s read", HumanBytes((read as f64 / seconds.max(0.001)) as u64)),
    };
    format!(
        "store paths: {} ({reused} published before), NAR {}, packed {}; {} blocks put in {seconds:.1} s{rate}",
        paths.len(),
        HumanBytes(nar),
        HumanBytes(packed),
        published.blocks,
    )
}

/// The bar on stderr; nothing is shown where that is no terminal.
struct Progress {
    bar: ProgressBar,
    paths: AtomicU64,
    done: AtomicU64,
    read: AtomicU64,
}

impl Progress {
    fn start() -> Self {
        let style = ProgressStyle::with_template(
            "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} ETA {eta} {msg:.dim}",
        );
        let bar = ProgressBar::new(0).with_style(style.expect("the template is right"));
        bar.enable_steady_tick(TICK);
        Progress { bar, paths: AtomicU64::new(0), done: AtomicU64::new(0), read: AtomicU64::new(0) }
    }

    fn show_paths(&self) {
        self.bar.set_prefix(format!("{}/{}", self.done.load(Relaxed), self.paths.load(Relaxed)));
    }
}

impl Observer for Progress {
    fn observe(&self, event: Event<'_>) {
        match event {
            Event::Planned { paths, nar_bytes } => {
                self.paths.store(paths, Relaxed);
                self.bar.inc_length(nar_bytes);
                self.show_paths();
            }
            Event::Hashing { location } => self.bar.set_message(format!("hashing {}", base_name(location))),
            Event::Packing { path, nar_bytes } => {
                self.bar.inc_length(nar_bytes.unwrap_or(0));
                self.bar.set_message(path.name().to_owned());
            }
            Event::Read { bytes } => {
                self.read.fetch_add(bytes, Relaxed);
                self.bar.inc(bytes);
            }
            Event::Done { reused, .. } => {
                self.done.fetch_add(1, Relaxed);
                // What was not read must not count for the rate.
                self.bar.dec_length(reused.unwrap_or(0));
                self.show_paths();
            }
            Event::LeftOut { hash_part, error } => {
                let told = left_out(hash_part, error);
                self.bar.suspend(|| eprintln!("{told}"));
            }
        }
    }
}

fn left_out(hash_part: HashPart, error: &Error) -> String {
    let text = error.to_string();
    let hash_part = hash_part.to_string();
    if text.contains(&hash_part) {
        format!("left out: {text}")
    } else {
        format!("left out: {hash_part}: {text}")
    }
}

fn base_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
