//! What a program that is being started refers to: its libraries by its ELF header, and the listings of the
//! store paths that its path refers to. Never whole contents; how much is bounded, and it is the last to go.

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};

use super::PATIENCE;
use super::elf::{self, Program};
use super::sweep::{News, Teller};
use crate::content::Deadline;
use crate::nar::{Kind, Listing, NodeId};
use crate::store::{HashPart, StorePath};
use crate::tree::Objects;
use crate::tree::inode::Slot;
use crate::tree::object::Object;

/// Store paths that are opened for one program, and again for its libraries: 100 KB each, so 6 MB.
const PATHS: usize = 64;
/// Programs and libraries whose headers are looked at.
const FILES: usize = 64;
/// The longest name of a library, and the longest directory, that any file system has.
const NAME: usize = 255;
const DIRECTORY: usize = 4096;
/// Places at which libraries are looked for, for one program: each of [`FILES`] in as many directories.
const ATTEMPTS: usize = 4096;
/// Objects that are opened at a time.
const OPENING: usize = 16;
/// Of a library the loader reads the tables at its start (symbols, relocations) and the data at its end.
const START: u64 = 256 << 10;
const END: u64 = 128 << 10;
/// Links from one name of a library to the next (`libz.so.1 -> libz.so.1.3`).
const LINKS: usize = 8;
/// A link of less than so many bytes a second is left to what is waited for.
const THIN: f64 = 1e6;

/// Warms what the program at `node` refers to.
pub(super) async fn warm(
    objects: &Arc<Objects>,
    (slot, path): (Slot, &StorePath),
    object: &Arc<Object>,
    node: NodeId,
    sweep: &Teller,
) {
    if is_thin(objects) {
        return;
    }
    sweep.tell(News::Program(slot, object.clone())).await;
    sweep.tell(News::File(slot, object.clone(), node)).await;
    libraries(objects, object, node).await;
    references(objects, path, sweep).await;
}

/// Asked again and again: at first nothing is known of the link, and the graph itself may be what shows how thin it is.
fn is_thin(objects: &Objects) -> bool {
    objects.fetch.gate().throughput().is_some_and(|throughput| throughput < THIN)
}

/// Opens what `path` refers to, then what that refers to, and so on.
async fn references(objects: &Arc<Objects>, path: &StorePath, sweep: &Teller) {
    let mut seen = HashSet::from([path.hash_part()]);
    let mut level = vec![path.hash_part()];
    while !level.is_empty() && !is_thin(objects) {
        let mut next: Vec<HashPart> = Vec::new();
        for hash_part in level {
            let known = objects.sources.resolve(hash_part, soon()).await.ok().flatten();
            for reference in known.iter().flat_map(|known| known.narinfo.references()) {
                if seen.len() <= PATHS && seen.insert(reference.hash_part()) {
                    next.push(reference.hash_part());
                }
            }
        }
        let openings =
            stream::iter(next.clone()).map(|hash_part| open(objects.clone(), hash_part, sweep.clone()));
        openings.buffer_unordered(OPENING).for_each(std::future::ready).await;
        level = next;
    }
}

async fn open(objects: Arc<Objects>, hash_part: HashPart, sweep: Teller) {
    match objects.open_path(hash_part, soon()).await {
        Ok(Some((slot, object))) => sweep.tell(News::Reference(slot, object)).await,
        Ok(None) => {}
        Err(error) => tracing::debug!("opening ahead: {error}"),
    }
}

/// Fetches the loader and the libraries that a program names, and those that they name.
async fn libraries(objects: &Arc<Objects>, object: &Arc<Object>, node: NodeId) {
    let mut files = VecDeque::from([(object.clone(), node)]);
    let mut search = Search { objects, opened: HashSet::new(), attempts: ATTEMPTS };
    let mut found = HashSet::new();
    while let Some((object, node)) = files.pop_front() {
        let Some(named) = named(objects, &object, node).await else { continue };
        for name in named.names {
            if found.len() == FILES || is_thin(objects) {
                return;
            }
            // As the loader does it: a library that was found under a name is that library for all.
            if found.contains(&name) {
                continue;
            }
            let Some((object, node)) = search.find(&name, &named.directories).await else { continue };
            found.insert(name);
            let Some((start, size)) = object.extent(node) else { continue };
            let (begin, last) = (START.min(size), size.saturating_sub(END));
            for range in [0..begin, last.max(begin)..size] {
                let range = start + range.start..start + range.end;
                let answer = object.fetch_range(range, &objects.frames, soon(), |_, _| ()).await;
                if let Err(error) = answer {
                    tracing::debug!("fetching a library ahead: {}: {error}", object.name());
                }
            }
            files.push_back((object, node));
        }
    }
}

/// What an ELF file names: its loader by its path and libraries by their names, and where those are looked for.
struct Named {
    names: Vec<String>,
    directories: Vec<String>,
}

/// What the ELF file at `node` names. What no file system could have is left out.
async fn named(objects: &Arc<Objects>, object: &Arc<Object>, node: NodeId) -> Option<Named> {
    let read = async |range: Range<u64>| -> Option<Bytes> {
        let length = range.end.checked_sub(range.start)?;
        object.read(node, range.start, length, &objects.frames, soon()).await.ok()
    };
    let program = Program::parse(&read(0..elf::HEADER).await?)?;
    let mut names = Vec::new();
    if let Some(range) = program.interpreter.clone() {
        let loader = read(range).await?;
        names.extend(elf::string(&loader, 0).filter(|path| path.len() <= DIRECTORY).map(str::to_owned));
    }
    let dynamic = program.dynamic(&read(program.dynamic.clone()?).await?)?;
    let strings = read(dynamic.strings.clone()).await?;
    let run_path = dynamic.run_path.and_then(|at| elf::string(&strings, at)).unwrap_or("");
    let needed = dynamic.needed.iter().filter_map(|&at| elf::string(&strings, at));
    names.extend(needed.filter(|name| name.len() <= NAME).map(str::to_owned));
    let directories = run_path.split(':').filter(|directory| directory.len() <= DIRECTORY);
    Some(Named { names, directories: directories.take(FILES).map(str::to_owned).collect() })
}

/// Looks for the libraries of one program.
struct Search<'a> {
    objects: &'a Arc<Objects>,
    /// Store paths that were opened, at most [`PATHS`].
    opened: HashSet<HashPart>,
    /// Places that may still be looked at.
    attempts: usize,
}

impl Search<'_> {
    /// The first of `directories` that has it decides; the listing says that without a fetch for each. A name with a slash is a path.
    async fn find(&mut self, name: &str, directories: &[String]) -> Option<(Arc<Object>, NodeId)> {
        if name.contains('/') {
            return self.at(name).await;
        }
        for directory in directories {
            if let Some(found) = self.at(&format!("{directory}/{name}")).await {
                return Some(found);
            }
        }
        None
    }

    /// The file at an absolute path in the store directory, links within its store path followed.
    async fn at(&mut self, path: &str) -> Option<(Arc<Object>, NodeId)> {
        self.attempts = self.attempts.checked_sub(1)?;
        let (store_path, rest) = self.objects.sources.store_dir()?.split(path).ok()?;
        let hash_part = store_path.hash_part();
        if self.opened.len() == PATHS && !self.opened.contains(&hash_part) {
            return None;
        }
        self.opened.insert(hash_part);
        let (_, object) = self.objects.open_path(hash_part, soon()).await.ok()??;
        let node = resolve(object.listing(), rest.as_bytes())?;
        Some((object, node))
    }
}

/// A file by its path, where links to names beside them are followed.
fn resolve(listing: &Listing, path: &[u8]) -> Option<NodeId> {
    let mut node = listing.resolve(path)?;
    for _ in 0..LINKS {
        if listing.kind(node) != Kind::Symlink {
            break;
        }
        node = listing.lookup(listing.parent(node), listing.target(node))?;
    }
    matches!(listing.kind(node), Kind::File { .. }).then_some(node)
}

fn soon() -> Deadline {
    Deadline::after(PATIENCE).ahead()
}
