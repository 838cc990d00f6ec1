//! The directory of narinfos: what a static web server needs to be a substitute server.
//!
//! Each file is written beside its place, synced and renamed, the narinfo after what it promises, so that readers,
//! interrupted runs and power cuts never leave half of one.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::NamedTempFile;

use super::Error;
use crate::block::UNFINISHED;
use crate::nar::{Listing, ListingError};
use crate::store::{Narinfo, StoreDir, StorePath};

/// The folder of the NARs.
const NARS: &str = "nar";

/// An unfinished file this old has been left by a run that was killed: a NAR that is written grows all the time.
const LEFTOVER_AGE: Duration = Duration::from_secs(3600);

/// A directory that narinfos are written to.
#[derive(Debug)]
pub(super) struct Files {
    directory: PathBuf,
}

impl Files {
    /// Makes the directory and its `nix-cache-info`, if need be, and removes what runs that were killed have left.
    pub fn open(directory: &Path, store_dir: &StoreDir) -> Result<Self, Error> {
        let files = Self { directory: directory.to_owned() };
        let path = directory.join("nix-cache-info");
        let failed = |source| Error::File { path: path.clone(), source };
        fs::create_dir_all(directory).map_err(failed)?;
        match fs::read_to_string(&path) {
            Ok(text) => {
                let found = text.lines().find_map(|line| line.strip_prefix("StoreDir:")).map(str::trim);
                if let Some(found) = found.filter(|found| *found != store_dir.as_str()) {
                    let found = found.chars().take(256).collect();
                    return Err(Error::OtherCache { path, found, expected: store_dir.clone() });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                files.write("nix-cache-info", format!("StoreDir: {store_dir}\n").as_bytes())?;
            }
            Err(error) => return Err(failed(error)),
        }
        remove_leftovers(directory);
        remove_leftovers(&directory.join(NARS));
        Ok(files)
    }

    /// Whether the listing of a store path is there.
    pub fn has_listing(&self, path: &StorePath) -> bool {
        self.directory.join(listing_name(path)).is_file()
    }

    /// Where the NAR of a store path goes, in a directory that is there: what its narinfo says.
    pub fn nar_file(&self, path: &StorePath) -> Result<PathBuf, Error> {
        let folder = self.directory.join(NARS);
        fs::create_dir_all(&folder).map_err(|source| Error::File { path: folder.clone(), source })?;
        Ok(folder.join(format!("{}.nar.zst", path.hash_part())))
    }

    /// Whether this narinfo is there, word for word.
    pub fn has_narinfo(&self, narinfo: &Narinfo) -> bool {
        let path = self.directory.join(narinfo_name(narinfo.store_path()));
        fs::read(path).is_ok_and(|found| found == narinfo.as_str().as_bytes())
    }

    /// Writes the listing, if there is a new one, and the narinfo.
    pub fn add(&self, narinfo: &Narinfo, listing: Option<&Listing>) -> Result<(), Error> {
        let path = narinfo.store_path();
        if let Some(listing) = listing {
            let mut json = Vec::new();
            match listing.to_json(&mut json) {
                Ok(()) => self.write(&listing_name(path), &json)?,
                Err(error @ ListingError::NotUtf8 { .. }) => {
                    tracing::warn!("{path}: no listing is written: {error}");
                }
                Err(error) => {
                    let path = self.directory.join(listing_name(path));
                    return Err(Error::File { path, source: io::Error::other(error) });
                }
            }
        }
        self.write(&narinfo_name(path), narinfo.as_str().as_bytes())
    }

    fn write(&self, name: &str, contents: &[u8]) -> Result<(), Error> {
        let path = self.directory.join(name);
        let written = incoming(&self.directory).and_then(|mut file| {
            file.write_all(contents)?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            Ok(())
        });
        written.map_err(|source| Error::File { path, source })
    }
}

/// A file that is to be renamed when it is complete.
pub(super) fn incoming(directory: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new()
        .prefix(UNFINISHED)
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(directory)
}

fn remove_leftovers(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) {
            continue;
        }
        let written = entry.metadata().and_then(|status| status.modified());
        let age = written.ok().and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age > LEFTOVER_AGE) {
            // Another process may be doing the same.
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn narinfo_name(path: &StorePath) -> String {
    format!("{}.narinfo", path.hash_part())
}

fn listing_name(path: &StorePath) -> String {
    format!("{}.ls", path.hash_part())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn old_leftovers_go_and_young_ones_and_all_else_stay() {
        let folder = tempfile::tempdir().unwrap();
        let nars = folder.path().join(NARS);
        fs::create_dir(&nars).unwrap();
        for name in [".incoming-old", "old.nar", ".incoming-young"] {
            for folder in [folder.path(), &nars] {
                let file = fs::File::create(folder.join(name)).unwrap();
                if !name.contains("young") {
                    file.set_modified(SystemTime::now() - 2 * LEFTOVER_AGE).unwrap();
                }
            }
        }
        Files::open(folder.path(), &StoreDir::nix()).unwrap();
        for folder in [folder.path(), &nars] {
            let stays = |name: &str| folder.join(name).exists();
            assert!(!stays(".incoming-old") && stays(".incoming-young") && stays("old.nar"));
        }
    }
}
