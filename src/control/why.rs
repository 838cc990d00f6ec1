//! What a read of one file costs now, or did cost: which of its blocks are here, where they came from, and what is missing.
//!
//! No source is asked. What is not known here is counted as far as it can be, and the answer says so.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::block::{Held, SourceState, Stack};
use crate::content::Deadline;
use crate::tree::{Catalog, Catalogs, Located, Settings, Tree};

/// What is known of one file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Why {
    /// `HASH-NAME` and the path in it.
    pub path: String,
    /// Bytes of the file.
    pub size: u64,
    /// Compressed frames that hold it; 0 where it is not compressed.
    pub frames: u32,
    /// Of those, frames that are decoded in memory.
    pub decoded_frames: u32,
    /// Bytes of one block.
    pub block_bytes: u64,
    /// Interior nodes of the tree of blocks.
    pub nodes: Places,
    /// Blocks of data whose names are known.
    pub leaves: Places,
    /// Blocks of data below interior nodes that are not here: some of them may be.
    pub unknown_leaves: u64,
    /// Sources of the blocks that are here, as far as this process remembers, and how many each gave.
    pub came_from: BTreeMap<String, u64>,
    /// The source that would be asked first.
    pub would_ask: Option<String>,
    /// Times that a read has to wait for a source, one after the other; with unknown blocks so many at the most.
    pub round_trips: u32,
    /// Bytes that would have to come; with unknown blocks so many at the most.
    pub missing_bytes: u64,
    /// How long that would take by what is known of the source.
    pub seconds: Option<f64>,
}

/// Where blocks are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    /// In memory.
    pub memory: u64,
    /// In the disk cache.
    pub disk: u64,
    /// At sources only.
    pub missing: u64,
}

impl Places {
    fn count(&mut self, held: Held) {
        *match held {
            Held::Memory => &mut self.memory,
            Held::Disk => &mut self.disk,
            Held::Missing => &mut self.missing,
        } += 1;
    }

    /// All of them.
    pub fn all(&self) -> u64 {
        self.memory + self.disk + self.missing
    }
}

impl Why {
    /// What is known of a file; `None` for what is no file. Reads the disk cache, so not for an async thread.
    pub fn of(located: &Located, tree: &Tree, stack: &Stack) -> Option<Self> {
        let Located { object, node } = located;
        let plan = object.plan(*node, tree.frames(), |reference| stack.held_block(reference))?;
        let (mut nodes, mut leaves) = (Places::default(), Places::default());
        let mut came_from = BTreeMap::new();
        for reference in plan.blocks.nodes.iter().chain(&plan.blocks.leaves) {
            if let Some(source) = stack.race().came_from(reference) {
                *came_from.entry(source.to_string()).or_insert(0) += 1;
            }
        }
        for reference in &plan.blocks.nodes {
            // A node that is decoded in memory needs its block no more.
            nodes.count(match stack.whereabouts(reference) {
                Held::Missing => Held::Memory,
                held => held,
            });
        }
        nodes.missing = plan.blocks.missing_nodes.len() as u64;
        plan.blocks.leaves.iter().for_each(|reference| leaves.count(stack.whereabouts(reference)));

        let is_decoded = plan.frames > 0 && plan.decoded == plan.frames;
        let missing = leaves.missing + plan.blocks.unknown_leaves;
        let round_trips = match missing {
            0 => 0,
            _ if is_decoded => 0,
            _ => u32::from(plan.blocks.levels) + 1,
        };
        let missing_bytes = match round_trips {
            0 => 0,
            _ => (missing + nodes.missing).saturating_mul(plan.blocks.block_bytes),
        };
        let sources = stack.race().sources();
        let asked =
            sources.iter().find(|source| source.state != SourceState::CoolingDown).or(sources.first());
        let seconds = asked.and_then(|source| {
            let waiting = source.latency?.as_secs_f64() * f64::from(round_trips);
            let flowing = missing_bytes as f64 / source.throughput;
            (source.throughput > 0.0).then_some(waiting + flowing)
        });
        Some(Why {
            path: object.path_of(*node),
            size: plan.size,
            frames: plan.frames,
            decoded_frames: plan.decoded,
            block_bytes: plan.blocks.block_bytes,
            nodes,
            leaves,
            unknown_leaves: plan.blocks.unknown_leaves,
            came_from,
            would_ask: asked.map(|source| source.name.clone()),
            round_trips,
            missing_bytes,
            seconds: if round_trips == 0 { Some(0.0) } else { seconds },
        })
    }
}

/// The same view, but of what is here: whatever would have to be fetched is an error at once.
pub(super) async fn view_of_what_is_here(
    tree: &Tree,
    stack: &Stack,
    deadline: Deadline,
) -> Result<Tree, crate::tree::Error> {
    let fetch = crate::content::Fetch::new(stack.held(), NODE_BYTES);
    let mut catalogs = Vec::new();
    for catalog in tree.catalogs().iter() {
        catalogs.push(Catalog::open(fetch.clone(), *catalog.capability(), deadline).await?);
    }
    let settings = Settings { frame_bytes: 0, ..Settings::default() };
    Ok(Tree::new(fetch, Catalogs::new(catalogs), settings))
}

/// Nodes that one question needs: those of 512 MiB of content.
const NODE_BYTES: usize = 1 << 20;
