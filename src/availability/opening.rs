//! Opening a content of which not all may be there any more.

use std::sync::Arc;

use super::{NODE_BYTES, Subject};
use crate::block::{self, BlockStore};
use crate::content::{self, Content, Deadline, Fetch, Inventory};

/// A content that can be walked.
pub(super) struct Opening {
    pub content: Arc<Content>,
    /// Its length is what somebody announced, or the most that its tree can hold: the block that tells it is not there.
    pub estimated: bool,
}

impl Opening {
    /// Opens `subject` through `store`; where the block that tells the length is lost, as far as the root tells.
    pub(super) async fn new(
        store: Arc<dyn BlockStore>,
        subject: &Subject,
        deadline: Deadline,
    ) -> Result<Self, content::Error> {
        let fetch = Fetch::new(store, NODE_BYTES);
        let opened = Content::open(fetch.clone(), subject.capability, subject.limits(), deadline).await;
        let (content, estimated) = match opened {
            Ok(content) => (content, false),
            Err(error) if is_lost(&error) => {
                let length = subject.announced.unwrap_or(subject.limit);
                (Content::open_root(fetch, subject.capability, length, deadline).await?, true)
            }
            Err(error) => return Err(error),
        };
        Ok(Opening { content: Arc::new(content), estimated })
    }

    /// All of its blocks.
    pub(super) fn inventory(&self) -> Inventory {
        self.content.inventory(0..u64::MAX)
    }
}

/// Whether it is that a block is in no store, and nothing that may pass.
pub(super) fn is_lost(error: &content::Error) -> bool {
    match error {
        content::Error::Block(error) => {
            matches!(error.most_telling(), block::Error::NotFound { .. } | block::Error::Corrupt { .. })
                && !error.is_transient()
        }
        _ => false,
    }
}

/// Whether it is the fault of the network, and not of what was asked for.
pub(super) fn is_outage(error: &content::Error) -> bool {
    match error {
        content::Error::Block(error) => error.is_transient(),
        content::Error::TimedOut { .. } => true,
        _ => false,
    }
}
