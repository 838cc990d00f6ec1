//! The second question: whether a trusted key bound ERIS contents to the path.

use super::path::{Mistrust, Vouched, check};
use super::{MAX_CONTENTS, Signer, TrustedKeys};
use crate::store::ed25519::ERIS_SIG;
use crate::store::fingerprint::eris_fingerprint;
use crate::store::narinfo::{ErisBinding, Narinfo};

/// Why no ERIS content of a narinfo may be shown before the whole NAR was hashed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unbound {
    /// It names none.
    #[error("the narinfo names no ERIS content")]
    Absent,
    /// Nobody signed the binding: it is not above Guix's signature, and there is no `ERISSig`.
    #[error("no signature covers the ERIS content")]
    Unsigned,
    /// Only keys that are not trusted signed the binding.
    #[error("the ERIS content is not signed by a trusted key, only by {}", names.join(", "))]
    Untrusted {
        /// Names of these keys.
        names: Vec<String>,
    },
    /// An `ERISSig` bears the name of a trusted key, but is not by that key, or of another path or content.
    #[error(
        "the signature {name} of the ERIS content is wrong: it is by another key, or of another path or content"
    )]
    WrongSig {
        /// The name.
        name: String,
    },
}

/// The contents that a trusted key bound to the path, and who bound the first.
pub(super) fn bound(
    narinfo: &Narinfo,
    vouched: &Vouched,
    keys: &TrustedKeys,
) -> Result<(Signer, Vec<ErisBinding>), Unbound> {
    let contents = &narinfo.eris()[..narinfo.eris().len().min(MAX_CONTENTS)];
    if contents.is_empty() {
        return Err(Unbound::Absent);
    }
    let covered: Vec<_> =
        contents.iter().filter(|content| content.end_in_text <= vouched.signed_text).cloned().collect();
    if !covered.is_empty() {
        return Ok((vouched.signer.clone(), covered));
    }
    let texts: Vec<_> =
        contents.iter().filter_map(|content| Some((content, eris_fingerprint(narinfo, content)?))).collect();
    let signed: Vec<_> = texts.iter().map(|(_, text)| text.as_str()).collect();
    let signatures = narinfo.fields().filter(|field| field.name == ERIS_SIG).map(|field| field.value);
    match check(signatures, &signed, &keys.nix) {
        Ok((indices, signer)) => {
            Ok((signer, indices.into_iter().map(|index| texts[index].0.clone()).collect()))
        }
        Err(Mistrust::Absent) => Err(Unbound::Unsigned),
        Err(Mistrust::Untrusted { names }) => Err(Unbound::Untrusted { names }),
        Err(Mistrust::Wrong { name }) => Err(Unbound::WrongSig { name }),
    }
}
