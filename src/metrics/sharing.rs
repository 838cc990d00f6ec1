//! What neighbours had of this process, and what they were refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

/// Counts what is shared.
#[derive(Debug)]
pub struct Sharing {
    limits: SharingLimits,
    connections: AtomicU64,
    blocks: AtomicU64,
    bytes: AtomicU64,
    lacked: AtomicU64,
    refused: AtomicU64,
}

/// What all neighbours together may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SharingLimits {
    /// The port at which they ask.
    pub port: u16,
    /// Bytes of blocks a second.
    pub rate: u64,
    /// Connections at a time.
    pub max_connections: usize,
}

/// The figures of what is shared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SharingStatus {
    /// What neighbours may have.
    #[serde(flatten)]
    pub limits: SharingLimits,
    /// Connections that are open.
    pub connections: u64,
    /// Blocks that they got.
    pub blocks: u64,
    /// Bytes of these blocks.
    pub bytes: u64,
    /// Blocks asked for that are not here.
    pub lacked: u64,
    /// Connections and blocks refused because it would have been too many.
    pub refused: u64,
}

impl Sharing {
    /// Nothing counted yet.
    pub fn new(limits: SharingLimits) -> Arc<Self> {
        let zero = AtomicU64::default;
        Arc::new(Sharing {
            limits,
            connections: zero(),
            blocks: zero(),
            bytes: zero(),
            lacked: zero(),
            refused: zero(),
        })
    }

    /// A neighbour is connected until the guard is dropped.
    pub fn connected(self: &Arc<Self>) -> Connected {
        self.connections.fetch_add(1, Relaxed);
        Connected(self.clone())
    }

    /// A block of so many bytes was given.
    pub fn gave(&self, bytes: u64) {
        self.blocks.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// A block was asked for that is not here.
    pub fn lacked(&self) {
        self.lacked.fetch_add(1, Relaxed);
    }

    /// A connection or a block was refused, because it would have been too many.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// The figures as they are now.
    pub fn status(&self) -> SharingStatus {
        SharingStatus {
            limits: self.limits,
            connections: self.connections.load(Relaxed),
            blocks: self.blocks.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            lacked: self.lacked.load(Relaxed),
            refused: self.refused.load(Relaxed),
        }
    }
}

/// A connection of a neighbour.
#[derive(Debug)]
pub struct Connected(Arc<Sharing>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}
