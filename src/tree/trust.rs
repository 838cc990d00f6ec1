//! Who vouches for what is shown of a store path, and how far.

use std::fmt;

use crate::store::trust::Signer;

/// By what right a store path is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// A catalog that the user named lists it.
    Catalog,
    /// A trusted key bound its ERIS content to it: parts are shown as soon as they are there.
    Bound {
        /// Whose key.
        signer: Signer,
    },
    /// The hash of its NAR is known: nothing is shown before the whole NAR was hashed.
    Hashed {
        /// Whose key signed the hash; none where whoever reads checks that.
        signer: Option<Signer>,
    },
    /// Nobody vouches for it, and the user said that this is right.
    Insecure,
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trust::Catalog => f.write_str("catalog"),
            Trust::Bound { signer } => write!(f, "bound by {signer}"),
            Trust::Hashed { signer: Some(signer) } => write!(f, "hashed; NarHash signed by {signer}"),
            Trust::Hashed { signer: None } => f.write_str("hashed; NarHash not checked for a signature"),
            Trust::Insecure => f.write_str("insecure"),
        }
    }
}
