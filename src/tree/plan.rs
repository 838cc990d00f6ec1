//! What a read of a file needs: its frames, and the blocks that hold them. Nothing is fetched for the answer.

use std::sync::Arc;

use super::encoded::Form;
use super::view::below;
use super::{Error, Inode, Kind, Object, Tree};
use crate::block::Block;
use crate::content::{Deadline, FrameCache, Plan};
use crate::eris::Reference;
use crate::nar::NodeId;

/// Links that are followed on one path, as many as the kernel follows.
const MAX_LINKS: usize = 40;

/// A node of the view with the object that it is in.
#[derive(Debug, Clone)]
pub struct Located {
    /// The opened store path.
    pub object: Arc<Object>,
    /// The node in it.
    pub node: NodeId,
}

/// What reading a whole file takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePlan {
    /// Bytes of the file.
    pub size: u64,
    /// Compressed frames that hold it; 0 where it is not compressed.
    pub frames: u32,
    /// Of those, frames that are decoded in memory.
    pub decoded: u32,
    /// The blocks of all frames.
    pub blocks: Plan,
}

impl Tree {
    /// The object that a node is in; of a directory, link or file. Opened if need be.
    pub async fn locate_inode(&self, inode: Inode, deadline: Deadline) -> Result<Located, Error> {
        if inode == Inode::ROOT {
            return Err(Error::IsDirectory);
        }
        let (object, node) = self.open_node(inode, deadline).await?;
        Ok(Located { object, node })
    }

    /// The node at `path`, from the root, and its object. Links are followed as far as they stay in the view. `None` if
    /// there is no such name, or if it is the root.
    pub async fn locate(&self, path: &[u8], deadline: Deadline) -> Result<Option<Located>, Error> {
        let mut folders = vec![Inode::ROOT];
        let mut ahead: Vec<Vec<u8>> = names(path);
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            let here = *folders.last().expect("the root stays");
            match &name[..] {
                b".." if folders.len() > 1 => drop(folders.pop()),
                b".." | b"." => {}
                name => {
                    let Some(found) = self.lookup(here, name, deadline).await? else { return Ok(None) };
                    if found.kind != Kind::Symlink {
                        folders.push(found.inode);
                        continue;
                    }
                    links += 1;
                    let target = self.read_link(found.inode, deadline).await?;
                    let store_dir = self.store_dir().map(|dir| dir.as_str().as_bytes());
                    match store_dir.and_then(|dir| below(&target, dir)) {
                        Some(inside) => {
                            folders.truncate(1);
                            ahead.extend(names(inside));
                        }
                        None if target.starts_with(b"/") || links > MAX_LINKS => return Ok(None),
                        None => ahead.extend(names(&target)),
                    }
                }
            }
        }
        match folders.pop() {
            None | Some(Inode::ROOT) => Ok(None),
            Some(inode) => self.locate_inode(inode, deadline).await.map(Some),
        }
    }
}

/// The names in a path, the first one last.
fn names(path: &[u8]) -> Vec<Vec<u8>> {
    path.rsplit(|&byte| byte == b'/').filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect()
}

impl Object {
    /// What reading a file takes; `None` for what is no file. `held` gives a block that is on this machine; it may wait
    /// for a disk.
    pub fn plan(
        &self,
        node: NodeId,
        frames: &FrameCache,
        held: impl Fn(&Reference) -> Option<Block>,
    ) -> Option<FilePlan> {
        let (start, size) = self.extent(node)?;
        let range = start..start.saturating_add(size);
        let (mut count, mut decoded) = (0, 0);
        let encoded = match self.form() {
            Form::File | Form::Nar => range,
            Form::Seekable(table) => {
                // Frames that follow each other stand one after the other in the object.
                let mut encoded = 0..0;
                for frame in table.frames_covering(range) {
                    if count == 0 {
                        encoded.start = frame.compressed.start;
                    }
                    encoded.end = frame.compressed.end;
                    count += 1;
                    decoded += u32::from(frames.contains(self.content(), &frame));
                }
                encoded
            }
        };
        let blocks = match size {
            0 => Plan::default(),
            _ => self.content().plan(encoded, held),
        };
        Some(FilePlan { size, frames: count, decoded, blocks })
    }
}
