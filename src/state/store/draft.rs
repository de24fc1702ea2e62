//! A checkpoint that is being written, step by step.
//!
//! Rules that hold here:
//!
//! 1. There is one at a time, until nothing is left of what it replaces; and where an opening finds leftovers, the
//!    first one is to remove them. So nothing of a checkpoint is written beside what an earlier one has left.
//! 2. A part is encoded without the store; the store then takes it whole, in one step.
//! 3. The last part makes it valid. What is obsolete by that is removed afterwards, in steps as well.
//! 4. One that is abandoned writes nothing more, and removes what it has written.

use std::fmt;

use crate::Error;
use crate::state::Version;
use crate::state::codec::Codec;
use crate::state::export::Parts;
use crate::state::journal;
use crate::state::release::Held;

/// Chunks with their numbers.
pub(in crate::state) type Part = Vec<(u64, Vec<u8>)>;

/// What its next step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Write,
    /// Rule 3.
    Sweep,
    /// Rule 4.
    Abandoned,
}

pub(in crate::state) struct Draft {
    pub(super) version: Version,
    pub(super) stage: Stage,
    /// What is not encoded yet.
    parts: Option<Parts>,
    part: Part,
    /// Of all parts so far.
    pub(super) bytes: u64,
}

impl Draft {
    pub(super) fn new(root: Held, codec: Codec, chunk_bytes: usize) -> Self {
        let version = root.version;
        let parts = Some(Parts::new(root, codec, chunk_bytes));
        Self { version, stage: Stage::Write, parts, part: Part::new(), bytes: 0 }
    }

    /// Only removes what others have left behind (rule 1).
    pub(super) fn sweep(version: Version) -> Self {
        Self { version, stage: Stage::Sweep, parts: None, part: Part::new(), bytes: 0 }
    }

    /// The part that is ready, and whether it is the last one.
    pub(super) fn take(&mut self) -> (Part, bool) {
        (std::mem::take(&mut self.part), self.parts.is_none())
    }
}

impl journal::Draft for Draft {
    type Image = Held;

    fn version(&self) -> Version {
        self.version
    }

    fn has_image(&self) -> bool {
        self.parts.is_some()
    }

    fn is_ready(&self) -> bool {
        self.stage != Stage::Write || !self.part.is_empty()
    }

    fn prepare(&mut self, bytes: usize) -> Result<Option<Held>, Error> {
        let Some(parts) = &mut self.parts else { return Ok(None) };
        let (part, total) = (&mut self.part, &mut self.bytes);
        let more = parts.next(bytes, &mut |index, block| {
            *total += block.len() as u64;
            part.push((index, block));
            Ok(())
        })?;
        Ok(if more { None } else { self.parts.take().map(Parts::into_root) })
    }

    fn abandon(&mut self) {
        self.stage = Stage::Abandoned;
        self.part.clear();
        self.parts = None;
    }
}

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft")
            .field("version", &self.version)
            .field("stage", &self.stage)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}
