use tempfile::TempDir;

use super::*;

/// `ValidPaths` and `Refs` of Nix 2.x (libstore/schema.sql).
const NIX: &str = "
    create table if not exists ValidPaths (
        id               integer primary key autoincrement not null,
        path             text unique not null,
        hash             text not null, -- base16 representation
        registrationTime integer not null,
        deriver          text,
        narSize          integer,
        ultimate         integer, -- null implies \"false\"
        sigs             text, -- space-separated
        ca               text -- if not null, an assertion that the path is content-addressed
    );
    create table if not exists Refs (
        referrer  integer not null,
        reference integer not null,
        primary key (referrer, reference),
        foreign key (referrer) references ValidPaths(id) on delete cascade,
        foreign key (reference) references ValidPaths(id) on delete restrict
    );
    create index if not exists IndexReferrer on Refs(referrer);
    create index if not exists IndexReference on Refs(reference);";

/// The same of Guix (nix/libstore/schema.sql in its tree).
const GUIX: &str = "
    create table if not exists ValidPaths (
        id               integer primary key autoincrement not null,
        path             text unique not null,
        hash             text not null,
        registrationTime integer not null,
        deriver          text,
        narSize          integer
    );
    create table if not exists Refs (
        referrer  integer not null,
        reference integer not null,
        primary key (referrer, reference),
        foreign key (referrer) references ValidPaths(id) on delete cascade,
        foreign key (reference) references ValidPaths(id) on delete restrict
    );
    create index if not exists IndexReferrer on Refs(referrer);
    create index if not exists IndexReference on Refs(reference);";

fn path(letter: char) -> StorePath {
    let hash_part: String = std::iter::repeat_n(letter, 32).collect();
    format!("{hash_part}-{letter}").parse().unwrap()
}

fn hash(letter: char) -> NarHash {
    NarHash::of(letter.to_string().as_bytes())
}

/// A database where a refers to b, b and c to each other, b to itself, and d stands alone.
fn database(folder: &TempDir, schema: &str, store_dir: &StoreDir) -> PathBuf {
    let file = folder.path().join("db.sqlite");
    let connection = Connection::open(&file).unwrap();
    connection.pragma_update(None, "journal_mode", "wal").unwrap();
    connection.execute_batch(schema).unwrap();
    for (index, letter) in (0i64..).zip("acbd".chars()) {
        let full = store_dir.join(&path(letter));
        // Both daemons write hexadecimal; base32 is read as well.
        let hash = match letter {
            'd' => hash(letter).to_string(),
            _ => format!("sha256:{}", hash(letter).to_hex()),
        };
        let insert = "insert into ValidPaths (id, path, hash, registrationTime, deriver, narSize)
                      values (?1, ?2, ?3, 1, ?4, ?5)";
        let deriver = (letter == 'a').then(|| store_dir.join(&path(letter)) + ".drv");
        let size = 100 + index;
        connection.execute(insert, (index + 1, full, hash, deriver, size)).unwrap();
    }
    connection.execute_batch("insert into Refs values (1, 2), (1, 3), (2, 3), (3, 2), (3, 3)").unwrap();
    file
}

fn nix(folder: &TempDir) -> PathBuf {
    database(folder, NIX, &StoreDir::nix())
}

#[test]
fn records_of_both_schemas_are_read() {
    for (schema, store_dir) in [(NIX, StoreDir::nix()), (GUIX, StoreDir::guix())] {
        let folder = TempDir::new().unwrap();
        let file = database(&folder, schema, &store_dir);
        let database = Database::open_file(&file, &store_dir).unwrap();
        let info = database.path_info(&path('a')).unwrap().unwrap();
        assert_eq!(info.references, [path('b'), path('c')]);
        assert_eq!((info.nar_hash, info.nar_size), (hash('a'), Some(100)));
        assert_eq!(info.deriver.unwrap().name(), "a.drv");
        assert_eq!((info.path, info.ca), (path('a'), None));
        let info = database.path_info(&path('d')).unwrap().unwrap();
        assert_eq!((info.nar_hash, info.references, info.deriver), (hash('d'), vec![], None));
        assert_eq!(database.path_info(&path('f')).unwrap(), None);
    }
}

#[test]
fn the_content_address_of_nix_is_read() {
    let folder = TempDir::new().unwrap();
    let file = nix(&folder);
    let ca = format!("fixed:r:{}", hash('d'));
    let connection = Connection::open(&file).unwrap();
    connection.execute("update ValidPaths set ca = ?1 where id = 4", [&ca]).unwrap();
    let database = Database::open_file(&file, &StoreDir::nix()).unwrap();
    assert_eq!(database.path_info(&path('d')).unwrap().unwrap().ca, Some(ca));
}

#[test]
fn a_closure_has_every_path_once_also_around_loops() {
    let folder = TempDir::new().unwrap();
    let database = Database::open_file(&nix(&folder), &StoreDir::nix()).unwrap();
    let closure = |paths: &[char]| -> Vec<_> {
        let infos = database.closure(paths.iter().map(|letter| path(*letter))).unwrap();
        infos.into_iter().map(|info| info.path).collect()
    };
    assert_eq!(closure(&['a']), ['a', 'b', 'c'].map(path));
    assert_eq!(closure(&['c', 'c']), ['b', 'c'].map(path));
    assert_eq!(closure(&['d', 'a']), ['a', 'b', 'c', 'd'].map(path));
    assert_eq!(closure(&[]), []);
    let refused = database.closure([path('f')]).unwrap_err().to_string();
    assert!(refused.starts_with("/nix/store/ffff"), "{refused}");
}

#[test]
fn a_database_is_read_while_the_daemon_writes() {
    let folder = TempDir::new().unwrap();
    let file = nix(&folder);
    let daemon = Connection::open(&file).unwrap();
    daemon.execute_batch("begin immediate; update ValidPaths set narSize = 7").unwrap();
    let database = Database::open_file(&file, &StoreDir::nix()).unwrap();
    let size = || database.path_info(&path('d')).unwrap().unwrap().nar_size;
    assert_eq!(size(), Some(103));
    daemon.execute_batch("commit").unwrap();
    assert_eq!(size(), Some(7));
}

/// SQLite follows no symbolic link to its -shm file: one that leads nowhere keeps even root out.
fn without_shared_memory(file: &Path) {
    std::os::unix::fs::symlink("nowhere", file.with_file_name("db.sqlite-shm")).unwrap();
    let opened = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY);
    assert!(opened.and_then(with_columns).is_err(), "the test needs a database that is kept shut");
}

#[test]
fn a_database_is_read_where_nothing_can_be_created_beside_it() {
    let folder = TempDir::with_suffix("a folder?#%").unwrap();
    let file = nix(&folder);
    without_shared_memory(&file);
    let database = Database::open_file(&file, &StoreDir::nix()).unwrap();
    assert_eq!(database.closure([path('a')]).unwrap().len(), 3);
}

#[test]
fn unfinished_changes_are_not_overlooked() {
    let folder = TempDir::new().unwrap();
    let file = nix(&folder);
    without_shared_memory(&file);
    std::fs::write(file.with_file_name("db.sqlite-wal"), "changes").unwrap();
    let refused = Database::open_file(&file, &StoreDir::nix()).unwrap_err();
    assert!(matches!(refused, DatabaseError::Pending { .. }), "{refused}");
}

#[test]
fn no_database_is_said_with_what_to_do() {
    let folder = TempDir::new().unwrap();
    let refused = Database::open_file(&folder.path().join("db.sqlite"), &StoreDir::guix());
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("db.sqlite") && refused.contains("--closure"), "{refused}");
    let refused = Database::open(&"/home/me/store".parse().unwrap()).unwrap_err();
    assert!(matches!(refused, DatabaseError::UnknownStore { .. }));
}

#[test]
fn other_files_are_refused() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("db.sqlite");
    std::fs::write(&file, "this is not a database").unwrap();
    let refused = Database::open_file(&file, &StoreDir::nix()).unwrap_err();
    assert!(matches!(refused, DatabaseError::Open { .. }), "{refused}");
    std::fs::write(&file, "").unwrap();
    let refused = Database::open_file(&file, &StoreDir::nix()).unwrap_err();
    assert!(matches!(refused, DatabaseError::OtherDatabase { .. }), "{refused}");
}

#[test]
fn broken_rows_are_refused() {
    for (column, value) in [("hash", "md5:x"), ("deriver", "/elsewhere/x.drv")] {
        let folder = TempDir::new().unwrap();
        let file = nix(&folder);
        let connection = Connection::open(&file).unwrap();
        let update = format!("update ValidPaths set {column} = ?1 where id = 4");
        connection.execute(&update, [value]).unwrap();
        let database = Database::open_file(&file, &StoreDir::nix()).unwrap();
        let refused = database.path_info(&path('d')).unwrap_err().to_string();
        assert!(refused.contains(&path('d').to_string()), "{refused}");
    }
    // A database of another store knows none of the paths.
    let folder = TempDir::new().unwrap();
    let database = Database::open_file(&nix(&folder), &StoreDir::guix()).unwrap();
    assert_eq!(database.path_info(&path('d')).unwrap(), None);
}
