//! What `seed` and `audit` share: which contents, by URN, by store path, or all that catalogs list.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::offline::absent_line;
use super::stores::substitutes_over;
use super::substituters::SubstituterFlags;
use super::view::NO_SOURCE;
use super::{Session, Usage, patience};
use crate::availability::{Order, Subject, Subjects, find};
use crate::block::BlockStore;
use crate::content::{Deadline, Fetch};
use crate::download::Scratch;
use crate::eris::ReadCapability;
use crate::offline::Absent;
use crate::substituter::Unsigned;
use crate::tree::{Catalog, Catalogs, Sources};

/// Memory for decoded interior nodes of catalogs.
const NODE_BYTES: usize = 1 << 20;

/// Contents whose blocks are meant.
#[derive(Debug, Args)]
pub(super) struct Contents {
    /// A catalog that `publish` printed (repeatable): itself, and where neither URN nor PATH is named all store paths that it
    /// lists [default for looking up PATH: those of the config]
    #[arg(long = "catalog", value_name = "URN")]
    catalogs: Vec<String>,
    #[command(flatten)]
    substituters: SubstituterFlags,
    /// Also everything that the store paths refer to
    #[arg(long)]
    closure: bool,
    /// Give up on a block of catalogs and interior nodes after this time: 30, 500ms, 2m [default: that of the config, else 30s]
    #[arg(long, value_name = "TIME", value_parser = patience)]
    timeout: Option<Duration>,
    /// urn:eris:... of a content, or HASH-NAME of a store path, or its hash part; with the store directory in front too
    #[arg(value_name = "URN|PATH")]
    names: Vec<OsString>,
}

impl Contents {
    /// How long a block on the way may take.
    pub(super) fn wait(&self, session: &Session) -> Duration {
        self.timeout.unwrap_or(session.config.deadlines.read)
    }

    /// The catalogs by which store paths are looked up: those named here, else those of the config.
    pub(super) fn catalogs(&self, session: &Session) -> anyhow::Result<Vec<ReadCapability>> {
        let urns = if self.catalogs.is_empty() { &session.config.catalogs } else { &self.catalogs };
        Ok(urns.iter().map(|urn| capability(OsStr::new(urn))).collect::<Result<_, _>>()?)
    }

    /// Whether some of what was named are store paths.
    pub(super) fn names_store_paths(&self) -> bool {
        !self.names.iter().all(is_urn)
    }

    /// Looks up what was named. Blocks of catalogs come from `store`; where substitute servers know a store path, only their narinfos
    /// are asked for. What cannot be looked up is told on stderr, and returned.
    pub(super) async fn find(
        &self,
        session: &Session,
        store: Arc<dyn BlockStore>,
    ) -> anyhow::Result<(Vec<Subject>, Vec<Absent>)> {
        let (urns, paths): (Vec<_>, Vec<_>) = self.names.iter().partition(|name| is_urn(name));
        if self.names.is_empty() && self.catalogs.is_empty() {
            return Err(Usage("name a URN, a store path, or --catalog URN".into()).into());
        }
        let whole_catalogs = self.names.is_empty();
        let contents = urns.into_iter().map(|urn| capability(urn)).collect::<Result<Vec<_>, _>>()?;
        let named = self.catalogs.iter().map(|urn| capability(OsStr::new(urn)));
        let named = named.collect::<Result<Vec<_>, _>>()?;
        let wait = self.wait(session);
        let order = Order {
            contents,
            catalogs: named,
            paths: paths.into_iter().cloned().collect(),
            whole_catalogs,
            closure: self.closure,
        };
        let (sources, _scratch) = match whole_catalogs || !order.paths.is_empty() {
            true => self.sources(session, store, wait).await?,
            false => (Sources::default(), None),
        };
        let Subjects { subjects, absent } = find(&sources, &order, wait).await?;
        absent.iter().for_each(|absent| eprintln!("{}", absent_line(absent)));
        Ok((subjects, absent))
    }

    /// The catalogs, and the servers with a place that goes with them.
    async fn sources(
        &self,
        session: &Session,
        store: Arc<dyn BlockStore>,
        wait: Duration,
    ) -> anyhow::Result<(Sources, Option<Scratch>)> {
        let capabilities = self.catalogs(session)?;
        let substituters = self.substituters.open(session, Unsigned::Refuse)?;
        if capabilities.is_empty() && substituters.is_none() {
            return Err(Usage(NO_SOURCE.into()).into());
        }
        let fetch = Fetch::new(store, NODE_BYTES);
        let opened = capabilities
            .into_iter()
            .map(|capability| Catalog::open(fetch.clone(), capability, Deadline::after(wait)));
        let catalogs = Catalogs::new(futures::future::try_join_all(opened).await?);
        let scratch = substituters.is_some().then(|| Scratch::new(&tempfile::env::temp_dir())).transpose()?;
        let substitutes = substituters
            .zip(scratch.as_ref())
            .map(|(substituters, scratch)| substitutes_over(substituters, scratch.disk().clone()));
        if let Some(substitutes) = &substitutes
            && let Err(error) = substitutes.learn_store_dir(Deadline::after(wait)).await
        {
            tracing::warn!("{error}");
        }
        Ok((Sources { catalogs, substitutes }, scratch))
    }
}

fn is_urn(name: &OsString) -> bool {
    name.to_string_lossy().to_lowercase().starts_with("urn:")
}

fn capability(urn: &OsStr) -> Result<ReadCapability, Usage> {
    let urn = urn.to_string_lossy();
    urn.parse().map_err(|error| Usage(format!("{urn}: {error}")))
}
