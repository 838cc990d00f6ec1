//! The bytes of one ERIS content, read at any offset.
//!
//! [`Content`] turns a byte range into the blocks that hold it (interior nodes first, and kept), asks
//! the block store for all of them at once and decrypts what arrives. Every wait has a [`Deadline`],
//! which comes down from whoever asked; a future that is dropped takes its requests along. What nobody
//! waits for yet ([`Deadline::ahead`]) goes through the [`Gate`].

mod frames;
mod gate;
mod inventory;
mod plan;
mod read_ahead;
mod reader;

pub use crate::flights::Flights;
pub use frames::{FrameCache, FramesStatus, decode_frame};
pub use gate::{Gate, InFlight};
pub use inventory::{Batch, Inventory, Leaf, Lost};
pub use plan::Plan;
pub use read_ahead::{Read, ReadAhead, Windows};
pub use reader::{Content, Limits};

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use tokio::time::{Instant, timeout_at};

use crate::block::{self, Block, BlockStore, ByteLru};
use crate::eris::{DecodeError, Node, ReadCapability, Reference};
use gate::{Pass, Turn};

type Answer = (Reference, Result<Block, block::Error>);

/// The instant at which somebody stops waiting, and whether anybody waits at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    at: Instant,
    ahead: bool,
}

impl Deadline {
    /// The deadline that lies `duration` from now, of something that is waited for.
    pub fn after(duration: Duration) -> Self {
        Deadline { at: Instant::now() + duration, ahead: false }
    }

    /// The same instant for what is fetched ahead of need: it goes through the [`Gate`], after all that is waited for.
    pub fn ahead(self) -> Self {
        Deadline { ahead: true, ..self }
    }

    /// Whether nobody waits for it yet.
    pub fn is_ahead(&self) -> bool {
        self.ahead
    }

    /// Whether it is too late.
    pub fn has_passed(&self) -> bool {
        Instant::now() >= self.at
    }

    /// What `work` gives, unless the deadline passes before.
    pub async fn bound<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        timeout_at(self.at, work).await.ok()
    }
}

/// Why bytes of a content could not be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The block store has no (right) block.
    #[error(transparent)]
    Block(#[from] block::Error),
    /// The blocks are what their references say, but they form no valid content.
    #[error("{content}: {source}")]
    Decode {
        /// The content that was read.
        content: Name,
        /// The check that failed, and for which block.
        source: Box<DecodeError>,
    },
    /// The deadline passed while a block was on its way.
    #[error("block {reference} did not come from {store} before the deadline")]
    TimedOut {
        /// The block that was waited for.
        reference: Reference,
        /// Where it was asked for.
        store: String,
    },
    /// The content is larger than whoever named it said it may be.
    #[error("{content} has {found} bytes or more, but at most {limit} were announced")]
    TooLarge {
        /// The content.
        content: Name,
        /// Its length, or a lower bound of it.
        found: u64,
        /// The announced limit.
        limit: u64,
    },
    /// Bytes were asked for that the content does not have.
    #[error("{content} has {length} bytes, bytes {start}..{end} were asked for")]
    OutOfRange {
        /// The content.
        content: Name,
        /// Its length.
        length: u64,
        /// First byte asked for.
        start: u64,
        /// One past the last byte asked for.
        end: u64,
    },
    /// A compressed frame is damaged.
    #[error("{content}: the frame at byte {offset}: {source}")]
    Frame {
        /// The content.
        content: Name,
        /// Where the frame begins in the encoded object.
        offset: u64,
        /// What the decoder found.
        source: Arc<crate::compress::Error>,
    },
}

/// A content as messages name it: by the reference of its root block. The read key stays out of
/// logs, since whoever reads a log need not be allowed to read the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name(pub Reference);

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "content {}", self.0)
    }
}

impl From<&ReadCapability> for Name {
    fn from(capability: &ReadCapability) -> Self {
        Name(capability.reference)
    }
}

/// What all contents of a process share: where blocks come from, and the interior nodes seen so far.
///
/// Interior nodes are 0.2 % of a content, and each is on the way to 16 MiB of it: keeping them decoded
/// makes a random read one round trip instead of one a level.
#[derive(Debug)]
pub struct Fetch {
    store: Arc<dyn BlockStore>,
    gate: Arc<Gate>,
    nodes: Mutex<ByteLru<NodeKey, Arc<Node>>>,
}

/// The number of a content that is being opened: no other of this process has it, whoever opened it.
fn next_content() -> u64 {
    static OPENED: AtomicU64 = AtomicU64::new(0);
    OPENED.fetch_add(1, Ordering::Relaxed)
}

/// Memory of a reference with its key.
const PAIR_BYTES: usize = 64;

/// A node by its place in an opened content. The reference alone would not do: the same block can
/// stand at several places of a tree, and a hostile tree can name it with another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct NodeKey {
    content: u64,
    level: u8,
    index: u64,
}

impl Fetch {
    /// Reads from `store`, and keeps at most `node_bytes` of decoded interior nodes.
    pub fn new(store: Arc<dyn BlockStore>, node_bytes: usize) -> Arc<Self> {
        let gate = Gate::new(store.clone());
        let nodes = Mutex::new(ByteLru::new(node_bytes));
        Arc::new(Fetch { store, gate, nodes })
    }

    /// What lets prefetches through to the block store.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// The block store below.
    pub fn store(&self) -> &Arc<dyn BlockStore> {
        &self.store
    }

    async fn block(&self, reference: &Reference, deadline: Deadline) -> Result<Block, Error> {
        let answer = async {
            let _pass = match deadline.ahead {
                true => self.gate.ahead(1, &mut Turn::default()).await,
                false => self.gate.foreground(1),
            };
            self.store.get(reference).await
        };
        match timeout_at(deadline.at, answer).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(self.timed_out(reference)),
        }
    }

    /// What the store answers for each of `references`; ahead of need, what the gate lets through bit by bit.
    fn answers(&self, references: Vec<Reference>, deadline: Deadline) -> BoxStream<'_, Answer> {
        if !deadline.ahead {
            return self.passed(self.gate.foreground(references.len()), references).boxed();
        }
        let portions =
            stream::unfold((references, Turn::default()), move |(mut left, mut turn)| async move {
                if left.is_empty() {
                    return None;
                }
                let pass = self.gate.ahead(left.len(), &mut turn).await;
                let later = left.split_off(pass.blocks().min(left.len()));
                Some((self.passed(pass, left).boxed(), (later, turn)))
            });
        // All that were let through are polled, whether or not the next one is.
        portions.flatten_unordered(None).boxed()
    }

    fn passed(&self, mut pass: Pass, references: Vec<Reference>) -> impl Stream<Item = Answer> + Send {
        self.store.get_many(references).inspect(move |_| pass.arrived())
    }

    /// Calls `arrived` for each block of `references` as it comes; the first failure ends it.
    async fn blocks(
        &self,
        references: Vec<Reference>,
        deadline: Deadline,
        mut arrived: impl FnMut(&Reference, &Block) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut missing: std::collections::HashSet<Reference> = references.iter().copied().collect();
        let mut stream = self.answers(references, deadline);
        let mut late = false;
        while !missing.is_empty() {
            match timeout_at(deadline.at, stream.next()).await {
                Ok(Some((reference, answer))) => {
                    arrived(&reference, &answer?)?;
                    missing.remove(&reference);
                }
                Ok(None) => break,
                Err(_) => {
                    late = true;
                    break;
                }
            }
        }
        match missing.into_iter().min() {
            None => Ok(()),
            Some(reference) if late => Err(self.timed_out(&reference)),
            // A store answers for every block; one that leaves some out does not have them.
            Some(reference) => {
                Err(block::Error::NotFound { reference, store: self.store.name().into() }.into())
            }
        }
    }

    fn timed_out(&self, reference: &Reference) -> Error {
        Error::TimedOut { reference: *reference, store: self.store.name().to_owned() }
    }

    fn node(&self, key: &NodeKey) -> Option<Arc<Node>> {
        self.nodes.lock().expect("no panic while held").get(key).cloned()
    }

    fn keep_node(&self, key: NodeKey, node: Arc<Node>) {
        let bytes = node.len() * PAIR_BYTES + size_of::<Node>();
        self.nodes.lock().expect("no panic while held").put(key, node, bytes);
    }
}
