//! Trees to publish that are made of numbers.

use std::fs;
use std::path::Path;

/// A tree of so many small files in folders of 100, of 1.6 KB on average; about half of that when compressed, as programs are.
pub fn small_files(tree: &Path, count: usize) {
    let mut numbers = xorshift64();
    for number in 0..count {
        let folder = tree.join(format!("{:03}", number / 100));
        fs::create_dir_all(&folder).expect("a writable directory");
        let lines = (0..1 + number % 193).map(|_| format!("{:016x}", numbers()));
        fs::write(folder.join(format!("file-{number:05}.txt")), lines.collect::<Vec<_>>().join("\n"))
            .expect("room");
    }
}

/// One file of so many bytes, which no compression makes smaller.
pub fn large_file(tree: &Path, bytes: usize) {
    let mut numbers = xorshift64();
    let mut noise = vec![0; bytes];
    for piece in noise.chunks_mut(8) {
        piece.copy_from_slice(&numbers().to_le_bytes()[..piece.len()]);
    }
    fs::create_dir_all(tree).expect("a writable directory");
    fs::write(tree.join("large"), noise).expect("room");
}

/// Numbers that look random, the same each time (Marsaglia, 2003).
fn xorshift64() -> impl FnMut() -> u64 {
    let mut state = 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}
