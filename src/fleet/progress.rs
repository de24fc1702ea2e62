//! How far an attempt says it has come.
//!
//! Rules that hold here:
//!
//! 1. What is reported is that of one attempt, and gone with it: a task that runs again starts anew, and
//!    one that was struck reports to nobody.
//! 2. Only the last report is kept, and its note is bounded.

use std::borrow::Cow;

use super::id::Attempt;
use super::signal::Signal;
use super::task::TaskContext;

/// How long the note of a report may be, in bytes.
pub const MAX_NOTE_BYTES: usize = 1_024;

/// What an attempt reported last.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// Which run of the task.
    pub attempt: Attempt,
    /// How much is done, from 0 to 1.
    pub fraction: f32,
    /// What it is doing, for people.
    pub note: Cow<'static, str>,
    /// Whether the note was longer than [`MAX_NOTE_BYTES`], and was cut.
    pub is_cut: bool,
}

impl TaskContext<'_> {
    /// Says how far this attempt has come, for whoever asks the [handle](super::TaskHandle::progress).
    ///
    /// A fraction below 0 is 0, one above 1 is 1, and one that is no number is 0. It replaces the report
    /// before. A note longer than [`MAX_NOTE_BYTES`] is cut, and says so ([`Progress::is_cut`]); a message that was told or asked reports to nobody. It takes one short lock of its own.
    pub fn report_progress(&self, fraction: f32, note: impl Into<Cow<'static, str>>) {
        if self.task.is_some() {
            self.signal.report_progress(self.attempt, fraction, note.into());
        }
    }
}

impl Signal {
    pub(super) fn report_progress(&self, attempt: Attempt, fraction: f32, note: Cow<'static, str>) {
        let fraction = if fraction.is_nan() { 0.0 } else { fraction.clamp(0.0, 1.0) };
        let is_cut = note.len() > MAX_NOTE_BYTES;
        let note = if is_cut {
            Cow::Owned(note[..note.floor_char_boundary(MAX_NOTE_BYTES)].to_owned())
        } else {
            note
        };
        self.report(Progress { attempt, fraction, note, is_cut });
    }
}
