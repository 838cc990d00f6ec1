//! From what a person names to store paths with their narinfos, and on to all that they refer to.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use futures::{StreamExt, stream};
use serde::Serialize;

use super::Error;
use crate::content::Deadline;
use crate::eris::ReadCapability;
use crate::store::{HashPart, StoreDir, StorePath};
use crate::tree::{self, Expected, Facts, Resolved, Sources, Substitutes};

/// Narinfos that are looked up at a time.
const LOOKUPS: usize = 16;

/// A store path that was asked for, or a part of it.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    /// `HASH-NAME`, or `HASH-NAME/PATH`.
    pub(crate) name: String,
    pub(crate) path: StorePath,
    /// What a catalog says of it.
    pub(crate) facts: Option<Facts>,
    pub(crate) resolved: Resolved,
    /// What is wanted of it; none for everything.
    pub(crate) below: Option<Vec<u8>>,
}

impl Item {
    /// Its size as it is kept here, as far as the narinfo tells.
    pub(crate) fn announced(&self) -> u64 {
        let narinfo = self.resolved.narinfo();
        let sizes = narinfo.downloads().iter().filter_map(|download| download.file_size);
        match self.is_whole() {
            true => narinfo.nar_size(),
            false => sizes.max().unwrap_or(narinfo.nar_size()),
        }
    }

    /// Whether it comes as a whole NAR, since nobody bound an ERIS content to it.
    pub(crate) fn is_whole(&self) -> bool {
        self.resolved.content(self.facts).is_none()
    }

    /// The content by which it is read here: the one that is bound to it, or the one that was hashed; `None` if there is none yet.
    pub(crate) async fn content(
        &self,
        substitutes: Option<(&Substitutes, Deadline)>,
    ) -> Result<Option<(ReadCapability, Expected)>, tree::Error> {
        match (self.resolved.content(self.facts), substitutes) {
            (Some(bound), _) => bound.map(Some),
            (None, Some((substitutes, deadline))) => Ok(substitutes.hashed(&self.resolved, deadline).await),
            (None, None) => Ok(None),
        }
    }
}

/// A store path that was asked for, or is referred to, and that cannot be looked up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Absent {
    /// Its name, or what was given for it.
    pub name: String,
    /// Why.
    pub reason: String,
}

#[derive(Debug, Default)]
pub(crate) struct Selection {
    /// Each store path once, in the order found; of one that is wanted whole no part besides.
    pub(crate) items: Vec<Item>,
    pub(crate) absent: Vec<Absent>,
}

/// A store path that is to be looked up.
#[derive(Debug, Clone)]
struct Wanted {
    hash_part: HashPart,
    /// The full name, where it was given.
    path: Option<StorePath>,
    below: Option<Vec<u8>>,
    /// Whose reference it is.
    of: Option<String>,
}

/// Looks up `paths`, and with `closure` all that they refer to; each look-up may take `wait`.
pub(crate) async fn select(
    sources: &Sources,
    paths: &[OsString],
    closure: bool,
    wait: Duration,
) -> Result<Selection, Error> {
    let store_dir = sources.store_dir();
    let wanted = paths.iter().map(|path| parse(path, store_dir)).collect::<Result<Vec<_>, _>>()?;
    let whole: HashSet<_> =
        wanted.iter().filter(|one| one.below.is_none()).map(|one| one.hash_part).collect();
    let mut seen = HashSet::new();
    let mut level: Vec<Wanted> = wanted
        .into_iter()
        .filter(|one| one.below.is_none() || !whole.contains(&one.hash_part))
        .filter(|one| seen.insert((one.hash_part, one.below.clone())))
        .collect();
    let mut found: HashSet<HashPart> = level.iter().map(|one| one.hash_part).collect();
    let mut selection = Selection::default();
    while !level.is_empty() {
        let lookups = std::mem::take(&mut level).into_iter().map(|one| look_up(sources, one, wait));
        let answers: Vec<_> = stream::iter(lookups).buffered(LOOKUPS).collect().await;
        for answer in answers {
            let item = match answer {
                Ok(item) => item,
                Err(absent) => {
                    selection.absent.push(absent);
                    continue;
                }
            };
            for reference in item.resolved.narinfo().references().iter().filter(|_| closure) {
                if found.insert(reference.hash_part()) {
                    level.push(Wanted {
                        hash_part: reference.hash_part(),
                        path: Some(reference.clone()),
                        below: None,
                        of: Some(item.path.to_string()),
                    });
                }
            }
            selection.items.push(item);
        }
    }
    Ok(selection)
}

fn parse(text: &OsStr, store_dir: Option<&StoreDir>) -> Result<Wanted, Error> {
    let fail = |reason: String| Error::Path { path: text.to_string_lossy().into_owned(), reason };
    let mut rest = text.as_bytes();
    if rest.starts_with(b"/") {
        let known = store_dir.map_or("none", StoreDir::as_str);
        rest = store_dir
            .and_then(|store_dir| rest.strip_prefix(store_dir.as_str().as_bytes()))
            .filter(|rest| rest.starts_with(b"/"))
            .ok_or_else(|| fail(format!("the store directory is {known}")))?;
    }
    let mut names = rest.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    let first = String::from_utf8_lossy(names.next().unwrap_or_default());
    let below = names.collect::<Vec<_>>().join(&b'/');
    let below = Some(below).filter(|below| !below.is_empty());
    let (hash_part, path) = match first.parse::<StorePath>() {
        Ok(path) => (path.hash_part(), Some(path)),
        Err(_) => match first.parse::<HashPart>() {
            Ok(hash_part) => (hash_part, None),
            Err(_) => return Err(fail("HASH-NAME of a store path, or its 32 characters, expected".into())),
        },
    };
    Ok(Wanted { hash_part, path, below, of: None })
}

async fn look_up(sources: &Sources, wanted: Wanted, wait: Duration) -> Result<Item, Absent> {
    let Wanted { hash_part, path: named, below, of } = wanted;
    let name = named.as_ref().map_or_else(|| hash_part.to_string(), StorePath::to_string);
    let absent = |reason: String| Absent { name: name.clone(), reason };
    let nobody = match sources.substitutes {
        Some(_) => "no catalog lists it, and no substitute server has it",
        None => "no catalog lists it",
    };
    let unlisted = || match &of {
        Some(of) => absent(format!("{of} refers to it, but {nobody}")),
        None => absent(nobody.into()),
    };
    let found = sources.find(hash_part, Deadline::after(wait)).await;
    let (path, facts) = found.map_err(|error| absent(error.to_string()))?.ok_or_else(unlisted)?;
    if named.as_ref().is_some_and(|named| *named != path) {
        return Err(unlisted());
    }
    let resolved = sources.resolve(hash_part, Deadline::after(wait)).await;
    let resolved = resolved.map_err(|error| absent(error.to_string()))?.ok_or_else(unlisted)?;
    if *resolved.narinfo().store_path() != path {
        return Err(absent(format!("its narinfo is that of {}", resolved.narinfo().store_path())));
    }
    let name = match &below {
        None => path.to_string(),
        Some(below) => format!("{path}/{}", String::from_utf8_lossy(below)),
    };
    Ok(Item { name, path, facts, resolved, below })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "0123456789abcdfghijklmnpqrsvwxyz";

    fn parsed(text: &str) -> Result<(String, Option<String>, Option<String>), String> {
        let wanted = parse(OsStr::new(text), Some(&StoreDir::nix())).map_err(|error| error.to_string())?;
        let below = wanted.below.map(|below| String::from_utf8(below).unwrap());
        Ok((wanted.hash_part.to_string(), wanted.path.map(|path| path.to_string()), below))
    }

    #[test]
    fn a_store_path_goes_by_name_hash_part_and_full_path() {
        let name = format!("{HASH}-hello");
        let full = |below: Option<&str>| Ok((HASH.to_owned(), Some(name.clone()), below.map(str::to_owned)));
        assert_eq!(parsed(&name), full(None));
        assert_eq!(parsed(&format!("{name}/")), full(None));
        assert_eq!(parsed(&format!("/nix/store/{name}")), full(None));
        assert_eq!(parsed(&format!("/nix/store//{name}/./bin//hello")), full(Some("bin/hello")));
        assert_eq!(parsed(HASH), Ok((HASH.to_owned(), None, None)));
        assert_eq!(parsed(&format!("{HASH}/bin")), Ok((HASH.to_owned(), None, Some("bin".into()))));
    }

    #[test]
    fn what_is_no_store_path_is_refused_with_the_reason() {
        let elsewhere = parsed(&format!("/gnu/store/{HASH}-hello")).unwrap_err();
        assert!(elsewhere.contains("the store directory is /nix/store"), "{elsewhere}");
        for text in ["", "/", "/nix/store", "hello", "/nix/storeroom/x"] {
            assert!(parsed(text).is_err(), "{text:?}");
        }
    }
}
