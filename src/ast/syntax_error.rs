//! The places where a parser had to guess.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::record::NodeRecord;
use super::tree::{Point, SyntaxTree};

/// The most bytes of text that an error quotes.
const MAX_EXCERPT_BYTES: usize = 60;

/// A place where the text is not what the grammar expects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SyntaxError {
    /// What is wrong.
    pub kind: SyntaxErrorKind,
    /// The bytes concerned; empty for what is missing.
    pub range: Range<usize>,
    /// Where the range starts.
    pub point: Point,
}

/// What is wrong at a [`SyntaxError`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SyntaxErrorKind {
    /// Text that fits nowhere.
    Unexpected {
        /// The first line of it, at most 60 bytes; the range of the error has all of it.
        excerpt: String,
    },
    /// Something that the grammar demands is not there.
    Missing {
        /// The kind of node that was expected, such as `}` or `identifier`.
        expected: String,
    },
}

impl fmt::Display for SyntaxError {
    /// Counts line and column from 1, as editors and compilers do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Point { row, column } = self.point;
        write!(f, "{}:{}: ", u64::from(row) + 1, u64::from(column) + 1)?;
        match &self.kind {
            SyntaxErrorKind::Unexpected { excerpt } => write!(f, "unexpected {excerpt:?}"),
            SyntaxErrorKind::Missing { expected } => write!(f, "expected {expected:?}"),
        }
    }
}

impl SyntaxTree {
    /// Every place where the parser had to guess, in order of the text.
    ///
    /// One error node is one error, whatever is below it. O(nodes with errors below them and their
    /// children), so O(1) for a sound text.
    #[must_use]
    pub fn syntax_errors(&self) -> Vec<SyntaxError> {
        let mut errors = Vec::new();
        let records = self.records();
        let mut index = 0;
        while let Some(record) = records.get(index) {
            let range = record.start as usize..record.end as usize;
            let kind = if record.has(NodeRecord::MISSING) {
                Some(SyntaxErrorKind::Missing { expected: self.kind_of(record).name.clone() })
            } else if record.has(NodeRecord::ERROR) {
                Some(SyntaxErrorKind::Unexpected {
                    excerpt: excerpt(&self.source()[range.clone()]),
                })
            } else {
                None
            };
            let enter = kind.is_none() && record.has(NodeRecord::HAS_ERROR);
            if let Some(kind) = kind {
                errors.push(SyntaxError { kind, point: self.point_at(range.start), range });
            }
            index += if enter { 1 } else { 1 + record.descendants as usize };
        }
        errors
    }
}

fn excerpt(text: &str) -> String {
    let line = text.trim_start().lines().next().unwrap_or_default().trim_end();
    line[..line.floor_char_boundary(MAX_EXCERPT_BYTES)].to_owned()
}
