//! Trees to publish: of this machine where it has one, else made up.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::noise::noise;

/// Files of a big tree. The smallest of a Python library have some 4 MB together, published in seconds.
const MANY: usize = 2_200;

/// A few files: `one`, `two` and `three` of different sizes, a program `bin/sh`, the link `link` to it.
pub fn small(at: &Path) {
    fs::create_dir_all(at.join("bin")).unwrap();
    fs::write(at.join("one"), "the first\n").unwrap();
    fs::write(at.join("two"), noise(40_000)).unwrap();
    fs::write(at.join("three"), noise(70_000)).unwrap();
    fs::copy(fs::canonicalize("/bin/sh").unwrap(), at.join("bin/sh")).unwrap();
    symlink("bin/sh", at.join("link")).unwrap();
}

/// The Python library of this machine, without its large files, or else 2,500 files; with a program in it.
pub fn many(at: &Path) {
    small(at);
    let mut files = Vec::new();
    for entry in fs::read_dir("/usr/lib").into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(b"python3") {
            walk(&entry.path(), &mut files);
        }
    }
    files.sort();
    files.truncate(MANY);
    if files.len() < MANY {
        for number in 0..2_500 {
            let folder = at.join(format!("made-up/{}", number % 50));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(format!("{number}.py")), format!("import a{number}\n").repeat(number / 20))
                .unwrap();
        }
        return;
    }
    for (_, file) in files {
        let copy = at.join(file.strip_prefix("/usr/lib").unwrap());
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        match fs::read_link(&file) {
            Ok(target) => symlink(target, copy).unwrap(),
            Err(_) => drop(fs::copy(file, copy).unwrap()),
        }
    }
}

/// Files and links below `folder` with their sizes.
fn walk(folder: &Path, files: &mut Vec<(u64, PathBuf)>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => walk(&entry.path(), files),
            Ok(metadata) => files.push((metadata.len(), entry.path())),
            Err(_) => {}
        }
    }
}
