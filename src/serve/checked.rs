//! The hash of a NAR that is sent whole: its last piece is kept back where the hash is wrong.
//!
//! Pieces are read side by side and hashed in their order, by the tasks that read them: each hands what it knows to the next.

use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use crate::store::NarHash;

/// The chain of pieces of one answer.
#[derive(Debug)]
pub(super) struct Checked {
    expected: NarHash,
    /// What all pieces before the next one come to.
    before: oneshot::Receiver<Sha256>,
}

/// What is hashed with one piece.
#[derive(Debug)]
pub(super) struct Link {
    before: oneshot::Receiver<Sha256>,
    then: Then,
}

#[derive(Debug)]
enum Then {
    Next(oneshot::Sender<Sha256>),
    Last(NarHash),
}

/// All of the NAR came, and is another one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the NAR hashes to {found}, where its narinfo says {expected}: it is not sent to its end")]
pub(super) struct WrongHash {
    expected: NarHash,
    pub(super) found: NarHash,
}

impl Checked {
    /// Nothing was read yet.
    pub(super) fn new(expected: NarHash) -> Self {
        Checked { expected, before: begun(Sha256::new()) }
    }

    /// The next piece in order, which may be the last.
    pub(super) fn link(&mut self, is_last: bool) -> Link {
        let (then, before) = oneshot::channel();
        let then = if is_last { Then::Last(self.expected) } else { Then::Next(then) };
        Link { before: std::mem::replace(&mut self.before, before), then }
    }
}

impl Link {
    /// Hashes the piece once those before it are hashed; whether it was the last one, and all is right. Where one of them failed nobody
    /// asks for this one.
    pub(super) async fn take(self, piece: &[u8]) -> Result<bool, WrongHash> {
        let Ok(mut hash) = self.before.await else { return Ok(false) };
        hash.update(piece);
        match self.then {
            // If nobody waits for it, the answer was given up.
            Then::Next(next) => {
                let _ = next.send(hash);
                Ok(false)
            }
            Then::Last(expected) => match NarHash::new(hash.finalize().into()) {
                found if found == expected => Ok(true),
                found => Err(WrongHash { expected, found }),
            },
        }
    }
}

fn begun(hash: Sha256) -> oneshot::Receiver<Sha256> {
    let (sender, receiver) = oneshot::channel();
    // The receiver is here.
    let _ = sender.send(hash);
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pieces_are_hashed_in_their_order_however_they_come() {
        let mut checked = Checked::new(NarHash::of(b"onetwothree"));
        let (one, two, three) = (checked.link(false), checked.link(false), checked.link(true));
        let outcome = tokio::join!(three.take(b"three"), two.take(b"two"), one.take(b"one"));
        assert_eq!(outcome, (Ok(true), Ok(false), Ok(false)));
    }

    #[tokio::test]
    async fn the_last_piece_of_another_nar_is_refused() {
        let mut checked = Checked::new(NarHash::of(b"onetwothree"));
        let (one, last) = (checked.link(false), checked.link(true));
        assert_eq!(one.take(b"onx").await, Ok(false));
        let refused = last.take(b"twothree").await.expect_err("it is another NAR");
        assert_eq!(refused.found, NarHash::of(b"onxtwothree"));
    }
}
