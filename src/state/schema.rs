//! The version of the host's schema: of the forms in which its rows are stored.
//!
//! The host counts it up with each form of a row that its older builds cannot read. Rules that hold here and
//! wherever one is stored:
//!
//! 1. A store has the highest version that anything in it was written with, and an export that of the state that
//!    wrote it. It never falls.
//! 2. It rises in the one atomic step that makes the first group or checkpoint of a newer build durable, and not
//!    before: what an older build is let in to holds no row of a newer form, and a build that has written nothing shuts
//!    out nobody.
//! 3. What is of a newer version than the host's is refused before a row of it is decoded or a byte is written.
//! 4. Zero is the version of hosts that name none, and of what was written before there were any. It is stored as
//!    that was, byte by byte.

use crate::{Error, ErrorKind};

/// Rule 3 of the file: `what` is of version `found`.
pub(super) fn check(what: &str, found: u32, asked: u32) -> Result<(), Error> {
    if found <= asked {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::UnsupportedVersion,
        format!(
            "{what} has schema version {found}; this build of the host reads up to schema version \
             {asked}: use a newer one"
        ),
    ))
}
