//! From a narinfo to the ERIS content that it names, and what it says of that content.

use super::object::UNLIMITED;
use super::{Error, Expected, Facts};
use crate::compress::Compression;
use crate::eris::ReadCapability;
use crate::store::{Narinfo, StorePath};

/// What an object may have beyond twice the size that its narinfo announces: the parts that are not contents.
const SLACK: u64 = 1 << 20;

/// The content of the store path `path`, which a catalog lists with `facts` and `narinfo`.
///
/// # Errors
/// [`Error::NoBinding`] and [`Error::Urn`].
pub fn binding(
    path: &StorePath,
    facts: Option<Facts>,
    narinfo: &Narinfo,
) -> Result<(ReadCapability, Expected), Error> {
    let name = path.to_string();
    let no_binding = |found: &str| Error::NoBinding { name: name.clone(), found: found.to_owned() };
    if narinfo.store_path() != path {
        return Err(no_binding(&format!("it is that of {}", narinfo.store_path())));
    }
    let binding = narinfo.eris().first().ok_or_else(|| no_binding("no ERIS field"))?;
    let form = binding.format.as_deref().map(Compression::from_eris_format).transpose();
    let form = form.map_err(|error| no_binding(&error.to_string()))?;
    let capability = binding.urn.parse().map_err(|source| Error::Urn { name: name.clone(), source })?;
    let nar_size = narinfo.nar_size();
    // What is encoded may be any of the downloads, or the NAR, with a listing at its end.
    let sizes = narinfo.downloads().iter().filter_map(|download| download.file_size);
    let largest = sizes.fold(nar_size, u64::max);
    let limit = largest.saturating_mul(2).saturating_add(SLACK).min(UNLIMITED);
    Ok((capability, Expected { name, form, nar_size: Some(nar_size), facts, limit }))
}
