//! What `ls`, `cat`, `stat`, `mount` and `serve` share: block stores and catalogs become a [`Tree`].

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;

use super::disk::DiskFlags;
use super::stores::{Stores, substitutes_over};
use super::substituters::SubstituterFlags;
use super::{Blocks, Session, Usage, patience};
use crate::block::Stack;
use crate::content::{Deadline, Fetch};
use crate::download::Scratch;
use crate::eris::ReadCapability;
use crate::store::{HashPart, StoreDir, StorePath};
use crate::substituter::Unsigned;
use crate::tree::{Attr, Catalog, Catalogs, Inode, Kind, Settings, Sources, Tree};

/// What is said where nothing says what store paths there are.
pub(super) const NO_SOURCE: &str = "no catalog and no substitute server: give --catalog URN or --substituter URL, or name \
                                    `catalogs` or `substituters` in the config";

/// Memory for decoded interior nodes: those of 16 GiB of content.
pub(super) const NODE_BYTES: usize = 32 << 20;

/// The most bytes that are fetched around a program: the closure of a large one.
const MAX_SWEEP: u64 = 256 << 20;

/// Where blocks are, and which catalogs say what they mean.
#[derive(Debug, Args)]
pub(super) struct View {
    #[command(flatten)]
    pub(super) blocks: Blocks,
    /// A catalog that `publish` printed (repeatable, the first that lists a path wins) [default: those of the config]
    #[arg(long = "catalog", value_name = "URN")]
    catalogs: Vec<String>,
    #[command(flatten)]
    substituters: SubstituterFlags,
    #[command(flatten)]
    disk: DiskFlags,
}

/// A view that is open, and the stores below it.
pub(super) struct Opened {
    pub(super) tree: Arc<Tree>,
    pub(super) stack: Arc<Stack>,
    /// A cache that ends with this process: to be kept as long as the view.
    pub(super) scratch: Option<Scratch>,
}

/// A view that is looked into once, without a mount.
#[derive(Debug, Args)]
pub(super) struct Look {
    #[command(flatten)]
    view: View,
    /// Give up on what has not come after this time: 30, 500ms, 2m [default: that of the config, else 30s]
    #[arg(long, value_name = "TIME", value_parser = patience)]
    timeout: Option<Duration>,
}

impl View {
    /// Whether substitutes of neighbours are taken.
    pub(super) fn asks_neighbours(&self, session: &Session) -> bool {
        self.substituters.name_neighbours(session)
    }

    /// Opens all catalogs, each within `timeout`. `unsigned` says what becomes of narinfos of servers that no trusted key signed.
    pub(super) async fn open(
        &self,
        session: &Session,
        settings: Settings,
        unsigned: Unsigned,
        timeout: Duration,
    ) -> anyhow::Result<Opened> {
        let capabilities = self.catalogs(session).iter().map(|urn| {
            let parsed = urn.parse::<ReadCapability>();
            parsed.map_err(|error| Usage(format!("--catalog {urn}: {error}")))
        });
        let capabilities = capabilities.collect::<Result<Vec<_>, _>>()?;
        let substituters = self.substituters.open(session, unsigned)?;
        let Stores { stack, nars, scratch } =
            Stores::open(session, &self.blocks, &self.disk, substituters.is_some())?;
        let stack = Arc::new(stack);
        let fetch = Fetch::new(stack.store(), NODE_BYTES);
        let opened = capabilities
            .into_iter()
            .map(|capability| Catalog::open(fetch.clone(), capability, Deadline::after(timeout)));
        let catalogs = futures::future::try_join_all(opened).await?;
        let mut store_dirs = catalogs.iter().map(Catalog::store_dir);
        if let Some(first) = store_dirs.next()
            && let Some(other) = store_dirs.find(|store_dir| *store_dir != first)
        {
            return Err(Usage(format!("catalogs of {first} and of {other} cannot be shown together")).into());
        }
        let settings = Settings { sweep_bytes: sweep_bytes(&stack), ..settings };
        let substitutes =
            substituters.zip(nars).map(|(substituters, disk)| substitutes_over(substituters, disk));
        let sources = Sources { catalogs: Catalogs::new(catalogs), substitutes };
        agree(&sources, timeout).await?;
        Ok(Opened { tree: Arc::new(Tree::new(fetch, sources, settings)), stack, scratch })
    }

    /// The URNs of the catalogs that were given, here or in the config.
    pub(super) fn catalogs<'a>(&'a self, session: &'a Session) -> &'a [String] {
        if self.catalogs.is_empty() { &session.config.catalogs } else { &self.catalogs }
    }
}

/// How long the servers are asked for their store directory before there is a view: it is needed for links and paths alone.
const GREETING: Duration = Duration::from_secs(5);

/// Asks the servers for their store directory, which must be that of the catalogs. Servers that are down are no error: they may
/// come back. Neighbours have no say.
async fn agree(sources: &Sources, timeout: Duration) -> anyhow::Result<()> {
    let Some(substitutes) = &sources.substitutes else { return Ok(()) };
    let (substituters, catalogs) = (substitutes.substituters(), sources.catalogs.store_dir());
    if let Some(catalogs) = catalogs.filter(|_| substituters.are_neighbours_alone()) {
        substituters.settle(catalogs.clone());
    }
    match (substitutes.learn_store_dir(Deadline::after(GREETING.min(timeout / 4))).await, catalogs) {
        (Ok(servers), Some(catalogs)) if servers != catalogs && substituters.is_settled() => {
            let reason = format!(
                "catalogs of {catalogs} and substitute servers of {servers} cannot be shown together"
            );
            return Err(Usage(reason).into());
        }
        (Ok(_), _) => {}
        (Err(error), _) => tracing::warn!("{error}"),
    }
    // Servers that come back and are of another store are left out.
    if let Some(catalogs) = catalogs {
        substituters.settle(catalogs.clone());
    }
    Ok(())
}

/// What may be fetched in the hope that somebody wants it: a part of what the block caches hold.
fn sweep_bytes(stack: &Stack) -> u64 {
    match stack.disk() {
        Some(disk) => MAX_SWEEP.min(disk.stat().size / 4),
        None => stack.memory().status().capacity as u64 / 2,
    }
}

impl Look {
    /// Opens all catalogs.
    pub(super) async fn open(&self, session: &Session) -> anyhow::Result<Opened> {
        let settings = Settings { frame_bytes: session.config.cache.frames.bytes(), ..Settings::default() };
        self.view.open(session, settings, Unsigned::Refuse, self.timeout(session)).await
    }

    /// When to give up on something that begins now.
    pub(super) fn deadline(&self, session: &Session) -> Deadline {
        Deadline::after(self.timeout(session))
    }

    fn timeout(&self, session: &Session) -> Duration {
        self.timeout.unwrap_or(session.config.deadlines.read)
    }

    /// Finds `HASH-NAME/PATH`, where a hash part alone and the store directory in front are taken too.
    pub(super) async fn find(&self, session: &Session, tree: &Tree, path: &OsStr) -> anyhow::Result<Attr> {
        let mut below = path.as_bytes();
        if self.view.catalogs(session).is_empty() && !tree.has_substituters() && !below.starts_with(b"urn:") {
            return Err(Usage(NO_SOURCE.into()).into());
        }
        if let Some(store_dir) = tree.store_dir()
            && let Some(rest) = below.strip_prefix(store_dir.as_str().as_bytes())
        {
            below = rest;
        } else if below.starts_with(b"/") {
            let known = tree.store_dir().map_or("none", StoreDir::as_str);
            return Err(anyhow!("{}: the store directory is {known}", path.display()));
        }
        let mut at = tree.attr(Inode::ROOT, self.deadline(session)).await?;
        let mut seen = PathBuf::new();
        for name in below.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".") {
            if at.kind != Kind::Directory {
                return Err(anyhow!("{} is not a directory", seen.display()));
            }
            let shown = OsStr::from_bytes(name);
            let found = match at.inode {
                Inode::ROOT => match self.full_name(session, tree, shown).await? {
                    Some(full) => tree.lookup(at.inode, full.as_bytes(), self.deadline(session)).await?,
                    None => None,
                },
                _ => tree.lookup(at.inode, name, self.deadline(session)).await?,
            };
            at = found.ok_or_else(|| match at.inode {
                Inode::ROOT if tree.has_substituters() => {
                    anyhow!("{}: no catalog lists it, and no substitute server has it", shown.display())
                }
                Inode::ROOT => anyhow!("{}: no catalog lists it", shown.display()),
                _ => anyhow!("{} has no {}", seen.display(), shown.display()),
            })?;
            seen.push(shown);
        }
        if below.ends_with(b"/") && at.kind != Kind::Directory {
            return Err(anyhow!("{} is not a directory", seen.display()));
        }
        Ok(at)
    }

    async fn full_name(
        &self,
        session: &Session,
        tree: &Tree,
        name: &OsStr,
    ) -> anyhow::Result<Option<String>> {
        let name = name.to_string_lossy().into_owned();
        if name.parse::<StorePath>().is_ok() || name.starts_with("urn:") {
            return Ok(Some(name));
        }
        let hash_part: HashPart = name.parse().map_err(|_| {
            Usage(format!("{name}: HASH-NAME of a store path, or its 32 characters, expected"))
        })?;
        let found = tree.store_path(hash_part, self.deadline(session)).await?;
        Ok(found.map(|path| path.to_string()))
    }
}

/// The mode as `ls -l` shows it.
pub(super) fn mode(kind: Kind) -> &'static str {
    match kind {
        Kind::Directory => "dr-xr-xr-x",
        Kind::Regular => "-r--r--r--",
        Kind::Executable => "-r-xr-xr-x",
        Kind::Symlink => "lrwxrwxrwx",
    }
}

/// The kind as JSON output names it.
pub(super) fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Directory => "directory",
        Kind::Regular | Kind::Executable => "regular",
        Kind::Symlink => "symlink",
    }
}
