//! Catalogs, opened and searched as a reader does.
//!
//! The first byte chooses: a content as it is, or pages of the fuzzer's making in a catalog whose compression, index and tail
//! are made right around them.

#![no_main]

use std::ops::Range;

use erisfs::store::catalog::{Catalog, Opening, Table};
use erisfs::store::{HashPart, Narinfo};
use erisfs_fuzz::Input;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut input = Input(input);
    let mut keys = vec![HashPart::from_sortable_bytes([0; 20]), HashPart::from_sortable_bytes([0xFF; 20])];
    match input.byte() & 1 {
        0 => {
            let content = input.0.to_vec();
            keys.extend(content.chunks_exact(20).take(20).map(hash_part));
            search(&content, &keys);
        }
        _ => {
            let content = around_pages(&mut input, &mut keys);
            search(&content, &keys);
        }
    }
});

fn hash_part(bytes: &[u8]) -> HashPart {
    let mut key = [0; 20];
    key[..bytes.len().min(20)].copy_from_slice(&bytes[..bytes.len().min(20)]);
    HashPart::from_sortable_bytes(key)
}

/// A catalog of one narinfo page and up to two name pages.
fn around_pages(input: &mut Input<'_>, keys: &mut Vec<HashPart>) -> Vec<u8> {
    let (mut content, mut index) = (Vec::new(), Vec::new());
    let mut roots: Vec<u8> = Vec::new();

    let length = usize::from(input.u16());
    let texts = input.bytes(length);
    let first = str::from_utf8(texts).ok().and_then(|texts| {
        let narinfo: Narinfo = texts.split_inclusive("\n\n").next()?.strip_suffix('\n')?.parse().ok()?;
        Some(narinfo.store_path().hash_part())
    });
    let first = first.unwrap_or_else(|| hash_part(texts));
    keys.push(first);
    let page = zstd::bulk::compress(texts, 1).expect("zstd compresses anything");
    entry(&mut index, first, content.len(), page.len(), texts.len());
    roots.extend(first.sortable_bytes());
    content.extend(page);

    let (before, after) = input.0.split_at(usize::from(input.byte()).min(input.0.len()));
    let pages: Vec<&[u8]> = [before, after].into_iter().filter(|page| page.len() > 4).collect();
    for (number, names) in pages.iter().enumerate() {
        let page = zstd::bulk::compress(names, 1).expect("zstd compresses anything");
        frame(&mut content, b"ERISNAME", page.len());
        let key = hash_part(&names[4..]);
        keys.extend(names[4..].chunks_exact(20).take(20).map(hash_part));
        entry(&mut index, key, content.len(), page.len(), names.len());
        if number == 0 {
            roots.extend(key.sortable_bytes());
        }
        content.extend(page);
    }
    frame(&mut content, b"ERISINDX", index.len());
    let index_at = content.len() as u64;
    content.extend(index);

    let store_dir = b"/gnu/store";
    let payload = roots.len() + store_dir.len() + 48;
    frame(&mut content, b"ERISROOT", payload);
    content.extend(roots);
    content.extend(store_dir);
    content.extend(7_u64.to_le_bytes());
    content.extend(1_u64.to_le_bytes());
    content.extend((pages.len() as u64).to_le_bytes());
    content.extend(index_at.to_le_bytes());
    content.extend((payload as u32 + 16).to_le_bytes());
    content.extend((store_dir.len() as u16).to_le_bytes());
    content.extend(1_u16.to_le_bytes());
    content.extend(b"ERISCAT\n");
    content
}

fn frame(content: &mut Vec<u8>, tag: &[u8; 8], length: usize) {
    content.extend(0x184D_2A5A_u32.to_le_bytes());
    content.extend((length as u32 + 8).to_le_bytes());
    content.extend(tag);
}

fn entry(index: &mut Vec<u8>, first: HashPart, offset: usize, compressed: usize, decompressed: usize) {
    index.extend(first.sortable_bytes());
    index.extend((offset as u64).to_le_bytes());
    index.extend((compressed as u32).to_le_bytes());
    index.extend((decompressed as u32).to_le_bytes());
}

/// The bytes of a range; none where it is outside the content, which no range of ours may be.
fn bytes(content: &[u8], range: Range<u64>) -> &[u8] {
    &content[range.start as usize..range.end as usize]
}

fn open(content: &[u8]) -> Option<Catalog> {
    let length = content.len() as u64;
    let mut range = Catalog::tail_range(length);
    for _ in 0..2 {
        match Catalog::open(bytes(content, range), length).ok()? {
            Opening::Catalog(catalog) => return Some(catalog),
            Opening::Need(more) => range = more,
        }
    }
    panic!("more bytes were needed twice");
}

fn search(content: &[u8], keys: &[HashPart]) {
    let Some(catalog) = open(content) else { return };
    for key in keys {
        let _ = entry_of(content, &catalog, key);
        let _ = narinfo_of(content, &catalog, key);
    }
    for table in [Table::Names, Table::Narinfos] {
        for number in (0..catalog.pages(table)).take(3).chain([catalog.pages(table)]) {
            let Some(index) = catalog.index_page_of(table, number) else { continue };
            let Ok(Some(page)) = index.nth(bytes(content, index.range()), number) else { continue };
            assert_eq!(page.number(), number);
            let bytes = bytes(content, page.range());
            match table {
                Table::Names => {
                    let Ok(names) = page.names(bytes) else { continue };
                    assert!(names.len() > 0 && names.keys().is_sorted_by(|a, b| a < b));
                    let found = names.entries().flatten();
                    assert!(found.zip(names.keys()).all(|(entry, _)| entry.path.name().len() <= 211));
                }
                Table::Narinfos => {
                    let Ok(narinfos) = page.narinfos(bytes) else { continue };
                    assert!(narinfos.len() > 0);
                    let found = narinfos.narinfos().flatten();
                    for narinfo in found {
                        let key = narinfo.store_path().hash_part();
                        assert_eq!(*narinfo.store_dir(), *catalog.store_dir());
                        assert_eq!(narinfos.find(&key).ok().flatten().as_ref(), Some(&narinfo));
                    }
                }
            }
        }
    }
}

fn entry_of(content: &[u8], catalog: &Catalog, key: &HashPart) -> Option<()> {
    let index = catalog.index_page(Table::Names, key)?;
    let page = index.find(bytes(content, index.range()), key).ok()??;
    let entry = page.names(bytes(content, page.range())).ok()?.find(key).ok()??;
    assert_eq!(entry.path.hash_part(), *key);
    Some(())
}

fn narinfo_of(content: &[u8], catalog: &Catalog, key: &HashPart) -> Option<()> {
    let index = catalog.index_page(Table::Narinfos, key)?;
    let page = index.find(bytes(content, index.range()), key).ok()??;
    let narinfo = page.narinfos(bytes(content, page.range())).ok()?.find(key).ok()??;
    assert_eq!(narinfo.store_path().hash_part(), *key);
    Some(())
}
