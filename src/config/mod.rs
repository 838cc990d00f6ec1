//! What the program is told before its command line: the environment and the config files.
//!
//! A setting comes from the first of these that names it: a flag of the command, the environment, the user's file
//! (`$XDG_CONFIG_HOME/erisfs/config.toml`), the system's (`/etc/erisfs/config.toml`), the default. Files are merged key by
//! key; `--config FILE` takes the place of both. What a file says and nobody knows is an error, never ignored.

mod environment;
mod keys;
mod nix_conf;
mod parse;
mod quantity;

pub use environment::{Environment, Proxies};
pub use keys::is_address;
pub use nix_conf::{NixConfError, trusted_public_keys};
pub use parse::{ConfigError, Problem};
pub use quantity::{QuantityError, Size, parse_duration};

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The config of this machine.
const SYSTEM: &str = "/etc/erisfs/config.toml";
/// The config of a user, below the directory of all configs.
const USER: &str = "erisfs/config.toml";

/// Everything that the files and the environment say, with defaults for the rest.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `stores`: URLs of block stores, in order of preference.
    pub stores: Vec<String>,
    /// `catalogs`: URNs of the catalogs that are shown.
    pub catalogs: Vec<String>,
    /// `reseed`: URLs of stores that get what they lacked.
    pub reseed: Vec<String>,
    /// `reseed-rate`: bytes a second to each of them; `None`: a usual rate for those across a network.
    pub reseed_rate: Option<Size>,
    /// `substituters`: URLs of substitute servers, in order of preference.
    pub substituters: Vec<String>,
    /// `overlays`: URLs of places whose narinfos add ERIS contents to those of the servers.
    pub overlays: Vec<String>,
    /// `ipfs`: URL of who fetches `ipfs://CID`.
    pub ipfs: Option<String>,
    /// `[trust]`.
    pub trust: Trust,
    /// `[http]`.
    pub http: Http,
    /// `[cache]`.
    pub cache: Cache,
    /// `[deadlines]`.
    pub deadlines: Deadlines,
    /// `[prefetch]`.
    pub prefetch: Prefetch,
    /// `[metrics]`.
    pub metrics: Metrics,
    /// `[share]`.
    pub share: Share,
}

/// `[trust]`: whose signatures count.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trust {
    /// `keys`: keys of Nix as text, and files with keys of Nix or Guix.
    pub keys: Vec<String>,
    /// `nix-conf`: a `nix.conf` whose trusted keys count.
    pub nix_conf: Option<PathBuf>,
    /// `guix-acl`: an access list of Guix whose keys count.
    pub guix_acl: Option<PathBuf>,
}

/// `[http]`: how web servers are reached.
#[derive(Clone, Default, PartialEq)]
pub struct Http {
    /// `netrc`: a file with names and passwords of servers.
    pub netrc: Option<PathBuf>,
    /// `proxy`: the URL of who stands between, in place of those of the environment. It may have a password.
    pub proxy: Option<String>,
    /// `ca-file`: certificates of authorities in PEM, in place of the system's.
    pub ca_file: Option<PathBuf>,
}

/// Without the URL of the proxy.
impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http")
            .field("netrc", &self.netrc)
            .field("proxy", &self.proxy.is_some())
            .field("ca_file", &self.ca_file)
            .finish()
    }
}

/// `[cache]`: what is kept, and where.
#[derive(Debug, Clone, PartialEq)]
pub struct Cache {
    /// `dir`: where blocks are kept on disk; `None`: `erisfs/blocks` below the user's cache directory.
    pub dir: Option<PathBuf>,
    /// `size`: bytes of the disk cache; `None`: a part of the file system. 0 turns it off.
    pub size: Option<Size>,
    /// `free-floor`: bytes of the file system that stay free.
    pub free_floor: Size,
    /// `memory`: bytes of blocks in memory, as they travel.
    pub memory: Size,
    /// `frames`: bytes of decoded data in memory.
    pub frames: Size,
}

/// `[deadlines]`: how long somebody waits.
#[derive(Debug, Clone, PartialEq)]
pub struct Deadlines {
    /// `read`: for one read, from the kernel's request to its answer.
    pub read: Duration,
}

/// `[prefetch]`: what is fetched before somebody asks.
#[derive(Debug, Clone, PartialEq)]
pub struct Prefetch {
    /// `read-ahead`: what a sequential reader will want next.
    pub read_ahead: bool,
    /// `max-window`: bytes ahead of one reader at the most.
    pub max_window: Size,
    /// `closure`: headers and listings of what a store path refers to.
    pub closure: Closure,
    /// `profiles`: what the last start of the same program read.
    pub profiles: bool,
    /// `push`: data that came early is given to the kernel before it asks.
    pub push: bool,
}

/// When the closure of an opened store path is warmed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closure {
    /// Where the link bears it.
    Auto,
    /// Not at all.
    Never,
}

/// `[metrics]`: who may read the figures.
#[derive(Debug, Clone, PartialEq)]
pub struct Metrics {
    /// `listen`: `HOST:PORT` at which a mount answers `GET /metrics`; `None`: nowhere.
    pub listen: Option<String>,
}

/// `[share]`: what neighbours get where `--share` says that they get something.
#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    /// `listen`: `HOST:PORT` at which they ask; `None`: at all addresses, where the system chooses.
    pub listen: Option<String>,
    /// `rate`: bytes of blocks a second, for all together.
    pub rate: Size,
    /// `connections`: at a time, of all together.
    pub connections: u16,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            stores: Vec::new(),
            catalogs: Vec::new(),
            reseed: Vec::new(),
            reseed_rate: None,
            substituters: Vec::new(),
            overlays: Vec::new(),
            ipfs: None,
            trust: Trust::default(),
            http: Http::default(),
            cache: Cache {
                dir: None,
                size: None,
                free_floor: Size(1 << 30),
                memory: Size(32 << 20),
                frames: Size(64 << 20),
            },
            deadlines: Deadlines { read: Duration::from_secs(30) },
            prefetch: Prefetch {
                read_ahead: true,
                max_window: Size(16 << 20),
                closure: Closure::Auto,
                profiles: true,
                push: true,
            },
            metrics: Metrics { listen: None },
            // Two thirds of 100 Mbit/s, which old switches and good radio bear; and connections for some readers with 16 each.
            share: Share { listen: None, rate: Size(8 << 20), connections: 128 },
        }
    }
}

impl Config {
    /// Reads the files (`explicit` alone, if there is one) and lets the environment override them.
    ///
    /// A file that is not there says nothing, unless it was named.
    pub fn load(explicit: Option<&Path>, environment: &Environment) -> Result<Self, ConfigError> {
        let mut config = Config::default();
        match explicit {
            Some(file) => config.read(file)?,
            None => {
                let user = environment.config_home.as_ref().map(|home| home.join(USER));
                for file in [Some(PathBuf::from(SYSTEM)), user].into_iter().flatten() {
                    match config.read(&file) {
                        Err(error) if error.is_absence() => {}
                        outcome => outcome?,
                    }
                }
            }
        }
        if !environment.blocks.is_empty() {
            config.stores.clone_from(&environment.blocks);
        }
        Ok(config)
    }

    fn read(&mut self, file: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read(file)
            .and_then(|bytes| {
                String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
            })
            .map_err(|source| ConfigError::Unreadable { file: file.to_owned(), source })?;
        parse::apply(self, &text).map_err(|(line, problem)| ConfigError::Wrong {
            file: file.to_owned(),
            line,
            problem,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(dir: &Path, name: &str, text: &str) -> PathBuf {
        let file = dir.join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, text).unwrap();
        file
    }

    #[test]
    fn a_later_file_overrides_an_earlier_one_key_by_key() {
        let dir = tempfile::tempdir().unwrap();
        let system = written(
            dir.path(),
            "system.toml",
            "stores = [\"dir:/a\"]\n[cache]\nsize = \"5G\"\nmemory = \"1M\"\n",
        );
        let user = written(dir.path(), "user.toml", "[cache]\nsize = \"7G\"\n");
        let mut config = Config::default();
        config.read(&system).unwrap();
        config.read(&user).unwrap();
        assert_eq!(config.stores, ["dir:/a"]);
        assert_eq!((config.cache.size, config.cache.memory), (Some(Size(7 << 30)), Size(1 << 20)));
    }

    #[test]
    fn the_environment_overrides_the_files() {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path(), USER, "stores = [\"dir:/a\"]\ncatalogs = [\"urn:eris:A\"]\n");
        let mut environment = Environment { config_home: Some(dir.path().into()), ..Environment::default() };
        assert_eq!(Config::load(None, &environment).unwrap().stores, ["dir:/a"]);
        environment.blocks = vec!["dir:/b".into()];
        let config = Config::load(None, &environment).unwrap();
        assert_eq!((config.stores, config.catalogs), (vec!["dir:/b".into()], vec!["urn:eris:A".into()]));
    }

    #[test]
    fn a_file_that_was_named_must_be_there_and_is_read_alone() {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path(), USER, "stores = [\"dir:/a\"]\n");
        let environment = Environment { config_home: Some(dir.path().into()), ..Environment::default() };
        let error = Config::load(Some(&dir.path().join("none.toml")), &environment).unwrap_err();
        assert!(error.to_string().contains("none.toml"), "{error}");
        let named = written(dir.path(), "named.toml", "");
        assert_eq!(Config::load(Some(&named), &environment).unwrap(), Config::default());
    }

    #[test]
    fn a_mistake_is_told_with_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = written(dir.path(), "wrong.toml", "[cache]\nsize = \"5G\"\nfree_floor = \"1G\"\n");
        let error = Config::default().read(&file).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("{}, line 3: `cache.free_floor` is no key: perhaps `cache.free-floor`?", file.display())
        );
    }
}
