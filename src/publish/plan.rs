//! What the paths that somebody names are: store paths of this machine, or something to be added to a store.
//!
//! A store is recognised below any root, so that a mounted disk or Nix's chroot stores (`--store /mnt`: files
//! in `/mnt/nix/store`, database in `/mnt/nix/var/nix/db`) can be published from outside.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::database::{Database, DatabaseError, PathInfo};
use super::{Error, Settings};
use crate::store::path::{MAX_NAME_LENGTH, check_name};
use crate::store::{StoreDir, StorePath};

/// What is to be published, and of which store it is.
#[derive(Debug)]
pub(super) struct Plan {
    pub store_dir: StoreDir,
    pub subjects: Vec<Subject>,
}

/// A path to be published.
#[derive(Debug)]
pub(super) struct Subject {
    /// Where it is on this machine.
    pub location: PathBuf,
    pub identity: Identity,
}

/// What is known of a path before it is read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// A store path that the local database knows.
    Registered(Box<PathInfo>),
    /// A store path by its name, without a database.
    Unregistered(StorePath),
    /// Anything else: its contents and this name give its store path.
    Added(String),
}

impl Subject {
    /// Size of its NAR, where it is known.
    pub fn nar_size(&self) -> Option<u64> {
        match &self.identity {
            Identity::Registered(info) => info.nar_size,
            _ => None,
        }
    }
}

impl Plan {
    /// Looks at the paths and asks the local databases about them. Blocks on the disk.
    pub fn make(paths: &[PathBuf], settings: &Settings) -> Result<Self, Error> {
        let stores: Vec<StoreDir> =
            settings.store_dir.iter().cloned().chain([StoreDir::nix(), StoreDir::guix()]).collect();
        let mut store_dir = settings.store_dir.clone();
        let mut subjects = Vec::new();
        let mut databases = Databases::default();
        for path in paths {
            let Some(found) = InStore::find(path, &stores)? else {
                subjects.push(added(path, settings.name.as_deref())?);
                continue;
            };
            let expected = store_dir.get_or_insert_with(|| found.store_dir.clone());
            if *expected != found.store_dir {
                let (found, expected) = (found.store_dir, expected.clone());
                return Err(Error::MixedStores { path: path.clone(), found, expected });
            }
            subjects.extend(databases.look_up(found, settings.closure)?);
        }
        let all_added = subjects.iter().all(|subject| matches!(subject.identity, Identity::Added(_)));
        if settings.name.is_some() && !(subjects.len() == 1 && all_added) {
            return Err(Error::NameUnused);
        }
        let exists = |store: &StoreDir| Path::new(store.as_str()).is_dir();
        let store_dir = store_dir
            .or_else(|| [StoreDir::nix(), StoreDir::guix()].into_iter().find(exists))
            .unwrap_or_else(StoreDir::nix);
        if store_dir == StoreDir::guix() {
            subjects.iter().try_for_each(refuse_dot)?;
        }
        // The closures of two paths overlap, and a path may be named twice.
        let mut seen = std::collections::HashSet::new();
        subjects.retain(|subject| seen.insert(subject.location.clone()));
        Ok(Self { store_dir, subjects })
    }
}

/// A directory, file or link outside any store.
fn added(path: &Path, name: Option<&str>) -> Result<Subject, Error> {
    let unreadable = |source| Error::Unreadable { path: path.to_owned(), source };
    let location = real_path(path).map_err(unreadable)?;
    let name = match name {
        Some(name) => name.to_owned(),
        None => location.file_name().unwrap_or_default().to_string_lossy().into_owned(),
    };
    check_name(&name).map_err(|source| Error::Name {
        path: path.to_owned(),
        proposal: proposal(&name),
        source,
    })?;
    Ok(Subject { location, identity: Identity::Added(name) })
}

/// Guix's daemon refuses names that begin with a dot; Nix's takes them.
fn refuse_dot(subject: &Subject) -> Result<(), Error> {
    match &subject.identity {
        Identity::Added(name) if name.starts_with('.') => {
            Err(Error::DotName { path: subject.location.clone(), proposal: proposal(name) })
        }
        _ => Ok(()),
    }
}

/// A name as near as possible to one that is not allowed.
fn proposal(name: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "+-._?=".contains(c) { c } else { '_' };
    let name: String = name.trim_start_matches('.').chars().map(allowed).take(MAX_NAME_LENGTH).collect();
    if check_name(&name).is_ok() { name } else { "tree".to_owned() }
}

/// The path with links resolved, but for the last component, which is published as what it is. A slash at the
/// end asks for what is behind the link, as everywhere.
fn real_path(path: &Path) -> io::Result<PathBuf> {
    let through = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if !through => {
            let parent = if parent == Path::new("") { Path::new(".") } else { parent };
            let real = parent.canonicalize()?.join(name);
            real.symlink_metadata()?;
            Ok(real)
        }
        _ => path.canonicalize(),
    }
}

/// A store path on this machine.
#[derive(Debug, PartialEq, Eq)]
struct InStore {
    /// What the store directory is below: `/` but for stores that are seen from outside.
    root: PathBuf,
    store_dir: StoreDir,
    path: StorePath,
}

impl InStore {
    /// The store path that `path` is, lies in, or leads to as a link.
    fn find(path: &Path, stores: &[StoreDir]) -> Result<Option<Self>, Error> {
        let unreadable = |source| Error::Unreadable { path: path.to_owned(), source };
        let as_named = std::path::absolute(path).map_err(unreadable)?;
        let has_parent_component = as_named.components().any(|part| part == Component::ParentDir);
        let real = real_path(path).map_err(unreadable)?;
        let target = if real.is_symlink() { real.canonicalize().ok() } else { None };
        let named = (!has_parent_component).then_some(as_named);
        for candidate in named.into_iter().chain([real]).chain(target) {
            for store_dir in stores {
                if let Some(found) = Self::split(&candidate, store_dir)? {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    /// Splits an absolute path into root, store directory and store path, at the first place where that can be.
    fn split(path: &Path, store_dir: &StoreDir) -> Result<Option<Self>, Error> {
        let parts: Vec<&OsStr> = path.iter().collect();
        let store: Vec<&OsStr> = Path::new(store_dir.as_str()).iter().skip(1).collect();
        for start in 1..parts.len() {
            let Some(rest) = parts[start..].strip_prefix(&store[..]) else { continue };
            let Some(name) = rest.first() else {
                return Err(Error::WholeStore { path: path.to_owned() });
            };
            let root: PathBuf = parts[..start].iter().collect();
            match name.to_string_lossy().parse() {
                Ok(path) => return Ok(Some(Self { root, store_dir: store_dir.clone(), path })),
                Err(source) if root == Path::new("/") => {
                    return Err(Error::NoStorePath { path: path.to_owned(), source });
                }
                // Some other directory that happens to be called so.
                Err(_) => {}
            }
        }
        Ok(None)
    }

    fn location(&self, path: &StorePath) -> PathBuf {
        self.root.join(&self.store_dir.as_str()[1..]).join(path.to_string())
    }

    fn open_database(&self) -> Result<Database, DatabaseError> {
        let file = match self.store_dir.as_str() {
            "/nix/store" => "nix/var/nix/db/db.sqlite",
            "/gnu/store" => "var/guix/db/db.sqlite",
            _ => return Err(DatabaseError::UnknownStore { store_dir: self.store_dir.clone() }),
        };
        Database::open_file(&self.root.join(file), &self.store_dir)
    }
}

/// The databases of the stores met so far, by root and store.
#[derive(Default)]
struct Databases(HashMap<(PathBuf, StoreDir), Option<Database>>);

impl Databases {
    /// The path, and with `closure` all that it refers to.
    fn look_up(&mut self, found: InStore, closure: bool) -> Result<Vec<Subject>, Error> {
        let database = match self.0.entry((found.root.clone(), found.store_dir.clone())) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(match found.open_database() {
                Ok(database) => Some(database),
                Err(error) if closure => return Err(error.into()),
                Err(DatabaseError::Missing { .. } | DatabaseError::UnknownStore { .. }) => None,
                Err(error) => return Err(error.into()),
            }),
        };
        let Some(database) = database else {
            let location = found.location(&found.path);
            tracing::warn!(
                "{}: the store has no database here, so it is published without references",
                location.display()
            );
            return Ok(vec![Subject { location, identity: Identity::Unregistered(found.path) }]);
        };
        let infos = if closure {
            database.closure([found.path.clone()])?
        } else {
            let full_path = found.store_dir.join(&found.path);
            vec![database.path_info(&found.path)?.ok_or(DatabaseError::NotValid { full_path })?]
        };
        let subject = |info: PathInfo| Subject {
            location: found.location(&info.path),
            identity: Identity::Registered(Box::new(info)),
        };
        Ok(infos.into_iter().map(subject).collect())
    }
}
