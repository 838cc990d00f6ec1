//! What stock `nix` and `guix` ask for: narinfos, listings, archives and parts of them.

use erisfs::block::Faulty;
use erisfs::nar::{Kind, Listing};
use erisfs::serve::{Limits, PutPolicy};
use erisfs::store::{NarHash, Narinfo};
use reqwest::{Response, StatusCode};
use tokio::io::AsyncWriteExt;

use super::{Published, SOON, Site, client, header, read_to_close};

async fn part(site: &Site, suffix: &str, range: &str) -> Response {
    let request = client().get(site.url(&site.archive(suffix))).header("Range", range);
    request.send().await.unwrap()
}

#[tokio::test]
async fn the_cache_says_which_store_it_is_for() {
    let site = Site::new().await;
    let info = site.get("/nix-cache-info").await.text().await.unwrap();
    assert_eq!(info, "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n");
}

#[tokio::test]
async fn a_narinfo_is_that_of_the_catalog_and_leads_to_the_archive() {
    let site = Site::new().await;
    let answer = site.get(&format!("/{}.narinfo", site.path.hash_part())).await;
    assert_eq!(header(&answer, "content-type"), "text/x-nix-narinfo");
    let narinfo = site.shelf.narinfo(&site.path);
    assert_eq!(answer.text().await.unwrap(), narinfo.as_str());
    let answer = site.get(&format!("/{}", narinfo.downloads()[0].url)).await;
    assert_eq!(answer.content_length(), narinfo.downloads()[0].file_size);
}

#[tokio::test]
async fn a_narinfo_without_a_url_gets_one() {
    let site = Site::with(1000, Published::WithoutUrl, PutPolicy::Refuse, Limits::default()).await;
    assert_eq!(site.shelf.narinfo(&site.path).downloads(), []);
    let answer = site.get(&format!("/{}.narinfo", site.path.hash_part())).await;
    let narinfo = Narinfo::parse(&answer.bytes().await.unwrap()).unwrap();
    let [download] = narinfo.downloads() else { panic!("{:?}", narinfo.downloads()) };
    assert!(site.get(&format!("/{}", download.url)).await.bytes().await.unwrap() == site.nar[..]);
}

#[tokio::test]
async fn a_listing_is_that_of_the_archive() {
    let site = Site::new().await;
    let answer = site.get(&format!("/{}.ls", site.path.hash_part())).await;
    assert_eq!(header(&answer, "content-type"), "application/json");
    let json = answer.bytes().await.unwrap();
    let listing = Listing::from_json(&json[..], Some(site.nar.len() as u64)).unwrap();
    let noise = listing.resolve(b"noise").unwrap();
    assert!(matches!(listing.kind(noise), Kind::File { size: 3_000_000, executable: false, .. }));
    assert_eq!(listing.target(listing.resolve(b"tool").unwrap()), b"bin/tool");
}

#[tokio::test]
async fn archives_come_whole_in_both_forms() {
    let site = Site::new().await;
    let (object, references) = site.object();
    for (suffix, expected, tag) in [
        ("nar.zst", &object, format!("\"{}\"", references[0])),
        ("nar", &site.nar, format!("\"{}\"", NarHash::of(&site.nar))),
    ] {
        let answer = site.get(&site.archive(suffix)).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.content_length(), Some(expected.len() as u64));
        assert_eq!(header(&answer, "accept-ranges"), "bytes");
        assert_eq!(header(&answer, "etag"), tag);
        assert!(answer.bytes().await.unwrap() == expected[..], "{suffix}");
    }
}

#[tokio::test]
async fn head_says_what_get_would() {
    let site = Site::new().await;
    let hash_part = site.path.hash_part();
    let targets = [
        "/".to_owned(),
        "/nix-cache-info".to_owned(),
        format!("/{hash_part}.narinfo"),
        format!("/{hash_part}.ls"),
        site.archive("nar"),
        site.archive("nar.zst"),
    ];
    for target in targets {
        let (get, head) = (site.get(&target).await, site.head(&target).await);
        assert_eq!(head.status(), StatusCode::OK, "{target}");
        for name in ["content-type", "content-length", "etag", "accept-ranges"] {
            assert_eq!(header(&head, name), header(&get, name), "{name} of {target}");
        }
        assert_eq!(head.bytes().await.unwrap().len(), 0);
    }
}

#[tokio::test]
async fn parts_are_sent_as_asked() {
    let site = Site::new().await;
    let (object, _) = site.object();
    for (suffix, whole) in [("nar.zst", &object), ("nar", &site.nar)] {
        let length = whole.len();
        for (range, expected) in [
            ("bytes=0-0".to_owned(), 0..1),
            ("bytes=5-99".to_owned(), 5..100),
            ("bytes=1048570-2097160".to_owned(), 1_048_570..2_097_161),
            (format!("bytes={}-", length - 10), length - 10..length),
            ("bytes=-7".to_owned(), length - 7..length),
            (format!("bytes=-{}", length * 2), 0..length),
            (format!("bytes=100-{}", length * 2), 100..length),
        ] {
            let answer = part(&site, suffix, &range).await;
            assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT, "{range}");
            let last = expected.end - 1;
            assert_eq!(header(&answer, "content-range"), format!("bytes {}-{last}/{length}", expected.start));
            assert_eq!(answer.content_length(), Some(expected.len() as u64));
            assert!(answer.bytes().await.unwrap() == whole[expected], "{suffix} {range}");
        }
    }
}

#[tokio::test]
async fn parts_that_are_not_there_are_refused() {
    let site = Site::new().await;
    let length = site.nar.len();
    for range in
        [format!("bytes={length}-"), format!("bytes={}-{}", length * 2, length * 3), "bytes=-0".to_owned()]
    {
        let answer = part(&site, "nar", &range).await;
        assert_eq!(answer.status(), StatusCode::RANGE_NOT_SATISFIABLE, "{range}");
        assert_eq!(header(&answer, "content-range"), format!("bytes */{length}"));
    }
}

#[tokio::test]
async fn several_parts_or_parts_of_another_version_are_answered_with_the_whole() {
    let site = Site::new().await;
    for range in ["bytes=0-1,5-6", "lines=1-2", "bytes=9-1"] {
        assert_eq!(part(&site, "nar", range).await.status(), StatusCode::OK, "{range}");
    }
    let tag = header(&site.head(&site.archive("nar")).await, "etag").to_owned();
    for (condition, status) in [(tag.as_str(), StatusCode::PARTIAL_CONTENT), ("\"other\"", StatusCode::OK)] {
        let request = client().get(site.url(&site.archive("nar"))).header("Range", "bytes=0-1");
        let answer = request.header("If-Range", condition).send().await.unwrap();
        assert_eq!(answer.status(), status, "{condition}");
    }
    let request = client().get(site.url(&site.archive("nar"))).header("If-None-Match", tag);
    assert_eq!(request.send().await.unwrap().status(), StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn a_plain_archive_has_no_compressed_form() {
    let site = Site::with(200_000, Published::Plain, PutPolicy::Refuse, Limits::default()).await;
    assert!(site.get(&site.archive("nar")).await.bytes().await.unwrap() == site.nar[..]);
    assert_eq!(site.get(&site.archive("nar.zst")).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_no_catalog_lists_is_not_found() {
    let site = Site::new().await;
    let other = "0c9hs37wsa5n5xl29b3l4fzzx8apb35v";
    for target in [
        format!("/{other}.narinfo"),
        format!("/{other}.ls"),
        format!("/nar/{other}.nar"),
        format!("/nar/{other}.nar.zst"),
        "/index.html".to_owned(),
        "/../../etc/passwd".to_owned(),
        "/nar/../nix-cache-info".to_owned(),
    ] {
        let answer =
            site.raw(&format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{target}: {answer}");
    }
}

#[tokio::test]
async fn other_methods_are_refused_with_those_that_work() {
    let site = Site::new().await;
    for target in ["/", "/nix-cache-info", &site.archive("nar"), "/uri-res/N2R"] {
        let answer = client().delete(site.url(target)).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED, "{target}");
        assert_eq!(header(&answer, "allow"), "GET, HEAD");
    }
}

#[tokio::test]
async fn the_front_page_gives_no_right_to_read() {
    let site = Site::new().await;
    let page = site.get("/").await.text().await.unwrap();
    assert!(
        page.contains(env!("CARGO_PKG_VERSION")) && page.contains("1 store path of /nix/store"),
        "{page}"
    );
    assert!(!page.contains(&site.catalog.to_string()) && !page.contains("urn:eris:"), "{page}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_taken_for_whole() {
    let site = Site::limited(Limits::default()).await;
    let (_, references) = site.object();
    site.fault.set(references[references.len() / 2], Faulty::Missing);
    for suffix in ["nar", "nar.zst"] {
        let answer = site.get(&site.archive(suffix)).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(answer.bytes().await.is_err(), "{suffix}");

        let mut socket = site.connect().await;
        let request = format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", site.archive(suffix));
        socket.write_all(request.as_bytes()).await.unwrap();
        let received = read_to_close(&mut socket).await.len();
        assert!((8 << 20..20 << 20).contains(&received), "{received} bytes came before the missing block");
    }
}

#[tokio::test]
async fn other_parts_of_a_damaged_archive_are_served() {
    let site = Site::limited(Limits::default()).await;
    let (object, references) = site.object();
    site.fault.set(references[references.len() / 2], Faulty::Corrupt);
    let last = object.len() - 100_000..object.len();
    let answer = part(&site, "nar.zst", "bytes=-100000").await;
    assert!(answer.bytes().await.unwrap() == object[last]);
}

#[tokio::test]
async fn before_the_first_byte_a_failure_has_a_status() {
    let limits = Limits { fetch: SOON / 8, ..Limits::default() };
    let site = Site::with(3_000_000, Published::Seekable, PutPolicy::Refuse, limits).await;
    let (_, references) = site.object();
    for (fault, status) in [
        (Faulty::Missing, StatusCode::BAD_GATEWAY),
        (Faulty::Corrupt, StatusCode::BAD_GATEWAY),
        (Faulty::Silent, StatusCode::GATEWAY_TIMEOUT),
    ] {
        site.fault.set(references[2], fault);
        let asked = std::time::Instant::now();
        assert_eq!(site.get(&site.archive("nar.zst")).await.status(), status, "{fault:?}");
        assert!(asked.elapsed() < SOON / 4);
    }
}
