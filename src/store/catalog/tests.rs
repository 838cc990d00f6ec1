mod hostile;

use std::collections::BTreeSet;
use std::io::Read;
use std::ops::Range;
use std::sync::LazyLock;

use super::*;
use crate::store::hash::NarHash;
use crate::store::narinfo::Narinfo;

/// What the writer takes for a path.
type Listed = (Narinfo, Kind, u64);

/// A content that remembers which bytes were read.
struct Content<'a> {
    bytes: &'a [u8],
    reads: Vec<Range<u64>>,
}

impl<'a> Content<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, reads: Vec::new() }
    }

    fn read_at(&mut self, range: Range<u64>) -> &'a [u8] {
        self.reads.push(range.clone());
        &self.bytes[range.start as usize..range.end as usize]
    }

    fn open(&mut self) -> Result<Catalog, CatalogError> {
        let length = self.bytes.len() as u64;
        let mut range = Catalog::tail_range(length);
        loop {
            match Catalog::open(self.read_at(range), length)? {
                Opening::Catalog(catalog) => return Ok(catalog),
                Opening::Need(more) => range = more,
            }
        }
    }

    fn page(
        &mut self,
        catalog: &Catalog,
        table: Table,
        key: &HashPart,
    ) -> Result<Option<Page>, CatalogError> {
        match catalog.index_page(table, key) {
            Some(index) => index.find(self.read_at(index.range()), key),
            None => Ok(None),
        }
    }

    fn entry(&mut self, catalog: &Catalog, key: &HashPart) -> Result<Option<Entry>, CatalogError> {
        match self.page(catalog, Table::Names, key)? {
            Some(page) => page.names(self.read_at(page.range()))?.find(key),
            None => Ok(None),
        }
    }

    fn narinfo(&mut self, catalog: &Catalog, key: &HashPart) -> Result<Option<Narinfo>, CatalogError> {
        match self.page(catalog, Table::Narinfos, key)? {
            Some(page) => page.narinfos(self.read_at(page.range()))?.find(key),
            None => Ok(None),
        }
    }

    fn list(&mut self, catalog: &Catalog, from: u64) -> Result<Vec<Entry>, CatalogError> {
        let mut entries = Vec::new();
        for number in from..catalog.pages(Table::Names) {
            let index = catalog.index_page_of(Table::Names, number).expect("a page");
            let page = index.nth(self.read_at(index.range()), number)?.expect("a page");
            let names = page.names(self.read_at(page.range()))?;
            for entry in names.entries() {
                entries.push(entry?);
            }
        }
        Ok(entries)
    }

    /// Distinct blocks of 32 KiB that were touched.
    fn leaves(&self) -> usize {
        let leaves = self.reads.iter().filter(|range| !range.is_empty());
        leaves.flat_map(|range| range.start >> 15..=(range.end - 1) >> 15).collect::<BTreeSet<_>>().len()
    }
}

/// A narinfo such as `publish` writes, with random-looking hashes that follow from `seed`.
fn narinfo(seed: u64) -> Listed {
    let digest = |salt: &str| NarHash::of(format!("{salt}{seed}").as_bytes());
    let path = |salt: &str, name: &str| {
        let hash_part = digest(salt).as_bytes()[..20].try_into().unwrap();
        StorePath::new(HashPart::from_digest(hash_part), name).unwrap()
    };
    let names = ["glibc", "python3", "rust", "font-noto", "texlive"];
    let name = format!("{}-{}.{}", names[seed as usize % 5], seed % 7, seed % 23);
    let narinfo = Narinfo::builder(StoreDir::guix(), path("path", &name), digest("nar"), seed + 1)
        .references([path("r1", "glibc-2.35"), path("r2", "gcc-11.3.0-lib")])
        .deriver(Some(path("drv", &format!("{name}.drv"))))
        .eris("application/x-nix-archive+zstd", &format!("urn:eris:{}{}", digest("a"), digest("b")))
        .build()
        .unwrap();
    let kinds = [Kind::Directory, Kind::Regular, Kind::Executable, Kind::Symlink];
    (narinfo, kinds[seed as usize % 4], seed)
}

fn sorted(count: u64) -> Vec<Listed> {
    let mut paths: Vec<_> = (0..count).map(narinfo).collect();
    paths.sort_by_key(|(narinfo, ..)| narinfo.store_path().hash_part());
    paths
}

fn write(paths: &[Listed]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), StoreDir::guix()).unwrap();
    for (narinfo, kind, number) in paths {
        writer.add(narinfo, *kind, *number).unwrap();
    }
    writer.finish().unwrap()
}

static THOUSAND: LazyLock<(Vec<Listed>, Vec<u8>)> = LazyLock::new(|| {
    let paths = sorted(1000);
    let bytes = write(&paths);
    (paths, bytes)
});

#[test]
fn a_lookup_among_100_000_paths_touches_six_leaves_at_most() {
    let paths = sorted(100_000);
    let bytes = write(&paths);
    let mut opened = Content::new(&bytes);
    let catalog = opened.open().unwrap();
    assert_eq!((catalog.paths(), catalog.store_dir()), (100_000, &StoreDir::guix()));
    let roots = catalog.pages(Table::Narinfos).div_ceil(FANOUT) + 1;
    assert!(opened.leaves() <= 2 && roots <= 4, "{} leaves, {roots} roots", opened.leaves());

    let mut most = 0;
    for (expected, kind, number) in paths.iter().step_by(61) {
        let key = expected.store_path().hash_part();
        let mut content = Content::new(&bytes);
        content.open().unwrap();
        let entry = content.entry(&catalog, &key).unwrap().unwrap();
        let (path, kind, number) = (expected.store_path().clone(), *kind, *number);
        assert_eq!(entry, Entry { path, kind, number });
        most = most.max(content.leaves());

        let mut content = Content::new(&bytes);
        content.open().unwrap();
        assert_eq!(content.narinfo(&catalog, &key).unwrap().as_ref(), Some(expected));
        most = most.max(content.leaves());
    }
    assert!(most <= 6, "{most} leaves for one lookup");

    let mut content = Content::new(&bytes);
    let listed = content.list(&catalog, 0).unwrap();
    let names = |(n, ..): &Listed| n.store_path().clone();
    assert!(listed.iter().map(|entry| &entry.path).eq(paths.iter().map(names).collect::<Vec<_>>().iter()));
    println!(
        "catalog of 100,000 paths: {} bytes, {} narinfo pages, {} name pages, {most} leaves a lookup, {} to list",
        bytes.len(),
        catalog.pages(Table::Narinfos),
        catalog.pages(Table::Names),
        content.leaves(),
    );
}

#[test]
fn zstd_prints_all_narinfos_with_an_empty_line_behind_each() {
    let (paths, bytes) = &*THOUSAND;
    let mut printed = String::new();
    zstd::Decoder::new(&bytes[..]).unwrap().read_to_string(&mut printed).unwrap();
    let expected: String = paths.iter().map(|(narinfo, ..)| format!("{narinfo}\n")).collect();
    assert_eq!(printed, expected);
}

#[test]
fn what_is_not_there_is_not_found() {
    let (paths, bytes) = &*THOUSAND;
    let mut content = Content::new(bytes);
    let catalog = content.open().unwrap();
    let mut absent: Vec<_> = (5000..5100).map(|seed| narinfo(seed).0.store_path().hash_part()).collect();
    absent.push(HashPart::from_sortable_bytes([0; 20]));
    absent.push(HashPart::from_sortable_bytes([255; 20]));
    for key in absent {
        assert_eq!(content.entry(&catalog, &key).unwrap(), None);
        assert_eq!(content.narinfo(&catalog, &key).unwrap(), None);
    }
    for (present, ..) in paths {
        let key = present.store_path().hash_part();
        assert_eq!(content.narinfo(&catalog, &key).unwrap().as_ref(), Some(present));
    }
}

#[test]
fn a_listing_goes_on_from_any_page() {
    let (paths, bytes) = &*THOUSAND;
    let mut content = Content::new(bytes);
    let catalog = content.open().unwrap();
    assert_eq!(catalog.pages(Table::Names), 2);
    let all = content.list(&catalog, 0).unwrap();
    let rest = content.list(&catalog, 1).unwrap();
    assert_eq!(all.len(), paths.len());
    assert!(!rest.is_empty() && all.ends_with(&rest));
    assert!(catalog.index_page_of(Table::Names, 2).is_none());
    let index = catalog.index_page_of(Table::Names, 0).unwrap();
    let nth = |page| index.nth(&bytes[index.range().start as usize..][..72], page).unwrap();
    assert!(nth(1).is_some() && nth(2).is_none() && nth(u64::MAX).is_none());
}

#[test]
fn an_empty_catalog_is_one() {
    let bytes = write(&[]);
    let mut content = Content::new(&bytes);
    let catalog = content.open().unwrap();
    assert_eq!(catalog.paths(), 0);
    assert_eq!(content.list(&catalog, 0).unwrap(), []);
    let key = HashPart::from_sortable_bytes([7; 20]);
    assert_eq!(content.entry(&catalog, &key).unwrap(), None);
}

#[test]
fn a_tail_longer_than_the_first_read_is_asked_for() {
    let (_, bytes) = &*THOUSAND;
    let length = bytes.len() as u64;
    let Opening::Need(range) = Catalog::open(&bytes[bytes.len() - FOOTER..], length).unwrap() else {
        panic!("48 bytes hold no roots");
    };
    assert_eq!(range.end, length);
    let whole = Catalog::open(&bytes[range.start as usize..], length).unwrap();
    assert!(matches!(whole, Opening::Catalog(_)));
}

#[test]
fn the_first_read_covers_the_tail_from_a_leaf_on() {
    for length in [0, 1, 4096, 32768, 32769, 36864, 36865, 1 << 40] {
        let range = Catalog::tail_range(length);
        assert!(range.end == length && range.start.is_multiple_of(32768));
        assert!(range.end - range.start >= length.min(4096));
        assert!(range.end - range.start < 32768 + 4096);
    }
}

#[test]
fn the_same_narinfos_give_the_same_bytes() {
    let (paths, bytes) = &*THOUSAND;
    assert!(write(paths) == *bytes);
}

#[test]
fn narinfos_out_of_order_or_of_another_store_are_not_written() {
    let paths = sorted(2);
    let mut writer = Writer::new(Vec::new(), StoreDir::guix()).unwrap();
    writer.add(&paths[1].0, Kind::Directory, 0).unwrap();
    for (narinfo, ..) in &paths {
        let refused = writer.add(narinfo, Kind::Directory, 0);
        assert!(matches!(refused, Err(WriteError::NotSorted { .. })));
    }
    let mut writer = Writer::new(Vec::new(), StoreDir::nix()).unwrap();
    let refused = writer.add(&paths[0].0, Kind::Directory, 0);
    assert!(matches!(refused, Err(WriteError::OtherStore { .. })));
}
