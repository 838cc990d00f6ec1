//! One download, under way or ended.

use std::ops::Range;

use bytes::Bytes;

use super::{Archive, Error, Progress};
use crate::content::Deadline;

/// The download of one NAR.
#[derive(Debug)]
pub struct Download {
    _private: (),
}

impl Download {
    /// The NAR, once it is here as a whole and its hash is right. [`Error::Overdue`] if that takes too long; the download goes on.
    pub async fn finished(&self, _deadline: Deadline) -> Result<Archive, Error> {
        todo!()
    }

    /// Bytes of the NAR, as soon as they arrived. The hash of the NAR was not checked yet: whoever passes them on must find out by
    /// [`finished`](Self::finished) before the last of them whether they are right.
    pub async fn read(&self, _range: Range<u64>, _deadline: Deadline) -> Result<Bytes, Error> {
        todo!()
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        todo!()
    }
}
