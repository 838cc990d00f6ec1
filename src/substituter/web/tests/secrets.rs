//! Names and passwords go to the server they are for, and nowhere else.

use super::*;

const BASIC: &str = "authorization: Basic bWU6aHVzaA==\r\n";

fn netrc(text: &str) -> WebSettings {
    let netrc = Netrc::parse(text).expect("a netrc file");
    reached(Access::new(netrc, &Proxies::default(), None))
}

#[tokio::test]
async fn a_password_comes_from_the_url_or_from_the_netrc_file() {
    let server = Server::start(|_| Answer::ok(NARINFO)).await;
    let hush = netrc("machine 127.0.0.1 login me password hush");
    let other = netrc("machine elsewhere login me password hush");
    for (url, settings, sent) in [
        (server.url_with("me:hush", "/"), WebSettings::default(), BASIC),
        (server.url("/"), hush.clone(), BASIC),
        (server.url_with("me:hus%68", "/"), netrc("default login you password loud"), BASIC),
        (server.url_with(":token", "/"), WebSettings::default(), "authorization: Bearer token\r\n"),
        (server.url("/"), other, ""),
    ] {
        let place = place_with(&url, settings);
        assert!(place.narinfo(part()).await.unwrap().is_some());
        let head = server.last();
        assert!(
            if sent.is_empty() { !head.contains("authorization") } else { head.contains(sent) },
            "{head}"
        );
        assert!(!format!("{place:?} {}", place.name()).contains("hush"), "{place:?}");
        place.nar("nar/a", 0).await.unwrap();
        assert_eq!(server.last().contains("authorization"), !sent.is_empty(), "files of the server itself");
    }
}

#[tokio::test]
async fn no_password_follows_a_narinfo_or_a_redirect_to_another_host() {
    let other = Server::start(|_| Answer::ok(NARINFO)).await;
    let target = other.url("/there");
    let moved = target.clone();
    let server =
        Server::start(move |_| Answer::new("302 Found", &format!("Location: {moved}\r\n"), "")).await;
    // Another port is another server, also where the file has a password for the host.
    let place = place_with(&server.url("/"), netrc("machine 127.0.0.1 login me password hush"));
    assert!(place.narinfo(part()).await.unwrap().is_some());
    place.nar(&target, 0).await.unwrap();
    let (_, without_scheme) = target.split_once(':').unwrap();
    place.nar(without_scheme, 0).await.unwrap();
    assert!(server.heads().iter().all(|head| head.contains(BASIC)));
    let heads = other.heads();
    assert_eq!(heads.len(), 3);
    assert!(heads.iter().all(|head| !head.contains("authorization")), "{heads:?}");
}

#[tokio::test]
async fn no_error_tells_a_password() {
    let server = Server::start(|_| Answer::new("401 Unauthorized", "", "")).await;
    let place = place(&server.url_with("me:hush", "/"));
    let away =
        Server::start(|_| Answer::new("302 Found", "Location: http://me:hush@127.0.0.1:1/\r\n", "")).await;
    let redirected = self::place(&away.url("/"));
    for error in [
        place.narinfo(part()).await.unwrap_err(),
        place.nar("nar/a", 0).await.unwrap_err(),
        place.nar("http://me:hush@127.0.0.1/nar", 0).await.unwrap_err(),
        place.nar("ftp://me:hush@127.0.0.1/nar", 0).await.unwrap_err(),
        redirected.narinfo(part()).await.unwrap_err(),
        redirected.nar("nar/a", 0).await.unwrap_err(),
    ] {
        assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
    }
}

#[tokio::test]
async fn a_proxy_stands_between_except_for_hosts_that_are_named() {
    let proxy = Server::start(|_| Answer::ok(NARINFO)).await;
    let direct = Server::start(|_| Answer::ok(NARINFO)).await;
    let through = |no_proxy: Option<&str>| {
        let all = Some(proxy.url_with("me:hush", "/"));
        let proxies = Proxies { all, no_proxy: no_proxy.map(str::to_owned), ..Proxies::default() };
        reached(Access::new(Netrc::default(), &proxies, None))
    };
    let place = place_with("http://far.example/cache", through(Some("near.example")));
    assert!(place.narinfo(part()).await.unwrap().is_some());
    let head = proxy.last();
    assert!(head.starts_with(&format!("GET http://far.example/cache/{PART}.narinfo ")), "{head}");
    assert!(head.contains("proxy-authorization: Basic bWU6aHVzaA=="), "{head}");
    // This machine by an address that is not on loopback.
    let near = place_with(&direct.url("/").replace("127.0.0.1", "0.0.0.0"), through(Some("0.0.0.0")));
    assert!(near.narinfo(part()).await.unwrap().is_some());
    // What is on loopback is never asked for through a proxy, whose loopback is another.
    let place = place_with(&direct.url("/"), through(None));
    assert!(place.narinfo(part()).await.unwrap().is_some());
    assert_eq!((proxy.heads().len(), direct.heads().len()), (1, 2));
}
