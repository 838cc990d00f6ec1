//! What `ls`, `cat`, `stat`, `mount` and `serve` share: block stores and catalogs become a [`Tree`].

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;

use super::disk::DiskFlags;
use super::{Blocks, Session, Usage, opened, patience};
use crate::block::{Disk, DiskError, Stack, StackSettings};
use crate::content::{Deadline, Fetch};
use crate::eris::ReadCapability;
use crate::store::{HashPart, StoreDir, StorePath};
use crate::tree::{Attr, Catalog, Catalogs, Inode, Kind, Settings, Tree};

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
    disk: DiskFlags,
}

/// A view that is open, and the stores below it.
pub(super) struct Opened {
    pub(super) tree: Arc<Tree>,
    pub(super) stack: Arc<Stack>,
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
    /// Opens all catalogs, each within `timeout`.
    pub(super) async fn open(
        &self,
        session: &Session,
        settings: Settings,
        timeout: Duration,
    ) -> anyhow::Result<Opened> {
        let capabilities = self.catalogs(session).iter().map(|urn| {
            let parsed = urn.parse::<ReadCapability>();
            parsed.map_err(|error| Usage(format!("--catalog {urn}: {error}")))
        });
        let capabilities = capabilities.collect::<Result<Vec<_>, _>>()?;
        let stack = Arc::new(self.stack(session)?);
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
        Ok(Opened { tree: Arc::new(Tree::new(fetch, Catalogs::new(catalogs), settings)), stack })
    }

    fn stack(&self, session: &Session) -> anyhow::Result<Stack> {
        let disk = self.disk.settings(session);
        let urls = match (self.blocks.urls_if_any(session)?, &disk) {
            (Some(urls), _) => urls,
            // Without any store there is still what the cache holds.
            (None, Some((dir, _))) => match Disk::open_existing(dir) {
                Ok(_) => vec![format!("cache:{}", dir.display())],
                Err(DiskError::Absent { .. }) => self.blocks.urls(session)?,
                Err(error) => return Err(error.into()),
            },
            (None, None) => self.blocks.urls(session)?,
        };
        let settings = StackSettings {
            memory_bytes: session.config.cache.memory.bytes(),
            disk,
            reseed: session.config.reseed.clone(),
        };
        opened(Stack::open(&urls, settings))
    }

    /// The URNs of the catalogs that were given, here or in the config.
    pub(super) fn catalogs<'a>(&'a self, session: &'a Session) -> &'a [String] {
        if self.catalogs.is_empty() { &session.config.catalogs } else { &self.catalogs }
    }
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
    pub(super) async fn open(&self, session: &Session) -> anyhow::Result<Arc<Tree>> {
        Ok(self.open_with_stack(session).await?.tree)
    }

    /// As [`open`](Self::open), with the stores below.
    pub(super) async fn open_with_stack(&self, session: &Session) -> anyhow::Result<Opened> {
        let settings = Settings { frame_bytes: session.config.cache.frames.bytes(), ..Settings::default() };
        self.view.open(session, settings, self.timeout(session)).await
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
        if self.view.catalogs(session).is_empty() && !below.starts_with(b"urn:") {
            return Err(
                Usage("no catalog: give --catalog URN, or name `catalogs` in the config".into()).into()
            );
        }
        if let Some(store_dir) = tree.catalogs().store_dir()
            && let Some(rest) = below.strip_prefix(store_dir.as_str().as_bytes())
        {
            below = rest;
        } else if below.starts_with(b"/") {
            let known = tree.catalogs().store_dir().map_or("none", StoreDir::as_str);
            return Err(anyhow!("{}: the store directory of the catalogs is {known}", path.display()));
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
        let found = tree.catalogs().find(hash_part, self.deadline(session)).await?;
        Ok(found.map(|(path, _)| path.to_string()))
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
