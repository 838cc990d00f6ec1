//! What of a store path is on this disk, counted without asking anybody else. Every block is read and hashed.

use std::collections::HashSet;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::keep::{Keep, here};
use super::select::{Absent, Item, select};
use super::{Error, NODE_BYTES, Offline};
use crate::block::{self, BlockStore, Disk};
use crate::content::{self, Content, Deadline, Fetch, Inventory, Limits};
use crate::eris::{BlockSize, Reference};
use crate::tree::{self, Object};

/// The disk alone is asked: it answers or fails by itself.
const WAIT: Duration = Duration::from_secs(60);
/// What is said of a part that a store path does not have.
pub(super) const NO_FILE: &str = "there is no such file in it";

/// What of one store path, or of a part of it, is on this disk.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// `HASH-NAME`, or `HASH-NAME/PATH`.
    pub name: String,
    /// Its bytes, as they are encoded.
    pub bytes: u64,
    /// Of these, bytes that are not here.
    pub missing_bytes: u64,
    /// Its blocks, each counted once: what holds its bytes, and what leads there.
    pub blocks: u64,
    /// Of these, blocks that are not here.
    pub missing_blocks: u64,
    /// Whether the sizes are those that its narinfo announces, because the block that tells them is not here.
    pub estimated: bool,
    /// Why it could not be used although its blocks are here.
    pub fault: Option<String>,
}

impl Held {
    /// Whether it can be read without any network.
    pub fn is_complete(&self) -> bool {
        self.missing_blocks == 0 && self.fault.is_none()
    }
}

/// What of several store paths is on this disk.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Each store path.
    pub paths: Vec<Held>,
    /// Store paths that could not be looked up.
    pub absent: Vec<Absent>,
}

impl Report {
    /// Whether everything can be read without any network.
    pub fn is_complete(&self) -> bool {
        self.absent.is_empty() && self.paths.iter().all(Held::is_complete)
    }

    /// The sum over all paths; a block that is in two of them counts twice.
    pub fn total(&self) -> Held {
        self.paths.iter().fold(Held { name: "total".into(), ..Held::default() }, |sum, held| Held {
            name: sum.name,
            bytes: sum.bytes.saturating_add(held.bytes),
            missing_bytes: sum.missing_bytes.saturating_add(held.missing_bytes),
            blocks: sum.blocks.saturating_add(held.blocks),
            missing_blocks: sum.missing_blocks.saturating_add(held.missing_blocks),
            estimated: sum.estimated || held.estimated,
            fault: None,
        })
    }
}

pub(super) async fn check(offline: &Offline, paths: &[OsString], closure: bool) -> Result<Report, Error> {
    let disk: Arc<dyn BlockStore> = Arc::new(offline.disk.clone());
    let sources = offline.open_sources(std::iter::repeat(disk), WAIT).await?;
    let selection = select(&sources, paths, closure, WAIT).await?;
    let mut held = Vec::with_capacity(selection.items.len());
    for item in &selection.items {
        held.push(hold(offline, item).await.held);
    }
    Ok(Report { paths: held, absent: selection.absent })
}

/// What is here of an item, and the names of its blocks as far as they are known.
#[derive(Debug, Default)]
pub(super) struct Holding {
    pub(super) held: Held,
    pub(super) blocks: HashSet<Reference>,
}

/// Counts what is here of an item, and good. Takes 40 bytes of memory for each of its blocks.
pub(super) async fn hold(offline: &Offline, item: &Item) -> Holding {
    let mut holding =
        Holding { held: Held { name: item.name.clone(), ..Held::default() }, ..Holding::default() };
    if let Err(fault) = holding.count(offline, item).await {
        holding.held.fault = Some(fault);
    }
    holding
}

impl Holding {
    async fn count(&mut self, offline: &Offline, item: &Item) -> Result<(), String> {
        let disk = &offline.disk;
        let substitutes = offline.substitutes.as_ref().map(|them| (them, Deadline::after(WAIT)));
        let content = item.content(substitutes).await;
        let Some((capability, expected)) = content.map_err(|error| error.to_string())? else {
            self.held.estimated = true;
            self.lack(BlockSize::Large, item.announced());
            return Ok(());
        };
        let keep = Arc::new(Keep::new(disk.clone(), None, capability.block_size));
        let fetch = Fetch::new(keep.clone(), NODE_BYTES);
        if let Some(below) = &item.below {
            match Object::open(fetch.clone(), capability, expected.clone(), Deadline::after(WAIT)).await {
                Ok(object) => {
                    let node = object.listing().resolve(below).ok_or(NO_FILE)?;
                    let content = object.content().clone();
                    self.blocks.extend(keep.asked());
                    return self.walk(disk, content.inventory(object.encoded_range(node))).await;
                }
                Err(tree::Error::Read { source, .. }) if is_absent(&source) => self.held.estimated = true,
                Err(error) => return Err(error.to_string()),
            }
        }
        let limits = Limits { length: expected.limit, tail: 0 };
        let content = match Content::open(fetch.clone(), capability, limits, Deadline::after(WAIT)).await {
            Ok(content) => content,
            Err(error) if is_absent(&error) => {
                self.held.estimated = true;
                match Content::open_root(fetch, capability, item.announced(), Deadline::after(WAIT)).await {
                    Ok(content) => content,
                    Err(error) if is_absent(&error) => {
                        self.blocks.insert(capability.reference);
                        self.lack(capability.block_size, item.announced());
                        return Ok(());
                    }
                    Err(error) => return Err(error.to_string()),
                }
            }
            Err(error) => return Err(error.to_string()),
        };
        self.walk(disk, Arc::new(content).inventory(0..u64::MAX)).await
    }

    async fn walk(&mut self, disk: &Disk, mut inventory: Inventory) -> Result<(), String> {
        let held = &mut self.held;
        held.bytes = inventory.range_bytes();
        held.blocks = self.blocks.len() as u64;
        let mut broken = None;
        while let Some(batch) = inventory.next(Deadline::after(WAIT)).await {
            for reference in batch.nodes {
                held.blocks += u64::from(self.blocks.insert(reference));
            }
            let leaves: Vec<_> = batch.leaves.iter().map(|leaf| leaf.reference).collect();
            for (leaf, here) in batch.leaves.iter().zip(here(disk, &leaves).await) {
                held.missing_bytes += if here { 0 } else { leaf.bytes };
                if self.blocks.insert(leaf.reference) {
                    held.blocks += 1;
                    held.missing_blocks += u64::from(!here);
                }
            }
            for lost in batch.lost {
                if !is_absent(&lost.error) {
                    broken.get_or_insert(lost.error.to_string());
                }
                self.blocks.insert(lost.reference);
                held.blocks += lost.blocks;
                held.missing_blocks += lost.blocks;
                held.missing_bytes += lost.bytes;
            }
        }
        broken.map_or(Ok(()), Err)
    }

    /// Nothing of it is here.
    fn lack(&mut self, block_size: BlockSize, announced: u64) {
        let blocks = blocks_of(announced, block_size);
        self.held.bytes = announced;
        self.held.missing_bytes = announced;
        self.held.blocks = blocks;
        self.held.missing_blocks = blocks;
    }
}

/// Blocks that a content of `length` bytes has.
fn blocks_of(length: u64, block_size: BlockSize) -> u64 {
    let mut level = length / block_size.bytes() as u64 + 1;
    let mut blocks = level;
    while level > 1 {
        level = level.div_ceil(block_size.arity() as u64);
        blocks += level;
    }
    blocks
}

/// Whether it is that a block is not on the disk, and nothing worse.
fn is_absent(error: &content::Error) -> bool {
    matches!(error, content::Error::Block(block::Error::NotFound { .. }))
}
