//! The one place where an error of the view becomes a number for the kernel.

use fuser::Errno;

use crate::tree::Error;

/// The errno of `error`. The match is exhaustive, so a new error needs a decision here.
pub fn errno(error: &Error) -> Errno {
    match error {
        Error::NotDirectory => Errno::ENOTDIR,
        Error::IsDirectory => Errno::EISDIR,
        Error::NotSymlink => Errno::EINVAL,
        Error::Stale { .. } => Errno::ESTALE,
        Error::Read { .. }
        | Error::Catalog { .. }
        | Error::Lookup(_)
        | Error::NotAhead { .. }
        | Error::Neither { .. }
        | Error::Download(_)
        | Error::NoBinding { .. }
        | Error::Urn { .. }
        | Error::Overdue { .. }
        | Error::Object { .. } => Errno::EIO,
    }
}
