//! The view without a kernel: what is looked up, listed and read through a catalog is what was published.

#[path = "support/noise.rs"]
mod noise;
#[path = "support/shelf.rs"]
mod shelf;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use erisfs::block::{BlockStore, Cache, Counted, Fault, Faulty};
use erisfs::content::{Deadline, Fetch};
use erisfs::eris::{BlockSize, ReadCapability};
use erisfs::tree::{Attr, Catalog, Catalogs, Closure, Error, Inode, Kind, Settings, Symlinks, Tree};
use noise::noise;
use shelf::Shelf;
use tempfile::TempDir;

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

/// A tree with everything that a NAR can hold.
fn specimen() -> TempDir {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("bin")).unwrap();
    fs::create_dir_all(at("share/empty")).unwrap();
    fs::write(at("bin/tool"), b"#!/bin/sh\necho hello\n").unwrap();
    fs::set_permissions(at("bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(at("share/nothing"), b"").unwrap();
    fs::write(at("share/noise"), noise(300_000)).unwrap();
    symlink("/nix/store/00000000000000000000000000000000-other/lib", at("share/absolute")).unwrap();
    symlink("../bin/tool", at("share/relative")).unwrap();
    for number in 0..300 {
        fs::write(at(&format!("share/small-{number}")), noise(number * 7)).unwrap();
    }
    dir
}

async fn open(store: Arc<dyn BlockStore>, catalogs: &[ReadCapability], settings: Settings) -> Tree {
    let fetch = Fetch::new(Arc::new(Cache::new(store, 16 << 20)), 1 << 20);
    let mut opened = Vec::new();
    for catalog in catalogs {
        opened.push(Catalog::open(fetch.clone(), *catalog, soon()).await.unwrap());
    }
    Tree::new(fetch, Catalogs::new(opened), settings)
}

async fn find(tree: &Tree, path: &str) -> Option<Attr> {
    let mut at = tree.attr(Inode::ROOT, soon()).await.unwrap();
    for name in path.split('/') {
        at = tree.lookup(at.inode, name.as_bytes(), soon()).await.unwrap()?;
    }
    Some(at)
}

async fn read_all(tree: &Tree, attr: Attr) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < attr.size {
        bytes.extend_from_slice(&tree.read(attr.inode, bytes.len() as u64, 40_000, soon()).await?);
    }
    Ok(bytes)
}

/// Names of a directory, read in pieces of `piece`.
async fn names(tree: &Tree, inode: Inode, piece: usize) -> Vec<String> {
    let (mut names, mut cookie) = (Vec::new(), 0);
    loop {
        let entries = tree.read_dir(inode, cookie, piece, soon()).await.unwrap();
        let Some(last) = entries.last() else { return names };
        cookie = last.cookie;
        names.extend(entries.iter().map(|entry| String::from_utf8(entry.name.clone()).unwrap()));
    }
}

/// Compares everything below `attr` with the directory on disk.
async fn assert_equal(tree: &Tree, attr: Attr, disk: &Path) {
    let mut pending = vec![(attr, disk.to_owned())];
    while let Some((attr, disk)) = pending.pop() {
        let metadata = fs::symlink_metadata(&disk).unwrap();
        assert_eq!(tree.attr(attr.inode, soon()).await.unwrap(), attr);
        match attr.kind {
            Kind::Directory => {
                let mut expected: Vec<String> = fs::read_dir(&disk)
                    .unwrap()
                    .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                    .collect();
                expected.sort();
                let listed = names(tree, attr.inode, 7).await;
                assert_eq!(listed[..2], [".", ".."]);
                assert_eq!(listed[2..], expected);
                let below =
                    expected.iter().filter(|name| disk.join(name).is_dir() && !disk.join(name).is_symlink());
                assert_eq!(attr.links as usize, 2 + below.count());
                for name in expected {
                    let found = tree.lookup(attr.inode, name.as_bytes(), soon()).await.unwrap();
                    pending.push((found.unwrap(), disk.join(name)));
                }
            }
            Kind::Regular | Kind::Executable => {
                assert_eq!(metadata.permissions().mode() & 0o100 != 0, attr.kind == Kind::Executable);
                assert_eq!(read_all(tree, attr).await.unwrap(), fs::read(&disk).unwrap());
            }
            Kind::Symlink => {
                let target = tree.read_link(attr.inode, soon()).await.unwrap();
                assert_eq!(target, fs::read_link(&disk).unwrap().into_os_string().into_encoded_bytes());
                assert_eq!(attr.size, target.len() as u64);
            }
        }
    }
}

#[tokio::test]
async fn a_published_tree_reads_back() {
    let (mut shelf, disk) = (Shelf::new(), specimen());
    let seekable = shelf.add("seekable", disk.path());
    let plain = shelf.add_plain("plain", disk.path());
    let file = shelf.add("file", &disk.path().join("bin/tool"));
    let link = shelf.add("link", &disk.path().join("share/relative"));
    let catalog = shelf.catalog();
    let tree = open(shelf.blocks.clone(), &[catalog], Settings::default()).await;
    for path in [&seekable, &plain] {
        assert_equal(&tree, find(&tree, &path.to_string()).await.unwrap(), disk.path()).await;
    }
    assert_equal(&tree, find(&tree, &file.to_string()).await.unwrap(), &disk.path().join("bin/tool")).await;
    assert_equal(&tree, find(&tree, &link.to_string()).await.unwrap(), &disk.path().join("share/relative"))
        .await;
}

#[tokio::test]
async fn the_root_lists_every_store_path_once_and_in_order() {
    let (mut shelf, disk) = (Shelf::new(), specimen());
    let tool = disk.path().join("bin/tool");
    let mut expected: Vec<String> =
        (0..2500).map(|number| shelf.add_plain(&format!("p{number}"), &tool).to_string()).collect();
    let first = shelf.catalog();
    expected.push(shelf.add_plain("one-more", &tool).to_string());
    let second = shelf.catalog();
    expected.sort();
    let tree = open(shelf.blocks.clone(), &[second, first], Settings::default()).await;
    for piece in [1000, 64] {
        assert_eq!(names(&tree, Inode::ROOT, piece).await[2..], expected);
    }
}

#[tokio::test]
async fn inode_numbers_are_the_same_after_a_restart() {
    let (mut shelf, disk) = (Shelf::new(), specimen());
    let path = shelf.add("seekable", disk.path()).to_string();
    let catalog = shelf.catalog();
    let mut seen: Vec<BTreeMap<String, u64>> = Vec::new();
    for order in [["share/noise", "bin/tool", "share"], ["bin/tool", "share", "share/noise"]] {
        let tree = open(shelf.blocks.clone(), &[catalog], Settings::default()).await;
        let mut numbers = BTreeMap::new();
        for name in order {
            let found = find(&tree, &format!("{path}/{name}")).await.unwrap();
            numbers.insert(name.to_owned(), found.inode.into());
        }
        seen.push(numbers);
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0].values().collect::<std::collections::HashSet<_>>().len(), 3);
}

#[tokio::test]
async fn what_is_not_there_is_found_missing_without_opening_anything() {
    let (mut shelf, disk) = (Shelf::new(), specimen());
    let path = shelf.add("seekable", disk.path()).to_string();
    let catalog = shelf.catalog();
    let counted = Arc::new(Counted::new(shelf.blocks.clone()));
    let tree = open(counted.clone(), &[catalog], Settings::default()).await;
    for name in [".git", "autorun.inf", "urn:eris:", "\u{e9}", &path[..32], &format!("{path}x")] {
        assert_eq!(find(&tree, name).await, None, "{name}");
    }
    assert!(find(&tree, &path).await.is_some());
    let before = counted.counts().requests();
    assert_eq!(find(&tree, "0123456789abcdfghijklmnpqrsvwxyz-nothing").await, None);
    assert_eq!(counted.counts().requests(), before);
}

#[tokio::test]
async fn any_content_is_found_under_its_urn() {
    let (mut shelf, disk) = (Shelf::new(), specimen());
    let mut nar = Vec::new();
    erisfs::nar::dump(disk.path(), &mut nar).unwrap();
    let archive = shelf.put(&nar, BlockSize::Large);
    let text = shelf.put(b"no archive", BlockSize::Small);
    let cut = shelf.put(&nar[..nar.len() / 2], BlockSize::Large);
    let tree = open(shelf.blocks.clone(), &[shelf.catalog()], Settings::default()).await;
    assert_equal(&tree, find(&tree, &archive.to_string()).await.unwrap(), disk.path()).await;
    let file = find(&tree, &text.to_string()).await.unwrap();
    assert_eq!(read_all(&tree, file).await.unwrap(), b"no archive");
    let file = find(&tree, &cut.to_string()).await.unwrap();
    assert_eq!(read_all(&tree, file).await.unwrap(), nar[..nar.len() / 2]);
}

#[tokio::test]
async fn a_urn_that_leads_nowhere_is_an_error_that_is_not_remembered() {
    let mut shelf = Shelf::new();
    let elsewhere = Shelf::new().put(&noise(50_000), BlockSize::Large);
    let tree = open(shelf.blocks.clone(), &[shelf.catalog()], Settings::default()).await;
    let name = elsewhere.to_string();
    let error = tree.lookup(Inode::ROOT, name.as_bytes(), soon()).await.unwrap_err();
    assert!(error.to_string().contains(&elsewhere.reference.to_string()), "{error}");
    assert_eq!(shelf.put(&noise(50_000), BlockSize::Large), elsewhere);
    let found = find(&tree, &name).await.unwrap();
    assert_eq!(read_all(&tree, found).await.unwrap(), noise(50_000));
    assert_eq!(tree.attr(found.inode, soon()).await.unwrap(), found);
}

#[tokio::test]
async fn absolute_links_lead_into_the_mount_where_that_is_asked_for() {
    let (mut shelf, disk) = (Shelf::new(), specimen());
    let path = shelf.add("seekable", disk.path()).to_string();
    let settings = Settings { symlinks: Symlinks::Relative, ..Settings::default() };
    let tree = open(shelf.blocks.clone(), &[shelf.catalog()], settings).await;
    let link = find(&tree, &format!("{path}/share/absolute")).await.unwrap();
    let target = tree.read_link(link.inode, soon()).await.unwrap();
    assert_eq!(target, "../../00000000000000000000000000000000-other/lib");
    assert_eq!(link.size, target.len() as u64);
    let link = find(&tree, &format!("{path}/share/relative")).await.unwrap();
    assert_eq!(tree.read_link(link.inode, soon()).await.unwrap(), "../bin/tool");
}

#[tokio::test]
async fn a_bad_block_spoils_one_file_and_the_error_says_which_block_of_which_path() {
    let (mut shelf, disk) = (Shelf::new(), specimen());
    let path = shelf.add("seekable", disk.path()).to_string();
    let fault = Arc::new(Fault::new(shelf.blocks.clone()));
    // What the first read of a program would fetch besides is not to be in memory.
    let settings = Settings { closure: Closure::Never, ..Settings::default() };
    let tree = open(fault.clone(), &[shelf.catalog()], settings).await;
    let noise = find(&tree, &format!("{path}/share/noise")).await.unwrap();
    let tool = find(&tree, &format!("{path}/bin/tool")).await.unwrap();
    assert!(read_all(&tree, tool).await.is_ok());
    fault.set_all(Faulty::Missing);
    let message = read_all(&tree, noise).await.unwrap_err().to_string();
    assert!(message.contains(&path) && message.contains("share/noise"), "{message}");
    assert_eq!(read_all(&tree, tool).await.unwrap(), b"#!/bin/sh\necho hello\n");
    fault.clear();
    assert!(read_all(&tree, noise).await.is_ok(), "an error must not be remembered");
}

#[tokio::test(start_paused = true)]
async fn a_silent_source_ends_in_an_error_at_the_deadline() {
    let (mut shelf, disk) = (Shelf::new(), specimen());
    let path = shelf.add("seekable", disk.path()).to_string();
    let fault = Arc::new(Fault::new(shelf.blocks.clone()));
    let tree = open(fault.clone(), &[shelf.catalog()], Settings::default()).await;
    let noise = find(&tree, &format!("{path}/share/noise")).await.unwrap();
    fault.set_all(Faulty::Silent);
    let begun = tokio::time::Instant::now();
    let error = tree.read(noise.inode, 0, 4096, Deadline::after(Duration::from_secs(3))).await.unwrap_err();
    assert_eq!(begun.elapsed().as_secs(), 3);
    let message = error.to_string();
    assert!(
        message.contains(&path) && message.contains("block ") && message.contains("memory:"),
        "{message}"
    );
}

#[tokio::test]
async fn a_catalog_that_says_other_things_than_the_object_is_found_out() {
    let (mut shelf, disk) = (Shelf::new(), specimen());
    let path = shelf.add("tool", &disk.path().join("bin/tool")).to_string();
    shelf.misstate(|_, size| (Kind::Executable, size - 1));
    let tree = open(shelf.blocks.clone(), &[shelf.catalog()], Settings::default()).await;
    let tool = find(&tree, &path).await.unwrap();
    let message = tree.read(tool.inode, 0, 100, soon()).await.unwrap_err().to_string();
    assert!(message.contains(&path) && message.contains("catalog"), "{message}");
}

#[tokio::test]
async fn a_link_that_cannot_be_opened_hides_no_other_entry_of_the_root() {
    let (mut shelf, disk) = (Shelf::new(), specimen());
    let mut expected = vec![
        shelf.add("link", &disk.path().join("share/absolute")).to_string(),
        shelf.add("tool", &disk.path().join("bin/tool")).to_string(),
    ];
    expected.sort();
    let fault = Arc::new(Fault::new(shelf.blocks.clone()));
    let settings = Settings { symlinks: Symlinks::Relative, ..Settings::default() };
    let tree = open(fault.clone(), &[shelf.catalog()], settings).await;
    names(&tree, Inode::ROOT, 100).await;
    fault.set_all(Faulty::Missing);
    assert_eq!(names(&tree, Inode::ROOT, 100).await[2..], expected);
}

#[tokio::test]
async fn a_seekable_nar_is_a_tree_under_its_urn_with_a_listing_or_without() {
    use std::os::unix::ffi::OsStrExt;
    let (mut shelf, disk) = (Shelf::new(), specimen());
    for listed in [true, false] {
        if !listed {
            // A name that JSON cannot hold: published without a listing.
            fs::write(disk.path().join(std::ffi::OsStr::from_bytes(b"\xff")), b"odd").unwrap();
        }
        let path = shelf.add("seekable", disk.path());
        let urn = shelf.narinfo(&path).eris()[0].urn.clone();
        let tree = open(shelf.blocks.clone(), &[], Settings::default()).await;
        let top = find(&tree, &urn).await.unwrap();
        assert_eq!(top.kind, Kind::Directory);
        let odd = tree.lookup(top.inode, b"\xff", soon()).await.unwrap();
        assert_eq!(odd.is_some(), !listed);
        let tool = find(&tree, &format!("{urn}/bin/tool")).await.unwrap();
        assert_eq!(read_all(&tree, tool).await.unwrap(), b"#!/bin/sh\necho hello\n");
    }
}

#[tokio::test]
async fn a_path_is_located_through_links_that_stay_in_the_view() {
    let (mut shelf, disk) = (Shelf::new(), specimen());
    symlink("loop", disk.path().join("share/loop")).unwrap();
    symlink("../share", disk.path().join("bin/all")).unwrap();
    let path = shelf.add("linked", disk.path());
    let name = path.to_string();
    symlink(format!("/nix/store/{name}/bin"), disk.path().join("share/inside")).unwrap();
    let second = shelf.add("second", disk.path());
    let catalog = shelf.catalog();
    let tree = open(shelf.blocks.clone(), &[catalog], Settings::default()).await;
    let located = async |path: String| {
        let located = tree.locate(path.as_bytes(), soon()).await.unwrap();
        located.map(|located| located.object.path_of(located.node))
    };
    for (given, found) in [
        ("bin/tool", "bin/tool"),
        ("share/relative", "bin/tool"),
        ("bin/all/../bin/./tool", "bin/tool"),
        ("bin/all/noise", "share/noise"),
    ] {
        assert_eq!(located(format!("{name}/{given}")).await, Some(format!("{name}/{found}")), "{given}");
    }
    assert_eq!(located(format!("{second}/share/inside/tool")).await, Some(format!("{name}/bin/tool")));
    for nowhere in ["", "..", "share/loop", "share/absolute", "share/none", "../.."] {
        assert_eq!(
            located(format!("{name}/{nowhere}")).await.filter(|found| *found != name),
            None,
            "{nowhere}"
        );
    }
}
