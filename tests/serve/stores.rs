//! The server seen through the block store `http:`.

use erisfs::block::{self, Error};
use erisfs::eris::{BlockSize, reference_of};
use erisfs::serve::{Limits, PutPolicy, Token};
use futures::StreamExt;

use super::{Published, Site};

const TOKEN: &str = "0123456789abcdef";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_blocks_of_an_object_come_through_the_http_store() {
    let site = Site::new().await;
    let store = block::open(&site.url("/")).unwrap();
    let (_, references) = site.object();
    let mut answers = store.get_many(references.clone());
    let mut count = 0;
    while let Some((reference, block)) = answers.next().await {
        assert_eq!(reference_of(&block.unwrap()), reference);
        count += 1;
    }
    assert_eq!(count, references.len());
    let absent = reference_of(b"nobody has this");
    assert!(!store.has(&absent).await.unwrap());
    assert!(matches!(store.get(&absent).await, Err(Error::NotFound { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_http_store_puts_with_the_token_only() {
    let put = PutPolicy::Token(Token::new(TOKEN).unwrap());
    let site = Site::with(0, Published::Seekable, put, Limits::default()).await;
    let bytes = vec![7; BlockSize::Large.bytes()];
    let reference = reference_of(&bytes);
    let stranger = block::open(&site.url("/")).unwrap();
    assert!(matches!(stranger.put(&reference, bytes.clone().into()).await, Err(Error::Refused { .. })));
    let friend = block::open(&format!("http://:{TOKEN}@{}/", site.address)).unwrap();
    friend.put(&reference, bytes.clone().into()).await.unwrap();
    assert_eq!(stranger.get(&reference).await.unwrap(), bytes);
}
