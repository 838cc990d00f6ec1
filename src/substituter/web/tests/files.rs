//! NAR files: where they are, and how a broken download goes on.

use super::*;

const NAR: &[u8] = b"0123456789";

/// A server that knows Range and If-Range, with this ETag.
fn ranges(head: &str, etag: &str) -> Answer {
    let value = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let etag_line = format!("ETag: {etag}\r\n");
    let from = value("range: bytes=").and_then(|range| range.trim_end_matches('-').parse::<usize>().ok());
    match from {
        Some(from) if value("if-range:") == Some(etag) && from < NAR.len() => Answer::new(
            "206 Partial Content",
            &format!("{etag_line}Content-Range: bytes {from}-{}/{}\r\n", NAR.len() - 1, NAR.len()),
            &NAR[from..],
        ),
        Some(from) if value("if-range:") == Some(etag) && from >= NAR.len() => {
            Answer::new("416 Range Not Satisfiable", "Content-Range: bytes */10\r\n", "")
        }
        _ => Answer::new("200 OK", &etag_line, NAR),
    }
}

async fn from_to_end(place: &Http, url: &str, from: u64) -> (u64, Vec<u8>) {
    let file = place.nar(url, from).await.expect("the file");
    (file.from, read(file).await.expect("all of it"))
}

#[tokio::test]
async fn a_url_is_relative_to_the_narinfo_or_absolute() {
    let server = Server::start(|_| Answer::ok(NAR)).await;
    let place = place(&server.url("/pre"));
    for (url, asked) in [
        ("nar/a%2Bb", "/pre/nar/a%2Bb"),
        ("nar/a+b?x=1", "/pre/nar/a+b?x=1"),
        ("/nar/a", "/nar/a"),
        (&server.url("/other/a"), "/other/a"),
    ] {
        let file = place.nar(url, 0).await.unwrap();
        assert_eq!((file.from, file.length), (0, Some(10)));
        assert_eq!(read(file).await.unwrap(), NAR);
        let head = server.last();
        assert!(head.starts_with(&format!("GET {asked} HTTP/1.1\r\n")) && !head.contains("range:"), "{head}");
    }
    for url in ["file:///etc/passwd", "", "ftp://127.0.0.1/a", "http://", "ipfs://Qm1"] {
        assert!(matches!(place.nar(url, 0).await, Err(Error::BadNarUrl { .. })), "{url}");
    }
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_broke_off() {
    let server = Server::start(|head| ranges(head, "\"one\"")).await;
    let place = place(&server.url("/"));
    assert_eq!(from_to_end(&place, "a", 0).await, (0, NAR.to_vec()));
    let file = place.nar("a", 4).await.unwrap();
    assert_eq!((file.from, file.length), (4, Some(10)));
    assert_eq!(read(file).await.unwrap(), &NAR[4..]);
    let head = server.last();
    assert!(head.contains("range: bytes=4-\r\n") && head.contains("if-range: \"one\"\r\n"), "{head}");
    assert_eq!(from_to_end(&place, "a", 10).await, (0, NAR.to_vec()), "nothing is behind its end");
}

#[tokio::test]
async fn a_file_that_changed_begins_anew() {
    let changed = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let now = Arc::clone(&changed);
    let server = Server::start(move |head| {
        let changed = now.load(std::sync::atomic::Ordering::SeqCst);
        ranges(head, if changed { "\"two\"" } else { "\"one\"" })
    })
    .await;
    let place = place(&server.url("/"));
    from_to_end(&place, "a", 0).await;
    changed.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(from_to_end(&place, "a", 4).await.0, 0);
    assert_eq!(from_to_end(&place, "a", 4).await.0, 4, "from then on it is the new one");
}

#[tokio::test]
async fn without_a_memory_of_the_file_it_begins_at_its_beginning() {
    let server = Server::start(|head| ranges(head, "\"one\"")).await;
    assert_eq!(from_to_end(&place(&server.url("/")), "a", 4).await.0, 0);
    assert!(!server.last().contains("range:"));
    for etag in ["W/\"weak\"", ""] {
        let server = Server::start(move |head| ranges(head, etag)).await;
        let place = place(&server.url("/"));
        from_to_end(&place, "a", 0).await;
        assert_eq!(
            from_to_end(&place, "a", 4).await.0,
            0,
            "{etag}: what cannot be told apart is not put together"
        );
    }
}

#[tokio::test]
async fn the_date_of_the_last_change_will_do_where_there_is_no_etag() {
    let date = "Sat, 21 Nov 2026 15:00:00 GMT";
    let dated = format!("Last-Modified: {date}\r\n");
    let server = Server::start(move |head| match head.contains(&format!("if-range: {date}")) {
        true => {
            Answer::new("206 Partial Content", &format!("{dated}Content-Range: bytes 4-9/10\r\n"), &NAR[4..])
        }
        false => Answer::new("200 OK", &dated, NAR),
    })
    .await;
    let place = place(&server.url("/"));
    from_to_end(&place, "a", 0).await;
    assert_eq!(from_to_end(&place, "a", 4).await, (4, NAR[4..].to_vec()));
}

#[tokio::test]
async fn a_part_that_is_not_what_was_asked_for_is_not_taken() {
    for (etag, range) in [
        ("\"two\"", "bytes 4-9/10"),
        ("\"one\"", "bytes 3-9/10"),
        ("\"one\"", "bytes 4-9/11"),
        ("\"one\"", "bytes 4-8/10"),
        ("\"one\"", "nonsense"),
    ] {
        let server = Server::start(move |head| match head.contains("range: bytes") {
            true => {
                let headers = format!("ETag: {etag}\r\nContent-Range: {range}\r\n");
                Answer::new("206 Partial Content", &headers, &NAR[4..])
            }
            false => Answer::new("200 OK", "ETag: \"one\"\r\n", NAR),
        })
        .await;
        let place = place(&server.url("/"));
        from_to_end(&place, "a", 0).await;
        assert_eq!(from_to_end(&place, "a", 4).await, (0, NAR.to_vec()), "{etag} {range}");
    }
}

#[tokio::test]
async fn a_server_that_knows_no_range_gives_the_whole() {
    let server = Server::start(|_| Answer::new("200 OK", "ETag: \"one\"\r\n", NAR)).await;
    let place = place(&server.url("/"));
    from_to_end(&place, "a", 0).await;
    assert_eq!(from_to_end(&place, "a", 4).await, (0, NAR.to_vec()));
}

#[tokio::test]
async fn an_end_too_early_is_an_error_where_the_length_is_known() {
    let server = Server::start(|_| Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n", NAR)).await;
    let file = place(&server.url("/")).nar("a", 0).await.unwrap();
    assert_eq!(file.length, Some(20));
    assert!(read(file).await.unwrap_err().is_transient());
    let server = Server::start(|_| Answer::raw("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", NAR)).await;
    let file = place(&server.url("/")).nar("a", 0).await.unwrap();
    assert_eq!(file.length, None);
    assert_eq!(read(file).await.unwrap(), NAR);
}

#[tokio::test]
async fn a_file_that_stops_coming_ends_in_bounded_time() {
    let stalled = |_: &str| Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n", NAR).then_hang();
    let server = Server::start(stalled).await;
    let file = place_with(&server.url("/"), impatient()).nar("a", 0).await.unwrap();
    assert!(matches!(read(file).await, Err(Error::TimedOut { .. })));
    // As `guix publish` without a cache does for `nar/NAME`.
    let server = Server::start(|_| Answer::raw("", b"").then_hang()).await;
    let place = place_with(&server.url("/"), impatient());
    assert!(matches!(place.nar("nar/a", 0).await, Err(Error::TimedOut { .. })));
}

#[tokio::test]
async fn a_missing_or_encoded_file_is_told() {
    for status in ["404 Not Found", "403 Forbidden", "410 Gone"] {
        let server = Server::start(move |_| Answer::new(status, "", "")).await;
        assert!(matches!(place(&server.url("/")).nar("a", 0).await, Err(Error::NoFile { .. })), "{status}");
    }
    let server = Server::start(|_| Answer::new("200 OK", "Content-Encoding: gzip\r\n", NAR)).await;
    let error = place(&server.url("/")).nar("a", 0).await.unwrap_err();
    assert!(error.to_string().contains("gzip"), "{error}");
}

#[tokio::test]
async fn a_content_of_ipfs_comes_from_a_gateway_or_from_a_node() {
    let with =
        |ipfs: String| WebSettings { ipfs: Some(ipfs.parse().expect("a URL")), ..WebSettings::default() };
    let gateway = Server::start(|head| ranges(head, "\"Qm1\"")).await;
    let place = place_with("http://unused.example/", with(gateway.url("/")));
    assert_eq!(from_to_end(&place, "ipfs://Qm1", 0).await, (0, NAR.to_vec()));
    assert_eq!(from_to_end(&place, "ipfs://Qm1", 4).await, (4, NAR[4..].to_vec()));
    assert!(gateway.last().starts_with("GET /ipfs/Qm1 "));

    let node = Server::start(|head| match head.starts_with("POST /api/v0/cat?arg=Qm1&offset=4 ") {
        true => Answer::ok(&NAR[4..]),
        false => Answer::new("500 Oops", "", "{\"Message\":\"no\"}"),
    })
    .await;
    let place = place_with("http://unused.example/", with(node.url("").replace("http:", "ipfs:")));
    let file = place.nar("ipfs://Qm1", 4).await.unwrap();
    assert_eq!((file.from, file.length), (4, None));
    assert_eq!(read(file).await.unwrap(), &NAR[4..]);
    assert!(place.nar("ipfs://Qm2", 0).await.unwrap_err().is_transient());
}
