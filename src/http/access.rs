//! How this user reaches web servers: through whom, believing which authorities, and with which passwords.

use std::fmt;
use std::sync::Arc;

use data_encoding::BASE64;
use reqwest::header::HeaderValue;
use reqwest::{Certificate, Client, ClientBuilder, Proxy, Url};

use super::{Netrc, Proxies, client, percent_decoded};

/// How web servers are reached. By default: directly, with the system's certificates, and with no password but those of URLs.
#[derive(Clone, Default)]
pub struct Access {
    netrc: Netrc,
    proxies: Vec<Proxy>,
    /// `None`: the system's.
    certificates: Option<Vec<Certificate>>,
}

/// Something of the user's, such as a proxy, that no HTTP client can be made with.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}")]
pub struct Unusable {
    /// What it is, such as `the proxy http://host:3128`.
    pub what: String,
    /// What is wrong with it.
    pub source: Arc<dyn std::error::Error + Send + Sync>,
}

impl Access {
    /// Through these proxies, with these passwords; `ca` has certificates of authorities in PEM, in place of the system's.
    ///
    /// # Errors
    /// If a proxy is none, or `ca` has no certificate or one that cannot be read.
    pub fn new(netrc: Netrc, proxies: &Proxies, ca: Option<&[u8]>) -> Result<Self, Unusable> {
        let proxies = proxies.client_proxies()?;
        let unusable = |source| Unusable { what: "the certificates".to_owned(), source };
        let certificates = ca.map(Certificate::from_pem_bundle).transpose();
        let certificates = certificates.map_err(|error| unusable(Arc::new(error.without_url())))?;
        if certificates.as_ref().is_some_and(Vec::is_empty) {
            return Err(unusable(Arc::new(NoCertificate)));
        }
        let access = Self { netrc, proxies, certificates };
        // What in a file only looks like a certificate is found out by use.
        if access.certificates.is_some() {
            access.client(|builder| builder).map_err(|error| unusable(Arc::new(error.without_url())))?;
        }
        Ok(access)
    }

    /// A client of the program, with what `more` says besides.
    pub fn client(&self, more: impl Fn(ClientBuilder) -> ClientBuilder) -> Result<Client, reqwest::Error> {
        client(|builder| {
            let builder = self.proxies.iter().cloned().fold(more(builder), ClientBuilder::proxy);
            match &self.certificates {
                Some(certificates) => builder.tls_certs_only(certificates.iter().cloned()),
                None => builder,
            }
        })
    }

    /// What is sent to the server at `url` to be let in: by its name and password, else by those of the netrc file for its host. A
    /// password without a name is sent as a bearer token (RFC 6750).
    ///
    /// # Errors
    /// If HTTP allows no such characters.
    pub fn authorization(&self, url: &Url) -> Result<Option<HeaderValue>, &'static str> {
        let (name, password) = (percent_decoded(url.username()), url.password().map(percent_decoded));
        let text = match (name.as_str(), password) {
            ("", Some(token)) => format!("Bearer {token}"),
            ("", None) => match url.host_str().and_then(|host| self.netrc.login(host)) {
                Some((name, password)) => basic(name, password),
                None => return Ok(None),
            },
            (name, password) => basic(name, &password.unwrap_or_default()),
        };
        let mut value = HeaderValue::try_from(text)
            .map_err(|_| "the password has characters that HTTP does not allow")?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// RFC 7617.
fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{name}:{password}").as_bytes()))
}

/// Without passwords, also those of proxies.
impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("netrc", &self.netrc)
            .field("proxies", &self.proxies.len())
            .field("certificates", &self.certificates.as_ref().map(Vec::len))
            .finish()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("there is none in PEM")]
struct NoCertificate;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_of_the_url_comes_before_that_of_the_netrc_file() {
        let netrc = Netrc::parse("machine host login me password hush").expect("a netrc file");
        let access = Access::new(netrc, &Proxies::default(), None).expect("nothing is wrong");
        for (url, sent) in [
            ("https://host/", Some("Basic bWU6aHVzaA==")),
            ("https://:token@host/", Some("Bearer token")),
            ("https://a:b@host/", Some("Basic YTpi")),
            ("https://other/", None),
        ] {
            let value = access.authorization(&url.parse().expect("a URL")).expect("plain characters");
            assert_eq!(value.as_ref().map(|value| value.as_bytes()), sent.map(str::as_bytes), "{url}");
            assert!(value.is_none_or(|value| value.is_sensitive()));
        }
        assert!(!format!("{access:?}").contains("hush"));
        access.authorization(&"https://:hush%0A@host/".parse().expect("a URL")).expect_err("a line break");
    }

    #[test]
    fn what_is_no_certificate_is_found_out_at_once() {
        for ca in ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            let error =
                Access::new(Netrc::default(), &Proxies::default(), Some(ca.as_bytes())).expect_err(ca);
            assert!(error.to_string().contains("certificates"), "{error}");
        }
    }
}
