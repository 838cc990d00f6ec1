//! What a catalog that somebody made to harm the reader runs into.

use proptest::prelude::*;

use super::*;

#[test]
fn what_is_no_catalog_is_refused() {
    for bytes in [&b""[..], &[0; 47], &[0; 5000]] {
        let refused = Catalog::open(bytes, bytes.len() as u64);
        assert!(matches!(refused, Err(CatalogError::NotACatalog { .. })));
    }
    let (_, bytes) = &*THOUSAND;
    let mut newer = bytes.clone();
    let version = newer.len() - 10;
    newer[version] = 2;
    let refused = Content::new(&newer).open();
    assert!(matches!(refused, Err(CatalogError::Version { found: 2 })));
    // A content that lost its beginning does not fit its footer.
    let refused = Content::new(&bytes[1..]).open();
    assert!(matches!(refused, Err(CatalogError::Footer { .. })));
}

#[test]
fn numbers_of_the_footer_that_contradict_each_other_are_refused() {
    let (_, bytes) = &*THOUSAND;
    let footer = bytes.len() - FOOTER;
    for (at, width) in [(8, 8), (16, 8), (24, 8), (32, 4), (36, 2)] {
        for byte in [0x00, 0x55, 0xff] {
            let mut hostile = bytes.clone();
            hostile[footer + at..][..width].fill(byte);
            let refused = Content::new(&hostile).open();
            assert!(matches!(refused, Err(CatalogError::Footer { .. })), "{at}: {refused:?}");
        }
    }
}

/// The bytes with the index entry of a page changed.
fn with_index(table: Table, page: u64, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = THOUSAND.1.clone();
    let catalog = Content::new(&bytes).open().unwrap();
    let index = catalog.index_page_of(table, page).unwrap();
    change(&mut bytes[(index.range().start + page * INDEX_ENTRY) as usize..][..36]);
    bytes
}

fn list_all(bytes: &[u8]) -> Result<Vec<Entry>, CatalogError> {
    let mut content = Content::new(bytes);
    let catalog = content.open()?;
    content.list(&catalog, 0)
}

#[test]
fn an_index_that_points_elsewhere_is_refused() {
    for (at, value) in [(20, u64::MAX), (20, 1 << 40), (28, 0), (28, u64::MAX)] {
        let bytes = with_index(Table::Names, 1, |entry| {
            entry[at..at + 8].copy_from_slice(&value.to_le_bytes());
        });
        let refused = list_all(&bytes);
        assert!(matches!(refused, Err(CatalogError::PageRange { page: 1, .. })), "{refused:?}");
    }
    // At another page of the same table: its first hash part is not the one announced.
    let mut first = [0; 16];
    with_index(Table::Names, 0, |entry| first.copy_from_slice(&entry[20..]));
    let bytes = with_index(Table::Names, 1, |entry| entry[20..].copy_from_slice(&first));
    assert!(matches!(list_all(&bytes), Err(CatalogError::Layout { page: 1, .. })));
    // One byte more or less than the page decompresses to.
    for delta in [-1, 1] {
        let bytes = with_index(Table::Names, 1, |entry| {
            let length = u32::from_le_bytes(entry[32..].try_into().unwrap());
            entry[32..].copy_from_slice(&length.wrapping_add_signed(delta).to_le_bytes());
        });
        assert!(list_all(&bytes).is_err());
    }
}

#[test]
fn an_index_out_of_order_is_refused() {
    // The last is in order, but not what its root says.
    for (page, first) in [(1, 0), (0, 255), (0, 0)] {
        let bytes = with_index(Table::Names, page, |entry| entry[..20].fill(first));
        let refused = list_all(&bytes);
        assert!(matches!(refused, Err(CatalogError::IndexOrder { .. })), "{refused:?}");
    }
}

#[test]
fn a_page_that_reaches_into_the_next_is_refused() {
    let mut first = [0; 20];
    with_index(Table::Names, 0, |entry| first.copy_from_slice(&entry[..20]));
    // The second page claims to start right behind the first entry of the first.
    first[19] = first[19].wrapping_add(1);
    let bytes = with_index(Table::Names, 1, |entry| entry[..20].copy_from_slice(&first));
    let refused = list_all(&bytes).unwrap_err();
    assert!(refused.to_string().contains("reaches into the next page"), "{refused}");
}

/// A tail as the writer makes it, with any roots and numbers of pages.
fn tail(roots: &[HashPart], pages: [u64; 2], index_offset: u64) -> Vec<u8> {
    let length = (FRAME_HEADER + KEY * roots.len() + 10 + FOOTER) as u32;
    let mut tail = SKIPPABLE.to_le_bytes().to_vec();
    tail.extend((length - 8).to_le_bytes());
    tail.extend(TAIL_TAG);
    roots.iter().for_each(|root| tail.extend(root.sortable_bytes()));
    tail.extend(b"/gnu/store");
    tail.extend(1u64.to_le_bytes());
    tail.extend(pages.map(u64::to_le_bytes).as_flattened());
    tail.extend(index_offset.to_le_bytes());
    tail.extend(length.to_le_bytes());
    tail.extend(10u16.to_le_bytes());
    tail.extend(VERSION.to_le_bytes());
    tail.extend(MAGIC);
    tail
}

/// A page of its own around hostile contents, as an index would announce it.
fn announced(table: Table, first: HashPart, content: &[u8]) -> (Page, Vec<u8>) {
    let compressed = zstd::bulk::compress(content, 1).unwrap();
    let mut bytes = compressed.clone();
    bytes.extend(first.sortable_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.extend((compressed.len() as u32).to_le_bytes());
    bytes.extend((content.len() as u32).to_le_bytes());
    let pages = if table == Table::Names { [0, 1] } else { [1, 0] };
    bytes.extend(tail(&[first], pages, compressed.len() as u64));
    let mut content = Content::new(&bytes);
    let catalog = content.open().unwrap();
    let page = content.page(&catalog, table, &first).unwrap().unwrap();
    (page, compressed)
}

/// Opens a content of which only the tail is there, behind an index of the right size.
fn open_tail(roots: &[HashPart], pages: [u64; 2]) -> Result<Opening, CatalogError> {
    let index_offset = 1 << 50;
    let tail = tail(roots, pages, index_offset);
    let index = pages.iter().sum::<u64>() * INDEX_ENTRY;
    Catalog::open(&tail, index_offset + index + tail.len() as u64)
}

#[test]
fn roots_out_of_order_are_refused() {
    let root = |byte| HashPart::from_sortable_bytes([byte; 20]);
    assert!(open_tail(&[root(1), root(2), root(1)], [769, 768]).is_ok());
    for (roots, table) in [([1, 1, 2], Table::Narinfos), ([2, 1, 1], Table::Narinfos)] {
        let refused = open_tail(&roots.map(root), [769, 768]).unwrap_err();
        assert!(matches!(refused, CatalogError::IndexOrder { table: t, page: 768 } if t == table));
    }
    let refused = open_tail(&[1, 2, 1].map(root), [768, 769]).unwrap_err();
    assert!(matches!(refused, CatalogError::IndexOrder { table: Table::Names, page: 768 }));
}

#[test]
fn an_index_page_that_reaches_beyond_the_next_root_is_refused() {
    let root = |byte| HashPart::from_sortable_bytes([byte; 20]);
    let Opening::Catalog(catalog) = open_tail(&[root(1), root(2)], [769, 0]).unwrap() else {
        panic!("the tail is whole")
    };
    let index = catalog.index_page(Table::Narinfos, &root(1)).unwrap();
    let entry = |number: u16, first: u8| {
        let mut entry = [0; INDEX_ENTRY as usize];
        entry[..KEY].fill(first);
        entry[KEY - 2..KEY].copy_from_slice(&number.to_be_bytes());
        entry[28] = 1;
        entry[32] = 1;
        entry
    };
    let mut entries: Vec<_> = (0x0101..0x0101 + 768).map(|number| entry(number, 1)).collect();
    assert!(index.find(entries.as_flattened(), &root(1)).unwrap().is_some());
    entries[767] = entry(0x0202, 2);
    let refused = index.find(entries.as_flattened(), &root(1));
    assert!(matches!(refused, Err(CatalogError::IndexOrder { page: 767, .. })), "{refused:?}");
}

#[test]
fn a_tail_has_a_mebibyte_at_most() {
    let roots: Vec<_> = (0..52_426u32)
        .map(|n| {
            let mut key = [0; 20];
            key[..4].copy_from_slice(&n.to_be_bytes());
            HashPart::from_sortable_bytes(key)
        })
        .collect();
    let pages = |roots: usize| [roots as u64 * FANOUT, 0];
    let Opening::Catalog(catalog) = open_tail(&roots[..52_425], pages(52_425)).unwrap() else {
        panic!("the tail is whole")
    };
    let index = catalog.index_page(Table::Narinfos, &roots[50_000]).unwrap();
    let offset = (1 << 50) + 50_000 * FANOUT * INDEX_ENTRY;
    assert_eq!(index.range(), offset..offset + FANOUT * INDEX_ENTRY);
    let refused = open_tail(&roots, pages(52_426));
    assert!(matches!(refused, Err(CatalogError::Footer { .. })), "{refused:?}");
}

#[test]
fn a_tail_outside_a_frame_of_its_own_is_refused() {
    let (_, bytes) = &*THOUSAND;
    let length = bytes[bytes.len() - FOOTER + 32..][..4].try_into().unwrap();
    let start = bytes.len() - u32::from_le_bytes(length) as usize;
    for at in [0, 4, 8] {
        let mut hostile = bytes.clone();
        hostile[start + at] ^= 1;
        let refused = Content::new(&hostile).open();
        assert!(matches!(refused, Err(CatalogError::Footer { .. })), "{at}: {refused:?}");
    }
}

#[test]
fn hostile_name_pages_are_refused() {
    let key = HashPart::from_sortable_bytes([3; 20]);
    let page = |keys: &[u8], kind: u8, length: u8, name: &[u8]| {
        let mut content = (keys.len() as u32).to_le_bytes().to_vec();
        keys.iter().for_each(|key| content.extend([*key; 20]));
        keys.iter().for_each(|_| content.push(kind));
        keys.iter().for_each(|_| content.extend(5u64.to_le_bytes()));
        keys.iter().for_each(|_| content.push(length));
        keys.iter().for_each(|_| content.extend(name));
        content
    };
    let find = |content: &[u8]| {
        let (page, bytes) = announced(Table::Names, key, content);
        page.names(&bytes)?.find(&key)
    };
    let entry = find(&page(&[3, 4], 3, 1, b"a")).unwrap().unwrap();
    assert_eq!((entry.path.name(), entry.kind, entry.number), ("a", Kind::Symlink, 5));
    for (hostile, what) in [
        (page(&[2], 0, 1, b"a"), "another hash part"),
        (page(&[3, 3], 0, 1, b"a"), "a hash part twice"),
        (page(&[3, 4, 2], 0, 1, b"a"), "not in order"),
        (page(&[3], 4, 1, b"a"), "unknown kind"),
        (page(&[3], 0, 2, b"a"), "name longer than the page"),
        (page(&[3], 0, 0, b"a"), "name shorter than what is there"),
        (page(&[3], 0, 0, b""), "empty name"),
        (page(&[3], 0, 3, b"a/b"), "slash"),
        (page(&[3], 0, 2, b".."), "dots"),
        (page(&[3], 0, 1, b"\xff"), "not UTF-8"),
        (page(&[], 0, 0, b""), "no entries"),
        (u32::MAX.to_le_bytes().to_vec(), "count without entries"),
        (vec![0], "no count"),
    ] {
        assert!(find(&hostile).is_err(), "{what}");
    }
}

#[test]
fn hostile_narinfo_pages_are_refused() {
    let paths = sorted(2);
    let [first, second] = [&paths[0].0, &paths[1].0];
    let key = first.store_path().hash_part();
    let find = |content: &str| {
        let (page, bytes) = announced(Table::Narinfos, key, content.as_bytes());
        page.narinfos(&bytes)?.find(&key)
    };
    assert_eq!(find(&format!("{first}\n{second}\n")).unwrap().as_ref(), Some(first));
    let elsewhere = first.as_str().replace("/gnu/store", "/nix/store");
    let twice = format!("{first}StorePath: /gnu/store/{}\n", second.store_path());
    for (hostile, what) in [
        (format!("{second}\n"), "another narinfo"),
        (format!("{first}\n{first}\n"), "a narinfo twice"),
        (format!("{first}"), "no empty line at the end"),
        (format!("{first}\nNarSize: 1\n\n"), "no StorePath"),
        (format!("\n{first}\n"), "empty line at the start"),
        (format!("{elsewhere}\n"), "another store"),
        (format!("{twice}\n"), "two StorePath lines"),
        ("StorePath: x\n\n".to_owned(), "no hash part"),
    ] {
        assert!(find(&hostile).is_err(), "{what}");
    }
}

#[test]
fn a_page_that_decompresses_to_more_than_announced_is_refused() {
    let key = HashPart::from_sortable_bytes([3; 20]);
    let (page, _) = announced(Table::Narinfos, key, b"StorePath: x\n\n");
    let mut bomb = zstd::bulk::compress(&vec![0; 50 << 20], 19).unwrap();
    bomb.resize(page.range().end as usize, 0);
    assert!(matches!(page.narinfos(&bomb), Err(CatalogError::Compression { .. })));
    assert!(matches!(page.narinfos(&bomb[1..]), Err(CatalogError::WrongLength { .. })));
    assert!(matches!(page.names(&bomb), Err(CatalogError::Layout { .. })));
}

proptest! {
    #[test]
    fn a_damaged_catalog_never_panics_and_never_answers_for_another_path(
        at: prop::sample::Index, byte: u8, from_the_end: bool, which in 0usize..1000
    ) {
        let (paths, bytes) = &*THOUSAND;
        let mut bytes = bytes.clone();
        // The index and the tail, which are small, get half of the damage.
        let window = if from_the_end { 800 } else { bytes.len() };
        let at = bytes.len() - 1 - at.index(window);
        bytes[at] = byte;
        let mut content = Content::new(&bytes);
        if let Ok(catalog) = content.open() {
            let key = paths[which].0.store_path().hash_part();
            if let Ok(Some(entry)) = content.entry(&catalog, &key) {
                prop_assert_eq!(entry.path.hash_part(), key);
            }
            if let Ok(Some(narinfo)) = content.narinfo(&catalog, &key) {
                prop_assert_eq!(narinfo.store_path().hash_part(), key);
            }
            if let Ok(entries) = content.list(&catalog, 0) {
                prop_assert!(entries.is_sorted_by(|a, b| a.path.hash_part() < b.path.hash_part()));
            }
        }
    }

    #[test]
    fn any_bytes_with_a_footer_are_opened_or_refused(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200), numbers: [u8; 38]
    ) {
        bytes.extend(numbers);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(MAGIC);
        let _ = Catalog::open(&bytes, bytes.len() as u64);
    }
}
