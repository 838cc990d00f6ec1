//! What the fuzz targets share: taking an input apart, and giving it to block stores as a file.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use tokio::runtime::{Builder, Runtime};

/// Bytes taken from the front of a fuzzer's input; zeros once it is used up.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// Whether anything is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    /// The next two bytes as a number.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// The next four bytes as a number.
    pub fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }

    /// The next `count` bytes, or as many as there are.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// A file of this process that is removed in the end.
pub struct File(PathBuf);

impl File {
    /// One that is not there yet.
    pub fn absent(name: &str) -> Self {
        let file = File(std::env::temp_dir().join(format!("erisfs-fuzz-{}-{name}", std::process::id())));
        let _ = std::fs::remove_file(&file.0);
        file
    }

    /// One with these bytes.
    pub fn with(name: &str, bytes: &[u8]) -> Self {
        let file = Self::absent(name);
        std::fs::write(&file.0, bytes).expect("a writable directory for temporary files");
        file
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Waits for something that a block store does.
pub fn wait<T>(work: impl Future<Output = T>) -> T {
    static RUNTIME: LazyLock<Runtime> =
        LazyLock::new(|| Builder::new_current_thread().enable_all().build().expect("a runtime"));
    RUNTIME.block_on(work)
}
