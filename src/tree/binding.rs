//! From a narinfo to the ERIS content that it names, and what it says of that content.

use super::object::UNLIMITED;
use super::{Error, Expected, Facts};
use crate::compress::{self, Compression};
use crate::eris::ReadCapability;
use crate::store::Narinfo;
use crate::store::narinfo::ErisBinding;

/// What an object may have beyond twice the size of its NAR: the parts that are not contents.
const SLACK: u64 = 4 << 20;

/// The content that one of the ERIS fields of a narinfo (or of an overlay) names.
///
/// # Errors
/// [`Error::NoBinding`] and [`Error::Urn`].
pub(super) fn bound(
    facts: Option<Facts>,
    narinfo: &Narinfo,
    binding: &ErisBinding,
) -> Result<(ReadCapability, Expected), Error> {
    let name = narinfo.store_path().to_string();
    let no_binding = |found: String| Error::NoBinding { name: name.clone(), found };
    let form = form(binding).map_err(|error| no_binding(error.to_string()))?;
    let capability = binding.urn.parse().map_err(|source| Error::Urn { name: name.clone(), source })?;
    let (nar_size, limit) = (Some(narinfo.nar_size()), limit(narinfo));
    Ok((capability, Expected { name, form, nar_size, facts, limit }))
}

/// The largest content that is taken for the NAR. The sizes of its files are not asked: most narinfos do not sign them.
pub(super) fn limit(narinfo: &Narinfo) -> u64 {
    narinfo.nar_size().saturating_mul(2).saturating_add(SLACK).min(UNLIMITED)
}

/// How the NAR is compressed in the content, where that is said.
pub(super) fn form(binding: &ErisBinding) -> Result<Option<Compression>, compress::Error> {
    binding.format.as_deref().map(Compression::from_eris_format).transpose()
}
