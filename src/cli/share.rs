//! What neighbours on this network get, and how they find it: `--share` of `mount` and `serve`, and `serve --advertise`.

use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;

use anyhow::Context;
use clap::Args;
use tokio::task::JoinSet;

use super::{Session, Usage};
use crate::config::Size;
use crate::lan::{Announcement, ServiceKind};
use crate::metrics::Process;
use crate::serve::{Server, Share};

/// Every address of this machine, IPv4 too, at a port that the system chooses: neighbours hear of it.
const ANYWHERE: &str = "[::]:0";
/// The same where the system has no IPv6.
const ANYWHERE_V4: &str = "0.0.0.0:0";

/// Whether neighbours get something, and how much.
#[derive(Debug, Args)]
pub(super) struct ShareFlags {
    /// Give the blocks that are on this machine to neighbours, who find them by --blocks lan:
    #[arg(long)]
    share: bool,
    /// Bytes of blocks a second for all neighbours together [default: that of the config, else 8M]
    #[arg(long, value_name = "SIZE", requires = "share")]
    share_rate: Option<Size>,
    /// Connections of all neighbours together [default: that of the config, else 128]
    #[arg(long, value_name = "NUMBER", requires = "share", value_parser = clap::value_parser!(u16).range(1..))]
    share_connections: Option<u16>,
}

/// A listener for neighbours, which ends when it is dropped.
pub(super) struct Listening {
    /// Ends first: nobody is to be sent to a listener that is gone.
    _announcement: Announcement,
    _listener: JoinSet<()>,
}

impl ShareFlags {
    /// Whether the flags make sense.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        match self.share_rate {
            Some(Size(0)) => Err(Usage("--share-rate 0: more than nothing is needed".into()).into()),
            _ => Ok(()),
        }
    }

    /// Listens for neighbours and tells them so, if that is wanted.
    pub(super) async fn start(
        &self,
        session: &Session,
        process: &Process,
    ) -> anyhow::Result<Option<Listening>> {
        if !self.share {
            return Ok(None);
        }
        let config = &session.config.share;
        let share = || Share {
            store: process.stack.on_this_machine(),
            rate: self.share_rate.unwrap_or(config.rate).0,
            connections: self.share_connections.unwrap_or(config.connections).into(),
        };
        let bound = match &config.listen {
            Some(addr) => Server::bind_share(addr, share()).await,
            None => match Server::bind_share(ANYWHERE, share()).await {
                Err(_) => Server::bind_share(ANYWHERE_V4, share()).await,
                server => server,
            },
        };
        let listen = config.listen.as_deref().unwrap_or(ANYWHERE);
        let server = bound.with_context(|| format!("cannot share at {listen}"))?;
        let announcement = announce(ServiceKind::EriBlocks, server.local_addr())?;
        if let Some(sharing) = server.sharing() {
            process.share(sharing.clone());
        }
        let mut listener = JoinSet::new();
        listener.spawn(server.run(std::future::pending()));
        Ok(Some(Listening { _announcement: announcement, _listener: listener }))
    }
}

/// Tells neighbours that a service listens at `addr`.
pub(super) fn announce(kind: ServiceKind, addr: SocketAddr) -> anyhow::Result<Announcement> {
    if addr.ip().to_canonical().is_loopback() {
        let reason = format!(
            "{addr} is for this machine alone: neighbours need another address, such as 0.0.0.0:{}",
            addr.port()
        );
        return Err(Usage(reason).into());
    }
    // By chance: it is to tell services apart, and to say nothing of this machine.
    let name = format!("erisfs {:08x}", RandomState::new().hash_one(addr) as u32);
    Announcement::new(kind, addr, &name).context("neighbours cannot be told")
}
