//! How the carriers of the web reach their servers: through the user's proxy, with the user's passwords and certificates.

use std::sync::Arc;

use erisfs::{
    block::{self, BlockStore, Memory},
    eris::BlockSize,
    http::{Access, Netrc, Proxies},
};

use crate::{
    certified::certified,
    faults::{Act, Scripted},
    n2r, suite,
};

/// Every carrier of the web, with HOST for its server.
const CARRIERS: [&str; 3] = ["http://HOST/", "ipfs://HOST", "ipfs+http://HOST/"];

/// A server that answers everything with one block.
async fn server_of(block: &[u8]) -> Scripted {
    let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", block.len());
    let answer = [head.as_bytes(), block].concat();
    Scripted::start(move |_| Act::Say(answer.clone())).await
}

#[tokio::test]
async fn a_proxy_stands_between_and_gets_no_password_but_its_own() {
    let (reference, block) = suite::block(1, BlockSize::Small);
    let proxy = server_of(&block).await;
    let proxies = Proxies {
        all: Some(proxy.url.replace("//", "//me:loud@")),
        no_proxy: Some("near.example".to_owned()),
        ..Proxies::default()
    };
    let access = Access::new(Netrc::default(), &proxies, None).expect("a proxy");
    for carrier in CARRIERS {
        let store =
            block::open_with(&carrier.replace("HOST", "far.example:81"), &access).expect("a good URL");
        assert_eq!(store.get(&reference).await.expect("through the proxy"), block);
        let head = proxy.heads.lock().expect("no panic").pop().expect("it was asked");
        assert!(head.contains(" http://far.example:81/"), "{carrier}: {head}");
        assert!(head.contains("proxy-authorization: basic "), "{carrier}: {head}");
        assert!(!head.contains("\r\nauthorization: "), "{carrier}: {head}");
    }
}

#[tokio::test]
async fn what_is_on_loopback_is_reached_without_the_proxy() {
    let (reference, block) = suite::block(1, BlockSize::Small);
    let server = server_of(&block).await;
    // Nobody listens there.
    let proxies = Proxies { all: Some("http://127.0.0.1:9".to_owned()), ..Proxies::default() };
    let access = Access::new(Netrc::default(), &proxies, None).expect("a proxy");
    let host = server.url.trim_start_matches("http://").trim_end_matches('/');
    for carrier in CARRIERS {
        let store = block::open_with(&carrier.replace("HOST", host), &access).expect("a good URL");
        assert_eq!(store.get(&reference).await.expect(carrier), block);
    }
}

#[tokio::test]
async fn the_password_of_the_netrc_file_is_sent_unless_the_url_has_one() {
    let (reference, block) = suite::block(1, BlockSize::Small);
    let server = server_of(&block).await;
    let netrc = Netrc::parse("machine 127.0.0.1 login me password hush").expect("a netrc file");
    let access = Access::new(netrc, &Proxies::default(), None).expect("a netrc file alone");
    let host = server.url.trim_start_matches("http://").trim_end_matches('/');
    for carrier in CARRIERS {
        for (host, sent) in [
            (host.to_owned(), "authorization: basic bwu6ahvzaa=="),
            (format!(":token@{host}"), "authorization: bearer token"),
            (format!("you:loud@{host}"), "authorization: basic ew91omxvdwq="),
        ] {
            let url = carrier.replace("HOST", &host);
            let store = block::open_with(&url, &access).expect("a good URL");
            assert_eq!(store.get(&reference).await.expect("it is let in"), block);
            // Heads are kept in small letters.
            let head = server.heads.lock().expect("no panic").pop().expect("it was asked");
            assert!(head.contains(sent), "{url}: {head}");
            assert!(!format!("{store:?}").contains("hush") && !store.name().contains("loud"));
        }
    }
}

#[tokio::test]
async fn a_server_with_a_certificate_of_a_private_authority_is_believed_where_that_was_named() {
    let (authority, acceptor) = certified();
    let (reference, block) = suite::block(1, BlockSize::Large);
    let memory = Arc::new(Memory::new());
    memory.put(&reference, block.clone()).await.expect("memory takes blocks");
    let server = n2r::Server::start(memory, None, Some(acceptor)).await;
    let url = format!("https://{}/prefix/", server.address);
    let access = Access::new(Netrc::default(), &Proxies::default(), Some(authority.as_bytes()));
    let store = block::open_with(&url, &access.expect("a certificate")).expect("a good URL");
    assert_eq!(store.get(&reference).await.expect("it is believed"), block);
    let stranger = block::open_source(&url, &Access::default()).expect("a good URL");
    let error = stranger.get(&reference).await.expect_err("an authority of which the system knows nothing");
    assert!(error.to_string().contains("ertificate"), "{error}");
}
