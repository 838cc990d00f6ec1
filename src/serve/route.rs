//! Which resource a request target names. Paths are matched exactly; none of them is a file name.

use hyper::Uri;

use crate::eris::Reference;
use crate::store::HashPart;

/// A resource of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// `/`: what this server is.
    About,
    /// `/metrics`: the figures of this process, for Prometheus.
    Metrics,
    /// `/uri-res/N2R?urn:blake2b:REFERENCE` (RFC 2169): a block; `None` if the query names none.
    Block(Option<Reference>),
    /// `/nix-cache-info`.
    CacheInfo,
    /// `/HASHPART.narinfo`.
    Narinfo(HashPart),
    /// `/HASHPART.ls`: the tree, as Nix lists it.
    Listing(HashPart),
    /// `/nar/HASHPART.nar.zst`: the object as it was published.
    Encoded(HashPart),
    /// `/nar/HASHPART.nar`: the archive, not compressed.
    Nar(HashPart),
    /// `/erisfs/seed/HASHPART`: the request to keep the blocks of a store path; `None` if that is no hash part.
    Seed(Option<HashPart>),
}

impl Route {
    /// The resource of a request target; `None` if there is no such resource.
    pub(super) fn of(uri: &Uri) -> Option<Self> {
        match uri.path() {
            "/" => Some(Self::About),
            "/metrics" => Some(Self::Metrics),
            "/nix-cache-info" => Some(Self::CacheInfo),
            "/uri-res/N2R" => Some(Self::Block(uri.query().and_then(block_reference))),
            path => match path.strip_prefix("/erisfs/seed/") {
                Some(hash_part) => Some(Self::Seed(hash_part.parse().ok())),
                None => Self::of_store_path(path),
            },
        }
    }

    /// The resource as figures name it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::About | Self::CacheInfo | Self::Metrics => "info",
            Self::Block(_) => "block",
            Self::Narinfo(_) => "narinfo",
            Self::Listing(_) => "listing",
            Self::Encoded(_) | Self::Nar(_) => "archive",
            Self::Seed(_) => "seed",
        }
    }

    fn of_store_path(path: &str) -> Option<Self> {
        if let Some(file) = path.strip_prefix("/nar/") {
            let (hash_part, suffix) = file.split_once('.')?;
            let hash_part = hash_part.parse().ok()?;
            return match suffix {
                "nar.zst" => Some(Self::Encoded(hash_part)),
                "nar" => Some(Self::Nar(hash_part)),
                _ => None,
            };
        }
        let (hash_part, suffix) = path.strip_prefix('/')?.split_once('.')?;
        let hash_part = hash_part.parse().ok()?;
        match suffix {
            "narinfo" => Some(Self::Narinfo(hash_part)),
            "ls" => Some(Self::Listing(hash_part)),
            _ => None,
        }
    }
}

/// The target under which a block is served.
pub(super) fn block_target(reference: &Reference) -> String {
    format!("/uri-res/N2R?urn:blake2b:{reference}")
}

/// Reads `urn:blake2b:REFERENCE`. The colons may be escaped; `urn` and the namespace are
/// case-insensitive (RFC 8141), base32 is not.
fn block_reference(query: &str) -> Option<Reference> {
    let urn = query.replace("%3A", ":").replace("%3a", ":");
    let (prefix, reference) = urn.split_at_checked("urn:blake2b:".len())?;
    prefix.eq_ignore_ascii_case("urn:blake2b:").then(|| reference.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFERENCE: &str = "H77AGSYKAVTQPUHODJTQA7WZPTWGTTKLRB2GLMF5H53NEKFJ3FUQ";
    const HASH_PART: &str = "0c9hs37wsa5n5xl29b3l4fzzx8apb35v";

    fn route(target: &str) -> Option<Route> {
        Route::of(&target.parse().unwrap())
    }

    #[test]
    fn a_block_is_named_by_its_urn_with_colons_escaped_or_not() {
        let reference = REFERENCE.parse().unwrap();
        for urn in ["urn:blake2b:", "urn%3Ablake2b%3a", "URN:BLAKE2B:"] {
            let target = format!("/uri-res/N2R?{urn}{REFERENCE}");
            assert_eq!(route(&target), Some(Route::Block(Some(reference))), "{target}");
        }
        assert_eq!(route(&block_target(&reference)), Some(Route::Block(Some(reference))));
    }

    #[test]
    fn what_is_no_reference_is_malformed() {
        let lower = REFERENCE.to_lowercase();
        for query in ["", "urn:blake2b:", "urn:blake2b:AAAA", REFERENCE, &format!("urn:blake2b:{lower}"), "é"]
        {
            let uri = Uri::builder().path_and_query(format!("/uri-res/N2R?{query}"));
            let Ok(uri) = uri.build() else { continue };
            assert_eq!(Route::of(&uri), Some(Route::Block(None)), "{query}");
        }
    }

    #[test]
    fn a_store_path_is_named_by_its_hash_part() {
        let hash_part: HashPart = HASH_PART.parse().unwrap();
        assert_eq!(route(&format!("/{HASH_PART}.narinfo")), Some(Route::Narinfo(hash_part)));
        assert_eq!(route(&format!("/{HASH_PART}.ls?x=y")), Some(Route::Listing(hash_part)));
        assert_eq!(route(&format!("/nar/{HASH_PART}.nar.zst")), Some(Route::Encoded(hash_part)));
        assert_eq!(route(&format!("/nar/{HASH_PART}.nar")), Some(Route::Nar(hash_part)));
        assert_eq!(route(&format!("/erisfs/seed/{HASH_PART}")), Some(Route::Seed(Some(hash_part))));
        assert_eq!(route("/erisfs/seed/../x"), Some(Route::Seed(None)));
    }

    #[test]
    fn paths_that_are_only_similar_lead_nowhere() {
        let wrong = HASH_PART.replace('0', "e");
        for path in [
            "//nix-cache-info",
            "/nix-cache-info/",
            "/../nix-cache-info",
            "/%6eix-cache-info",
            "/uri-res/N2R/",
            "/nar/",
            "/.narinfo",
            &format!("/{HASH_PART}.narinfo.narinfo"),
            &format!("/{HASH_PART}"),
            &format!("/{wrong}.narinfo"),
            &format!("/nar/../{HASH_PART}.nar"),
            &format!("/nar/{HASH_PART}.nar.xz"),
        ] {
            assert_eq!(route(path), None, "{path}");
        }
    }
}
