//! Which substitute servers are asked, and whose signatures count.

use std::path::PathBuf;

use clap::Args;

use super::Session;
use crate::substituter::{Substituters, Unsigned};

/// Substitute servers, and whom to believe.
#[derive(Debug, Args)]
pub(super) struct SubstituterFlags {
    /// A substitute server: http(s)://HOST/, file:DIR (repeatable, in order of preference) [default: those of the config]
    #[arg(long = "substituter", value_name = "URL")]
    substituters: Vec<String>,
    /// Where narinfos add ERIS contents to those of the servers: file:DIR, http(s)://HOST/, sqlite:FILE (repeatable)
    /// [default: those of the config]
    #[arg(long = "overlay", value_name = "URL")]
    overlays: Vec<String>,
    /// Whose signatures count: NAME:BASE64 of Nix, or a file with keys of Nix or Guix (repeatable, beside those of the config)
    #[arg(long = "trusted-key", value_name = "KEY|FILE")]
    trusted_keys: Vec<String>,
    /// Trust the keys in `trusted-public-keys` of this file [default: /etc/nix/nix.conf]
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "/etc/nix/nix.conf")]
    nix_conf: Option<PathBuf>,
    /// Trust the keys of this access list [default: /etc/guix/acl]
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "/etc/guix/acl")]
    guix_acl: Option<PathBuf>,
    /// Believe narinfos that nobody signed, and what they say of ERIS contents
    #[arg(long)]
    insecure: bool,
    /// Who fetches ipfs://CID: http(s)://GATEWAY, or ipfs://HOST:5001, the RPC of a node [default: that of the config]
    #[arg(long, value_name = "URL")]
    ipfs: Option<String>,
    /// Names and passwords of servers, as curl has them [default: that of the config]
    #[arg(long, value_name = "FILE")]
    netrc: Option<PathBuf>,
}

impl SubstituterFlags {
    /// The servers and overlays that were named, here or in the config; `None`: no server was.
    ///
    /// `unsigned` says what is done with narinfos that no trusted key signed, unless `--insecure` was given.
    pub(super) fn open(&self, session: &Session, unsigned: Unsigned) -> anyhow::Result<Option<Substituters>> {
        let _ = (session, unsigned, self);
        Ok(None)
    }
}
