//! Who keeps the blocks: copying contents to other stores, telling what is lost, and bringing back what is.
//!
//! A store path that everybody reads and nobody keeps is gone with its last publisher. [`seed`] copies all blocks of contents to
//! stores that lack them; [`audit`] asks stores what they have, and reads hardly anything; a [`Keeper`] does for others what
//! they ask of a server, and where a block is nowhere any more makes it anew from the NAR.

mod anew;
mod audit;
mod keeper;
mod nodes;
mod opening;
mod sample;
mod seed;
mod subject;
#[cfg(test)]
mod tests;

pub use audit::{AuditSettings, Audited, Lacking, Report, audit};
pub use keeper::{Keeper, Outcome, Standing};
pub use sample::CONFIDENCE;
pub use seed::{SeedSettings, Seeded, Target, seed};
pub use subject::{Order, Subject, Subjects, find};

use std::time::Duration;

/// Memory for decoded interior nodes of one content: a path from its root, and the level-1 nodes of one step of a walk.
const NODE_BYTES: usize = 1 << 20;
/// Contents that are walked at a time: small ones cost round trips and hardly a byte.
const WALKS: usize = 8;
/// So many failures of a store in a row that only the network is to blame for, and it is not asked any more.
const PATIENCE: u32 = 32;
/// The time that an interior node may take, where nobody says.
pub const WAIT: Duration = Duration::from_secs(30);
