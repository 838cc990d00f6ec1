//! Finding records in a GDBM file and adding some, with what is in the file checked before it is believed.

use std::{
    fs::File,
    io::{self, ErrorKind},
    os::unix::fs::FileExt as _,
};

use super::format::{Bucket, Element, HASH_BITS, HEADER, Header, KEY, hash};
use crate::{block::Block, eris::BlockSize};

/// Whether C's `char` has a sign on this machine.
pub(super) const SIGNED: bool = std::ffi::c_char::MIN != 0;

/// Why a database could not be used.
#[derive(Debug)]
pub(super) enum Fault {
    Io(io::Error),
    /// At this byte stands something else than what is wanted.
    Damage {
        at: u64,
        wanted: &'static str,
    },
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Fault::Io(error)
    }
}

/// An open database. Whoever uses it holds a lock on the file.
#[derive(Debug)]
pub(super) struct Database<'a> {
    file: &'a File,
    header: Header,
    /// Writes before the process is killed.
    #[cfg(test)]
    pub(super) writes_left: usize,
}

/// Where the value of a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) at: u64,
    pub(super) size: u32,
}

impl<'a> Database<'a> {
    pub(super) fn open(file: &'a File) -> Result<Self, Fault> {
        let mut bytes = [0; HEADER];
        read_exact(file, &mut bytes, 0, "header")?;
        let length = file.metadata()?.len();
        let header = Header::parse(&bytes, length).map_err(|wanted| Fault::Damage { at: 0, wanted })?;
        #[cfg(test)]
        return Ok(Database { file, header, writes_left: usize::MAX });
        #[cfg(not(test))]
        Ok(Database { file, header })
    }

    /// Where the value of `key` is. What machines with another `char` stored is found, too.
    pub(super) fn find(&self, key: &[u8; KEY]) -> Result<Option<Place>, Fault> {
        for signed in [SIGNED, !SIGNED] {
            let hash = hash(key, signed);
            let (_, bucket) = self.bucket(self.header.dir_index(hash))?;
            if let Some((_, element)) = self.find_in(&bucket, key, hash)? {
                return Ok(Some(Place { at: element.at + KEY as u64, size: element.size }));
            }
        }
        Ok(None)
    }

    /// The value at `place`, which has the size of a block.
    pub(super) fn read(&self, place: Place) -> Result<Vec<u8>, Fault> {
        let mut value = vec![0; (place.size as usize).min(BlockSize::MAX)];
        read_exact(self.file, &mut value, place.at, "record")?;
        Ok(value)
    }

    /// Keeps a block under `key`; in place of what is there, if something is.
    ///
    /// Everything new is written behind the end, which the header has been told before, and only then made reachable: whoever is
    /// killed in between leaves a good database, with a hole in it at the most.
    pub(super) fn insert(&mut self, key: &[u8; KEY], block: &Block, size: BlockSize) -> Result<(), Fault> {
        let hash = hash(key, SIGNED);
        let (at, mut bucket, slot) = loop {
            let index = self.header.dir_index(hash);
            let (at, bucket) = self.bucket(index)?;
            let taken = self.find_in(&bucket, key, hash)?.map(|(slot, _)| slot);
            match taken.or_else(|| bucket.free_slot(hash)) {
                Some(slot) => break (at, bucket, slot),
                None => self.split(index, at, &bucket)?,
            }
        };
        let record_at = self.allocate(KEY as u64 + block.len() as u64)?;
        self.write(&[&key[..], block].concat(), record_at)?;
        bucket.set(slot, Element::new(key, hash, record_at, size));
        self.write(&bucket.bytes, at)
    }

    /// Makes two new buckets of one, and if need be a directory of twice the size that can tell them apart.
    ///
    /// The old bucket stays as it is: whoever is killed before the directory is written leaves everything as it was, and what of the
    /// directory still leads to the old bucket then finds all in it.
    fn split(&mut self, index: u64, at: u64, bucket: &Bucket) -> Result<(), Fault> {
        let bits = bucket.bits();
        if bits >= self.header.dir_bits {
            self.double_directory()?;
            // The index counts half as far now.
            return Ok(());
        }
        let halves = bucket.split();
        let size = bucket.bytes.len() as u64;
        let new = self.allocate(2 * size)?;
        self.write(&halves.each_ref().map(|half| &half.bytes[..]).concat(), new)?;
        // All entries that may lead to this bucket. Those that lead elsewhere were given to another by a split that was cut short.
        let count = 1_u64 << (self.header.dir_bits - bits);
        let entries_at = self.header.dir + index / count * count * 8;
        let mut entries = vec![0; 8 * count as usize];
        read_exact(self.file, &mut entries, entries_at, "directory")?;
        for (number, entry) in entries.chunks_exact_mut(8).enumerate() {
            if *entry == at.to_le_bytes() {
                let half = if (number as u64) < count / 2 { new } else { new + size };
                entry.copy_from_slice(&half.to_le_bytes());
            }
        }
        self.write(&entries, entries_at)
    }

    fn double_directory(&mut self) -> Result<(), Fault> {
        if !self.header.can_grow() {
            return Err(Fault::Damage { at: self.header.dir, wanted: "directory that may grow" });
        }
        let mut old = vec![0; 8 << self.header.dir_bits];
        read_exact(self.file, &mut old, self.header.dir, "directory")?;
        let new: Vec<u8> = old.chunks_exact(8).flat_map(|entry| entry.repeat(2)).collect();
        let dir = self.allocate(new.len() as u64)?;
        self.write(&new, dir)?;
        self.header.dir = dir;
        self.header.dir_bits += 1;
        self.write(&self.header.to_bytes(), 0)
    }

    fn write(&mut self, bytes: &[u8], at: u64) -> Result<(), Fault> {
        #[cfg(test)]
        {
            self.writes_left = self.writes_left.checked_sub(1).ok_or(io::Error::other("killed"))?;
        }
        Ok(self.file.write_all_at(bytes, at)?)
    }

    /// So many bytes at the end of the file.
    fn allocate(&mut self, length: u64) -> Result<u64, Fault> {
        let at = self.header.next_block.max(self.file.metadata()?.len());
        self.header.next_block = at
            .checked_add(length)
            .filter(|end| i64::try_from(*end).is_ok())
            .ok_or(Fault::Damage { at: 0, wanted: "header with an end that a file can have" })?;
        self.write(&self.header.to_bytes(), 0)?;
        Ok(at)
    }

    /// The bucket that an entry of the directory leads to, and where it stands.
    fn bucket(&self, index: u64) -> Result<(u64, Bucket), Fault> {
        let mut at = [0; 8];
        read_exact(self.file, &mut at, self.header.dir + index * 8, "directory")?;
        let at = u64::from_le_bytes(at);
        let mut bucket = Bucket::empty(self.header.bucket_size, 0);
        read_exact(self.file, &mut bucket.bytes, at, "bucket")?;
        match bucket.bits() <= self.header.dir_bits && bucket.bits() < HASH_BITS {
            true => Ok((at, bucket)),
            false => Err(Fault::Damage { at, wanted: "bucket that its directory can tell from others" }),
        }
    }

    fn find_in(
        &self,
        bucket: &Bucket,
        key: &[u8; KEY],
        hash: u32,
    ) -> Result<Option<(usize, Element)>, Fault> {
        for (slot, element) in bucket.candidates(hash) {
            if element.hash != hash
                || element.key_size as usize != KEY
                || !key.starts_with(&element.key_start)
            {
                continue;
            }
            let mut found = [0; KEY];
            read_exact(self.file, &mut found, element.at, "key")?;
            if found == *key {
                return Ok(Some((slot, element)));
            }
        }
        Ok(None)
    }
}

fn read_exact(file: &File, bytes: &mut [u8], at: u64, wanted: &'static str) -> Result<(), Fault> {
    // No file is that long, and the system takes no such number.
    if at > i64::MAX as u64 - bytes.len() as u64 {
        return Err(Fault::Damage { at, wanted });
    }
    file.read_exact_at(bytes, at).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => Fault::Damage { at, wanted },
        _ => Fault::Io(error),
    })
}
