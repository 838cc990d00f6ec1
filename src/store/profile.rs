//! Startup profiles: which parts of which store paths the first run of something read, in that order.
//!
//! The text is for people too: a version line, `for HASH-NAME`, then `path HASH-NAME` and below it `read OFFSET LENGTH` in
//! bytes of its NAR. A profile that came with an archive is as hostile as any download: everything in it is
//! bounded, and it can name nothing but store paths.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use super::path::{PathError, StorePath, quoted};

/// The first line.
const HEADER: &str = "erisfs-profile 1";
/// The longest text that is read, in bytes: [`MAX_LINES`] of an ordinary length.
pub const MAX_LENGTH: usize = 2 << 20;
/// The most lines that are read. Starting a desktop program reads some thousand ranges.
pub const MAX_LINES: usize = 1 << 16;
/// The most bytes of a line that says what was read: two numbers of 19 digits.
const READ_LINE: usize = "read \n".len() + 2 * 19 + 1;
/// No NAR is larger, so no range ends later (8 EiB).
const MAX_OFFSET: u64 = i64::MAX as u64;

/// Why a text is no profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// The text is longer than [`MAX_LENGTH`].
    #[error("profile of {found} bytes: the limit is {MAX_LENGTH}")]
    TooLong {
        /// Its length.
        found: usize,
    },
    /// There are more than [`MAX_LINES`] lines.
    #[error("profile has more than {MAX_LINES} lines")]
    TooManyLines,
    /// The text is not UTF-8.
    #[error("profile is not UTF-8 from byte {offset} on")]
    NotUtf8 {
        /// Where it stops being UTF-8.
        offset: usize,
    },
    /// The first line is not that of this version.
    #[error("profile begins with {found:?}, expected {HEADER:?}")]
    Version {
        /// The first line, shortened.
        found: String,
    },
    /// The second line does not say which store path it is for.
    #[error("profile line 2 is {found:?}, expected `for HASH-NAME`")]
    NoPath {
        /// The line, shortened.
        found: String,
    },
    /// A line is neither a path nor a read, or a read has no path above it.
    #[error("profile line {line}: {text:?} is neither `path HASH-NAME` nor a `read OFFSET LENGTH` below one")]
    Line {
        /// Line number, from 1.
        line: usize,
        /// The line, shortened.
        text: String,
    },
    /// A line names no store path.
    #[error("profile line {line}: {source}")]
    Path {
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        source: PathError,
    },
    /// A range is empty or ends beyond any NAR.
    #[error("profile line {line}: bytes {offset} + {length} are no range of a NAR")]
    Range {
        /// Line number, from 1.
        line: usize,
        /// Where it begins.
        offset: u64,
        /// Its length.
        length: u64,
    },
}

/// What was read in one go of one store path: one step of a [`Profile`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The store path, which was opened even where nothing was read.
    pub path: StorePath,
    /// Bytes of its NAR, in order of first use.
    pub reads: Vec<Range<u64>>,
}

/// What was read first, second and so on. A path whose reads are mixed with those of others has several steps.
#[derive(Debug, Clone)]
pub struct Profile {
    path: StorePath,
    steps: Vec<Step>,
    /// Lines of its text, and the most bytes that they can have.
    lines: usize,
    length: usize,
}

impl Profile {
    /// A profile for `path`, of nothing yet.
    pub fn new(path: StorePath) -> Self {
        let length = HEADER.len() + 1 + "for ".len() + path_line(&path);
        Self { path, steps: Vec::new(), lines: 2, length }
    }

    /// Reads the text of a profile.
    pub fn parse(text: &[u8]) -> Result<Self, ProfileError> {
        if text.len() > MAX_LENGTH {
            return Err(ProfileError::TooLong { found: text.len() });
        }
        let not_utf8 = |error: std::str::Utf8Error| ProfileError::NotUtf8 { offset: error.valid_up_to() };
        let text = std::str::from_utf8(text).map_err(not_utf8)?;
        let mut lines = (1..).zip(text.lines());
        let first = lines.next().map_or("", |(_, first)| first);
        if first != HEADER {
            return Err(ProfileError::Version { found: quoted(first) });
        }
        let second = lines.next().map_or("", |(_, second)| second);
        let path = second.strip_prefix("for ").ok_or(ProfileError::NoPath { found: quoted(second) })?;
        let path = path.parse().map_err(|source| ProfileError::Path { line: 2, source })?;
        let mut profile = Self { path, steps: Vec::new(), lines: 2, length: text.len() };
        for (line, text) in lines {
            let bad = || ProfileError::Line { line, text: quoted(text) };
            if profile.lines == MAX_LINES {
                return Err(ProfileError::TooManyLines);
            }
            if let Some(path) = text.strip_prefix("path ") {
                let path = path.parse().map_err(|source| ProfileError::Path { line, source })?;
                profile.lines += 1;
                profile.steps.push(Step { path, reads: Vec::new() });
            } else {
                let (offset, length) = text.strip_prefix("read ").and_then(numbers).ok_or_else(bad)?;
                let range = range(offset, length).ok_or(ProfileError::Range { line, offset, length })?;
                let step = profile.steps.last_mut().ok_or_else(bad)?;
                profile.lines += 1;
                step.reads.push(range);
            }
        }
        Ok(profile)
    }

    /// Adds that `path` was opened or read (`range`, in bytes of its NAR). What continues the last range is made one with it.
    /// False where there is no more room, or the range is none; nothing is added then.
    pub fn add(&mut self, path: &StorePath, range: Option<Range<u64>>) -> bool {
        let same = self.steps.last().is_some_and(|step| step.path == *path);
        let lines = usize::from(!same) + usize::from(range.is_some());
        let sound = range.as_ref().is_none_or(|range| range.start < range.end && range.end <= MAX_OFFSET);
        let length = if same { 0 } else { path_line(path) } + READ_LINE;
        if self.lines + lines > MAX_LINES || self.length + length > MAX_LENGTH || !sound {
            return false;
        }
        if !same {
            self.steps.push(Step { path: path.clone(), reads: Vec::new() });
            self.lines += 1;
            self.length += path_line(path);
        }
        let Some(range) = range else { return true };
        let step = self.steps.last_mut().expect("one was added where there was none");
        match step.reads.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => {
                step.reads.push(range);
                self.lines += 1;
                self.length += READ_LINE;
            }
        }
        true
    }

    /// What was read, in that order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The same, taken out.
    pub fn into_steps(self) -> Vec<Step> {
        self.steps
    }

    /// Whether nothing was read or opened.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Bytes of memory that it holds.
    pub fn memory(&self) -> usize {
        let path = |step: &Step| size_of::<Step>() + step.path.name().len() + step.reads.capacity() * 16;
        self.steps.iter().map(path).sum()
    }

    /// The store path that it is for: whose first read replays it.
    pub fn path(&self) -> &StorePath {
        &self.path
    }

    /// How many bytes of NARs its reads have in sum.
    pub fn bytes(&self) -> u64 {
        let reads = self.steps.iter().flat_map(|step| &step.reads);
        reads.map(|range| range.end - range.start).fold(0, u64::saturating_add)
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}\nfor {}", self.path)?;
        for step in &self.steps {
            writeln!(f, "path {}", step.path)?;
            for read in &step.reads {
                writeln!(f, "read {} {}", read.start, read.end - read.start)?;
            }
        }
        Ok(())
    }
}

impl FromStr for Profile {
    type Err = ProfileError;

    fn from_str(text: &str) -> Result<Self, ProfileError> {
        Self::parse(text.as_bytes())
    }
}

fn path_line(path: &StorePath) -> usize {
    "path \n".len() + path.to_string().len()
}

/// Two numbers in digits alone, with one space between them.
fn numbers(text: &str) -> Option<(u64, u64)> {
    let (one, two) = text.split_once(' ')?;
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?;
    Some((number(one)?, number(two)?))
}

fn range(offset: u64, length: u64) -> Option<Range<u64>> {
    let end = offset.checked_add(length).filter(|end| length > 0 && *end <= MAX_OFFSET)?;
    Some(offset..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "erisfs-profile 1\n\
        for 11111111111111111111111111111111-library\n\
        path 00000000000000000000000000000000-tool\n\
        read 96 131072\n\
        read 4000000 1\n\
        path 11111111111111111111111111111111-library\n\
        path 00000000000000000000000000000000-tool\n\
        read 131168 4096\n";

    fn paths() -> [StorePath; 2] {
        ["00000000000000000000000000000000-tool", "11111111111111111111111111111111-library"]
            .map(|path| path.parse().unwrap())
    }

    #[test]
    fn a_profile_reads_back_as_it_was_written() {
        let profile: Profile = TEXT.parse().unwrap();
        assert_eq!(profile.to_string(), TEXT);
        assert_eq!(profile.steps().len(), 3);
        assert_eq!(profile.steps()[0].reads, [96..131_168, 4_000_000..4_000_001]);
        assert_eq!(profile.bytes(), 131_072 + 1 + 4096);
        assert_eq!(profile.path(), &paths()[1]);
    }

    #[test]
    fn what_is_added_in_order_is_written_in_order_and_neighbours_are_one() {
        let [tool, library] = paths();
        let mut profile = Profile::new(library.clone());
        assert!(profile.add(&tool, Some(96..65_536)) && profile.add(&tool, Some(65_536..131_168)));
        assert!(profile.add(&tool, Some(4_000_000..4_000_001)));
        assert!(profile.add(&library, None) && profile.add(&tool, Some(131_168..135_264)));
        assert_eq!(profile.to_string(), TEXT);
        assert!(!profile.add(&tool, Some(7..7)));
    }

    #[test]
    fn what_was_recorded_can_always_be_read_back() {
        let longest = format!("{}-{}", "0".repeat(32), "n".repeat(211)).parse().unwrap();
        let other = paths()[0].clone();
        let mut profile = Profile::new(other.clone());
        let mut taken = 0u64;
        while profile
            .add([&longest, &other][taken as usize % 2], Some(MAX_OFFSET - 2 * taken - 2..MAX_OFFSET))
        {
            taken += 1;
        }
        assert!(taken > 10_000);
        assert_eq!(Profile::parse(profile.to_string().as_bytes()).unwrap().steps(), profile.steps());
    }

    #[test]
    fn what_is_no_profile_is_refused_with_the_line() {
        let head = format!("{HEADER}\nfor 00000000000000000000000000000000-tool");
        let with = |lines: &str| Profile::parse(format!("{head}\n{lines}").as_bytes()).unwrap_err();
        let path = "path 00000000000000000000000000000000-tool\n";
        assert!(matches!(Profile::parse(b""), Err(ProfileError::Version { .. })));
        assert!(matches!(Profile::parse(b"erisfs-profile 2\n"), Err(ProfileError::Version { .. })));
        assert!(matches!(Profile::parse(b"erisfs-profile 1\npath x"), Err(ProfileError::NoPath { .. })));
        assert!(matches!(
            Profile::parse(b"erisfs-profile 1\nfor x"),
            Err(ProfileError::Path { line: 2, .. })
        ));
        assert!(matches!(Profile::parse(b"\xff"), Err(ProfileError::NotUtf8 { offset: 0 })));
        for line in ["read 1 2\n", "\n", "write 1 2\n"] {
            assert!(matches!(with(line), ProfileError::Line { line: 3, .. }), "{line:?}");
        }
        for read in
            ["read 1", "read +1 2", "read 1  2", "read 1 2 ", "read -1 2", "read 99999999999999999999 1"]
        {
            assert!(
                matches!(with(&format!("{path}{read}\n")), ProfileError::Line { line: 4, .. }),
                "{read:?}"
            );
        }
        for name in ["../etc/passwd", "00000000000000000000000000000000", "/nix/store/x", ""] {
            assert!(
                matches!(with(&format!("path {name}\n")), ProfileError::Path { line: 3, .. }),
                "{name:?}"
            );
        }
        for read in ["read 5 0", "read 18446744073709551615 1", "read 9223372036854775807 1"] {
            assert!(
                matches!(with(&format!("{path}{read}\n")), ProfileError::Range { line: 4, .. }),
                "{read:?}"
            );
        }
        let lines = path.repeat(MAX_LENGTH / path.len() - 1);
        assert!(Profile::parse(format!("{head}\n{lines}").as_bytes()).is_ok());
        assert!(matches!(
            with(&format!("{path}{}", "read 1 2\n".repeat(MAX_LINES))),
            ProfileError::TooManyLines
        ));
        assert!(matches!(Profile::parse(&vec![b' '; MAX_LENGTH + 1]), Err(ProfileError::TooLong { .. })));
    }
}
