//! The directory of narinfos: what a static web server needs to be a substitute server.
//!
//! Each file is written beside its place, synced and renamed, the narinfo after what it promises, so that readers,
//! interrupted runs and power cuts never leave half of one.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::Error;
use crate::nar::{Listing, ListingError};
use crate::store::{Narinfo, StoreDir, StorePath};

/// A directory that narinfos are written to.
#[derive(Debug)]
pub(super) struct Files {
    directory: PathBuf,
}

impl Files {
    /// Makes the directory and its `nix-cache-info`, if need be.
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
        Ok(files)
    }

    /// Whether the listing of a store path is there.
    pub fn has_listing(&self, path: &StorePath) -> bool {
        self.directory.join(listing_name(path)).is_file()
    }

    /// Where the NAR of a store path goes, in a directory that is there: what its narinfo says.
    pub fn nar_file(&self, path: &StorePath) -> Result<PathBuf, Error> {
        let folder = self.directory.join("nar");
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
        .prefix(".incoming-")
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(directory)
}

fn narinfo_name(path: &StorePath) -> String {
    format!("{}.narinfo", path.hash_part())
}

fn listing_name(path: &StorePath) -> String {
    format!("{}.ls", path.hash_part())
}
