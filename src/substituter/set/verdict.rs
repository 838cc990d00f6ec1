//! What a narinfo is worth to the user.

use super::{Policy, Standing, Unsigned};
use crate::store::narinfo::ErisBinding;
use crate::store::trust::{Refusal, judge};
use crate::store::{HashPart, Narinfo, StoreDir, Trust};

/// Most ERIS contents of one narinfo that are looked at: one for each way of compressing.
const MAX_CONTENTS: usize = 8;

/// A narinfo that is good by the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) standing: Standing,
    pub(super) bound: Vec<ErisBinding>,
    pub(super) unbound: Vec<ErisBinding>,
}

/// Judges a server's narinfo.
pub(super) fn verdict(
    narinfo: &Narinfo,
    asked: HashPart,
    store_dir: &StoreDir,
    policy: &Policy,
) -> Result<Verdict, Refusal> {
    let believed = policy.unsigned == Unsigned::Believe;
    let (signer, bound) = match judge(narinfo, asked, store_dir, &policy.keys) {
        Ok(Trust::Binding { signer, contents }) => {
            let unbound = others(narinfo, &contents);
            return Ok(Verdict {
                standing: Standing::Bound { signer: Some(signer) },
                bound: contents,
                unbound,
            });
        }
        Ok(Trust::NarHash { signer, .. }) => {
            (Some(signer), if believed { others(narinfo, &[]) } else { Vec::new() })
        }
        Err(refusal) => match (refusal, policy.unsigned) {
            // What was not asked for is of no use to anybody.
            (refusal @ (Refusal::OtherPath { .. } | Refusal::OtherStoreDir { .. }), _)
            | (refusal, Unsigned::Refuse) => return Err(refusal),
            (_, Unsigned::CheckHash) => (None, Vec::new()),
            (_, Unsigned::Believe) => (None, others(narinfo, &[])),
        },
    };
    let unbound = others(narinfo, &bound);
    let standing =
        if bound.is_empty() { Standing::Hashed { signer } } else { Standing::Bound { signer: None } };
    Ok(Verdict { standing, bound, unbound })
}

/// The contents that a narinfo names besides these.
fn others(narinfo: &Narinfo, known: &[ErisBinding]) -> Vec<ErisBinding> {
    let named = narinfo.eris().iter().take(MAX_CONTENTS);
    named.filter(|content| !known.contains(content)).cloned().collect()
}

impl Verdict {
    /// Whether a trusted key signed the path and its hash.
    pub(super) fn is_signed(&self) -> bool {
        let (Standing::Bound { signer } | Standing::Hashed { signer }) = &self.standing;
        signer.is_some()
    }

    /// Adds the contents that the narinfo of an overlay names, if it speaks of the same NAR: they count for what its
    /// own signatures prove.
    pub(super) fn add(
        &mut self,
        narinfo: &Narinfo,
        overlay: &Narinfo,
        store_dir: &StoreDir,
        policy: &Policy,
    ) -> Result<(), Refusal> {
        let asked = narinfo.store_path().hash_part();
        let found = overlay.store_path().hash_part();
        if (overlay.store_path(), overlay.store_dir()) != (narinfo.store_path(), narinfo.store_dir()) {
            return Err(Refusal::OtherPath { asked, found });
        }
        if (overlay.nar_hash(), overlay.nar_size()) != (narinfo.nar_hash(), narinfo.nar_size()) {
            // Another build of the same path: of no use here, and nothing wrong.
            return Ok(());
        }
        let (signer, bound, unbound) = match judge(overlay, asked, store_dir, &policy.keys) {
            Ok(Trust::Binding { signer, contents }) => {
                let unbound = others(overlay, &contents);
                (Some(signer), contents, unbound)
            }
            _ if policy.unsigned == Unsigned::Believe => (None, others(overlay, &[]), Vec::new()),
            _ => (None, Vec::new(), others(overlay, &[])),
        };
        let is_new = |content: &ErisBinding, known: &[ErisBinding]| {
            !known.iter().any(|known| (&known.urn, &known.format) == (&content.urn, &content.format))
        };
        for content in bound {
            self.unbound.retain(|known| (&known.urn, &known.format) != (&content.urn, &content.format));
            if is_new(&content, &self.bound) {
                self.bound.push(content);
            }
        }
        for content in unbound {
            if is_new(&content, &self.bound) && is_new(&content, &self.unbound) {
                self.unbound.push(content);
            }
        }
        if matches!(self.standing, Standing::Hashed { .. }) && !self.bound.is_empty() {
            self.standing = Standing::Bound { signer };
        }
        Ok(())
    }
}
