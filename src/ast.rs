//! The syntax engine: source code read by structure.
//!
//! An [`AstEngine`] turns a [`Source`] into a [`SyntaxTree`]: a concrete syntax tree in which every
//! node knows its kind, the field it fills in its parent, its byte range, and whether the parser had
//! to guess there. On top of the tree stand what tools ask for: [syntax errors](SyntaxTree::syntax_errors),
//! an [outline](SyntaxTree::outline) of symbols, the [imports](SyntaxTree::imports) of the file and its
//! [references](SyntaxTree::references).
//!
//! The trait knows no particular parser. A host brings its own engine by building trees with a
//! [`TreeBuilder`] (or from [`NodeRecord`]s); `Arc<dyn AstEngine>` is what everything else takes, and it
//! is there without the feature `wasm`.
//!
//! Rules that hold in this module:
//!
//! 1. A [`SyntaxTree`] that exists is sound: whatever engine it came from, its records were validated
//!    once, so that walking it neither panics nor leaves the source text.
//! 2. Nothing here recurses over a tree: depth costs heap, never stack.
//! 3. What a language or an engine cannot do is an error that says so, never an empty answer.

mod analysis;
mod builder;
mod engine;
mod error;
mod grammar;
mod imports;
mod language;
mod limits;
mod node;
mod outline;
mod record;
mod references;
mod source;
mod syntax_error;
mod tree;
#[cfg(all(feature = "wasm", not(any(phalanx_loom, phalanx_shuttle))))]
pub mod wasm;

pub use builder::{NodeSpec, TreeBuilder};
pub use engine::AstEngine;
pub use error::{AstError, AstErrorKind};
pub use grammar::{Grammar, KindInfo};
pub use imports::{Import, ImportKind, ImportedName};
pub use language::{Capabilities, Language, LanguageInfo};
pub use limits::Limits;
pub use node::{Children, Descendants, Node};
pub use outline::{Symbol, SymbolKind, Visibility};
pub use record::NodeRecord;
pub use references::{Reference, References};
pub use source::{ContentHash, Source};
pub use syntax_error::{SyntaxError, SyntaxErrorKind};
pub use tree::{Point, SyntaxTree};
