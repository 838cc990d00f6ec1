//! A store with store paths that refer to each other, registered in a database as Nix does it.

use std::fs;
use std::path::{Path, PathBuf};

use erisfs::nar::{Hasher, dump};
use rusqlite::{Connection, params};
use tempfile::TempDir;

/// The tables of Nix's database that `publish` reads.
const TABLES: &str =
    "CREATE TABLE ValidPaths (id INTEGER PRIMARY KEY, path TEXT UNIQUE NOT NULL, hash TEXT NOT NULL,
                          registrationTime INTEGER NOT NULL, deriver TEXT, narSize INTEGER);
                      CREATE TABLE Refs (referrer INTEGER NOT NULL, reference INTEGER NOT NULL);";

/// A store below a directory of its own.
pub struct Closure {
    root: TempDir,
    members: Vec<(&'static str, Vec<&'static str>)>,
}

impl Closure {
    pub fn new() -> Self {
        Closure {
            root: TempDir::with_prefix("erisfs-bench-").expect("a temporary directory"),
            members: Vec::new(),
        }
    }

    /// The directory of the store paths.
    pub fn store(&self) -> PathBuf {
        self.root.path().join("nix/store")
    }

    /// Begins the store path `name` (HASH-NAME), which refers to others; gives its directory.
    pub fn add(&mut self, name: &'static str, references: &[&'static str]) -> PathBuf {
        self.members.push((name, references.to_vec()));
        let path = self.store().join(name);
        fs::create_dir_all(&path).expect("a writable directory");
        path
    }

    /// Registers what was added; gives the store path that was added last, to which the others lead.
    pub fn register(&self) -> PathBuf {
        let folder = self.root.path().join("nix/var/nix/db");
        fs::create_dir_all(&folder).expect("a writable directory");
        let database = Connection::open(folder.join("db.sqlite")).expect("a writable directory");
        database.execute_batch(TABLES).expect("a new database");
        for (id, (name, _)) in self.members.iter().enumerate() {
            let mut hasher = Hasher::new();
            dump(&self.store().join(name), &mut hasher).unwrap_or_else(|error| panic!("{name}: {error}"));
            let hashed = hasher.finish().expect("what was dumped is a NAR");
            let hash: String = hashed.nar_hash.iter().map(|byte| format!("{byte:02x}")).collect();
            let row = params![
                id as i64,
                format!("/nix/store/{name}"),
                format!("sha256:{hash}"),
                hashed.nar_size as i64
            ];
            database
                .execute("INSERT INTO ValidPaths VALUES (?1, ?2, ?3, 1, NULL, ?4)", row)
                .expect("a new row");
        }
        let place =
            |name: &str| self.members.iter().position(|(member, _)| *member == name).expect("it was added");
        for (name, references) in &self.members {
            for reference in references {
                let row = params![place(name) as i64, place(reference) as i64];
                database.execute("INSERT INTO Refs VALUES (?1, ?2)", row).expect("a new row");
            }
        }
        self.store().join(self.members.last().expect("something was added").0)
    }
}

/// Copies a file, or what a link leads to.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().expect("it is in the tree")).expect("a writable directory");
    fs::copy(from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
}

/// Copies a directory, where there is one; links that lead out of it become what they lead to, and what is not there any
/// more is left out.
pub fn copy_all(from: &Path, to: &Path) {
    let Ok(entries) = fs::read_dir(from) else { return };
    fs::create_dir_all(to).expect("a writable directory");
    for entry in entries {
        let path = entry.expect("a directory that can be read").path();
        let target = to.join(path.file_name().expect("an entry has a name"));
        match fs::read_link(&path) {
            Ok(link) if link.is_relative() && !link.starts_with("..") => {
                std::os::unix::fs::symlink(link, target).expect("room");
            }
            _ if path.is_dir() => copy_all(&path, &target),
            _ if path.is_file() => copy(&path, &target),
            _ => {}
        }
    }
}

/// Copies what there is of some files into a directory.
pub fn copy_some(folder: &str, names: &[&str], to: &Path) {
    for name in names {
        let from = Path::new(folder).join(name);
        if from.is_dir() {
            copy_all(&from, &to.join(name));
        } else if from.is_file() {
            copy(&from, &to.join(name));
        }
    }
}
