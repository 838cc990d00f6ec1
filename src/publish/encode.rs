//! From a thread that makes bytes to a block store: encoding on the way, puts at the other end.
//!
//! The two are joined by a bounded queue of batches, so a slow store slows the thread down instead of filling
//! the memory, and a store that fails or a caller that goes away ends the thread at its next write.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, future, stream};
use tokio::sync::mpsc;

use super::Error;
use crate::block::{self, Block, BlockStore};
use crate::eris::{BlockSize, ConvergenceSecret, Encoder, ReadCapability, Reference, SealedBlock};

/// Batches (a megabyte each, as the encoder makes them) that wait between encoder and store.
const QUEUE: usize = 4;
/// Batches that are being put.
const PUTS: usize = 4;
/// Bytes that are read at once from what `put` is given.
const PIECE: usize = 256 * 1024;

type Batch = Vec<(Reference, Block)>;

/// Which blocks are put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Puts {
    /// All: nothing is expected to be there.
    All,
    /// All but those that the store says it keeps: most are expected to be there.
    Missing,
}

/// Why nothing was encoded.
#[derive(Debug)]
pub(super) enum Failure<E> {
    /// The store failed.
    Store(block::Error),
    /// What makes the content failed.
    Content(E),
}

/// Takes content by [`Write`] and sends its blocks off.
pub(super) struct Sink {
    batches: mpsc::Sender<Batch>,
    secret: ConvergenceSecret,
    encoding: Encoding,
}

enum Encoding {
    /// The content is short so far: the block size depends on whether it ends.
    Short(Vec<u8>),
    Begun(Encoder),
}

impl Sink {
    /// Ends the content; none if nobody takes its blocks any more.
    fn finish(self) -> Option<ReadCapability> {
        let encoder = match self.encoding {
            Encoding::Begun(encoder) => encoder,
            Encoding::Short(start) => {
                let mut encoder = Encoder::new(BlockSize::for_length(start.len() as u64), self.secret);
                send(&self.batches, encoder.push(&start)).ok()?;
                encoder
            }
        };
        let (capability, blocks) = encoder.finish();
        send(&self.batches, blocks).ok()?;
        Some(capability)
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.batches.is_closed() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        match &mut self.encoding {
            Encoding::Begun(encoder) => send(&self.batches, encoder.push(bytes))?,
            Encoding::Short(start) => {
                start.extend_from_slice(bytes);
                if start.len() as u64 >= BlockSize::AUTO_THRESHOLD {
                    let mut encoder = Encoder::new(BlockSize::for_length(start.len() as u64), self.secret);
                    send(&self.batches, encoder.push(start))?;
                    self.encoding = Encoding::Begun(encoder);
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn send(batches: &mpsc::Sender<Batch>, blocks: Vec<SealedBlock>) -> io::Result<()> {
    if blocks.is_empty() {
        return Ok(());
    }
    // A run of equal bytes makes a run of equal blocks.
    let mut seen = HashSet::new();
    let new = blocks.into_iter().filter(|block| seen.insert(block.reference));
    let batch = new.map(|block| (block.reference, block.block)).collect();
    batches.blocking_send(batch).map_err(|_| io::ErrorKind::BrokenPipe.into())
}

/// A content that was put.
#[derive(Debug)]
pub(super) struct Encoded<T> {
    pub capability: ReadCapability,
    /// Blocks that were put.
    pub blocks: u64,
    /// What the maker of the content returned.
    pub made: T,
}

/// Encodes what `make`, on a blocking thread, writes, and puts it; does not sync. Without a block size, the
/// length decides on it.
pub(super) async fn encode<T: Send + 'static, E: Send + 'static>(
    store: &dyn BlockStore,
    puts: Puts,
    block_size: Option<BlockSize>,
    secret: ConvergenceSecret,
    make: impl FnOnce(&mut Sink) -> Result<T, E> + Send + 'static,
) -> Result<Encoded<T>, Failure<E>> {
    let (sender, mut receiver) = mpsc::channel(QUEUE);
    let maker = tokio::task::spawn_blocking(move || {
        let encoding = match block_size {
            Some(size) => Encoding::Begun(Encoder::new(size, secret)),
            None => Encoding::Short(Vec::new()),
        };
        let mut sink = Sink { batches: sender, secret, encoding };
        let made = make(&mut sink)?;
        Ok(sink.finish().map(|capability| (capability, made)))
    });
    let blocks = stream::poll_fn(|context| receiver.poll_recv(context))
        .map(|batch| put_batch(store, puts, batch))
        .buffer_unordered(PUTS)
        .try_fold(0, |blocks, put| async move { Ok(blocks + put) })
        .await
        .map_err(Failure::Store)?;
    let made = match maker.await {
        Ok(made) => made.map_err(Failure::Content)?,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    };
    let (capability, made) = made.expect("the queue is open for as long as the puts succeed");
    Ok(Encoded { capability, blocks, made })
}

/// Puts a batch; says how many blocks went.
async fn put_batch(store: &dyn BlockStore, puts: Puts, mut batch: Batch) -> Result<u64, block::Error> {
    if puts == Puts::Missing {
        // What the store cannot say of a block is no reason not to put it.
        let lacked = stream::iter(batch)
            .map(|(reference, block)| async move {
                let kept = store.keeps(&reference).await.unwrap_or(false);
                (!kept).then_some((reference, block))
            })
            .buffered(store.concurrency())
            .filter_map(future::ready);
        batch = lacked.collect().await;
    }
    let blocks = batch.len() as u64;
    if blocks > 0 {
        store.put_many(batch).await?;
    }
    Ok(blocks)
}

/// Encodes a content of any length as it is read, puts its blocks and syncs the store.
///
/// # Errors
/// [`Error::Input`] where it cannot be read, [`Error::Store`] where the blocks cannot be put.
pub async fn put(
    store: Arc<dyn BlockStore>,
    mut content: Box<dyn Read + Send>,
    block_size: BlockSize,
    secret: ConvergenceSecret,
) -> Result<ReadCapability, Error> {
    let what = || "the content".to_owned();
    let copy = move |sink: &mut Sink| {
        let mut buffer = vec![0; PIECE];
        loop {
            match content.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => sink.write_all(&buffer[..length])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    };
    let encoded = encode(&*store, Puts::All, Some(block_size), secret, copy).await;
    let encoded = encoded.map_err(|failure| match failure {
        Failure::Store(source) => Error::Store { what: what(), source },
        Failure::Content(source) => Error::Input(source),
    })?;
    store.sync().await.map_err(|source| Error::Store { what: what(), source })?;
    Ok(encoded.capability)
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::block::Memory;

    /// A store that takes blocks and says nothing about them.
    #[derive(Debug, Default)]
    struct Mute(Memory);

    #[async_trait]
    impl BlockStore for Mute {
        fn name(&self) -> &str {
            "mute:"
        }

        async fn get(&self, reference: &Reference) -> Result<Block, block::Error> {
            self.0.get(reference).await
        }

        async fn has(&self, reference: &Reference) -> Result<bool, block::Error> {
            let (reference, store, after) = (*reference, self.name().into(), std::time::Duration::ZERO);
            Err(block::Error::TimedOut { reference, store, after })
        }

        async fn put(&self, reference: &Reference, block: Block) -> Result<(), block::Error> {
            self.0.put(reference, block).await
        }

        async fn sync(&self) -> Result<(), block::Error> {
            Ok(())
        }

        fn concurrency(&self) -> usize {
            4
        }
    }

    #[tokio::test]
    async fn blocks_of_which_the_store_cannot_say_whether_it_has_them_are_put() {
        let (store, secret) = (Mute::default(), ConvergenceSecret::NULL);
        let write = |sink: &mut Sink| sink.write_all(&[7; 5000]);
        let encoded = encode(&store, Puts::Missing, Some(BlockSize::Small), secret, write).await;
        let blocks = encoded.expect("it takes blocks").blocks;
        assert!(blocks > 0 && blocks == store.0.len() as u64);
    }
}
