//! What a file takes from elsewhere, as it is written; finding the other file is the host's part.

mod ecma;
mod python;
mod rust;

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::analysis::{Dialect, IMPORT, MAX_TEXT_BYTES, check_text};
use super::error::AstError;
use super::node::Node;
use super::tree::SyntaxTree;

/// One path that a file takes something from.
///
/// A statement that names several paths gives several imports: `use a::{b, c::{d, e as f}};` those of
/// `a` with the name `b`, and of `a::c` with the names `d` and `e`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Import {
    /// By which construct.
    pub kind: ImportKind,
    /// The module as written, without quotes: `crate::a`, `./x.js`, `..pkg.sub`.
    ///
    /// Of `use a::b;` it is `a`, for nothing says whether `b` is a module.
    pub path: String,
    /// The name that the module as a whole is bound to where that is given: `ns` in `import * as ns from ..`.
    pub alias: Option<String>,
    /// What is taken out of the module; empty when it is the module itself, its effects or everything.
    pub names: Vec<ImportedName>,
    /// Whether everything is taken: `use a::*`, `from m import *`, `export * from ..`.
    pub glob: bool,
    /// Whether it is for types only and gone when the program runs.
    pub type_only: bool,
    /// The part of the text that says all this.
    pub range: Range<usize>,
}

/// Something taken out of a module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ImportedName {
    /// Its name in the module; `default` for a default import, `self` for the module in `use a::{self}`.
    pub name: String,
    /// Its name here, where that is another.
    pub alias: Option<String>,
}

/// The construct that an [`Import`] is written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ImportKind {
    /// `use` of Rust.
    Use,
    /// `import` and `from .. import`.
    Import,
    /// `require('..')` with a literal.
    Require,
    /// `import('..')` with a literal.
    DynamicImport,
    /// `pub use`, `export .. from`: taken and passed on.
    ReExport,
    /// `mod name;`
    ModDeclaration,
    /// `extern crate`.
    ExternCrate,
}

impl Import {
    fn new(kind: ImportKind, path: impl Into<String>, range: Range<usize>) -> Self {
        Self {
            kind,
            path: path.into(),
            alias: None,
            names: Vec::new(),
            glob: false,
            type_only: false,
            range,
        }
    }

    /// The names by which the file can speak of what it imports, in order; those of a glob are not known.
    ///
    /// `use a::b as c;` and `import {b as c} from 'a'` bind `c`.
    pub fn bindings(&self) -> impl Iterator<Item = &str> {
        let names = self.names.iter().map(|name| name.alias.as_deref().unwrap_or(&name.name));
        self.alias.as_deref().into_iter().chain(names)
    }
}

impl ImportedName {
    /// A name, and what it is called here; the same name again is no alias.
    fn new(name: &str, alias: Option<&str>) -> Self {
        let alias = alias.filter(|&alias| alias != name).map(str::to_owned);
        Self { name: name.to_owned(), alias }
    }
}

impl SyntaxTree {
    /// What the file takes from elsewhere, in order of the text, inside functions included. O(nodes).
    ///
    /// Paths that are computed while the program runs are not among them.
    ///
    /// # Errors
    ///
    /// [`UnsupportedAnalysis`](super::AstErrorKind::UnsupportedAnalysis) for a language without this;
    /// [`OutputTooLarge`](super::AstErrorKind::OutputTooLarge) when paths and names come to more than 32 MiB.
    pub fn imports(&self) -> Result<Vec<Import>, AstError> {
        let analysis = self.analysis("analysis of imports")?;
        let visit = match analysis.dialect {
            Dialect::Rust => rust::visit,
            Dialect::Ecma => ecma::visit,
            Dialect::Python => python::visit,
        };
        let mut found = Found::default();
        for (index, record) in (0u32..).zip(self.records()) {
            if analysis.wants(record.kind, IMPORT) {
                visit(Node::new(self, index), &mut found);
                check_text("the imports", found.text_bytes)?;
            }
        }
        Ok(found.imports)
    }
}

/// What was found so far, and how much text it holds.
#[derive(Default)]
struct Found {
    imports: Vec<Import>,
    text_bytes: usize,
}

impl Found {
    fn push(&mut self, import: Import) {
        let names = import.names.iter().map(|name| name.name.len());
        self.text_bytes += import.path.len() + names.sum::<usize>();
        self.imports.push(import);
    }

    /// Whether there is more than an answer may hold, so that nothing should be added.
    fn is_full(&self) -> bool {
        self.text_bytes > MAX_TEXT_BYTES
    }
}

/// Which kinds the imports of a dialect look at.
pub(super) fn interest(dialect: Dialect, kind: &str) -> u8 {
    let wanted = match dialect {
        Dialect::Rust => rust::KINDS,
        Dialect::Ecma => ecma::KINDS,
        Dialect::Python => python::KINDS,
    };
    if wanted.contains(&kind) { IMPORT } else { 0 }
}

/// Whether all of the node is about imports, so that the names in it are no references of their own.
pub(super) fn is_statement(node: Node<'_>) -> bool {
    match node.kind() {
        "use_declaration"
        | "extern_crate_declaration"
        | "import_statement"
        | "import_from_statement"
        | "future_import_statement" => true,
        "export_statement" => node.child_by_field("source").is_some(),
        _ => false,
    }
}
