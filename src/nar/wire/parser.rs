//! Reads NARs: a state machine that takes one string of the grammar after another.

use super::{
    Event, MAGIC, MAX_NAME, MAX_NAR, MAX_TARGET, MAX_WORD, Nesting, ParseError, check_target, lossy, padded,
};

/// What the parser waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Magic,
    Open,
    TypeKey,
    TypeValue,
    ExecutableOrContents,
    ExecutableValue,
    ContentsKey,
    ContentsLength,
    ContentsPadding,
    TargetKey,
    TargetValue,
    NodeClose,
    EntryOrClose,
    EntryOpen,
    NameKey,
    NameValue,
    NodeKey,
    EntryClose,
    End,
}

/// Reads a NAR from slices of any length, as they come.
///
/// After [`Event::File`] the parser wants nothing of the contents: [`Parser::position`] jumps to their end, and the next bytes
/// given to [`Parser::next`] must be those at that position.
#[derive(Debug, Clone)]
pub struct Parser {
    expect: Expect,
    position: u64,
    /// What of the current token has arrived: eight bytes of length, then the string and its padding.
    token: Vec<u8>,
    nesting: Nesting,
    /// Length of the string in `token`.
    string_length: usize,
    /// `token` was dealt with; it is kept until the next call because an event may borrow it.
    token_used: bool,
    executable: bool,
    /// Padding after the contents of the current file.
    padding: usize,
}

impl Default for Parser {
    fn default() -> Self {
        Self::new()
    }
}

impl Parser {
    /// A parser at the start of a NAR.
    pub fn new() -> Self {
        Self {
            expect: Expect::Magic,
            position: 0,
            token: Vec::new(),
            string_length: 0,
            token_used: false,
            nesting: Nesting::default(),
            executable: false,
            padding: 0,
        }
    }

    /// Where in the NAR the next byte that it wants is.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether the NAR is complete. Its size is then [`Parser::position`].
    pub fn is_done(&self) -> bool {
        self.expect == Expect::End
    }

    /// Takes bytes from the front of `input` up to the next event. `None` means that `input` is used up: the NAR is complete
    /// ([`Parser::is_done`]) or more is needed.
    pub fn next<'a>(&'a mut self, input: &mut &[u8]) -> Result<Option<Event<'a>>, ParseError> {
        loop {
            if self.is_done() {
                let position = self.position;
                return if input.is_empty() { Ok(None) } else { Err(ParseError::TrailingData { position }) };
            }
            if !self.collect(input)? {
                return Ok(None);
            }
            let step = self.advance()?;
            self.token_used = true;
            return Ok(Some(match step {
                Step::Within => continue,
                Step::Directory => Event::Directory { name: self.nesting.directory_name() },
                Step::EndDirectory => Event::EndDirectory,
                Step::File { offset, size } => {
                    Event::File { name: self.nesting.name(), executable: self.executable, size, offset }
                }
                Step::Symlink => Event::Symlink { name: self.nesting.name(), target: self.string() },
            }));
        }
    }

    /// Says whether the NAR is complete once no more bytes come.
    pub fn finish(&self) -> Result<(), ParseError> {
        if self.is_done() { Ok(()) } else { Err(ParseError::Truncated { position: self.position }) }
    }

    /// Moves bytes of the current token from `input`; true once it is there as a whole.
    fn collect(&mut self, input: &mut &[u8]) -> Result<bool, ParseError> {
        if self.token_used {
            self.token.clear();
            self.token_used = false;
        }
        if self.expect == Expect::ContentsPadding {
            return Ok(self.fill(input, self.padding));
        }
        if !self.fill(input, 8) {
            return Ok(false);
        }
        if self.expect == Expect::ContentsLength {
            return Ok(true);
        }
        let length = self.length();
        let (what, limit) = self.expect.limit();
        if length > limit as u64 {
            return Err(ParseError::TooLong { position: self.position, what, length, limit });
        }
        self.string_length = length as usize;
        Ok(self.fill(input, 8 + self.string_length.next_multiple_of(8)))
    }

    fn fill(&mut self, input: &mut &[u8], needed: usize) -> bool {
        let missing = needed.saturating_sub(self.token.len()).min(input.len());
        let (taken, rest) = input.split_at(missing);
        self.token.extend_from_slice(taken);
        self.position += taken.len() as u64;
        *input = rest;
        self.token.len() >= needed
    }

    /// The first eight bytes of the token as a number.
    fn length(&self) -> u64 {
        let bytes: [u8; 8] = self.token[..8].try_into().expect("collect() has filled eight bytes");
        u64::from_le_bytes(bytes)
    }

    fn string(&self) -> &[u8] {
        &self.token[8..8 + self.string_length]
    }

    /// The current token is complete: check it, and say what it ends.
    fn advance(&mut self) -> Result<Step, ParseError> {
        match self.expect {
            Expect::ContentsLength => return self.contents(),
            Expect::ContentsPadding => {
                self.expect_zero(0)?;
                self.expect = Expect::NodeClose;
                return Ok(Step::Within);
            }
            _ => self.expect_zero(8 + self.string_length)?,
        }
        self.expect = match (self.expect, &self.token[8..8 + self.string_length]) {
            (Expect::Magic, MAGIC) => Expect::Open,
            (Expect::Open, b"(") => Expect::TypeKey,
            (Expect::TypeKey, b"type") => Expect::TypeValue,
            (Expect::TypeValue, b"regular") => {
                self.executable = false;
                self.nesting.enter_root()?;
                Expect::ExecutableOrContents
            }
            (Expect::TypeValue, b"symlink") => {
                self.nesting.enter_root()?;
                Expect::TargetKey
            }
            (Expect::TypeValue, b"directory") => {
                self.nesting.enter_root()?;
                self.nesting.open()?;
                self.expect = Expect::EntryOrClose;
                return Ok(Step::Directory);
            }
            (Expect::ExecutableOrContents, b"executable") => Expect::ExecutableValue,
            (Expect::ExecutableValue, b"") => {
                self.executable = true;
                Expect::ContentsKey
            }
            (Expect::ExecutableOrContents | Expect::ContentsKey, b"contents") => Expect::ContentsLength,
            (Expect::TargetKey, b"target") => Expect::TargetValue,
            (Expect::TargetValue, target) => {
                check_target(target)
                    .map_err(|fault| ParseError::BadTarget { name: lossy(self.nesting.name()), fault })?;
                self.expect = Expect::NodeClose;
                return Ok(Step::Symlink);
            }
            (Expect::NodeClose, b")") => self.after_node(),
            (Expect::EntryOrClose, b"entry") => Expect::EntryOpen,
            (Expect::EntryOrClose, b")") => {
                self.nesting.close()?;
                self.expect = self.after_node();
                return Ok(Step::EndDirectory);
            }
            (Expect::EntryOpen, b"(") => Expect::NameKey,
            (Expect::NameKey, b"name") => Expect::NameValue,
            (Expect::NameValue, name) => {
                self.nesting.enter(name)?;
                Expect::NodeKey
            }
            (Expect::NodeKey, b"node") => Expect::Open,
            (Expect::EntryClose, b")") => Expect::EntryOrClose,
            (expect, found) => {
                let expected = expect.wanted();
                return Err(ParseError::Unexpected {
                    position: self.position,
                    expected,
                    found: lossy(found),
                });
            }
        };
        Ok(Step::Within)
    }

    /// The length of a file's contents is known: hop over them.
    fn contents(&mut self) -> Result<Step, ParseError> {
        let (offset, size) = (self.position, self.length());
        let end = padded(size).and_then(|padded| offset.checked_add(padded)).filter(|end| *end <= MAX_NAR);
        let Some(end) = end else {
            return Err(ParseError::FileTooLarge { name: lossy(self.nesting.name()), offset, size });
        };
        self.position = offset + size;
        self.padding = (end - self.position) as usize;
        self.expect = Expect::ContentsPadding;
        Ok(Step::File { offset, size })
    }

    fn expect_zero(&self, from: usize) -> Result<(), ParseError> {
        if self.token[from..].iter().any(|byte| *byte != 0) {
            return Err(ParseError::Padding { position: self.position });
        }
        Ok(())
    }

    fn after_node(&self) -> Expect {
        if self.nesting.depth() == 0 { Expect::End } else { Expect::EntryClose }
    }
}

/// What a complete token amounts to.
enum Step {
    Within,
    Directory,
    EndDirectory,
    File { offset: u64, size: u64 },
    Symlink,
}

impl Expect {
    /// What the string expected here is, and its longest length.
    fn limit(self) -> (&'static str, usize) {
        match self {
            Self::NameValue => ("a name", MAX_NAME),
            Self::TargetValue => ("a link target", MAX_TARGET),
            _ => (self.wanted(), MAX_WORD),
        }
    }

    fn wanted(self) -> &'static str {
        match self {
            Self::Magic => "\"nix-archive-1\"",
            Self::Open | Self::EntryOpen => "\"(\"",
            Self::TypeKey => "\"type\"",
            Self::TypeValue => "\"regular\", \"symlink\" or \"directory\"",
            Self::ExecutableOrContents => "\"executable\" or \"contents\"",
            Self::ExecutableValue => "an empty string",
            Self::ContentsKey => "\"contents\"",
            Self::ContentsLength | Self::ContentsPadding => "contents",
            Self::TargetKey => "\"target\"",
            Self::TargetValue => "a link target",
            Self::NodeClose | Self::EntryClose => "\")\"",
            Self::EntryOrClose => "\"entry\" or \")\"",
            Self::NameKey => "\"name\"",
            Self::NameValue => "a name",
            Self::NodeKey => "\"node\"",
            Self::End => "the end",
        }
    }
}
