//! Writes NARs.

use std::io::{self, Read, Write};

use super::{MAGIC, Nesting, ParseError, check_target, lossy};

/// Writes a NAR from the same events that [`Parser`](super::Parser) gives, refusing what the parser would refuse.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    nesting: Nesting,
}

impl<W: Write> Writer<W> {
    /// Begins a NAR.
    pub fn new(mut out: W) -> io::Result<Self> {
        write_string(&mut out, MAGIC)?;
        Ok(Self { out, nesting: Nesting::default() })
    }

    /// Begins a directory; `name` is empty for the root, here and below.
    pub fn directory(&mut self, name: &[u8]) -> io::Result<()> {
        self.enter(name)?;
        self.nesting.open()?;
        self.words(&[b"(", b"type", b"directory"])
    }

    /// Ends the innermost open directory.
    pub fn end_directory(&mut self) -> io::Result<()> {
        self.nesting.close()?;
        self.leave()
    }

    /// Writes a file with `size` bytes read from `contents`; fewer there is [`io::ErrorKind::UnexpectedEof`].
    pub fn file(&mut self, name: &[u8], executable: bool, size: u64, contents: impl Read) -> io::Result<()> {
        self.enter(name)?;
        self.words(&[b"(", b"type", b"regular"])?;
        if executable {
            self.words(&[b"executable", b""])?;
        }
        write_string(&mut self.out, b"contents")?;
        self.out.write_all(&size.to_le_bytes())?;
        if io::copy(&mut contents.take(size), &mut self.out)? != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        write_padding(&mut self.out, size)?;
        self.leave()
    }

    /// Writes a symbolic link.
    pub fn symlink(&mut self, name: &[u8], target: &[u8]) -> io::Result<()> {
        check_target(target).map_err(|fault| ParseError::BadTarget { name: lossy(name), fault })?;
        self.enter(name)?;
        self.words(&[b"(", b"type", b"symlink", b"target", target])?;
        self.leave()
    }

    /// Ends the NAR, which must be complete, and gives the writer back.
    pub fn finish(self) -> io::Result<W> {
        if !self.nesting.complete() {
            return Err(ParseError::Unbalanced.into());
        }
        Ok(self.out)
    }

    fn enter(&mut self, name: &[u8]) -> io::Result<()> {
        self.nesting.enter(name)?;
        if self.nesting.depth() > 0 {
            self.words(&[b"entry", b"(", b"name", name, b"node"])?;
        }
        Ok(())
    }

    fn leave(&mut self) -> io::Result<()> {
        self.words(if self.nesting.depth() > 0 { &[b")", b")"] } else { &[b")"] })
    }

    fn words(&mut self, words: &[&[u8]]) -> io::Result<()> {
        words.iter().try_for_each(|word| write_string(&mut self.out, word))
    }
}

fn write_string(out: &mut impl Write, string: &[u8]) -> io::Result<()> {
    out.write_all(&(string.len() as u64).to_le_bytes())?;
    out.write_all(string)?;
    write_padding(out, string.len() as u64)
}

fn write_padding(out: &mut impl Write, length: u64) -> io::Result<()> {
    out.write_all(&[0; 8][..(length.wrapping_neg() % 8) as usize])
}
