//! What the environment says. Nothing else in the program reads it.

use std::fmt;
use std::path::PathBuf;

/// The environment variables that erisfs knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// `ERISFS_BLOCKS`: block stores for commands that were given none, separated by white space.
    pub blocks: Vec<String>,
    /// `RUST_LOG`: what to log, in the syntax of the crate tracing-subscriber.
    pub log: Option<String>,
    /// `ERISFS_TOKEN`: what `serve --allow-put` asks of those who put blocks.
    pub token: Option<String>,
    /// Where programs of this user keep what can be made again: `XDG_CACHE_HOME`, else `~/.cache`.
    pub cache_home: Option<PathBuf>,
    /// Where programs of this user look for what they should do: `XDG_CONFIG_HOME`, else `~/.config`.
    pub config_home: Option<PathBuf>,
    /// Where programs of this user meet while the user is logged in: `XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
    /// Who stands between this machine and web servers.
    pub proxies: Proxies,
    /// `NIX_SSL_CERT_FILE`, else `SSL_CERT_FILE`: certificates of authorities, in place of the system's.
    pub ca_file: Option<PathBuf>,
}

/// Proxies as curl finds them in the environment, in small letters before capitals.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// `http_proxy`, and not in capitals: in a CGI program a request could set that.
    pub http: Option<String>,
    /// `https_proxy`.
    pub https: Option<String>,
    /// `all_proxy`.
    pub all: Option<String>,
    /// `no_proxy`: hosts that are reached directly, separated by commas.
    pub no_proxy: Option<String>,
}

/// Says which there are: their URLs may have passwords.
impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxies")
            .field("http", &self.http.is_some())
            .field("https", &self.https.is_some())
            .field("all", &self.all.is_some())
            .field("no_proxy", &self.no_proxy)
            .finish()
    }
}

impl Environment {
    /// Reads the environment of this process.
    pub fn read() -> Self {
        Self::from(|name| std::env::var(name).ok())
    }

    fn from(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let folder = |name: &str| set(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let below_home = |name: &str| Some(folder("HOME")?.join(name));
        Environment {
            blocks: set("ERISFS_BLOCKS")
                .map(|urls| urls.split_whitespace().map(str::to_owned).collect())
                .unwrap_or_default(),
            log: set("RUST_LOG"),
            token: set("ERISFS_TOKEN"),
            cache_home: folder("XDG_CACHE_HOME").or_else(|| below_home(".cache")),
            config_home: folder("XDG_CONFIG_HOME").or_else(|| below_home(".config")),
            runtime_dir: folder("XDG_RUNTIME_DIR"),
            proxies: Proxies {
                http: set("http_proxy"),
                https: set("https_proxy").or_else(|| set("HTTPS_PROXY")),
                all: set("all_proxy").or_else(|| set("ALL_PROXY")),
                no_proxy: set("no_proxy").or_else(|| set("NO_PROXY")),
            },
            ca_file: set("NIX_SSL_CERT_FILE").or_else(|| set("SSL_CERT_FILE")).map(PathBuf::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::from(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string())
        })
    }

    #[test]
    fn block_stores_are_separated_by_white_space() {
        let blocks = environment(&[("ERISFS_BLOCKS", "dir:/a  http://b\n")]).blocks;
        assert_eq!(blocks, ["dir:/a", "http://b"]);
    }

    #[test]
    fn a_relative_cache_home_is_ignored_as_xdg_demands() {
        let read = environment(&[("XDG_CACHE_HOME", "cache"), ("HOME", "/home/me")]);
        assert_eq!(read.cache_home, Some(PathBuf::from("/home/me/.cache")));
    }

    #[test]
    fn proxies_are_those_of_curl() {
        let read = environment(&[
            ("http_proxy", "http://a"),
            ("HTTP_PROXY", "http://evil"),
            ("HTTPS_PROXY", "http://b"),
            ("ALL_PROXY", "http://me:hush@c"),
            ("NO_PROXY", "localhost"),
        ]);
        let given = |text: &str| Some(text.to_owned());
        let expected = Proxies {
            http: given("http://a"),
            https: given("http://b"),
            all: given("http://me:hush@c"),
            no_proxy: given("localhost"),
        };
        assert_eq!(read.proxies, expected);
        assert!(!format!("{read:?}").contains("hush"));
        assert_eq!(environment(&[("HTTP_PROXY", "http://evil")]).proxies, Proxies::default());
    }

    #[test]
    fn the_certificates_of_nix_come_before_those_of_openssl() {
        let both = [("SSL_CERT_FILE", "/a"), ("NIX_SSL_CERT_FILE", "/b")];
        assert_eq!(environment(&both).ca_file, Some(PathBuf::from("/b")));
        assert_eq!(environment(&both[..1]).ca_file, Some(PathBuf::from("/a")));
    }

    #[test]
    fn an_empty_variable_is_as_one_that_is_not_set() {
        assert_eq!(environment(&[("ERISFS_TOKEN", ""), ("ERISFS_BLOCKS", "")]), Environment::default());
    }
}
