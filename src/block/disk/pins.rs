//! Named sets of blocks that are not evicted: one file a set, in the folder `pins`.
//!
//! The files are all there is to it. Whoever is about to evict something asks them (through a copy in memory that is read anew after
//! a change), so there are no marks in the index that could be left behind by a crash.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufReader, ErrorKind, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use rustix::fs::OFlags;

use super::{
    DiskError, Pin,
    layout::{Layout, size_of},
    shared::{Locked, PATIENCE, Shared},
    slots::{Slots, Wait},
};
use crate::eris::{BlockSize, Reference};

const FOLDER: &str = "pins";
/// Under this name a set is written. No pin is called so, and only the holder of the lock writes.
const INCOMING: &str = ".new";
const MAGIC: [u8; 8] = *b"ERISPIN1";
/// The longest name of a file.
const MAX_NAME: usize = 255;
/// A file of more bytes is none of ours: the pins of the largest cache are below.
const MAX_BYTES: u64 = 1 << 34;
/// Pins that a message names: a line or two.
const NAMED: usize = 5;

/// All blocks that are pinned, by the first eight bytes of their references. Another block that begins alike, one in 2^40, is
/// kept too.
#[derive(Debug, Default)]
pub(super) struct PinSet {
    beginnings: Vec<u64>,
}

impl PinSet {
    /// Reads the sets below the directory of a cache. What is damaged pins nothing.
    pub(super) fn load(dir: &Path) -> Self {
        let mut beginnings = Vec::new();
        for name in names(dir).unwrap_or_default() {
            let read = each_reference(&dir.join(FOLDER).join(escape(&name)), |reference| {
                beginnings.push(beginning(&reference));
            });
            if let Err(error) = read {
                tracing::warn!("cannot read the pin {name:?} in {}: {error}", dir.display());
            }
        }
        beginnings.sort_unstable();
        beginnings.dedup();
        Self { beginnings }
    }

    pub(super) fn contains(&self, reference: &Reference) -> bool {
        self.beginnings.binary_search(&beginning(reference)).is_ok()
    }
}

fn beginning(reference: &Reference) -> u64 {
    u64::from_be_bytes(reference.as_bytes()[..8].try_into().expect("eight bytes"))
}

impl Shared {
    pub(super) fn pin(&self, name: &str, references: &[Reference]) -> Result<Pin, DiskError> {
        let file = escape(name);
        if name.is_empty() || file.len() > MAX_NAME {
            return Err(DiskError::BadPinName { name: name.to_owned() });
        }
        let mut references = references.to_vec();
        references.sort_unstable_by_key(|reference| *reference.as_bytes());
        references.dedup();
        self.locked(PATIENCE, |locked| {
            self.check_room(locked, name, &references)?;
            let folder = self.file(FOLDER);
            let written = write(&folder, &file, &references);
            written.map_err(|error| self.failed("write a pin to", &folder, error))?;
            self.announce(locked)?;
            Ok(report(locked.slots, name.to_owned(), references.iter().copied()))
        })
    }

    pub(super) fn unpin(&self, name: &str) -> Result<(), DiskError> {
        self.locked(PATIENCE, |locked| {
            let path = self.file(FOLDER).join(escape(name));
            match fs::remove_file(&path) {
                Ok(()) => self.announce(locked),
                Err(error) if name.is_empty() || error.kind() == ErrorKind::NotFound => {
                    Err(DiskError::NoSuchPin { name: name.to_owned() })
                }
                Err(error) => Err(self.failed("remove", &path, error)),
            }
        })
    }

    pub(super) fn list_pins(&self) -> Result<Vec<Pin>, DiskError> {
        let attached = self.attached();
        let folder = self.file(FOLDER);
        let names = names(&self.path).map_err(|error| self.failed("read", &folder, error))?;
        let mut pins = Vec::new();
        for name in names {
            let mut references = Vec::new();
            let path = folder.join(escape(&name));
            match each_reference(&path, |reference| references.push(reference)) {
                Ok(()) => {}
                // Taken away in between.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(self.failed("read", &path, error)),
            }
            pins.push(match &attached {
                Some(attached) => report(&attached.slots, name, references.into_iter()),
                None => {
                    let blocks = references.len() as u64;
                    Pin { name, blocks, missing: blocks, bytes: 0 }
                }
            });
        }
        Ok(pins)
    }

    /// Tells the other processes that the pins have changed.
    fn announce(&self, locked: &Locked<'_>) -> Result<(), DiskError> {
        let set = locked.slots.set_pins(locked.pins_generation.wrapping_add(1));
        set.map_err(|error| self.failed("write", &self.path, error))
    }

    /// Refuses what would leave less than a fifth of the slots to everything else. A block that is not here yet counts as a large
    /// one, which nearly all are.
    fn check_room(&self, locked: &Locked<'_>, name: &str, references: &[Reference]) -> Result<(), DiskError> {
        let others = names(&self.path).unwrap_or_default().into_iter().filter(|other| other != name);
        let all = self.all_pinned(others, references.to_vec());
        for (size, count) in counts(locked.slots, &all) {
            let limit = limit(locked.slots.layout(), size);
            if count > limit {
                let bytes = size.bytes() as u64;
                let (wanted, limit) = (count * bytes, limit * bytes);
                return Err(DiskError::PinsTooLarge { name: name.to_owned(), wanted, limit });
            }
        }
        Ok(())
    }

    /// Refuses a smaller layout in which the pinned blocks would take more than their part.
    pub(super) fn check_move(&self, locked: &Locked<'_>, layout: &Layout) -> Result<(), DiskError> {
        let present = locked.slots.layout();
        if layout.buckets() >= present.buckets() {
            return Ok(());
        }
        // Without knowing what is pinned nothing may be lost.
        let names = names(&self.path).map_err(|error| self.failed("read", &self.file(FOLDER), error))?;
        let all = self.all_pinned(names.iter().cloned(), Vec::new());
        if counts(locked.slots, &all).iter().all(|(size, count)| *count <= limit(layout, *size)) {
            return Ok(());
        }
        let mut pins = format!("{:?} pinned", &names[..names.len().min(NAMED)]);
        if names.len() > NAMED {
            pins += &format!(" and {} more", names.len() - NAMED);
        }
        Err(DiskError::PinsDoNotFit { pins, from: present.size(), to: layout.size() })
    }

    /// These references and those of these pins, each once. A damaged pin pins nothing.
    fn all_pinned(&self, names: impl Iterator<Item = String>, mut all: Vec<Reference>) -> Vec<Reference> {
        for name in names {
            let _ = each_reference(&self.file(FOLDER).join(escape(&name)), |reference| all.push(reference));
        }
        all.sort_unstable_by_key(|reference| *reference.as_bytes());
        all.dedup();
        all
    }
}

/// How many of the blocks are small, and how many large. One that is not here yet counts as large.
fn counts(slots: &Slots, references: &[Reference]) -> [(BlockSize, u64); 2] {
    let is_small = |reference: &&Reference| size(slots, reference) == Some(BlockSize::Small);
    let small = references.iter().filter(is_small).count() as u64;
    [(BlockSize::Small, small), (BlockSize::Large, references.len() as u64 - small)]
}

/// Slots that pinned blocks may take.
fn limit(layout: &Layout, size: BlockSize) -> u64 {
    layout.slots(size) / 5 * 4
}

fn size(slots: &Slots, reference: &Reference) -> Option<BlockSize> {
    let found = slots.find(reference, Wait::Yes).ok().flatten();
    found.map(|(place, _)| size_of(place.entry))
}

fn report(slots: &Slots, name: String, references: impl Iterator<Item = Reference>) -> Pin {
    let mut pin = Pin { name, blocks: 0, missing: 0, bytes: 0 };
    for reference in references {
        pin.blocks += 1;
        match size(slots, &reference) {
            Some(size) => pin.bytes += size.bytes() as u64,
            None => pin.missing += 1,
        }
    }
    pin
}

/// The names of all pins, sorted.
fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir.join(FOLDER)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().to_str().and_then(unescape));
    }
    names.sort();
    Ok(names)
}

fn each_reference(path: &Path, mut each: impl FnMut(Reference)) -> io::Result<()> {
    let damaged = || io::Error::new(ErrorKind::InvalidData, "it is not a list of references");
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let status = file.metadata()?;
    let length = status.len();
    if !status.is_file() || length > MAX_BYTES || length % 32 != MAGIC.len() as u64 {
        return Err(damaged());
    }
    let mut file = BufReader::with_capacity(64 * 1024, file);
    let mut magic = [0; MAGIC.len()];
    file.read_exact(&mut magic)?;
    if magic != MAGIC {
        return Err(damaged());
    }
    for _ in 0..length / 32 {
        let mut reference = [0; 32];
        file.read_exact(&mut reference)?;
        each(Reference::new(reference));
    }
    Ok(())
}

fn write(folder: &Path, name: &str, references: &[Reference]) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut bytes = MAGIC.to_vec();
    references.iter().for_each(|reference| bytes.extend_from_slice(reference.as_bytes()));
    let incoming = folder.join(INCOMING);
    match fs::remove_file(&incoming) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&incoming)?;
    file.write_all(&bytes)?;
    // What is pinned is meant to stay, so it survives a power cut.
    file.sync_all()?;
    fs::rename(incoming, folder.join(name))?;
    File::open(folder)?.sync_all()
}

/// A name as the name of a file: letters, digits, `-`, `_`, and `.` except at the start, stand for themselves.
fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for (at, byte) in name.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => escaped.push(byte.into()),
            b'.' if at > 0 => escaped.push('.'),
            byte => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// The name that was escaped so; none if that is not how it is escaped.
fn unescape(escaped: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), escaped.as_bytes());
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        bytes.push(match byte {
            b'%' => {
                let digits = rest.split_off(..2)?;
                u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?
            }
            byte => *byte,
        });
    }
    String::from_utf8(bytes).ok().filter(|name| escape(name) == escaped && !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_can_be_that_of_a_file_and_is_read_back() {
        for name in ["python", ".new", "..", "a/b", "%2F", "ä b\n", "/gnu/store/x-1.0"] {
            let escaped = escape(name);
            assert!(!escaped.contains('/') && !escaped.starts_with('.'), "{escaped}");
            assert_eq!(unescape(&escaped).as_deref(), Some(name));
        }
        for other in ["", ".new", "a b", "%2f", "%", "%4", "%41", "%FF"] {
            assert_eq!(unescape(other), None, "{other}");
        }
    }

    #[test]
    fn a_damaged_set_pins_nothing_and_harms_no_other() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let pins = folder.path().join(FOLDER);
        let references = [1, 2, 3].map(|byte| Reference::new([byte; 32]));
        write(&pins, "good", &references).expect("a writable directory");
        write(&pins, "short", &[Reference::new([4; 32])]).expect("a writable directory");
        let short = OpenOptions::new().write(true).open(pins.join("short")).expect("a file");
        short.set_len(39).expect("a writable file");
        fs::write(pins.join("other"), [b'x'; 40]).expect("a writable directory");
        fs::create_dir(pins.join("folder")).expect("a writable directory");
        std::os::unix::fs::symlink("/dev/zero", pins.join("link")).expect("a writable directory");
        let set = PinSet::load(folder.path());
        assert!(references.iter().all(|reference| set.contains(reference)));
        assert!(!set.contains(&Reference::new([4; 32])) && set.beginnings.len() == 3);
    }
}
