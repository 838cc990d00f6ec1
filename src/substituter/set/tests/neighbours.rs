//! Servers of neighbours, which come and go.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::lan::Neighbours;

/// A neighbour on loopback that has one narinfo; other than that it sends whoever asks elsewhere.
async fn neighbour(narinfo: Narinfo, elsewhere: Option<SocketAddr>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
    let addr = listener.local_addr().expect("it is bound");
    // It ends with the runtime of the test.
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            let length = stream.read(&mut head).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..length]).into_owned();
            let answer = match elsewhere {
                _ if head.contains(HASH) => {
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n", narinfo.as_str().len())
                }
                Some(addr) => {
                    format!("HTTP/1.1 302 Found\r\nLocation: http://{addr}/\r\nContent-Length: 0\r\n")
                }
                None => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n".to_owned(),
            };
            let body = if head.contains(HASH) { narinfo.as_str() } else { "" };
            let _ = stream.write_all(format!("{answer}Connection: close\r\n\r\n{body}").as_bytes()).await;
        }
    });
    addr
}

fn set_near(servers: &[&Arc<Fake>], position: usize, neighbours: &Arc<Neighbours>) -> Substituters {
    let web = Arc::new(Web::for_neighbours().expect("a client"));
    set(servers).with_neighbours(position, Arc::clone(neighbours), web)
}

#[tokio::test]
async fn a_neighbour_that_comes_is_asked_and_one_that_goes_is_not() {
    let neighbours = Neighbours::given([]);
    let set = set_near(&[], 0, &neighbours);
    assert!(find(&set).await.unwrap().is_none(), "nobody is there");
    let addr = neighbour(signed("a"), None).await;
    neighbours.tell([addr]);
    // That nobody had it is forgotten.
    assert_eq!(found_at(&set).await, format!("http://{addr}/"));
    assert_eq!(set.status().len(), 1);
    neighbours.tell([]);
    set.forget();
    assert!(find(&set).await.unwrap().is_none());
    assert!(set.status().is_empty());
}

#[tokio::test]
async fn what_a_neighbour_says_counts_no_more_than_what_any_server_says() {
    let liar = neighbour(secret("theirs").sign_narinfo(&unsigned("a")).unwrap(), None).await;
    let set = set_near(&[], 0, &Neighbours::given([liar]));
    assert!(matches!(find(&set).await, Err(Error::NoGood { .. })));
    assert_eq!(set.status()[0].refused, 1);
}

#[test]
fn neighbours_stand_where_they_were_named() {
    let near = SocketAddr::from(([192, 0, 2, 1], 80));
    for (position, order) in [
        (0, ["http://192.0.2.1/", "a", "b"]),
        (1, ["a", "http://192.0.2.1/", "b"]),
        (9, ["a", "b", "http://192.0.2.1/"]),
    ] {
        let set = set_near(&[&fake("a").well(), &fake("b").well()], position, &Neighbours::given([near]));
        let ranked = set.set.ranked();
        let names: Vec<_> = ranked.iter().map(|server| server.place.name()).collect();
        assert_eq!(names, order);
    }
}

#[tokio::test]
async fn what_is_known_of_a_neighbour_is_kept_when_another_comes() {
    let neighbours = Neighbours::given([neighbour(signed("a"), None).await]);
    let set = set_near(&[], 0, &neighbours);
    find(&set).await.unwrap();
    let (before, other) = (neighbours.list()[0].addr, neighbour(signed("a"), None).await);
    neighbours.tell([before, other]);
    let asked: Vec<_> = set.status().iter().map(|server| server.asked).collect();
    assert_eq!(asked, [1, 0]);
}

#[tokio::test]
async fn no_neighbour_leads_elsewhere() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
    let addr = elsewhere.local_addr().expect("it is bound");
    let guide = neighbour(signed("a"), Some(addr)).await;
    let set = set_near(&[], 0, &Neighbours::given([guide]));
    let server = Arc::clone(&find(&set).await.unwrap().unwrap().server);
    assert!(server.nar("nar/a", 0).await.is_err(), "a redirect");
    for url in [format!("http://{addr}/nar"), format!("//{addr}/nar"), "ipfs://CID".to_owned()] {
        let error = server.nar(&url, 0).await.unwrap_err();
        assert!(matches!(error, Error::BadNarUrl { .. }), "{error}");
    }
    let called = tokio::time::timeout(millis(100), elsewhere.accept()).await;
    assert!(called.is_err(), "somebody called");
}
