//! Narinfos, listings, and what servers say of themselves.

use std::io::{Read, Write};

use super::*;
use crate::store::{StoreDir, narinfo};
use crate::substituter::{Info, MAX_LISTING_LENGTH};

async fn narinfo_of(answer: Answer) -> Result<Option<crate::store::Narinfo>, Error> {
    let server = Server::start(move |_| answer.clone()).await;
    place(&server.url("/")).narinfo(part()).await
}

#[tokio::test]
async fn a_narinfo_comes_byte_for_byte_from_below_the_prefix() {
    let server = Server::start(|_| Answer::ok(NARINFO)).await;
    for prefix in ["/pre/fix", "/pre/fix/"] {
        let found = place(&server.url(prefix)).narinfo(part()).await.unwrap().unwrap();
        assert_eq!(found.as_str(), NARINFO);
        let head = server.last();
        assert!(head.starts_with(&format!("GET /pre/fix/{PART}.narinfo HTTP/1.1\r\n")), "{head}");
        assert!(head.contains(concat!("user-agent: erisfs/", env!("CARGO_PKG_VERSION"))), "{head}");
        assert!(head.contains("accept-encoding: identity\r\n"), "{head}");
    }
}

#[tokio::test]
async fn what_a_server_does_not_have_is_no_failure() {
    for status in ["404 Not Found", "410 Gone", "403 Forbidden"] {
        assert_eq!(narinfo_of(Answer::new(status, "", "<html>")).await.unwrap(), None, "{status}");
    }
    let server = Server::start(|_| Answer::not_found()).await;
    assert_eq!(place(&server.url("/")).listing(part()).await.unwrap(), None);
    assert_eq!(place(&server.url("/")).info().await.unwrap(), Info::default());
}

#[tokio::test]
async fn that_a_server_cannot_answer_now_is_told_apart_from_that_it_will_not() {
    for status in ["500 Oops", "503 Busy", "429 Too Many Requests", "408 Timeout"] {
        let error = narinfo_of(Answer::new(status, "Retry-After: 7\r\n", "")).await.unwrap_err();
        assert!(error.is_transient() && error.to_string().contains(&status[..3]), "{error}");
        let Error::Unavailable { retry_after, .. } = error else { panic!("{error:?}") };
        assert_eq!(retry_after, Some(Duration::from_secs(7)));
    }
    for status in ["401 Unauthorized", "400 Bad Request", "204 No Content"] {
        let error = narinfo_of(Answer::new(status, "", "")).await.unwrap_err();
        assert!(
            matches!(error, Error::Refused { .. }) && error.to_string().contains(&status[..3]),
            "{error}"
        );
    }
}

#[tokio::test]
async fn what_guix_is_still_compressing_is_told_apart_from_what_it_does_not_have() {
    let answer = Answer::new("404 Not Found", "X-Baking: 1\r\nCache-Control: max-age=300\r\n", "");
    let error = narinfo_of(answer).await.unwrap_err();
    assert!(matches!(error, Error::Baking { hash_part, .. } if hash_part == part()), "{error}");
    assert_eq!(narinfo_of(Answer::new("404 Not Found", "X-Baking: 0\r\n", "")).await.unwrap(), None);
}

#[tokio::test]
async fn what_is_no_narinfo_is_refused() {
    let twice = NARINFO.replace("NarSize:", "NarSize: 1\nNarSize:");
    for text in ["<html>", "", &twice, &NARINFO[..NARINFO.len() - 1]] {
        let error = narinfo_of(Answer::ok(text)).await.unwrap_err();
        assert!(matches!(error, Error::Narinfo { .. }) && error.to_string().contains(PART), "{error}");
    }
}

#[tokio::test]
async fn no_more_is_read_than_a_narinfo_can_have() {
    let too_long = "a".repeat(narinfo::MAX_LENGTH + 1);
    let announced = Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", b"").then_hang();
    let unannounced =
        Answer::raw("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", too_long.as_bytes()).then_hang();
    for answer in [announced, unannounced] {
        let error = narinfo_of(answer).await.unwrap_err();
        assert!(matches!(error, Error::TooLong { limit: narinfo::MAX_LENGTH, .. }), "{error}");
    }
}

#[tokio::test]
async fn silence_ends_in_bounded_time() {
    let silent = Answer::raw("", b"").then_hang();
    let stalled = Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", b"StorePath").then_hang();
    for answer in [silent, stalled] {
        let server = Server::start(move |_| answer.clone()).await;
        let place = place_with(&server.url("/"), impatient());
        assert!(matches!(place.narinfo(part()).await, Err(Error::TimedOut { .. })));
        assert!(matches!(place.info().await, Err(Error::TimedOut { .. })));
        assert!(matches!(place.listing(part()).await, Err(Error::TimedOut { .. })));
    }
}

#[tokio::test]
async fn nobody_who_listens_is_a_failure_that_may_pass() {
    let server = Server::start(|_| Answer::not_found()).await;
    let url = server.url("/");
    drop(server);
    let error = place(&url).narinfo(part()).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains(&url), "{error}");
}

#[tokio::test]
async fn what_a_server_says_of_itself_is_read() {
    let server =
        Server::start(|_| Answer::ok("StoreDir: /gnu/store\nWantMassQuery: 0\nPriority: 100\n")).await;
    let info = place(&server.url("/x")).info().await.unwrap();
    assert_eq!((info.store_dir, info.priority), (Some(StoreDir::guix()), 100));
    assert!(server.last().starts_with("GET /x/nix-cache-info "));
    let server = Server::start(|_| Answer::ok("Priority: x\n")).await;
    assert!(matches!(place(&server.url("/")).info().await, Err(Error::Info { .. })));
}

#[tokio::test]
async fn a_listing_comes_as_it_is() {
    let server = Server::start(|_| Answer::ok("{\"version\":1}")).await;
    let listing = place(&server.url("/")).listing(part()).await.unwrap().unwrap();
    assert_eq!(&listing[..], b"{\"version\":1}");
    assert!(server.last().starts_with(&format!("GET /{PART}.ls ")));
}

#[tokio::test]
async fn a_listing_that_is_stored_compressed_is_unpacked_within_bounds() {
    let encoded = |encoding: &'static str, body: Vec<u8>| async move {
        let headers = format!("Content-Encoding: {encoding}\r\n");
        let server = Server::start(move |_| Answer::new("200 OK", &headers, &body)).await;
        place(&server.url("/")).listing(part()).await
    };
    let gzip = |content: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).expect("memory");
        encoder.finish().expect("memory")
    };
    let mut brotli = brotli::CompressorReader::new(&b"{\"version\":1}"[..], 4096, 5, 22);
    let mut listing = Vec::new();
    brotli.read_to_end(&mut listing).expect("memory");
    for (encoding, body) in [("br", listing), ("gzip", gzip(b"{\"version\":1}"))] {
        assert_eq!(encoded(encoding, body).await.unwrap().unwrap(), "{\"version\":1}", "{encoding}");
    }
    let bomb = gzip(&vec![b' '; MAX_LISTING_LENGTH + 1]);
    assert!(matches!(encoded("gzip", bomb).await, Err(Error::TooLong { .. })));
    for (encoding, body) in [("gzip", b"no gzip".to_vec()), ("rot13", vec![])] {
        let error = encoded(encoding, body).await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }) && error.to_string().contains(encoding), "{error}");
    }
}

#[tokio::test]
async fn a_redirect_is_followed_a_few_times() {
    let there = Server::start(|_| Answer::ok(NARINFO)).await;
    let target = there.url("/elsewhere");
    let here = Server::start(move |_| Answer::new("302 Found", &format!("Location: {target}\r\n"), "")).await;
    assert!(place(&here.url("/")).narinfo(part()).await.unwrap().is_some());
    let round = Server::start(|_| Answer::new("302 Found", "Location: /again\r\n", "")).await;
    let error = place(&round.url("/")).narinfo(part()).await.unwrap_err();
    assert!(error.to_string().contains("too many redirects"), "{error}");
    assert_eq!(round.heads().len(), 1 + crate::http::REDIRECTS);
    let away = Server::start(|_| Answer::new("302 Found", "Location: file:///etc/passwd\r\n", "")).await;
    assert!(place(&away.url("/")).narinfo(part()).await.is_err());
}

#[tokio::test]
async fn a_certificate_counts_if_the_given_authority_signed_it() {
    let (authority, acceptor) = certified::certified();
    let server = Server::start_tls(acceptor, |_| Answer::ok(NARINFO)).await;
    let trusting = reached(Access::new(Netrc::default(), &Proxies::default(), Some(authority.as_bytes())));
    assert!(place_with(&server.url("/"), trusting).narinfo(part()).await.unwrap().is_some());
    let error = place(&server.url("/")).narinfo(part()).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
}
