//! Store paths of a store on disk, below a root of its own as Nix's chroot stores are.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use erisfs::publish::{Published, Settings};
use erisfs::store::NarHash;
use rusqlite::{Connection, params};
use tempfile::TempDir;

use crate::{make_tree, memory, nar_of, publish_one, published_nar, refusal};

const LIB: &str = "00000000000000000000000000000001-lib";
const PROGRAM: &str = "00000000000000000000000000000002-program";
const OTHER: &str = "00000000000000000000000000000003-other";
const DERIVER: &str = "00000000000000000000000000000004-program.drv";

/// A store with a library, a program that refers to it and to itself, and something else.
struct Store {
    root: TempDir,
    inner: &'static str,
}

impl Store {
    fn nix() -> Self {
        let store = Self { root: TempDir::new().unwrap(), inner: "nix/store" };
        store.fill("nix/var/nix/db/db.sqlite");
        store
    }

    fn guix() -> Self {
        let store = Self { root: TempDir::new().unwrap(), inner: "gnu/store" };
        store.fill("var/guix/db/db.sqlite");
        store
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(self.inner).join(name)
    }

    fn fill(&self, database: &str) {
        for name in [LIB, PROGRAM, OTHER] {
            make_tree(&self.path(name));
            fs::write(self.path(name).join("name"), name).unwrap();
        }
        let database = self.root.path().join(database);
        fs::create_dir_all(database.parent().unwrap()).unwrap();
        let database = Connection::open(database).unwrap();
        database
            .execute_batch(
                "CREATE TABLE ValidPaths (id INTEGER PRIMARY KEY, path TEXT UNIQUE NOT NULL, hash TEXT NOT NULL,
                     registrationTime INTEGER NOT NULL, deriver TEXT, narSize INTEGER);
                 CREATE TABLE Refs (referrer INTEGER NOT NULL, reference INTEGER NOT NULL);",
            )
            .unwrap();
        for (id, name) in [LIB, PROGRAM, OTHER].into_iter().enumerate() {
            let nar = nar_of(&self.path(name));
            let hash = format!("sha256:{}", NarHash::of(&nar).to_hex());
            let deriver = (name == PROGRAM).then(|| format!("/{}/{DERIVER}", self.inner));
            database
                .execute(
                    "INSERT INTO ValidPaths VALUES (?1, ?2, ?3, 0, ?4, ?5)",
                    params![id as i64, format!("/{}/{name}", self.inner), hash, deriver, nar.len() as i64],
                )
                .unwrap();
        }
        database.execute_batch("INSERT INTO Refs VALUES (1, 0), (1, 1)").unwrap();
    }
}

fn names(published: &Published) -> Vec<String> {
    published.paths.iter().map(|path| path.narinfo.store_path().to_string()).collect()
}

fn closure() -> Settings {
    Settings { closure: true, ..Settings::default() }
}

#[tokio::test]
async fn the_closure_is_taken_along_and_nothing_else() {
    for local in [Store::nix(), Store::guix()] {
        let store = memory();
        let published = publish_one(store.clone(), &local.path(PROGRAM), closure()).await;
        assert_eq!(names(&published), [LIB, PROGRAM]);
        assert_eq!(published.store_dir.as_str(), format!("/{}", local.inner));
        let program = &published.paths[1].narinfo;
        let references: Vec<_> = program.references().iter().map(ToString::to_string).collect();
        assert_eq!(references, [LIB, PROGRAM]);
        assert_eq!(program.deriver().unwrap().to_string(), DERIVER);
        for path in &published.paths {
            let name = path.narinfo.store_path().to_string();
            assert_eq!(published_nar(&*store, path), nar_of(&local.path(&name)));
        }
    }
}

#[tokio::test]
async fn without_closure_only_the_path_itself_goes() {
    let local = Store::nix();
    let published = publish_one(memory(), &local.path(PROGRAM), Settings::default()).await;
    assert_eq!(names(&published), [PROGRAM]);
}

#[tokio::test]
async fn a_file_in_a_store_path_and_a_link_to_it_stand_for_the_store_path() {
    let local = Store::nix();
    let inside = local.path(LIB).join("bin/run");
    assert_eq!(names(&publish_one(memory(), &inside, Settings::default()).await), [LIB]);
    let result = local.root.path().join("result");
    symlink(local.path(OTHER), &result).unwrap();
    assert_eq!(names(&publish_one(memory(), &result, Settings::default()).await), [OTHER]);
}

#[tokio::test]
async fn what_was_altered_in_the_store_is_refused() {
    let local = Store::nix();
    fs::write(local.path(LIB).join("bin/run"), "#!/bin/ls\n").unwrap();
    let refused = refusal(memory(), &[&local.path(PROGRAM)], closure()).await;
    assert!(refused.contains(LIB) && refused.contains("but the database says sha256:"), "{refused}");
}

#[tokio::test]
async fn what_the_database_does_not_know_is_refused() {
    let local = Store::nix();
    let name = "00000000000000000000000000000009-half-built";
    fs::create_dir(local.path(name)).unwrap();
    let refused = refusal(memory(), &[&local.path(name)], Settings::default()).await;
    assert!(refused.contains(name) && refused.contains("not a valid store path"), "{refused}");
}

#[tokio::test]
async fn without_a_database_a_store_path_keeps_its_name_but_has_no_closure() {
    let local = Store::guix();
    fs::remove_dir_all(local.root.path().join("var")).unwrap();
    let store = memory();
    let published = publish_one(store.clone(), &local.path(PROGRAM), Settings::default()).await;
    assert_eq!(names(&published), [PROGRAM]);
    assert!(published.paths[0].narinfo.references().is_empty());
    assert_eq!(published_nar(&*store, &published.paths[0]), nar_of(&local.path(PROGRAM)));
    let refused = refusal(memory(), &[&local.path(PROGRAM)], closure()).await;
    assert!(refused.contains("no Nix or Guix database"), "{refused}");
}

#[tokio::test]
async fn one_catalog_is_of_one_store() {
    let (nix, guix) = (Store::nix(), Store::guix());
    let paths = [nix.path(LIB), guix.path(LIB)];
    let refused = refusal(memory(), &[&paths[0], &paths[1]], Settings::default()).await;
    assert!(
        refused.contains("is in the store /gnu/store, but the catalog is to be of /nix/store"),
        "{refused}"
    );
    let settings = Settings { store_dir: Some("/gnu/store".parse().unwrap()), ..Settings::default() };
    let refused = refusal(memory(), &[&paths[0]], settings).await;
    assert!(refused.contains("is in the store /nix/store"), "{refused}");
}

#[tokio::test]
async fn a_whole_store_is_not_a_path() {
    let local = Store::nix();
    let refused = refusal(memory(), &[&local.root.path().join(local.inner)], Settings::default()).await;
    assert!(refused.contains("is a store; name the store paths in it"), "{refused}");
}

#[tokio::test]
async fn other_directories_are_added_to_the_store_of_the_paths_beside_them() {
    let local = Store::guix();
    let tree = local.root.path().join("tree");
    make_tree(&tree);
    let store = memory();
    let paths = vec![tree, local.path(LIB)];
    let published =
        erisfs::publish::publish(store, paths, Settings::default(), std::sync::Arc::new(())).await.unwrap();
    assert_eq!(published.store_dir.as_str(), "/gnu/store");
    assert_eq!(published.paths.len(), 2);
}

#[tokio::test]
async fn a_name_that_no_store_path_can_have_is_refused_with_one_that_can() {
    let dir = TempDir::new().unwrap();
    let tree = dir.path().join("my tree (1)");
    make_tree(&tree);
    let refused = refusal(memory(), &[&tree], Settings::default()).await;
    assert!(refused.contains("--name my_tree__1_"), "{refused}");
    let named = Settings { name: Some("my-tree".into()), ..Settings::default() };
    let published = publish_one(memory(), &tree, named).await;
    assert_eq!(published.paths[0].narinfo.store_path().name(), "my-tree");
}

#[tokio::test]
async fn a_name_is_for_one_path_that_has_none() {
    let local = Store::nix();
    let named = Settings { name: Some("other".into()), ..Settings::default() };
    let refused = refusal(memory(), &[&local.path(LIB)], named.clone()).await;
    assert!(refused.contains("a name can be given to one directory or file only"), "{refused}");
    let paths: [&Path; 2] = ["/etc/hostname".as_ref(), "/etc/passwd".as_ref()];
    assert!(refusal(memory(), &paths, named).await.contains("a name can be given"));
}

#[tokio::test]
async fn a_link_is_published_as_a_link_and_followed_if_a_slash_asks_for_it() {
    let dir = TempDir::new().unwrap();
    make_tree(&dir.path().join("tree"));
    symlink("tree", dir.path().join("link")).unwrap();
    let store = memory();
    let link = publish_one(store.clone(), &dir.path().join("link"), Settings::default()).await;
    assert_eq!(published_nar(&*store, &link.paths[0]), nar_of(&dir.path().join("link")));
    let through = publish_one(store.clone(), &dir.path().join("link/"), Settings::default()).await;
    assert_eq!(published_nar(&*store, &through.paths[0]), nar_of(&dir.path().join("tree")));
}
