//! Which substitute servers are asked, how they are reached, and whose signatures count.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::{Session, Usage, keys};
use crate::lan::{Neighbours, ServiceKind};
use crate::store::TrustedKeys;
use crate::substituter::{self, Policy, SetSettings, Substituter, Substituters, Unsigned, Web, WebSettings};

/// Where Nix has its config.
const NIX_CONF: &str = "/etc/nix/nix.conf";
/// Narinfos that were good, for when no server answers, below the user's cache directory.
const NARINFOS: &str = "erisfs/narinfos.sqlite";
/// Where Guix has its access list.
const GUIX_ACL: &str = "/etc/guix/acl";

/// Substitute servers, and whom to believe.
#[derive(Debug, Args)]
pub(super) struct SubstituterFlags {
    /// A substitute server: http(s)://HOST/, file:DIR, lan: for those of neighbours (repeatable, in order of preference) [default: those of the
    /// config]
    #[arg(long = "substituter", value_name = "URL")]
    substituters: Vec<String>,
    /// Where narinfos add ERIS contents to those of the servers: file:DIR, http(s)://HOST/, sqlite:FILE (repeatable)
    /// [default: those of the config]
    #[arg(long = "overlay", value_name = "URL")]
    overlays: Vec<String>,
    /// Whose signatures count: NAME:BASE64 of Nix, or a file with keys of Nix or Guix (repeatable) [default: those of
    /// the config]
    #[arg(long = "trusted-key", value_name = "KEY|FILE")]
    trusted_keys: Vec<String>,
    /// The trusted-public-keys of this file count, too; without FILE those of /etc/nix/nix.conf
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = NIX_CONF)]
    nix_conf: Option<PathBuf>,
    /// The keys of this access list of Guix count, too; without FILE those of /etc/guix/acl
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = GUIX_ACL)]
    guix_acl: Option<PathBuf>,
    /// Believe narinfos that nobody signed, and what they say of ERIS contents
    #[arg(long)]
    insecure: bool,
    /// Who fetches ipfs://CID: http(s)://GATEWAY, or ipfs://HOST:5001, the RPC of a node [default: that of the config]
    #[arg(long, value_name = "URL")]
    ipfs: Option<String>,
}

impl SubstituterFlags {
    /// The servers and overlays that were named, here or in the config; `None`: no server was.
    ///
    /// `unsigned` says what is done with narinfos that no trusted key signed, unless `--insecure` was given. Nothing
    /// is asked yet.
    pub(super) fn open(&self, session: &Session, unsigned: Unsigned) -> anyhow::Result<Option<Substituters>> {
        let servers = given(&self.substituters, &session.config.substituters);
        if servers.is_empty() {
            return match self.overlays.is_empty() {
                true => Ok(None),
                false => {
                    Err(Usage("--overlay adds to what servers say: give --substituter URL, too".into())
                        .into())
                }
            };
        }
        let policy = self.policy(session, unsigned)?;
        let web = web(session, self.ipfs.as_deref())?;
        let nearby = servers.iter().position(|url| url == substituter::NEIGHBOURS);
        let servers = servers.iter().filter(|url| *url != substituter::NEIGHBOURS);
        let servers = opened(servers, &web)?;
        let overlays = opened(given(&self.overlays, &session.config.overlays), &web)?;
        let substituters = Substituters::new(servers, overlays, policy, kept(session));
        let Some(position) = nearby else { return Ok(Some(substituters)) };
        let neighbours = Neighbours::browse(ServiceKind::GuixPublish)?;
        Ok(Some(substituters.with_neighbours(position, neighbours, Arc::new(Web::for_neighbours()?))))
    }

    /// Whether the servers of neighbours are among those that were named.
    pub(super) fn name_neighbours(&self, session: &Session) -> bool {
        given(&self.substituters, &session.config.substituters)
            .iter()
            .any(|url| url == substituter::NEIGHBOURS)
    }

    /// What the servers said before, as far as it was kept: asks none of them. `None`: no server was named.
    pub(super) fn open_offline(&self, session: &Session) -> anyhow::Result<Option<Substituters>> {
        if given(&self.substituters, &session.config.substituters).is_empty() {
            return Ok(None);
        }
        let policy = self.policy(session, Unsigned::Refuse)?;
        Ok(Some(Substituters::new(Vec::new(), Vec::new(), policy, kept(session))))
    }

    /// What is believed. To trust nobody where only what is signed counts is a mistake.
    fn policy(&self, session: &Session, unsigned: Unsigned) -> anyhow::Result<Policy> {
        let unsigned = if self.insecure { Unsigned::Believe } else { unsigned };
        let keys = self.keys(session)?;
        if unsigned == Unsigned::Refuse && keys.nix.is_empty() && keys.guix.is_empty() {
            let reason = "no key is trusted, so nothing that a substitute server says counts: give --trusted-key KEY, \
                          --nix-conf or --guix-acl, name them below [trust] in the config, or give --insecure";
            return Err(Usage(reason.into()).into());
        }
        Ok(Policy { keys, unsigned })
    }

    /// The keys whose signatures count.
    pub(super) fn keys(&self, session: &Session) -> anyhow::Result<TrustedKeys> {
        let trust = &session.config.trust;
        let mut trusted = TrustedKeys::default();
        for named in given(&self.trusted_keys, &trust.keys) {
            keys::add(&mut trusted, named)?;
        }
        if let Some(file) = self.nix_conf.as_ref().or(trust.nix_conf.as_ref()) {
            keys::add_nix_conf(&mut trusted, file)?;
        }
        if let Some(file) = self.guix_acl.as_ref().or(trust.guix_acl.as_ref()) {
            keys::add_guix_acl(&mut trusted, file)?;
        }
        Ok(trusted)
    }
}

fn kept(session: &Session) -> SetSettings {
    let on_disk = session.environment.cache_home.as_ref().map(|home| home.join(NARINFOS));
    SetSettings { on_disk, ..SetSettings::default() }
}

/// The client of the substitute servers.
pub(super) fn web(session: &Session, ipfs: Option<&str>) -> anyhow::Result<Arc<Web>> {
    let ipfs = ipfs.or(session.config.ipfs.as_deref()).map(|url| url.parse()).transpose();
    let ipfs = ipfs.map_err(|error: substituter::NotIpfs| Usage(format!("--ipfs: {error}")))?;
    let settings = WebSettings { access: session.access()?.clone(), ipfs, ..WebSettings::default() };
    Ok(Arc::new(Web::new(settings)?))
}

/// What the command line says, else what the config says.
fn given<'a>(flags: &'a [String], config: &'a [String]) -> &'a [String] {
    if flags.is_empty() { config } else { flags }
}

fn opened<'a>(
    urls: impl IntoIterator<Item = &'a String>,
    web: &Arc<Web>,
) -> Result<Vec<Arc<dyn Substituter>>, Usage> {
    let urls = urls.into_iter();
    urls.map(|url| substituter::open(url, web).map_err(|error| Usage(error.to_string()))).collect()
}
