//! The tree of a NAR without the contents of its files: a compact arena that is also the tree of a mounted store path.
//!
//! Nodes are numbered in the order of the NAR, the root first, so a number is a function of the content. Since a NAR has one form,
//! names and sizes alone settle where each file's contents lie; [`Builder`] computes it, and a listing that claims another offset is refused.

mod json;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;

use super::wire::{self, Nesting, ParseError};

/// A node of one [`Listing`]: its place in NAR order. 0 is the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

impl NodeId {
    /// The root of every listing.
    pub const ROOT: Self = Self(0);

    /// Its number, below [`Listing::len`].
    pub fn index(self) -> u32 {
        self.0
    }
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Whether it is marked executable.
        executable: bool,
        /// Length of the contents in bytes.
        size: u64,
        /// Where the contents start in the NAR.
        offset: u64,
    },
    /// A symbolic link; [`Listing::target`] says where to.
    Symlink,
}

/// Why something is not a listing, or a listing cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ListingError {
    /// The JSON is broken, or is not of this form.
    #[error("listing byte {position}: expected {expected}")]
    Syntax {
        /// Where in the JSON.
        position: usize,
        /// What should be there.
        expected: &'static str,
    },
    /// A member of a node is missing, twice there, or of another kind of node.
    #[error("listing byte {position}: a node ends there {fault}")]
    Node {
        /// Where in the JSON.
        position: usize,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// The version of the listing is not 1.
    #[error("listing version {found} is not supported (supported: 1)")]
    Version {
        /// The version found.
        found: u64,
    },
    /// The offset of a file is not where its contents lie in the NAR of this tree.
    #[error("the listing puts file {name:?} at NAR byte {found}, where it cannot be (it is at {offset})")]
    Offset {
        /// Name of the file.
        name: String,
        /// The offset that the listing claims.
        found: u64,
        /// The offset that follows from the tree.
        offset: u64,
    },
    /// The tree is that of a NAR of another size.
    #[error("the listing is that of a NAR of {found} bytes, not {expected}")]
    Size {
        /// The size of the NAR that the listing must belong to.
        expected: u64,
        /// The size that follows from the tree.
        found: u64,
    },
    /// The tree is none that a NAR can hold.
    #[error(transparent)]
    Tree(#[from] ParseError),
    /// More entries, or longer names in sum, than 32 bits can number.
    #[error("the tree has more than 2^32 entries or bytes of names")]
    TooMany,
    /// A name or link target is not UTF-8, so JSON cannot hold it.
    #[error("{path:?} is or points to a name that is not UTF-8, which JSON cannot hold")]
    NotUtf8 {
        /// Path of the node, with invalid UTF-8 replaced.
        path: String,
    },
    /// The listing could not be written.
    #[error("the listing cannot be written")]
    Write(#[from] io::Error),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Content {
    Directory { first_child: u32, children: u32, subdirectories: u32 },
    File { offset: u64, size: u64 },
    Executable { offset: u64, size: u64 },
    Symlink { start: u32, length: u16 },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Node {
    content: Content,
    parent: NodeId,
    name_start: u32,
    name_length: u8,
}

/// The tree of a NAR. Methods panic on a [`NodeId`] of another, longer listing.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Listing {
    nodes: Vec<Node>,
    /// The children of each directory, side by side and sorted.
    children: Vec<NodeId>,
    /// Names and link targets.
    strings: Vec<u8>,
    nar_size: u64,
}

impl Listing {
    /// How many nodes there are; at least one.
    #[expect(clippy::len_without_is_empty, reason = "there is always a root")]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The size of the NAR in bytes.
    pub fn nar_size(&self) -> u64 {
        self.nar_size
    }

    /// The node with this number, where there is one.
    pub fn node(&self, index: u32) -> Option<NodeId> {
        ((index as usize) < self.nodes.len()).then_some(NodeId(index))
    }

    /// All nodes in NAR order: every directory before what is in it.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = NodeId> + use<> {
        (0..self.nodes.len() as u32).map(NodeId)
    }

    /// What a node is.
    pub fn kind(&self, id: NodeId) -> Kind {
        match self.at(id).content {
            Content::Directory { .. } => Kind::Directory,
            Content::File { offset, size } => Kind::File { executable: false, size, offset },
            Content::Executable { offset, size } => Kind::File { executable: true, size, offset },
            Content::Symlink { .. } => Kind::Symlink,
        }
    }

    /// Where a symbolic link points to; empty for other nodes.
    pub fn target(&self, id: NodeId) -> &[u8] {
        match self.at(id).content {
            Content::Symlink { start, length } => self.string(start, length.into()),
            _ => b"",
        }
    }

    /// The name of a node in its directory; empty for the root.
    pub fn name(&self, id: NodeId) -> &[u8] {
        let node = self.at(id);
        self.string(node.name_start, node.name_length.into())
    }

    /// The directory that a node is in; the root is in itself.
    pub fn parent(&self, id: NodeId) -> NodeId {
        self.at(id).parent
    }

    /// Path from the root, with slashes between the names; empty for the root.
    pub fn path(&self, id: NodeId) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = id;
        while at != NodeId::ROOT {
            names.push(self.name(at));
            at = self.parent(at);
        }
        names.reverse();
        names.join(&b'/')
    }

    /// The entries of a directory, sorted bytewise by name; none for other nodes. Any position is reached at once with `nth`.
    pub fn children(
        &self,
        id: NodeId,
    ) -> impl ExactSizeIterator<Item = NodeId> + DoubleEndedIterator + Clone + '_ {
        self.child_slice(id).iter().copied()
    }

    /// How many entries of a directory are directories (its link count is two more).
    pub fn subdirectories(&self, id: NodeId) -> u32 {
        match self.at(id).content {
            Content::Directory { subdirectories, .. } => subdirectories,
            _ => 0,
        }
    }

    /// The entry of a directory with this name.
    pub fn lookup(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        let children = self.child_slice(directory);
        children.binary_search_by(|child| self.name(*child).cmp(name)).ok().map(|at| children[at])
    }

    /// The node at a path from the root, such as `lib/libc.so`; slashes may be many, at either end too. Links are not followed,
    /// and `.` and `..` are names like others, which nothing has.
    pub fn resolve(&self, path: &[u8]) -> Option<NodeId> {
        path.split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty())
            .try_fold(NodeId::ROOT, |directory, name| self.lookup(directory, name))
    }

    /// Bytes of heap that the listing occupies.
    pub fn memory(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>()
            + self.children.capacity() * size_of::<NodeId>()
            + self.strings.capacity()
    }

    fn at(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    fn string(&self, start: u32, length: usize) -> &[u8] {
        &self.strings[start as usize..][..length]
    }

    fn child_slice(&self, id: NodeId) -> &[NodeId] {
        match self.at(id).content {
            Content::Directory { first_child, children, .. } => {
                &self.children[first_child as usize..][..children as usize]
            }
            _ => &[],
        }
    }
}

impl fmt::Debug for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listing")
            .field("nodes", &self.len())
            .field("nar_size", &self.nar_size)
            .finish_non_exhaustive()
    }
}

/// Builds a [`Listing`] from nodes in NAR order and works out where each lies in the NAR. The root's name is empty.
#[derive(Debug, Clone)]
pub struct Builder {
    nodes: Vec<Node>,
    children: Vec<NodeId>,
    strings: Vec<u8>,
    nesting: Nesting,
    open: Vec<OpenDirectory>,
    /// Children of all open directories so far, those of the innermost last.
    pending: Vec<NodeId>,
    position: u64,
}

#[derive(Debug, Clone, Copy)]
struct OpenDirectory {
    id: NodeId,
    first_pending: usize,
    subdirectories: u32,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("parent", &self.parent).finish_non_exhaustive()
    }
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

/// Bytes that strings of these lengths take in a NAR.
const fn strings_size<const N: usize>(lengths: [usize; N]) -> u64 {
    let mut sum = 0;
    let mut at = 0;
    while at < N {
        sum += 8 + lengths[at].next_multiple_of(8);
        at += 1;
    }
    sum as u64
}

const CLOSE: u64 = strings_size([1]);
const BEFORE_NAME: u64 = strings_size(["entry".len(), "(".len(), "name".len()]);
const AFTER_NAME: u64 = strings_size(["node".len()]);
const DIRECTORY: u64 = strings_size(["(".len(), "type".len(), "directory".len()]);
const SYMLINK: u64 = strings_size(["(".len(), "type".len(), "symlink".len(), "target".len()]);
/// Ends with the eight bytes of the contents' length.
const FILE: u64 = strings_size(["(".len(), "type".len(), "regular".len(), "contents".len()]) + 8;
const EXECUTABLE: u64 = strings_size(["executable".len(), 0]);

impl Builder {
    /// A builder that waits for the root.
    pub fn new() -> Self {
        Self {
            nodes: Vec::new(),
            children: Vec::new(),
            strings: Vec::new(),
            nesting: Nesting::default(),
            open: Vec::new(),
            pending: Vec::new(),
            position: strings_size([wire::MAGIC.len()]),
        }
    }

    /// Takes an event of [`wire::Parser`].
    pub fn event(&mut self, event: wire::Event<'_>) -> Result<(), ListingError> {
        match event {
            wire::Event::Directory { name } => self.directory(name),
            wire::Event::EndDirectory => self.end_directory(),
            wire::Event::File { name, executable, size, offset } => {
                let computed = self.file(name, executable, size)?;
                debug_assert_eq!(
                    computed, offset,
                    "the parser and the builder disagree about the layout of NARs"
                );
                Ok(())
            }
            wire::Event::Symlink { name, target } => self.symlink(name, target),
        }
    }

    /// Begins a directory.
    pub fn directory(&mut self, name: &[u8]) -> Result<(), ListingError> {
        self.enter(name)?;
        self.nesting.open()?;
        self.skip(DIRECTORY)?;
        if let Some(outer) = self.open.last_mut() {
            outer.subdirectories += 1;
        }
        let content = Content::Directory { first_child: 0, children: 0, subdirectories: 0 };
        let id = self.push(name, content)?;
        self.open.push(OpenDirectory { id, first_pending: self.pending.len(), subdirectories: 0 });
        Ok(())
    }

    /// Ends the innermost open directory.
    pub fn end_directory(&mut self) -> Result<(), ListingError> {
        self.nesting.close()?;
        let directory = self.open.pop().ok_or(ParseError::Unbalanced)?;
        let first_child = self.children.len() as u32;
        self.children.extend(self.pending.drain(directory.first_pending..));
        let children = self.children.len() as u32 - first_child;
        let subdirectories = directory.subdirectories;
        self.nodes[directory.id.0 as usize].content =
            Content::Directory { first_child, children, subdirectories };
        self.leave()
    }

    /// Adds a file and says where its contents start in the NAR.
    pub fn file(&mut self, name: &[u8], executable: bool, size: u64) -> Result<u64, ListingError> {
        self.enter(name)?;
        self.skip(if executable { FILE + EXECUTABLE } else { FILE })?;
        let offset = self.position;
        let too_large =
            || ParseError::FileTooLarge { name: String::from_utf8_lossy(name).into_owned(), offset, size };
        self.skip(wire::padded(size).ok_or_else(too_large)?).map_err(|_| too_large())?;
        let content =
            if executable { Content::Executable { offset, size } } else { Content::File { offset, size } };
        self.push(name, content)?;
        self.leave()?;
        Ok(offset)
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, name: &[u8], target: &[u8]) -> Result<(), ListingError> {
        wire::check_target(target).map_err(|fault| ParseError::BadTarget {
            name: String::from_utf8_lossy(name).into_owned(),
            fault,
        })?;
        self.enter(name)?;
        self.skip(SYMLINK + strings_size([target.len()]))?;
        let start = self.store(target)?;
        let length = u16::try_from(target.len()).expect("check_target() keeps targets below 4096 bytes");
        self.push(name, Content::Symlink { start, length })?;
        self.leave()
    }

    /// Ends the listing, which must be complete.
    pub fn finish(self) -> Result<Listing, ListingError> {
        if !self.nesting.complete() {
            return Err(ParseError::Unbalanced.into());
        }
        let Self { mut nodes, mut children, mut strings, position: nar_size, .. } = self;
        nodes.shrink_to_fit();
        children.shrink_to_fit();
        strings.shrink_to_fit();
        Ok(Listing { nodes, children, strings, nar_size })
    }

    fn enter(&mut self, name: &[u8]) -> Result<(), ListingError> {
        self.nesting.enter(name)?;
        if self.nesting.depth() > 0 {
            self.skip(BEFORE_NAME + strings_size([name.len()]) + AFTER_NAME)?;
        }
        Ok(())
    }

    fn leave(&mut self) -> Result<(), ListingError> {
        self.skip(if self.nesting.depth() > 0 { 2 * CLOSE } else { CLOSE })
    }

    fn skip(&mut self, bytes: u64) -> Result<(), ListingError> {
        self.position = self
            .position
            .checked_add(bytes)
            .filter(|end| *end <= wire::MAX_NAR)
            .ok_or(ParseError::NarTooLarge)?;
        Ok(())
    }

    fn push(&mut self, name: &[u8], content: Content) -> Result<NodeId, ListingError> {
        let id = NodeId(u32::try_from(self.nodes.len()).map_err(|_| ListingError::TooMany)?);
        let name_start = self.store(name)?;
        let name_length = u8::try_from(name.len()).expect("check_name() keeps names below 256 bytes");
        let parent = self.open.last().map_or(NodeId::ROOT, |directory| directory.id);
        self.nodes.push(Node { content, parent, name_start, name_length });
        if id != NodeId::ROOT {
            self.pending.push(id);
        }
        Ok(id)
    }

    fn store(&mut self, string: &[u8]) -> Result<u32, ListingError> {
        let start = u32::try_from(self.strings.len()).map_err(|_| ListingError::TooMany)?;
        self.strings.extend_from_slice(string);
        Ok(start)
    }
}

impl From<ListingError> for io::Error {
    fn from(error: ListingError) -> Self {
        match error {
            ListingError::Tree(error) => error.into(),
            ListingError::Write(error) => error,
            error => io::Error::new(io::ErrorKind::InvalidData, error),
        }
    }
}
