//! The file format of GDBM, as its C library writes it on 64-bit machines with the low byte first: a header, a directory of hash
//! buckets, the buckets, and the records. No I/O.

use crate::eris::BlockSize;

/// First bytes of a database: plain, and with the larger header that crash tolerance brought.
const MAGIC: u32 = 0x1357_9acf;
const MAGIC_NUMSYNC: u32 = 0x1357_9ad1;
/// What other machines write: GDBM itself opens none of them here either. (32 bits; the oldest; and all of them turned round.)
const FOREIGN_MAGICS: [u32; 4] = [0x1357_9acd, 0x1357_9ace, 0x1357_9ad0, 0xcf9a_5713];
/// Bytes of a header that are read; what follows is free space, which is left alone.
pub(super) const HEADER: usize = 40;
/// Bytes of a key.
pub(super) const KEY: usize = 32;
/// A hash has 31 bits.
pub(super) const HASH_BITS: u32 = 31;
/// 128 MiB of directory: room for two billion blocks.
const MAX_DIR_BITS: u32 = 24;
/// GDBM takes the file system's block size for buckets: 4 KiB mostly, 1 MiB on some network file systems.
const MAX_BUCKET: u32 = 4 << 20;
/// Bytes in front of the elements of a bucket; of these, the first are its own free space, which is left alone.
const BUCKET_HEAD: usize = 112;
const BITS_AT: usize = 104;
const COUNT_AT: usize = 108;
/// Bytes of an element of a bucket.
const ELEMENT: usize = 24;
/// The hash of an element that is free.
const FREE: u32 = u32::MAX;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    magic: u32,
    block_size: u32,
    /// Where the directory is.
    pub(super) dir: u64,
    /// The directory has 2 to the power of this many entries.
    pub(super) dir_bits: u32,
    pub(super) bucket_size: u32,
    /// Where the file ends, for whoever adds to it.
    pub(super) next_block: u64,
}

/// How much a database is given to begin with: what GDBM does for blocks of 4 KiB.
const NEW: Header = Header {
    magic: MAGIC,
    block_size: 4096,
    dir: 4096,
    dir_bits: 9,
    bucket_size: 4096,
    next_block: 3 * 4096,
};

/// Where the free space of a header begins, and bytes of one entry of it.
const AVAIL_AT: usize = 40;
const AVAIL_HEAD: usize = 16;
const AVAIL: usize = 16;

/// A database without records.
pub(super) fn empty() -> Vec<u8> {
    let mut bytes = NEW.to_bytes().to_vec();
    bytes.resize(NEW.dir as usize, 0);
    // How many entries of free space there is room for.
    let room = (NEW.block_size as usize - AVAIL_AT - AVAIL_HEAD) / AVAIL;
    bytes[AVAIL_AT..][..4].copy_from_slice(&(room as u32).to_le_bytes());
    let bucket_at = NEW.dir + (8 << NEW.dir_bits);
    bytes.extend(bucket_at.to_le_bytes().repeat(1 << NEW.dir_bits));
    bytes.extend(Bucket::empty(NEW.bucket_size, 0).bytes);
    bytes
}

impl Header {
    /// Reads the header of a file of this length; the error is what is wrong with it.
    pub(super) fn parse(bytes: &[u8; HEADER], length: u64) -> Result<Self, &'static str> {
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let header = Header {
            magic: number(0),
            block_size: number(4),
            dir: long(8),
            dir_bits: number(20),
            bucket_size: number(24),
            next_block: long(32),
        };
        match header.magic {
            MAGIC | MAGIC_NUMSYNC => {}
            magic if FOREIGN_MAGICS.contains(&magic) || FOREIGN_MAGICS.contains(&magic.swap_bytes()) => {
                return Err("a GDBM database of this kind of machine (gdbm_dump there, gdbm_load here)");
            }
            _ => return Err("GDBM database"),
        }
        let sizes = 512..=MAX_BUCKET;
        if !sizes.contains(&header.block_size) || !sizes.contains(&header.bucket_size) {
            return Err("header with sizes that GDBM would choose");
        }
        if header.dir_bits > MAX_DIR_BITS || number(16) != 8 << header.dir_bits {
            return Err("header with a directory of a size that GDBM would choose");
        }
        let dir_end = header.dir.checked_add(8 << header.dir_bits);
        if dir_end.is_none_or(|end| end > length) {
            return Err("header with a directory that is in the file");
        }
        if number(28) as usize != header.elements() {
            return Err("header with as many elements in a bucket as there is room for");
        }
        Ok(header)
    }

    /// The header as it stands in the file.
    pub(super) fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let mut number = |at: usize, number: u32| bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        number(0, self.magic);
        number(4, self.block_size);
        number(16, 8 << self.dir_bits);
        number(20, self.dir_bits);
        number(24, self.bucket_size);
        number(28, self.elements() as u32);
        bytes[8..16].copy_from_slice(&self.dir.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.next_block.to_le_bytes());
        bytes
    }

    /// Elements of a bucket.
    fn elements(self) -> usize {
        (self.bucket_size as usize - BUCKET_HEAD) / ELEMENT
    }

    /// Whether the directory can get twice as large.
    pub(super) fn can_grow(self) -> bool {
        self.dir_bits < MAX_DIR_BITS
    }

    /// Which entry of the directory leads to the bucket of a hash.
    pub(super) fn dir_index(self, hash: u32) -> u64 {
        u64::from(hash >> (HASH_BITS - self.dir_bits))
    }
}

/// The hash of a key. Bytes count as C's `char`: with a sign on x86, without one on ARM.
pub(super) fn hash(key: &[u8; KEY], signed: bool) -> u32 {
    let mut value = (KEY as u32).wrapping_mul(0x238f_13af);
    for (index, &byte) in key.iter().enumerate() {
        let byte = if signed { i32::from(byte as i8) as u32 } else { u32::from(byte) };
        value = value.wrapping_add(byte << (index * 5 % 24)) & 0x7fff_ffff;
    }
    value.wrapping_mul(1_103_515_243).wrapping_add(12_345) & 0x7fff_ffff
}

/// An element of a bucket: a record, and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) hash: u32,
    pub(super) key_start: [u8; 4],
    /// Where the key begins; the value follows it.
    pub(super) at: u64,
    pub(super) key_size: u32,
    pub(super) size: u32,
}

impl Element {
    /// Of a block that is written at `at`.
    pub(super) fn new(key: &[u8; KEY], hash: u32, at: u64, size: BlockSize) -> Self {
        let key_start = *key.first_chunk().expect("a key is longer");
        Element { hash, key_start, at, key_size: KEY as u32, size: size.bytes() as u32 }
    }
}

/// A hash bucket, its bytes as they stand in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bucket {
    pub(super) bytes: Vec<u8>,
}

impl Bucket {
    /// A bucket without elements, which takes hashes that agree in so many first bits.
    pub(super) fn empty(size: u32, bits: u32) -> Self {
        let mut bucket = Bucket { bytes: vec![0; size as usize] };
        bucket.set_number(BITS_AT, bits);
        for slot in 0..bucket.len() {
            bucket.clear(slot);
        }
        bucket
    }

    /// How many elements there is room for.
    fn len(&self) -> usize {
        (self.bytes.len() - BUCKET_HEAD) / ELEMENT
    }

    fn number(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().expect("4 bytes"))
    }

    fn set_number(&mut self, at: usize, number: u32) {
        self.bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
    }

    /// In how many first bits its hashes agree.
    pub(super) fn bits(&self) -> u32 {
        self.number(BITS_AT)
    }

    /// The element in this slot, if there is one.
    fn element(&self, slot: usize) -> Option<Element> {
        let at = BUCKET_HEAD + slot * ELEMENT;
        let element = Element {
            hash: self.number(at),
            key_start: self.bytes[at + 4..at + 8].try_into().expect("4 bytes"),
            at: u64::from(self.number(at + 8)) | u64::from(self.number(at + 12)) << 32,
            key_size: self.number(at + 16),
            size: self.number(at + 20),
        };
        (element.hash != FREE).then_some(element)
    }

    fn clear(&mut self, slot: usize) {
        let at = BUCKET_HEAD + slot * ELEMENT;
        self.bytes[at..at + ELEMENT].fill(0);
        self.set_number(at, FREE);
    }

    /// Puts an element into a slot.
    pub(super) fn set(&mut self, slot: usize, element: Element) {
        if self.element(slot).is_none() {
            self.set_number(COUNT_AT, self.number(COUNT_AT).wrapping_add(1));
        }
        let at = BUCKET_HEAD + slot * ELEMENT;
        self.set_number(at, element.hash);
        self.bytes[at + 4..at + 8].copy_from_slice(&element.key_start);
        self.bytes[at + 8..at + 16].copy_from_slice(&element.at.to_le_bytes());
        self.set_number(at + 16, element.key_size);
        self.set_number(at + 20, element.size);
    }

    /// The slots where a hash may be, from its own one to the first that is free.
    pub(super) fn candidates(&self, hash: u32) -> impl Iterator<Item = (usize, Element)> {
        self.slots(hash).map_while(|slot| Some((slot, self.element(slot)?)))
    }

    /// The slot that a new element gets; none in a full bucket.
    pub(super) fn free_slot(&self, hash: u32) -> Option<usize> {
        let mut free = self.slots(hash).filter(|slot| self.element(*slot).is_none());
        free.next()
    }

    fn slots(&self, hash: u32) -> impl Iterator<Item = usize> + use<> {
        let (first, len) = (hash as usize, self.len());
        (0..len).map(move |step| (first + step) % len)
    }

    /// Two buckets of its hashes: those whose next bit is not set, and those where it is.
    pub(super) fn split(&self) -> [Bucket; 2] {
        let bits = self.bits() + 1;
        let mut halves = [(); 2].map(|()| Bucket::empty(self.bytes.len() as u32, bits));
        // Its free space is told in one of them.
        halves[0].bytes[..BITS_AT].copy_from_slice(&self.bytes[..BITS_AT]);
        for element in (0..self.len()).filter_map(|slot| self.element(slot)) {
            let half = &mut halves[(element.hash >> (HASH_BITS - bits) & 1) as usize];
            let slot = half.free_slot(element.hash).expect("a bucket takes as many as another had");
            half.set(slot, element);
        }
        halves
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_database_has_the_header_that_is_read() {
        let bytes = empty();
        let header = Header::parse(bytes.first_chunk().expect("a header"), NEW.next_block);
        assert_eq!(header, Ok(NEW));
        assert_eq!(bytes.len() as u64, NEW.next_block);
        // The numbers that GDBM 1.23 writes for blocks of 4 KiB.
        assert_eq!(
            (NEW.elements(), u32::from_le_bytes([bytes[40], bytes[41], bytes[42], bytes[43]])),
            (166, 252)
        );
    }

    #[test]
    fn headers_of_other_machines_and_with_absurd_sizes_are_refused() {
        for (at, number) in [
            (0, 0x1357_9acd_u32),
            (0, 0xcf9a_5713),
            (0, 0x04034b50),
            (4, 0),
            (4, u32::MAX),
            (16, 8),
            (20, 31),
            (20, u32::MAX),
            (24, 0),
            (24, 1 << 30),
            (28, 167),
        ] {
            let mut bytes = NEW.to_bytes();
            bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
            assert!(Header::parse(&bytes, NEW.next_block).is_err(), "{at} {number:#x}");
        }
    }

    #[test]
    fn a_directory_that_is_not_in_the_file_is_refused() {
        for dir in [NEW.next_block - (8 << NEW.dir_bits) + 1, i64::MAX as u64, u64::MAX - (8 << 9), u64::MAX]
        {
            let bytes = Header { dir, ..NEW }.to_bytes();
            assert!(Header::parse(&bytes, NEW.next_block).is_err(), "{dir:#x}");
        }
    }

    #[test]
    fn a_full_bucket_splits_by_the_next_bit_and_loses_nothing() {
        let mut bucket = Bucket::empty(512, 3);
        let mut elements = Vec::new();
        for number in 0..bucket.len() as u32 {
            let hash = 0b101 << 28 | number.wrapping_mul(0x0517_9ac3) & 0x0fff_ffff;
            let element = Element::new(&[number as u8; KEY], hash, number.into(), BlockSize::Small);
            bucket.set(bucket.free_slot(hash).expect("there is room"), element);
            elements.push(element);
        }
        assert!(bucket.free_slot(0).is_none());
        let halves = bucket.split();
        assert!(halves.iter().all(|half| half.bits() == 4));
        let counts = halves.each_ref().map(|half| half.number(COUNT_AT));
        assert_eq!(counts[0] + counts[1], elements.len() as u32);
        for element in elements {
            assert!(
                halves[(element.hash >> 27 & 1) as usize]
                    .candidates(element.hash)
                    .any(|(_, found)| found == element)
            );
        }
    }
}
