//! What the environment says. Nothing else in the program reads it.

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
    fn an_empty_variable_is_as_one_that_is_not_set() {
        assert_eq!(environment(&[("ERISFS_TOKEN", ""), ("ERISFS_BLOCKS", "")]), Environment::default());
    }
}
