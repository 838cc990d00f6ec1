//! HTTPS with a certificate authority that the system trusts, and HTTP/2 where TLS offers it.

use std::{
    env,
    process::Command,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use erisfs::{
    block::{self, BlockStore, Error, Memory},
    eris::BlockSize,
};
use futures::StreamExt as _;

use crate::{certified::certified, n2r::Server, suite};

/// Set to the address of the server in the process that plays the client.
const ADDRESS: &str = "CONFORMANCE_HTTPS_ADDRESS";

/// The client is a process of its own, because it takes the certificate from `SSL_CERT_FILE`, as a user would give it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_come_over_http2_from_a_server_that_the_system_trusts() {
    if let Ok(address) = env::var(ADDRESS) {
        return fetch(&address).await;
    }
    let (authority, acceptor) = certified();
    let store = Arc::new(Memory::new());
    for seed in 0..200 {
        let (reference, block) = suite::block(seed, BlockSize::Large);
        store.put(&reference, block).await.expect("memory takes blocks");
    }
    let server = Server::start(store, None, Some(acceptor)).await;
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("authority.pem");
    std::fs::write(&file, authority).expect("a writable file");
    let mut client = Command::new(env::current_exe().expect("this program has a path"));
    client
        .args([
            "--exact",
            "https::blocks_come_over_http2_from_a_server_that_the_system_trusts",
            "--nocapture",
        ])
        .env("SSL_CERT_FILE", &file)
        .env(ADDRESS, server.address.to_string());
    let output =
        tokio::task::spawn_blocking(move || client.output()).await.expect("no panic").expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(server.seen.http2.load(Relaxed), 200, "every request came over HTTP/2");
    assert!(
        server.seen.connections.load(Relaxed) <= 4,
        "{} connections",
        server.seen.connections.load(Relaxed)
    );

    // Without that authority in this process, the server is not believed.
    let stranger = block::open(&format!("https://{}/prefix", server.address)).expect("a good URL");
    let refused = stranger.get(&suite::block(0, BlockSize::Large).0).await.expect_err("an unknown authority");
    assert!(
        matches!(refused, Error::Unavailable { .. }) && refused.to_string().contains("ertificate"),
        "{refused}"
    );
}

async fn fetch(address: &str) {
    let store = block::open(&format!("https://{address}/prefix")).expect("a good URL");
    let references = (0..200).map(|seed| suite::block(seed, BlockSize::Large).0).collect();
    let failures: Vec<_> =
        store.get_many(references).filter_map(async |(_, answer)| answer.err()).collect().await;
    assert!(failures.is_empty(), "{failures:?}");
}
