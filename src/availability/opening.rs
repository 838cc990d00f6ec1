//! Opening a content of which not all may be there any more.

use std::sync::Arc;

use super::{NODE_BYTES, Subject};
use crate::block::{self, BlockStore};
use crate::content::{self, Content, Deadline, Fetch, Inventory};
use crate::eris::Reference;

/// A content that can be walked.
pub(super) struct Opening {
    pub content: Arc<Content>,
    /// The block at the end of the content that is lost, so that its length is not known: the content is walked as far as it may
    /// reach.
    pub end: Option<LostEnd>,
}

/// The last leaf, or a node that leads there.
pub(super) struct LostEnd {
    pub reference: Reference,
    pub error: content::Error,
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
        let (content, end) = match opened {
            Ok(content) => (content, None),
            Err(error) => match lost_block(&error) {
                Some(reference) => {
                    // What is announced is the length of a download, which may be shorter: the limit is that of any such content.
                    let content =
                        Content::open_root(fetch, subject.capability, subject.limit, deadline).await?;
                    (content, Some(LostEnd { reference, error }))
                }
                None => return Err(error),
            },
        };
        Ok(Opening { content: Arc::new(content), end })
    }

    /// All of its blocks.
    pub(super) fn inventory(&self) -> Inventory {
        self.content.inventory(0..u64::MAX)
    }
}

/// The block that is in no store, if it is that, and nothing that may pass.
fn lost_block(error: &content::Error) -> Option<Reference> {
    let content::Error::Block(error) = error else { return None };
    match error.most_telling() {
        block::Error::NotFound { reference, .. } | block::Error::Corrupt { reference, .. } => {
            (!error.is_transient()).then_some(*reference)
        }
        _ => None,
    }
}

/// Whether it is that a block is in no store, and nothing that may pass.
pub(super) fn is_lost(error: &content::Error) -> bool {
    lost_block(error).is_some()
}
