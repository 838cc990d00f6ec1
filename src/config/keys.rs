//! Every key of the config file, once: its name, what it expects, and where its value goes.

use std::path::PathBuf;

use toml::de::DeValue;

use super::{Closure, Config, Size, parse_duration};

/// One key.
pub(super) struct Key {
    /// With its table in front: `cache.size`.
    pub name: &'static str,
    /// What its value has to be, to follow "expected".
    pub expects: &'static str,
    /// Takes the value over; `None` if it is not what is expected.
    pub set: fn(&mut Config, &DeValue) -> Option<()>,
}

const SIZE: &str = "a size in quotes with K, M, G or T, such as \"20G\"";
const RATE: &str = "bytes a second in quotes with K, M or G, such as \"2M\", and at least 32K";
/// A block a second: with less, what waits would be dropped rather than sent.
const LEAST_RATE: u64 = 32 << 10;
const STRINGS: &str = "an array of texts, such as [\"dir:/srv/blocks\"]";
const PATH: &str = "an absolute path in quotes";
const URL: &str = "a URL in quotes";
const FLAG: &str = "true or false";

/// In the order of docs/configuration.md.
pub(super) const KEYS: [Key; 28] = [
    Key { name: "stores", expects: STRINGS, set: |config, value| put(&mut config.stores, strings(value)) },
    Key {
        name: "catalogs",
        expects: STRINGS,
        set: |config, value| put(&mut config.catalogs, strings(value)),
    },
    Key { name: "reseed", expects: STRINGS, set: |config, value| put(&mut config.reseed, strings(value)) },
    Key {
        name: "reseed-rate",
        expects: RATE,
        set: |config, value| {
            let rate = size(value).filter(|rate| rate.0 >= LEAST_RATE);
            put(&mut config.reseed_rate, rate.map(Some))
        },
    },
    Key {
        name: "substituters",
        expects: STRINGS,
        set: |config, value| put(&mut config.substituters, strings(value)),
    },
    Key {
        name: "overlays",
        expects: STRINGS,
        set: |config, value| put(&mut config.overlays, strings(value)),
    },
    Key { name: "ipfs", expects: URL, set: |config, value| put(&mut config.ipfs, url(value).map(Some)) },
    Key {
        name: "trust.keys",
        expects: STRINGS,
        set: |config, value| put(&mut config.trust.keys, strings(value)),
    },
    Key {
        name: "trust.nix-conf",
        expects: PATH,
        set: |config, value| put(&mut config.trust.nix_conf, path(value).map(Some)),
    },
    Key {
        name: "trust.guix-acl",
        expects: PATH,
        set: |config, value| put(&mut config.trust.guix_acl, path(value).map(Some)),
    },
    Key {
        name: "http.netrc",
        expects: PATH,
        set: |config, value| put(&mut config.http.netrc, path(value).map(Some)),
    },
    Key {
        name: "http.proxy",
        expects: URL,
        set: |config, value| put(&mut config.http.proxy, url(value).map(Some)),
    },
    Key {
        name: "http.ca-file",
        expects: PATH,
        set: |config, value| put(&mut config.http.ca_file, path(value).map(Some)),
    },
    Key {
        name: "cache.dir",
        expects: PATH,
        set: |config, value| put(&mut config.cache.dir, path(value).map(Some)),
    },
    Key {
        name: "cache.size",
        expects: SIZE,
        set: |config, value| put(&mut config.cache.size, size(value).map(Some)),
    },
    Key {
        name: "cache.free-floor",
        expects: SIZE,
        set: |config, value| put(&mut config.cache.free_floor, size(value)),
    },
    Key {
        name: "cache.memory",
        expects: SIZE,
        set: |config, value| put(&mut config.cache.memory, size(value)),
    },
    Key {
        name: "cache.frames",
        expects: SIZE,
        set: |config, value| put(&mut config.cache.frames, size(value)),
    },
    Key {
        name: "deadlines.read",
        expects: "a time in quotes with ms, s or m, such as \"30s\", and not 0",
        set: |config, value| {
            let read = parse_duration(value.as_str()?).ok().filter(|read| !read.is_zero());
            put(&mut config.deadlines.read, read)
        },
    },
    Key {
        name: "prefetch.read-ahead",
        expects: FLAG,
        set: |config, value| put(&mut config.prefetch.read_ahead, value.as_bool()),
    },
    Key {
        name: "prefetch.max-window",
        expects: SIZE,
        set: |config, value| put(&mut config.prefetch.max_window, size(value)),
    },
    Key {
        name: "prefetch.closure",
        expects: "\"auto\" or \"never\"",
        set: |config, value| {
            let closure = match value.as_str()? {
                "auto" => Closure::Auto,
                "never" => Closure::Never,
                _ => return None,
            };
            put(&mut config.prefetch.closure, Some(closure))
        },
    },
    Key {
        name: "prefetch.profiles",
        expects: FLAG,
        set: |config, value| put(&mut config.prefetch.profiles, value.as_bool()),
    },
    Key {
        name: "prefetch.push",
        expects: FLAG,
        set: |config, value| put(&mut config.prefetch.push, value.as_bool()),
    },
    Key {
        name: "metrics.listen",
        expects: "HOST:PORT in quotes, such as \"127.0.0.1:9120\"",
        set: |config, value| {
            let listen = value.as_str().filter(|listen| is_address(listen))?;
            put(&mut config.metrics.listen, Some(Some(listen.to_owned())))
        },
    },
    Key {
        name: "share.listen",
        expects: "HOST:PORT in quotes, such as \"0.0.0.0:7711\"",
        set: |config, value| {
            let listen = value.as_str().filter(|listen| is_address(listen))?;
            put(&mut config.share.listen, Some(Some(listen.to_owned())))
        },
    },
    Key {
        name: "share.rate",
        expects: "bytes a second in quotes, such as \"2M\", and not 0",
        set: |config, value| put(&mut config.share.rate, size(value).filter(|rate| rate.0 > 0)),
    },
    Key {
        name: "share.connections",
        expects: "a number from 1 to 65535",
        set: |config, value| {
            let connections = value.as_integer().and_then(|number| number.as_str().parse().ok());
            put(&mut config.share.connections, connections.filter(|connections| *connections > 0))
        },
    },
];

/// Whether it has the form `HOST:PORT`.
pub fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

fn put<T>(place: &mut T, value: Option<T>) -> Option<()> {
    *place = value?;
    Some(())
}

fn strings(value: &DeValue) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|item| Some(item.get_ref().as_str()?.to_owned())).collect()
}

fn size(value: &DeValue) -> Option<Size> {
    value.as_str()?.parse().ok()
}

fn url(value: &DeValue) -> Option<String> {
    Some(value.as_str().filter(|url| url.contains("://"))?.to_owned())
}

fn path(value: &DeValue) -> Option<PathBuf> {
    Some(PathBuf::from(value.as_str()?)).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn the_documentation_names_the_same_keys() {
        let page = include_str!("../../docs/configuration.md");
        let documented: Vec<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
            .map(|(name, _)| name)
            .collect();
        assert_eq!(documented, KEYS.map(|key| key.name));
    }

    #[test]
    fn every_key_takes_what_it_expects_and_nothing_else() {
        for key in &KEYS {
            let right: &[&str] = match key.expects {
                SIZE => &["\"20G\"", "\"0\""],
                RATE => &["\"2M\"", "\"32K\""],
                STRINGS => &["[]", "[\"a\", \"b\"]"],
                FLAG => &["true", "false"],
                PATH => &["\"/var/cache\""],
                URL => &["\"http://host:3128\""],
                _ => match key.name {
                    "deadlines.read" => &["\"30s\"", "\"500ms\""],
                    "prefetch.closure" => &["\"auto\"", "\"never\""],
                    "metrics.listen" | "share.listen" => &["\"127.0.0.1:9120\"", "\"[::1]:0\""],
                    "share.rate" => &["\"2M\"", "\"100K\""],
                    "share.connections" => &["1", "200"],
                    other => panic!("{other} is not tested"),
                },
            };
            for value in right {
                let text = format!("{} = {value}", key.name);
                assert_eq!(parse::apply(&mut Config::default(), &text), Ok(()), "{text}");
            }
            for value in ["70000", "\"soon\"", "[1]", "1.5", "2026-11-21", "{}"] {
                let text = format!("{} = {value}", key.name);
                assert!(parse::apply(&mut Config::default(), &text).is_err(), "{text}");
            }
        }
    }
}
