//! Who stands between us and the servers.

use std::fmt;
use std::sync::Arc;

use reqwest::{NoProxy, Proxy};

use super::{Unusable, without_secret};

/// What the HTTP client can speak to a proxy. It would pass over any other without a word.
const SCHEMES: [&str; 6] = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"];

/// What no proxy can reach for us: its loopback is its own.
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1";

/// Proxies, by the scheme of what is fetched: `http://HOST:PORT`, `https://...`, `socks5://...`, or `socks5h://...` where the proxy is
/// to look up the names; with a name and password if need be.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For `http://`.
    pub http: Option<String>,
    /// For `https://`.
    pub https: Option<String>,
    /// For both, where nothing else is said.
    pub all: Option<String>,
    /// Hosts that are reached directly besides those of loopback, separated by commas; `*` is all of them.
    pub no_proxy: Option<String>,
}

impl Proxies {
    /// As the HTTP client wants them, the special ones first.
    pub(super) fn client_proxies(&self) -> Result<Vec<Proxy>, Unusable> {
        let except = [LOOPBACK, self.no_proxy.as_deref().unwrap_or_default()].join(",");
        let except = NoProxy::from_string(&except);
        let proxy = |url: &Option<String>, make: fn(&str) -> reqwest::Result<Proxy>| {
            let made = url.as_deref().map(|url| {
                check_proxy(url)?;
                make(url).map(|proxy| proxy.no_proxy(except.clone())).map_err(|error| unusable(url, error))
            });
            made.transpose()
        };
        let made = [
            proxy(&self.http, |url| Proxy::http(url))?,
            proxy(&self.https, |url| Proxy::https(url))?,
            proxy(&self.all, |url| Proxy::all(url))?,
        ];
        Ok(made.into_iter().flatten().collect())
    }
}

/// Whether this is the URL of a proxy that requests can go through.
pub fn check_proxy(url: &str) -> Result<(), Unusable> {
    // As curl has it, `HOST:PORT` alone is one that speaks HTTP.
    let scheme = url.split_once("://").map_or("http", |(scheme, _)| scheme);
    if !SCHEMES.iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        let what = format!("the proxy {}", without_secret(url));
        return Err(Unusable { what, source: Arc::new(UnknownScheme) });
    }
    Proxy::all(url).map(drop).map_err(|error| unusable(url, error))
}

fn unusable(url: &str, error: reqwest::Error) -> Unusable {
    let what = format!("the proxy {}", without_secret(url));
    Unusable { what, source: Arc::new(error.without_url()) }
}

#[derive(Debug, thiserror::Error)]
#[error("only proxies of http, https, socks5 and socks5h can be used")]
struct UnknownScheme;

/// Without the passwords.
impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |url: &Option<String>| url.as_deref().map(without_secret);
        f.debug_struct("Proxies")
            .field("http", &shown(&self.http))
            .field("https", &shown(&self.https))
            .field("all", &shown(&self.all))
            .field("no_proxy", &self.no_proxy)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_that_nobody_can_speak_to_is_refused() {
        for url in ["ftp://me:hush@proxy:21", "gopher://proxy", "://proxy", "http://"] {
            let error = check_proxy(url).expect_err(url);
            assert!(!format!("{error:?} {error}").contains("hush"), "{error:?}");
            let proxies = Proxies { http: Some(url.to_owned()), ..Proxies::default() };
            proxies.client_proxies().expect_err(url);
        }
        for url in
            ["proxy:3128", "http://proxy", "HTTPS://me:hush@proxy", "socks5://proxy:1", "socks5h://proxy:1"]
        {
            check_proxy(url).expect(url);
        }
    }

    #[test]
    fn a_password_of_a_proxy_is_not_shown() {
        let hush = Some("http://me:hush@proxy:3128".to_owned());
        let proxies = Proxies { http: hush.clone(), https: hush.clone(), all: hush, no_proxy: None };
        assert!(!format!("{proxies:?}").contains("hush"));
        assert_eq!(proxies.client_proxies().expect("they are good").len(), 3);
        let bad = Proxies { all: Some("ftp://me:hush@proxy:x/".to_owned()), ..Proxies::default() };
        let error = bad.client_proxies().expect_err("no proxy");
        assert!(!format!("{error:?} {error}").contains("hush"), "{error:?}");
        assert!(error.to_string().contains("proxy:x"), "{error}");
    }
}
