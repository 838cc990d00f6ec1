//! Guix's access list, `/etc/guix/acl`: the keys whose substitutes may be used.
//!
//! Each entry names a key and what it may do; only those with exactly `(tag (guix import))` are believed. Where Guix fails
//! altogether on an entry of another kind, this passes over it and says so: a list with an old RSA key still serves.

use std::str::FromStr;

use super::key::{KeyError, PublicKey};
use super::sexp::{Sexp, SexpError};

/// Why a text is not an access list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AclError {
    /// It is not an s-expression.
    #[error(transparent)]
    Sexp(#[from] SexpError),
    /// It is another s-expression.
    #[error("not an access list of Guix: it does not begin with `acl`")]
    NotAnAcl,
}

/// Why an entry of an access list counts for nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PassedOver {
    /// It is not `(entry KEY (tag (guix import)))`: it allows something else.
    #[error("entry {number} of the access list is not for `(tag (guix import))`")]
    OtherTag {
        /// Which entry, from 1.
        number: usize,
    },
    /// Its key is not understood.
    #[error("entry {number} of the access list: {source}")]
    Key {
        /// Which entry, from 1.
        number: usize,
        /// What is wrong with the key.
        source: KeyError,
    },
}

/// An access list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acl {
    /// The keys that may sign what is imported, in the order written.
    pub keys: Vec<PublicKey>,
    /// The entries that were passed over, for a warning to the user.
    pub passed_over: Vec<PassedOver>,
}

impl FromStr for Acl {
    type Err = AclError;

    /// Reads the text of `/etc/guix/acl`.
    fn from_str(text: &str) -> Result<Self, AclError> {
        let sexp = Sexp::parse(text)?;
        let mut acl = Self::default();
        for (index, entry) in sexp.after("acl").ok_or(AclError::NotAnAcl)?.iter().enumerate() {
            let number = index + 1;
            match entry.after("entry") {
                Some([key, tag]) if may_import(tag) => match PublicKey::from_sexp(key) {
                    Ok(key) => acl.keys.push(key),
                    Err(source) => acl.passed_over.push(PassedOver::Key { number, source }),
                },
                _ => acl.passed_over.push(PassedOver::OtherTag { number }),
            }
        }
        Ok(acl)
    }
}

/// Whether this is `(tag (guix import))`.
fn may_import(tag: &Sexp) -> bool {
    let Some([right]) = tag.after("tag") else { return false };
    matches!(right.after("guix"), Some([word]) if word.is("import"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACL: &str = include_str!("../../../tests/samples/guix/acl");
    const PUBLIC: &str = include_str!("../../../tests/samples/guix/signing-key.pub");

    fn entry(key: &str, tag: &str) -> String {
        format!("(acl (entry {key} {tag}))")
    }

    #[test]
    fn the_access_list_of_debian_is_read() {
        let acl: Acl = ACL.parse().unwrap();
        let keys: Vec<_> = acl.keys.iter().map(|key| key.to_string()).collect();
        assert_eq!(
            keys,
            [
                "8D156F295D24B0D9A86FA5741A840FF2D24F60F7B6C4134814AD55625971B394",
                "7D602902D3A2DBB83F8A0FB98602A754C5493B0B778C8D1DD4E0F41DE14DE34F",
            ]
        );
        assert_eq!(acl.passed_over, []);
    }

    #[test]
    fn only_the_right_to_import_counts() {
        assert_eq!(
            entry(PUBLIC, "(tag (guix import))").parse::<Acl>().unwrap().keys,
            [PUBLIC.parse().unwrap()]
        );
        for tag in [
            "",
            "(tag (guix export))",
            "(tag (guix))",
            "(tag (guix import export))",
            "(tag guix import)",
            "(tag (guix import)) (tag (guix import))",
            "(tag (guix import) (guix export))",
            "(tag (*))",
        ] {
            let acl: Acl = entry(PUBLIC, tag).parse().unwrap();
            assert_eq!(
                acl,
                Acl { keys: vec![], passed_over: vec![PassedOver::OtherTag { number: 1 }] },
                "{tag}"
            );
        }
    }

    #[test]
    fn an_old_key_does_not_spoil_the_list() {
        let rsa = "(entry (public-key (rsa (n #00#) (e #010001#))) (tag (guix import)))";
        let acl: Acl = ACL.replacen("(acl", &format!("(acl {rsa} word"), 1).parse().unwrap();
        assert_eq!(acl.keys.len(), 2);
        assert!(matches!(
            acl.passed_over[..],
            [PassedOver::Key { number: 1, .. }, PassedOver::OtherTag { number: 2 }]
        ));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        assert_eq!(PUBLIC.parse::<Acl>(), Err(AclError::NotAnAcl));
        assert_eq!("(acl".parse::<Acl>(), Err(AclError::Sexp(SexpError::Truncated)));
        assert_eq!("(acl)".parse(), Ok(Acl::default()));
    }
}
