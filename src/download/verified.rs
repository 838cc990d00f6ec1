//! Which contents are known to hold which NAR, because all of it was hashed once: a small file for each NAR.
//!
//! A record says only what is true of the bytes, whether or not they are still here; so it needs no upkeep. It is believed only if nobody
//! else can have written it. Its URNs hold read keys, so nobody else may read it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::fs::OFlags;

use crate::compress::Compression;
use crate::eris::ReadCapability;
use crate::store::{NarHash, base32};

/// The first line of a record. Another version is no record: by version 1 a seekable archive was hashed as a stream, which may be
/// another NAR than its seek table leads to.
const HEADER: &str = "erisfs-verified 2";
/// Contents that are remembered for one NAR: as it is published by a few, in two forms.
const MOST_CONTENTS: usize = 8;
/// The longest record, in bytes: several times what that many contents take.
const MAX_LENGTH: u64 = 4096;
/// NARs that are remembered: some stores. They take 4 KiB of disk each.
const MOST_RECORDS: usize = 16_384;
/// So often it is looked whether there are too many.
const SWEEP: u32 = 256;

/// A content that holds a NAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// By which it is read.
    pub capability: ReadCapability,
    /// How the NAR is compressed in it; [`Compression::None`] is that of a download.
    pub form: Compression,
}

/// The records of this user, in a directory: which contents hold which NAR.
#[derive(Debug)]
pub struct Verified {
    dir: PathBuf,
    most: usize,
    remembered: AtomicU32,
    has_warned: AtomicBool,
}

impl Verified {
    /// The records in `dir`, which is made with the first one. A directory of somebody else, or one that others may write to, is not
    /// believed: the log says so, and nothing is remembered.
    pub fn open(dir: &Path) -> Self {
        // The process may change its directory later.
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        Self { dir, most: MOST_RECORDS, remembered: AtomicU32::default(), has_warned: AtomicBool::default() }
    }

    /// The contents that are known to hold this NAR, the one remembered last first. Reads a small file.
    pub fn get(&self, nar_hash: NarHash) -> Vec<Known> {
        let path = self.path(nar_hash);
        let read = self.check_dir().and_then(|()| read(&path));
        match read.map(|text| parse(&text, nar_hash)) {
            Ok(Some(known)) => known,
            Ok(None) => {
                tracing::warn!("{} is ignored: it is no record of a NAR that was verified", path.display());
                Vec::new()
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                self.warn(&path, &error);
                Vec::new()
            }
        }
    }

    /// Remembers that all of `known` was read and hashed to `nar_hash`. Writes a small file; what cannot be written is forgotten.
    pub fn remember(&self, nar_hash: NarHash, known: Known) {
        let mut contents = self.get(nar_hash);
        contents.retain(|other| *other != known);
        contents.insert(0, known);
        contents.truncate(MOST_CONTENTS);
        let path = self.path(nar_hash);
        let text = print(&contents, nar_hash);
        if let Err(error) = self.write(&path, &text) {
            return self.warn(&path, &error);
        }
        if self.remembered.fetch_add(1, Ordering::Relaxed).is_multiple_of(SWEEP)
            && let Err(error) = self.sweep()
        {
            self.warn(&self.dir, &error);
        }
    }

    fn path(&self, nar_hash: NarHash) -> PathBuf {
        self.dir.join(base32::encode(nar_hash.as_bytes()))
    }

    /// Once is enough: it fails each time.
    fn warn(&self, path: &Path, error: &io::Error) {
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!("verified NARs are not remembered: {}: {error}", path.display());
        }
    }

    fn check_dir(&self) -> io::Result<()> {
        let status = fs::symlink_metadata(&self.dir)?;
        if !status.is_dir() {
            return Err(ErrorKind::NotADirectory.into());
        }
        check_owner(&status, 0o022)
    }

    /// A reader sees the old record or the new one. After a power cut there may be neither, which costs another download.
    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        self.check_dir()?;
        // It is made with mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        file.write_all(text.as_bytes())?;
        file.persist(path)?;
        Ok(())
    }

    /// Removes the oldest records when there are too many, and what a process left that was killed.
    fn sweep(&self) -> io::Result<()> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            // What went meanwhile is not too many.
            if let Ok(status) = entry.metadata() {
                records.push((status.modified()?, entry.path()));
            }
        }
        if records.len() <= self.most {
            return Ok(());
        }
        records.sort_unstable();
        // A tenth more, so that not every sweep has work.
        let surplus = records.len() - self.most + self.most / 10;
        for (_, path) in records.into_iter().take(surplus) {
            match fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The text of a record that nobody else can have written.
fn read(path: &Path) -> io::Result<String> {
    // Whatever lies there must neither hang us nor lead us elsewhere.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let file: File = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let status = file.metadata()?;
    if !status.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidData, "it is not a file"));
    }
    check_owner(&status, 0o077)?;
    let mut text = String::new();
    // Of what is longer a part, which is no record.
    file.take(MAX_LENGTH).read_to_string(&mut text)?;
    Ok(text)
}

/// Refuses what belongs to another user, or gives others any of these rights.
fn check_owner(status: &fs::Metadata, rights: u32) -> io::Result<()> {
    let refused = |reason| Err(io::Error::new(ErrorKind::PermissionDenied, reason));
    if status.uid() != rustix::process::geteuid().as_raw() {
        return refused("it belongs to another user");
    }
    if status.mode() & rights != 0 {
        return refused("other users have rights to it");
    }
    Ok(())
}

fn print(contents: &[Known], nar_hash: NarHash) -> String {
    let lines = contents.iter().map(|known| format!("{} {}\n", known.form, known.capability));
    format!("{HEADER}\n{nar_hash}\n{}end\n", lines.collect::<String>())
}

fn parse(text: &str, nar_hash: NarHash) -> Option<Vec<Known>> {
    let mut lines = text.strip_suffix("\nend\n")?.split('\n');
    if lines.next()? != HEADER || lines.next()?.parse() != Ok(nar_hash) {
        return None;
    }
    let known = lines.map(|line| {
        let (form, urn) = line.split_once(' ')?;
        Some(Known { capability: urn.parse().ok()?, form: Compression::from_narinfo(form).ok()? })
    });
    known.take(MOST_CONTENTS + 1).collect::<Option<Vec<_>>>().filter(|known| known.len() <= MOST_CONTENTS)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::eris::{BlockSize, ConvergenceSecret, Encoder};

    fn known(content: &[u8], form: Compression) -> Known {
        let mut encoder = Encoder::new(BlockSize::Small, ConvergenceSecret::NULL);
        encoder.push(content);
        Known { capability: encoder.finish().0, form }
    }

    struct Rig {
        folder: tempfile::TempDir,
        verified: Verified,
    }

    fn rig() -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let verified = Verified::open(&folder.path().join("verified"));
        Rig { folder, verified }
    }

    impl Rig {
        fn file(&self, nar_hash: NarHash) -> PathBuf {
            self.folder.path().join("verified").join(base32::encode(nar_hash.as_bytes()))
        }
    }

    #[test]
    fn what_was_remembered_is_known_to_the_next_process_the_last_first() {
        let rig = rig();
        let hash = NarHash::of(b"nar");
        assert_eq!(rig.verified.get(hash), []);
        let (plain, packed) = (known(b"plain", Compression::None), known(b"packed", Compression::Zstd));
        rig.verified.remember(hash, plain);
        rig.verified.remember(hash, packed);
        rig.verified.remember(NarHash::of(b"other"), plain);
        rig.verified.remember(hash, packed);
        let next = Verified::open(&rig.folder.path().join("verified"));
        assert_eq!(next.get(hash), [packed, plain]);
        assert_eq!(next.get(NarHash::of(b"third")), []);
    }

    #[test]
    fn nobody_else_can_read_it() {
        let rig = rig();
        rig.verified.remember(NarHash::of(b"nar"), known(b"plain", Compression::None));
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&rig.file(NarHash::of(b"nar"))), 0o600);
        assert_eq!(mode(&rig.folder.path().join("verified")), 0o700);
    }

    #[test]
    fn a_broken_record_is_ignored_and_replaced() {
        let rig = rig();
        let (hash, plain) = (NarHash::of(b"nar"), known(b"plain", Compression::None));
        rig.verified.remember(hash, plain);
        let good = fs::read_to_string(rig.file(hash)).unwrap();
        let other = good.replace(&hash.to_string(), &NarHash::of(b"other").to_string());
        for broken in [
            "",
            "erisfs-verified 2\n",
            &good.replace(" 2\n", " 1\n"),
            &good.replace("none", "rar"),
            &good.replace("urn:", "url:"),
            &good[..good.len() - 1],
            &good[..good.len() - 10],
            &format!("{good}{good}"),
            &good.replace("none", &"none ".repeat(2000)),
            &other,
        ] {
            fs::write(rig.file(hash), broken).unwrap();
            assert_eq!(rig.verified.get(hash), [], "{broken:?}");
        }
        rig.verified.remember(hash, plain);
        assert_eq!(rig.verified.get(hash), [plain]);
    }

    #[test]
    fn what_others_could_have_written_is_not_believed() {
        let rig = rig();
        let (hash, plain) = (NarHash::of(b"nar"), known(b"plain", Compression::None));
        rig.verified.remember(hash, plain);
        let (file, dir) = (rig.file(hash), rig.folder.path().join("verified"));
        let set_mode =
            |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        for mode in [0o620, 0o602, 0o640, 0o604] {
            set_mode(&file, mode);
            assert_eq!(rig.verified.get(hash), [], "{mode:o}");
        }
        set_mode(&file, 0o600);
        set_mode(&dir, 0o777);
        assert_eq!(rig.verified.get(hash), []);
        rig.verified.remember(NarHash::of(b"other"), plain);
        set_mode(&dir, 0o700);
        assert_eq!(rig.verified.get(NarHash::of(b"other")), []);
        assert_eq!(rig.verified.get(hash), [plain]);
        // Only root can give files away.
        if std::os::unix::fs::chown(&file, Some(12345), None).is_ok() {
            assert_eq!(rig.verified.get(hash), [], "of another user");
        }
        fs::rename(&file, rig.folder.path().join("elsewhere")).unwrap();
        symlink(rig.folder.path().join("elsewhere"), &file).unwrap();
        assert_eq!(rig.verified.get(hash), [], "a link");
    }

    #[test]
    fn there_are_never_too_many_and_the_oldest_go() {
        let mut rig = rig();
        rig.verified.most = 100;
        let plain = known(b"plain", Compression::None);
        let hashes: Vec<_> = (0..=SWEEP * 2).map(|number| NarHash::of(&number.to_le_bytes())).collect();
        for (age, hash) in hashes.iter().enumerate() {
            rig.verified.remember(*hash, plain);
            // So that the order of age is certain.
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000 + age as u64);
            if let Ok(file) = File::options().write(true).open(rig.file(*hash)) {
                file.set_modified(time).unwrap();
            }
        }
        let left = hashes.iter().filter(|hash| !rig.verified.get(**hash).is_empty()).count();
        assert!((80..=100).contains(&left), "{left}");
        assert_eq!(rig.verified.get(hashes[hashes.len() - 2]), [plain]);
    }
}
