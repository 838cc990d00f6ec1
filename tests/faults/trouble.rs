//! A source that is in trouble.

use std::sync::Arc;

use erisfs::block::BlockStore;

use crate::origin::{Fault, Link, Origin};

/// What is wrong with a source.
#[derive(Clone, Copy, Debug)]
pub enum Trouble {
    /// It gives no block, and nothing can be had from asking again soon.
    Dead(Fault),
    /// It answers well, that it has no block.
    Lacking(Fault),
    /// It gives blocks, late or now and then.
    Slow(Fault),
    /// Its name means nothing.
    UnknownHost,
    /// Its certificate is nobody's.
    Untrusted,
}

/// The source. One that is not [curable](Self::is_curable) is in trouble from the beginning.
pub struct Source {
    trouble: Trouble,
    origin: Origin,
}

impl Source {
    /// A source of these blocks that is well, if it can be.
    pub fn new(blocks: Arc<dyn BlockStore>, trouble: Trouble) -> Self {
        let origin = match trouble {
            Trouble::Untrusted => Origin::start_tls(blocks, Link::LOOPBACK),
            _ => Origin::start(blocks, Link::LOOPBACK),
        };
        Source { trouble, origin }
    }

    pub fn url(&self) -> String {
        match self.trouble {
            Trouble::UnknownHost => "http://nowhere.invalid/".to_owned(),
            _ => self.origin.url(),
        }
    }

    fn fault(&self) -> Option<Fault> {
        match self.trouble {
            Trouble::Dead(fault) | Trouble::Lacking(fault) | Trouble::Slow(fault) => Some(fault),
            Trouble::UnknownHost | Trouble::Untrusted => None,
        }
    }

    pub fn is_curable(&self) -> bool {
        self.fault().is_some()
    }

    /// Whether a block may come in spite of it all.
    pub fn may_answer(&self) -> bool {
        matches!(self.trouble, Trouble::Slow(_))
    }

    /// Whether asking it is of no use, so that it should not be asked.
    pub fn is_dead(&self) -> bool {
        !matches!(self.trouble, Trouble::Slow(_) | Trouble::Lacking(_))
    }

    /// From now on it is in trouble.
    pub fn fall_ill(&self) {
        if let Some(fault) = self.fault() {
            self.origin.break_with(fault);
        }
    }

    pub fn heal(&self) {
        self.origin.heal();
    }

    /// Nobody is there any more.
    pub fn leave(&self) {
        self.origin.break_with(Fault::Refused);
    }

    /// Connections and requests since the last call.
    pub fn was_asked(&self) -> u64 {
        let seen = self.origin.seen();
        seen.connections.max(seen.requests)
    }
}
