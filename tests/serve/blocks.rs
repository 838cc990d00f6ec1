//! Blocks by reference, and who may put them.

use std::sync::Arc;

use erisfs::block::{BlockStore, Dir, Faulty, Memory};
use erisfs::eris::{BlockSize, Reference, reference_of};
use erisfs::serve::{Limits, PutPolicy, Service, Token};
use reqwest::{Response, StatusCode};

use super::{Published, Site, builder, client, header, start};

const TOKEN: &str = "0123456789abcdef";

fn target(reference: &Reference) -> String {
    format!("/uri-res/N2R?urn:blake2b:{reference}")
}

fn absent() -> Reference {
    reference_of(b"nobody has this")
}

async fn taking_puts() -> Site {
    let put = PutPolicy::Token(Token::new(TOKEN).unwrap());
    Site::with(0, Published::Seekable, put, Limits::default()).await
}

async fn put(site: &Site, reference: &Reference, block: Vec<u8>, token: &str) -> Response {
    let request = client().put(site.url(&target(reference))).bearer_auth(token).body(block);
    request.send().await.unwrap()
}

#[tokio::test]
async fn a_block_is_served_by_its_reference() {
    let site = Site::new().await;
    let (_, references) = site.object();
    for reference in references.iter().take(3) {
        let answer = site.get(&target(reference)).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(header(&answer, "content-type"), "application/octet-stream");
        assert_eq!(header(&answer, "content-length"), "32768");
        assert_eq!(header(&answer, "cache-control"), "public, immutable, max-age=31536000");
        assert_eq!(header(&answer, "etag"), format!("\"{reference}\""));
        assert_eq!(reference_of(&answer.bytes().await.unwrap()), *reference);
    }
    let escaped = target(&references[0]).replace("urn:blake2b:", "urn%3Ablake2b%3a");
    assert_eq!(site.get(&escaped).await.bytes().await.unwrap().len(), 32768);
}

#[tokio::test]
async fn absent_and_malformed_are_told_apart() {
    let site = Site::new().await;
    assert_eq!(site.get(&target(&absent())).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(site.head(&target(&absent())).await.status(), StatusCode::NOT_FOUND);
    for query in ["", "?", "?urn:blake2b:AAAA", "?urn:sha1:AAAA", "?urn:eris:AAAA"] {
        let answer = site.get(&format!("/uri-res/N2R{query}")).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{query}");
    }
}

#[tokio::test]
async fn head_asks_for_presence_only() {
    let site = Site::new().await;
    let (_, references) = site.object();
    let before = site.counted.counts().bytes();
    let answer = site.head(&target(&references[0])).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(header(&answer, "etag"), format!("\"{}\"", references[0]));
    assert_eq!(header(&answer, "content-length"), "", "nobody looked how long it is");
    assert_eq!(site.counted.counts().bytes(), before);
}

#[tokio::test]
async fn a_block_that_the_client_has_is_not_sent_again() {
    let site = Site::new().await;
    let (_, references) = site.object();
    let tag = format!("\"{}\"", references[0]);
    let request = client().get(site.url(&target(&references[0]))).header("If-None-Match", tag);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(answer.bytes().await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_damaged_block_is_not_served() {
    let site = Site::new().await;
    let (_, references) = site.object();
    site.fault.set(references[1], Faulty::Corrupt);
    let answer = site.get(&target(&references[1])).await;
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    assert!(!answer.text().await.unwrap().contains("memory:"), "where blocks come from is not the client's");
}

#[tokio::test]
async fn puts_are_refused_unless_they_are_allowed() {
    let site = Site::new().await;
    let block = vec![7; 1024];
    let answer = put(&site, &reference_of(&block), block, TOKEN).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn who_knows_the_token_may_put() {
    let site = taking_puts().await;
    for size in [BlockSize::Small, BlockSize::Large] {
        let block = vec![7; size.bytes()];
        let reference = reference_of(&block);
        let answer = put(&site, &reference, block.clone(), TOKEN).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(header(&answer, "content-location"), target(&reference));
        assert_eq!(site.get(&target(&reference)).await.bytes().await.unwrap(), block);
    }
}

#[tokio::test]
async fn a_wrong_token_puts_nothing() {
    let site = taking_puts().await;
    let block = vec![7; 1024];
    let reference = reference_of(&block);
    for token in ["", "0123456789abcdeF", "0123456789abcdef0"] {
        let answer = put(&site, &reference, block.clone(), token).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{token}");
        assert_eq!(header(&answer, "www-authenticate"), "Bearer");
    }
    let without = client().put(site.url(&target(&reference))).body(block).send().await.unwrap();
    assert_eq!(without.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(site.get(&target(&reference)).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_is_not_the_block_is_not_kept() {
    let site = taking_puts().await;
    let expected = [(0, 400), (1, 400), (1023, 400), (1025, 400), (32767, 400), (32769, 413), (200_000, 413)];
    for (length, status) in expected {
        let block = vec![7; length];
        let answer = put(&site, &reference_of(&block), block, TOKEN).await;
        assert_eq!(answer.status().as_u16(), status, "{length} bytes");
    }
    assert_eq!(put(&site, &absent(), vec![7; 1024], TOKEN).await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(site.get(&target(&absent())).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_body_of_unknown_length_is_read_no_further_than_a_block() {
    let site = taking_puts().await;
    let pieces = futures::stream::iter((0..64).map(|_| Ok::<_, std::io::Error>(vec![7; 1024])));
    let request = client().put(site.url(&target(&absent()))).bearer_auth(TOKEN);
    // The server may answer and close before everything was sent.
    if let Ok(answer) = request.body(reqwest::Body::wrap_stream(pieces)).send().await {
        assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
}

#[tokio::test]
async fn many_put_at_once_into_a_directory() {
    let dir = tempfile::TempDir::new().unwrap();
    let store = Arc::new(Dir::new(dir.path()));
    let put = PutPolicy::Token(Token::new(TOKEN).unwrap());
    let service = Service { store: store.clone(), tree: None, put, limits: Limits::default() };
    let (address, _shutdown, running) = start(service).await;
    let client = client();
    let blocks: Vec<Vec<u8>> = (0..64).map(|number: u8| vec![number; 1024]).collect();
    let puts = blocks.iter().map(|block| {
        let url = format!("http://{address}{}", target(&reference_of(block)));
        client.put(url).bearer_auth(TOKEN).body(block.clone()).send()
    });
    for answer in futures::future::join_all(puts).await {
        assert_eq!(answer.unwrap().status(), StatusCode::OK);
    }
    for block in &blocks {
        assert_eq!(store.get(&reference_of(block)).await.unwrap(), block);
    }
    running.abort();
}

#[tokio::test]
async fn http_2_is_spoken_by_prior_knowledge() {
    let site = Site::new().await;
    let client = builder().http2_prior_knowledge().build().unwrap();
    let (_, references) = site.object();
    let gets = references.iter().map(|reference| client.get(site.url(&target(reference))).send());
    for (reference, answer) in references.iter().zip(futures::future::join_all(gets).await) {
        let answer = answer.unwrap();
        assert_eq!(answer.version(), reqwest::Version::HTTP_2);
        assert_eq!(reference_of(&answer.bytes().await.unwrap()), *reference);
    }
}

#[tokio::test]
async fn without_catalogs_there_are_only_blocks() {
    let service = Service {
        store: Arc::new(Memory::new()),
        tree: None,
        put: PutPolicy::Refuse,
        limits: Limits::default(),
    };
    let (address, _shutdown, running) = start(service).await;
    let hash_part = "0c9hs37wsa5n5xl29b3l4fzzx8apb35v";
    for target in [
        "/nix-cache-info".to_owned(),
        format!("/{hash_part}.narinfo"),
        format!("/{hash_part}.ls"),
        format!("/nar/{hash_part}.nar"),
        format!("/nar/{hash_part}.nar.zst"),
    ] {
        let answer = client().get(format!("http://{address}{target}")).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{target}");
    }
    running.abort();
}
