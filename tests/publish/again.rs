//! The second time: nothing is encoded twice, and what is missing is mended.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use erisfs::block::{Counted, Dir, Every, Verify};
use erisfs::publish::Settings;
use tempfile::TempDir;

use crate::{content, make_tree, memory, nar_of, publish_one, published_nar};

struct Twice {
    _dir: TempDir,
    tree: PathBuf,
    settings: Settings,
}

fn twice() -> Twice {
    let dir = TempDir::new().unwrap();
    let tree = dir.path().join("tree");
    make_tree(&tree);
    let settings = Settings { state: Some(dir.path().join("new/state.sqlite")), ..Settings::default() };
    Twice { _dir: dir, tree, settings }
}

#[tokio::test]
async fn publishing_again_puts_no_block() {
    let (test, store) = (twice(), memory());
    let first = publish_one(store.clone(), &test.tree, test.settings.clone()).await;
    assert!(store.counts().blocks_put() > 0);
    assert_eq!(first.blocks, store.counts().blocks_put());
    let put = store.counts().blocks_put();
    let second = publish_one(store.clone(), &test.tree, test.settings).await;
    assert_eq!(store.counts().blocks_put(), put);
    assert!(second.paths[0].reused);
    assert_eq!(second.catalog, first.catalog);
    assert_eq!(second.paths[0].narinfo.as_str(), first.paths[0].narinfo.as_str());
    assert_eq!((second.paths[0].kind, second.paths[0].number), (first.paths[0].kind, first.paths[0].number));
}

#[tokio::test]
async fn another_content_is_not_taken_for_the_one_before() {
    let (test, store) = (twice(), memory());
    let first = publish_one(store.clone(), &test.tree, test.settings.clone()).await;
    fs::write(test.tree.join("more"), "more").unwrap();
    let second = publish_one(store.clone(), &test.tree, test.settings).await;
    assert!(!second.paths[0].reused);
    assert_ne!(second.paths[0].narinfo.store_path(), first.paths[0].narinfo.store_path());
    assert_eq!(published_nar(&*store, &second.paths[0]), nar_of(&test.tree));
}

#[tokio::test]
async fn without_the_state_everything_is_encoded_to_the_same_blocks() {
    let (test, store) = (twice(), memory());
    let first = publish_one(store.clone(), &test.tree, test.settings.clone()).await;
    fs::remove_dir_all(test.settings.state.as_ref().unwrap().parent().unwrap()).unwrap();
    let second = publish_one(store.clone(), &test.tree, test.settings).await;
    assert!(!second.paths[0].reused);
    assert_eq!(second.catalog, first.catalog);
}

#[tokio::test]
async fn a_state_that_cannot_be_opened_is_no_reason_to_fail() {
    let mut test = twice();
    test.settings.state = Some("/dev/null/state.sqlite".into());
    let published = publish_one(memory(), &test.tree, test.settings).await;
    assert!(!published.paths[0].reused);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_store_that_has_nothing_gets_everything() {
    let test = twice();
    publish_one(memory(), &test.tree, test.settings.clone()).await;
    let empty = memory();
    let published = publish_one(empty.clone(), &test.tree, test.settings).await;
    assert!(!published.paths[0].reused);
    assert_eq!(published_nar(&*empty, &published.paths[0]), nar_of(&test.tree));
    assert!(!content(&*empty, &published.catalog).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_block_that_is_missing_is_put_again_and_no_other() {
    let (test, blocks) = (twice(), TempDir::new().unwrap());
    let open = || Arc::new(Counted::new(Arc::new(Verify::new(Arc::new(Dir::new(blocks.path()))))));
    let first = publish_one(open(), &test.tree, test.settings.clone()).await;
    let files: Vec<PathBuf> = fs::read_dir(blocks.path())
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    assert!(files.len() > 7, "a root, leaves, and the catalog");
    for file in files {
        fs::remove_file(&file).unwrap();
        let store = open();
        let again = publish_one(store.clone(), &test.tree, test.settings.clone()).await;
        assert_eq!(again.catalog, first.catalog);
        assert_eq!(store.counts().blocks_put(), 1, "{}", file.display());
        assert!(file.is_file());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_block_that_one_of_two_stores_lacks_is_put_there_again() {
    let (test, one, two) = (twice(), TempDir::new().unwrap(), TempDir::new().unwrap());
    let open = || {
        let dir = |at: &TempDir| Arc::new(Verify::new(Arc::new(Dir::new(at.path()))));
        Arc::new(Every::new(vec![dir(&one), dir(&two)]))
    };
    publish_one(open(), &test.tree, test.settings.clone()).await;
    let files: Vec<PathBuf> = fs::read_dir(two.path()).unwrap().flatten().map(|entry| entry.path()).collect();
    for file in files.iter().filter(|path| path.is_file()) {
        fs::remove_file(file).unwrap();
        publish_one(open(), &test.tree, test.settings.clone()).await;
        assert!(file.is_file(), "{}", file.display());
    }
}
