//! Where startup profiles are kept: a directory with one file for each store path, named by its hash part.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::store::profile::{MAX_LENGTH, ProfileError};
use crate::store::{HashPart, Profile};

/// A directory of profiles. Its methods wait for the disk.
#[derive(Debug, Clone)]
pub struct Profiles {
    dir: PathBuf,
}

/// Why a profile cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum ProfilesError {
    /// The file system refuses.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is no profile.
    #[error("{}: {source}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ProfileError,
    },
}

impl Profiles {
    /// The profiles in `dir`, which is made with the first that is kept.
    pub fn new(dir: PathBuf) -> Self {
        Profiles { dir }
    }

    /// Where the profile of this store path is, or would be.
    pub fn path(&self, hash_part: &HashPart) -> PathBuf {
        self.dir.join(hash_part.to_string())
    }

    /// The profile of a store path; `None` if there is none.
    pub fn load(&self, hash_part: &HashPart) -> Result<Option<Profile>, ProfilesError> {
        match read_profile(&self.path(hash_part)) {
            Err(ProfilesError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// Keeps `profile` for its store path, in place of an earlier one.
    pub fn save(&self, profile: &Profile) -> Result<(), ProfilesError> {
        let path = self.path(&profile.path().hash_part());
        let failed = |source| ProfilesError::Io { path: path.clone(), source };
        fs::create_dir_all(&self.dir).map_err(failed)?;
        // A reader in another process sees the old one or the new one.
        let mut file = tempfile::NamedTempFile::new_in(&self.dir).map_err(failed)?;
        file.write_all(profile.to_string().as_bytes()).map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

/// Reads the file of a profile.
pub fn read_profile(path: &Path) -> Result<Profile, ProfilesError> {
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_LENGTH as u64 + 1).read_to_end(&mut text))
        .map_err(|source| ProfilesError::Io { path: path.to_owned(), source })?;
    Profile::parse(&text).map_err(|source| ProfilesError::Format { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_kept_under_its_hash_part_and_replaced() {
        let dir = tempfile::TempDir::new().unwrap();
        let profiles = Profiles::new(dir.path().join("profiles"));
        let path: crate::store::StorePath = "00000000000000000000000000000000-tool".parse().unwrap();
        assert!(profiles.load(&path.hash_part()).unwrap().is_none());
        for end in [5, 7] {
            let mut profile = Profile::new(path.clone());
            profile.add(&path, Some(0..end));
            profiles.save(&profile).unwrap();
            assert_eq!(profiles.load(&path.hash_part()).unwrap().unwrap().bytes(), end);
        }
        fs::write(profiles.path(&path.hash_part()), "something else").unwrap();
        let error = profiles.load(&path.hash_part()).unwrap_err().to_string();
        assert!(
            error.contains("00000000000000000000000000000000") && error.contains("something else"),
            "{error}"
        );
        assert_eq!(fs::read_dir(dir.path().join("profiles")).unwrap().count(), 1);
    }
}
