use std::sync::Arc;

use anyhow::Context;
use clap::Args;

use super::share::{ShareFlags, announce};
use super::view::{Opened, View};
use super::{Session, Signals, Usage, listen, named, opened};
use crate::availability::Keeper;
use crate::block;
use crate::config::is_address;
use crate::control::{Daemon, Face};
use crate::lan::ServiceKind;
use crate::serve::{Limits, PutPolicy, Seeding, Server, Service, Token};
use crate::substituter::Unsigned;
use crate::tree::{Settings, Tree};

#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    view: View,
    /// Where to listen; port 0: where the system chooses
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    listen: String,
    /// Tell neighbours that there are substitutes here, as `guix publish --advertise` does
    #[arg(long)]
    advertise: bool,
    #[command(flatten)]
    share: ShareFlags,
    /// Take blocks from those who know the token in ERISFS_TOKEN (if there is none, one is made up and shown)
    #[arg(long)]
    allow_put: bool,
    /// Keep the blocks of store paths in this block store too, for those who know the token and ask by POST
    /// /erisfs/seed/HASHPART (repeatable)
    #[arg(long, value_name = "STORE")]
    seed_to: Vec<String>,
    /// Connections at a time
    #[arg(long, value_name = "NUMBER", default_value_t = 512)]
    max_connections: u16,
}

impl Serve {
    pub(super) fn run(&self, session: &Session) -> anyhow::Result<()> {
        if !is_address(&self.listen) {
            return Err(Usage(format!(
                "--listen {}: HOST:PORT expected, for example 127.0.0.1:8080",
                self.listen
            ))
            .into());
        }
        self.share.check()?;
        if self.advertise && self.view.asks_neighbours(session) {
            let reason = "--advertise offers substitutes to neighbours, and --substituter lan: takes theirs: two who do both would ask \
                          each other in a circle";
            return Err(Usage(reason.into()).into());
        }
        let token = self.token(session)?;
        session.runtime.block_on(self.serve(session, token))
    }

    async fn serve(&self, session: &Session, token: Option<Token>) -> anyhow::Result<()> {
        let mut signals = Signals::catch()?;
        let settings = Settings { frame_bytes: session.config.cache.frames.bytes(), ..Settings::default() };
        let Opened { tree, stack, scratch: _scratch } = tokio::select! {
            opened = self.view.open(session, settings, Unsigned::CheckHash, Limits::default().fetch) => opened?,
            () = signals.any() => return Ok(()),
        };
        let store = tree.store().clone();
        let limits = Limits { connections: self.max_connections.into(), ..Limits::default() };
        let shown =
            (!self.view.catalogs(session).is_empty() || tree.has_substituters()).then(|| tree.clone());
        let seeding = self.seeding(session, token.clone(), &tree)?;
        let put = token.filter(|_| self.allow_put).map_or(PutPolicy::Refuse, PutPolicy::Token);
        let server = Server::bind(&self.listen, Service { store, tree: shown, put, limits }).await;
        let server = server.with_context(|| format!("cannot listen at {}", self.listen))?;
        if let Some(seeding) = seeding {
            server.keep_by(seeding);
        }
        let (process, place) = (server.observe(stack, tree), format!("http://{}/", server.local_addr()));
        let _shared = self.share.start(session, &process).await?;
        let _advertised = match self.advertise {
            true => Some(announce(ServiceKind::GuixPublish, server.local_addr())?),
            false => None,
        };
        eprintln!("listening on {place}");
        let _control = listen(session, Daemon { face: Face::Serve, place, process });
        server.run(signals.any()).await;
        Ok(())
    }

    /// Who keeps store paths, where stores are named for that.
    fn seeding(
        &self,
        session: &Session,
        token: Option<Token>,
        tree: &Arc<Tree>,
    ) -> anyhow::Result<Option<Seeding>> {
        let Some(token) = token.filter(|_| !self.seed_to.is_empty()) else { return Ok(None) };
        let urls = named(session, &self.seed_to)?;
        let access = session.access_to(&urls)?;
        let stores = urls
            .iter()
            .map(|url| opened(block::open_with(url, &access)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Some(Seeding { token, keeper: Arc::new(Keeper::new(tree.clone(), stores)) }))
    }

    /// What those have to know who change something here, if anybody may.
    fn token(&self, session: &Session) -> anyhow::Result<Option<Token>> {
        if !self.allow_put && self.seed_to.is_empty() {
            return Ok(None);
        }
        if let Some(token) = &session.environment.token {
            let token = Token::new(token).map_err(|error| Usage(format!("ERISFS_TOKEN: {error}")))?;
            return Ok(Some(token));
        }
        let token = Token::random().context("cannot make a token")?;
        eprintln!("token for putting blocks: {}", token.reveal());
        Ok(Some(token))
    }
}
