//! The first question: whether a trusted key signed path, hash, size and references.

use super::{MAX_SIGNATURES, Refusal, Signer, TrustedKeys};
use crate::store::fingerprint::fingerprint;
use crate::store::narinfo::{Field, Narinfo};
use crate::store::path::quoted;
use crate::store::{ed25519, guix};

/// A narinfo whose path, hash, size and references are signed.
pub(super) struct Vouched {
    /// By whom.
    pub(super) signer: Signer,
    /// Where the text ends that Guix's signature covers; 0 for a signature of Nix, which covers no text.
    pub(super) signed_text: usize,
}

/// Guix's signature, or else Nix's. Where neither will do, the reason is that of the one that a trusted key's owner might
/// have made.
pub(super) fn vouched(narinfo: &Narinfo, keys: &TrustedKeys) -> Result<Vouched, Refusal> {
    let by_guix = match narinfo.guix_signature() {
        Some(field) => by_guix(narinfo, field, &keys.guix),
        None => Err(Refusal::Unsigned),
    };
    let refusal = match by_guix {
        Ok(key) => {
            let signed_text = narinfo.guix_signature().map_or(0, |field| field.offset);
            return Ok(Vouched { signer: Signer::Guix { key }, signed_text });
        }
        Err(refusal) => refusal,
    };
    match (refusal, by_nix(narinfo, &keys.nix)) {
        (_, Ok(signer)) => Ok(Vouched { signer, signed_text: 0 }),
        (Refusal::Unsigned, Err(refusal)) | (refusal, Err(Refusal::Unsigned)) => Err(refusal),
        (Refusal::Untrusted { mut names }, Err(Refusal::Untrusted { names: more })) => {
            names.extend(more);
            Err(Refusal::Untrusted { names })
        }
        (Refusal::Untrusted { .. }, Err(refusal)) | (refusal, Err(_)) => Err(refusal),
    }
}

fn by_guix(
    narinfo: &Narinfo,
    field: Field<'_>,
    keys: &[guix::PublicKey],
) -> Result<guix::PublicKey, Refusal> {
    let signature = guix::Signature::parse(field.value)?;
    let key = *signature.key();
    if !keys.contains(&key) {
        return Err(Refusal::Untrusted { names: vec![key.to_string()] });
    }
    signature.verify(guix::signed_text(narinfo, field.offset)?)?;
    Ok(key)
}

fn by_nix(narinfo: &Narinfo, keys: &[ed25519::PublicKey]) -> Result<Signer, Refusal> {
    match check(narinfo.sigs(), &[&fingerprint(narinfo)], keys) {
        Ok((_, signer)) => Ok(signer),
        Err(Mistrust::Absent) => Err(Refusal::Unsigned),
        Err(Mistrust::Untrusted { names }) => Err(Refusal::Untrusted { names }),
        Err(Mistrust::Wrong { name }) => Err(Refusal::WrongSig { name }),
    }
}

/// Why no signature of several is believed.
pub(super) enum Mistrust {
    /// There is none.
    Absent,
    /// None bears the name of a trusted key.
    Untrusted {
        /// What they bear: names, or what is there instead.
        names: Vec<String>,
    },
    /// One does, but is not by that key or not of this text.
    Wrong {
        /// The name.
        name: String,
    },
}

/// Which of the texts are signed by a trusted key, and by whom the first of them is.
pub(super) fn check<'a>(
    signatures: impl Iterator<Item = &'a str>,
    texts: &[&str],
    keys: &[ed25519::PublicKey],
) -> Result<(Vec<usize>, Signer), Mistrust> {
    let mut untrusted = Vec::new();
    let mut named = Vec::new();
    for text in signatures {
        match text.parse::<ed25519::Signature>() {
            Ok(signature) if keys.iter().any(|key| key.name() == signature.name()) => named.push(signature),
            // Neither is worth more than a word in a message, and that not for ever.
            _ if untrusted.len() < MAX_SIGNATURES => {
                untrusted.push(quoted(text.split_once(':').map_or(text, |(name, _)| name)));
            }
            _ => {}
        }
    }
    named.truncate(MAX_SIGNATURES);
    let signer = |text: &str| {
        let good = |signature: &&ed25519::Signature| keys.iter().any(|key| key.verifies(text, signature));
        named.iter().find(good).map(|signature| Signer::Nix { name: signature.name().to_owned() })
    };
    let mut signed = texts.iter().enumerate().filter_map(|(index, text)| Some((index, signer(text)?)));
    match (signed.next(), named.first()) {
        (Some((first, signer)), _) => {
            Ok((std::iter::once(first).chain(signed.map(|(index, _)| index)).collect(), signer))
        }
        (None, Some(signature)) => Err(Mistrust::Wrong { name: signature.name().to_owned() }),
        (None, None) if untrusted.is_empty() => Err(Mistrust::Absent),
        (None, None) => Err(Mistrust::Untrusted { names: untrusted }),
    }
}
