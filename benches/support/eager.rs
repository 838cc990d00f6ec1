//! The rival: fetches each archive with one request, all of them at the same time, and unpacks them while they come, as `nix copy` and
//! `guix` do; but without asking for narinfos first, and without checking anything.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::thread;

use erisfs::nar::wire::{Event, Parser};

use super::published::Archive;

/// More than a frame of the wire's grammar, and few system calls.
const BUFFER: usize = 256 << 10;

/// Fetches and unpacks archives into `store`, which must not exist.
pub fn fetch_all(archives: &[Archive], store: &Path) -> io::Result<()> {
    fs::create_dir(store)?;
    thread::scope(|scope| {
        let fetch = |archive: &'_ Archive| fetch(&archive.url, &store.join(&archive.name));
        let threads: Vec<_> = archives.iter().map(|archive| scope.spawn(move || fetch(archive))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })
}

fn fetch(url: &str, at: &Path) -> io::Result<()> {
    let archive = zstd::Decoder::with_buffer(get(url)?)?;
    unpack(BufReader::with_capacity(BUFFER, archive), at)
}

/// The body of the answer to a GET.
fn get(url: &str) -> io::Result<impl BufRead> {
    let (host, path) =
        url.trim_start_matches("http://").split_once('/').ok_or(io::ErrorKind::InvalidInput)?;
    let mut stream = TcpStream::connect(host)?;
    write!(stream, "GET /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")?;
    let mut answer = BufReader::with_capacity(BUFFER, stream);
    let mut length = None;
    loop {
        let mut line = String::new();
        answer.read_line(&mut line)?;
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok();
        }
        if line.trim().is_empty() {
            let length = length.ok_or_else(|| io::Error::other("an answer without a length"))?;
            return Ok(answer.take(length));
        }
    }
}

fn unpack(mut archive: impl BufRead, at: &Path) -> io::Result<()> {
    let mut parser = Parser::new();
    let mut here = at.to_owned();
    let below = |here: &Path, name: &[u8]| match name.is_empty() {
        true => here.to_owned(),
        false => here.join(OsStr::from_bytes(name)),
    };
    while !parser.is_done() {
        let buffer = archive.fill_buf()?;
        if buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (mut rest, given) = (buffer, buffer.len());
        let event = parser.next(&mut rest).map_err(io::Error::other)?;
        let taken = given - rest.len();
        archive.consume(taken);
        match event {
            None => {}
            Some(Event::Directory { name }) => {
                here = below(&here, name);
                fs::create_dir(&here)?;
            }
            Some(Event::EndDirectory) => drop(here.pop()),
            Some(Event::Symlink { name, target }) => symlink(OsStr::from_bytes(target), below(&here, name))?,
            Some(Event::File { name, executable, size, .. }) => {
                let mut file = File::create(below(&here, name))?;
                io::copy(&mut archive.by_ref().take(size), &mut file)?;
                file.set_permissions(Permissions::from_mode(if executable { 0o555 } else { 0o444 }))?;
            }
        }
    }
    Ok(())
}
