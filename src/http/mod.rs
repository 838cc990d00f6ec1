//! What all HTTP clients of the program share: how they are made, and how a URL is shown.
//!
//! Carriers of blocks and substitute servers have different needs of patience and of connections; the name by which
//! the program calls itself, the TLS behind `https`, how far a redirect is followed, and the proxies, certificates and
//! passwords of the user ([`Access`]) are the same.

mod access;
mod netrc;
mod proxies;
mod retry_after;

pub use access::{Access, Unusable};
pub use netrc::{Netrc, NetrcError};
pub use proxies::{Proxies, check_proxy};
pub use retry_after::retry_after;

use std::sync::Once;

use reqwest::{Client, ClientBuilder, redirect};

/// A mirror may point to another once or twice; more is a loop.
pub const REDIRECTS: usize = 3;

/// A client of the program, with what `more` says besides.
fn client(more: impl Fn(ClientBuilder) -> ClientBuilder) -> Result<Client, reqwest::Error> {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // An error says that the program has chosen one already, which will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    let builder = || {
        more(
            Client::builder()
                .user_agent(concat!("erisfs/", env!("CARGO_PKG_VERSION")))
                .redirect(redirect::Policy::limited(REDIRECTS))
                .referer(false)
                // Of the environment only `config` knows, whose proxies come with `Access`.
                .no_proxy(),
        )
    };
    // Without the system's certificates, as in a bare container, plain HTTP still works, and HTTPS fails when it is
    // tried.
    builder().build().or_else(|_| builder().tls_certs_only([]).build())
}

/// A URL as it may be shown: without what stands between `//` and the last `@`.
pub fn without_secret(url: &str) -> String {
    match url.split_once("//").map(|(scheme, rest)| (scheme, rest.rsplit_once('@'))) {
        Some((scheme, Some((_, host)))) => format!("{scheme}//{host}"),
        _ => url.to_owned(),
    }
}

/// A URL that a stranger wrote, as it may be shown: without user, password and query, each of which may let somebody in.
pub fn without_secrets(url: &str) -> String {
    let Ok(mut parsed) = reqwest::Url::parse(url) else {
        return url.split(['?', '#']).next().unwrap_or_default().to_owned();
    };
    // They can be set for whatever has a host; what has none has no secret there.
    let _ = parsed.set_username("");
    let _ = parsed.set_password(None);
    parsed.set_query(None);
    parsed.set_fragment(None);
    parsed.into()
}

/// `%3D` becomes `=`: a password or a file name may have characters that a URL must write so. What is no such sequence stays.
pub fn percent_decoded(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = tail.get(..2).filter(|_| byte == b'%');
        match escaped.and_then(|digits| data_encoding::HEXLOWER_PERMISSIVE.decode(digits).ok()) {
            Some(value) => {
                decoded.extend(value);
                rest = &tail[2..];
            }
            None => {
                decoded.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_decoded_as_urls_have_it() {
        for (text, decoded) in [("a%2Fb%3d", "a/b="), ("100%", "100%"), ("%zz%4", "%zz%4"), ("%C3%A9", "é")]
        {
            assert_eq!(percent_decoded(text), decoded);
        }
    }

    #[test]
    fn a_url_of_a_stranger_is_shown_without_anything_that_may_be_secret() {
        for (url, shown) in [
            ("nar/a.nar.xz?token=hush", "nar/a.nar.xz"),
            ("https://user:hush@host/a?hush#hush", "https://host/a"),
            ("https:user:hush@host/a?hush", "https://host/a"),
            ("ipfs://CID", "ipfs://CID"),
        ] {
            assert_eq!(without_secrets(url), shown);
        }
    }

    #[test]
    fn a_url_is_shown_without_its_secret() {
        for (url, shown) in [
            ("https://host/a", "https://host/a"),
            ("https://user:hush@host/a", "https://host/a"),
            ("https://user:hush@hush@host/a", "https://host/a"),
            ("dir:a@b", "dir:a@b"),
        ] {
            assert_eq!(without_secret(url), shown);
        }
    }
}
