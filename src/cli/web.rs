//! How web servers are reached, by the command line, the config and the environment: the same for block stores and substitute servers.

use std::fs;
use std::path::Path;

use super::{Session, Usage, keys};
use crate::config;
use crate::http::{self, Access, Netrc, Proxies};

impl Session {
    /// How web servers are reached. Files are read once, as they may be pipes.
    pub(super) fn access(&self) -> anyhow::Result<&Access> {
        if let Some(access) = self.access.get() {
            return Ok(access);
        }
        let access = access(self)?;
        Ok(self.access.get_or_init(|| access))
    }

    /// How those of these block stores are reached that are on the web. Where none is, a file of certificates that is not there keeps
    /// nobody from their own disk.
    pub(super) fn access_to(&self, urls: &[String]) -> anyhow::Result<Access> {
        // What has a host is on the web.
        if urls.iter().any(|url| url.contains("://")) {
            self.access().cloned()
        } else {
            Ok(Access::default())
        }
    }
}

fn access(session: &Session) -> anyhow::Result<Access> {
    let (config, environment) = (&session.config, &session.environment);
    let netrc = match session.netrc.as_ref().or(config.http.netrc.as_ref()) {
        Some(file) => {
            let text = keys::text(file).map_err(|error| wrong("--netrc", file, error))?;
            Netrc::parse(&text).map_err(|error| wrong("--netrc", file, error))?
        }
        None => Netrc::default(),
    };
    let no_proxy = environment.proxies.no_proxy.clone();
    let proxies = match &config.http.proxy {
        Some(url) => Proxies { all: Some(url.clone()), no_proxy, ..Proxies::default() },
        None => {
            let config::Proxies { http, https, all, .. } = environment.proxies.clone();
            Proxies { http, https, all, no_proxy }
        }
    };
    let names = if config.http.proxy.is_some() {
        ["http.proxy"; 3]
    } else {
        ["http_proxy", "https_proxy", "all_proxy"]
    };
    for (name, url) in names.into_iter().zip([&proxies.http, &proxies.https, &proxies.all]) {
        let checked = url.as_deref().map_or(Ok(()), http::check_proxy);
        checked.map_err(|error| Usage(format!("{name}: {}", super::explain(&error.into()))))?;
    }
    let ca = match config.http.ca_file.as_ref().or(environment.ca_file.as_ref()) {
        Some(file) => Some(fs::read(file).map_err(|error| wrong("http.ca-file", file, error))?),
        None => None,
    };
    Access::new(netrc, &proxies, ca.as_deref())
        .map_err(|error| Usage(super::explain(&anyhow::Error::from(error))).into())
}

fn wrong(flag: &str, file: &Path, reason: impl std::fmt::Display) -> Usage {
    Usage(format!("{flag} {}: {reason}", file.display()))
}
