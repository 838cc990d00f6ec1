//! The blocks of a content that was published before, made once more from what it was made of.
//!
//! Encoding is a function of the bytes, the block size and the convergence secret: from the same NAR, packed in the same way, come the
//! same blocks. Whether it was the same shows in the end, by the read capability.

use std::io::{self, Read, Write};
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::{Either, select};
use futures::stream::BoxStream;

use super::Error;
use super::encode::{Failure, Puts, Sink, encode};
use super::fetch::{Reader, transfer};
use super::pack::{Unpacked, pack_nar};
use crate::block::{self, BlockStore};
use crate::eris::{BlockSize, ConvergenceSecret, ReadCapability};
use crate::substituter::Substituter;

/// Puts what `store` lacks of the blocks of a file on a server, as it lies there; does not sync. Of a file longer than `limit` only
/// the beginning is put.
///
/// # Errors
/// [`Error::Input`] where the file cannot be read, [`Error::Store`] where the blocks cannot be put.
pub async fn put_file(
    store: Arc<dyn BlockStore>,
    block_size: BlockSize,
    (server, url): (Arc<dyn Substituter>, String),
    limit: u64,
) -> Result<ReadCapability, Error> {
    let (transfer, reader) = transfer();
    let encoding = as_it_is(store, block_size, reader.take(limit));
    beside(async move { transfer.run(&*server, &url).await }, encoding).await
}

/// Puts what `store` lacks of the blocks of a NAR, packed as [`publish`](super::publish()) packs it, or as it is with `block_size`; does
/// not sync. `nar` must not be longer than the NAR is.
///
/// # Errors
/// [`Error::Input`] where the NAR cannot be read or is none, [`Error::Store`] where the blocks cannot be put.
pub async fn put_nar(
    store: Arc<dyn BlockStore>,
    block_size: Option<BlockSize>,
    nar: BoxStream<'static, io::Result<Bytes>>,
) -> Result<ReadCapability, Error> {
    let (transfer, reader) = transfer();
    match block_size {
        Some(block_size) => beside(transfer.pass(nar), as_it_is(store, block_size, reader)).await,
        None => beside(transfer.pass(nar), packed(store, reader)).await,
    }
}

/// What `work` makes of that which `transfer` brings.
async fn beside<T>(transfer: impl Future<Output = ()>, work: impl Future<Output = T>) -> T {
    let (transfer, work) = (pin!(transfer), pin!(work));
    match select(transfer, work).await {
        Either::Left(((), work)) => work.await,
        Either::Right((done, _)) => done,
    }
}

async fn as_it_is(
    store: Arc<dyn BlockStore>,
    block_size: BlockSize,
    mut content: impl Read + Send + 'static,
) -> Result<ReadCapability, Error> {
    let copy = move |sink: &mut Sink| io::copy(&mut content, sink).map(drop);
    let encoded = encode(&*store, Puts::Missing, Some(block_size), ConvergenceSecret::NULL, copy).await;
    let encoded = encoded.map_err(|failure| match failure {
        Failure::Store(source) => not_put(source),
        Failure::Content(source) => Error::Input(source),
    })?;
    Ok(encoded.capability)
}

async fn packed(store: Arc<dyn BlockStore>, mut nar: Reader) -> Result<ReadCapability, Error> {
    let feed = move |packer: &mut dyn Write| {
        io::copy(&mut nar, packer).map(drop).map_err(Unpacked::<io::Error>::Fed)
    };
    let put = pack_nar(&*store, Puts::Missing, None, None, feed).await.map_err(|failure| match failure {
        Failure::Store(source) => not_put(source),
        Failure::Content(Unpacked::Fed(source) | Unpacked::Pack(source)) => Error::Input(source),
        Failure::Content(Unpacked::Copy { path, source }) => Error::File { path, source },
    })?;
    Ok(put.record.capability)
}

fn not_put(source: block::Error) -> Error {
    Error::Store { what: "the content".to_owned(), source }
}
