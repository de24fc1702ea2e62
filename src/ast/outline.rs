//! The outline of a file: what it declares, where, and inside of what.
//!
//! One pass over the records in pre-order with a stack of the scopes that are open; what a node declares
//! is decided by the rules of its language, in the files below this one.
//!
//! The rules look at a node, its own children, and a bounded number of those of its ancestors: whatever
//! the source, the work is linear in the nodes but for signatures, which look at 1 KiB each.

mod ecma;
mod python;
mod rust;

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::analysis::{Dialect, OUTLINE, check_text};
use super::error::AstError;
use super::node::Node;
use super::record::NodeRecord;
use super::tree::SyntaxTree;

/// The most bytes of a signature; a longer one ends with `...`.
const MAX_SIGNATURE_BYTES: usize = 240;

/// How much of the text a signature is made from, in bytes.
const MAX_HEAD_BYTES: usize = 1 << 10;

/// Something that a file declares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Symbol {
    /// What it is.
    pub kind: SymbolKind,
    /// Its name as written; that of an `impl` block is its type.
    pub name: String,
    /// All of its declaration: with decorators and `export`, without attributes and comments before it.
    pub range: Range<usize>,
    /// Where the name stands.
    pub name_range: Range<usize>,
    /// The symbol that it is declared in: an index into the same outline, smaller than its own.
    pub parent: Option<usize>,
    /// The declaration up to its body in one line without comments; it ends with `...` where it is longer
    /// than 240 bytes in that form, or than 1 KiB as written.
    pub signature: String,
    /// Who may use it, where the language says so.
    pub visibility: Option<Visibility>,
    /// The name by which other files import it where that is not its own, such as `default`.
    pub export: Option<String>,
}

/// What a [`Symbol`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SymbolKind {
    /// A function outside of types.
    Function,
    /// A function of a type: class, trait, interface, `impl` block.
    Method,
    /// A class.
    Class,
    /// A struct.
    Struct,
    /// A union of Rust.
    Union,
    /// An enumeration.
    Enum,
    /// One of the alternatives of an enumeration.
    Variant,
    /// A trait.
    Trait,
    /// An interface.
    Interface,
    /// An `impl` block.
    Impl,
    /// A module or namespace.
    Module,
    /// A constant.
    Constant,
    /// A name for a type, associated types included.
    TypeAlias,
    /// A variable, statics included; those inside functions are no symbols.
    Variable,
    /// A macro.
    Macro,
    /// A part of a struct, class or interface that holds a value.
    Field,
}

impl SymbolKind {
    /// A short stable name in snake case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Function => "function",
            Self::Method => "method",
            Self::Class => "class",
            Self::Struct => "struct",
            Self::Union => "union",
            Self::Enum => "enum",
            Self::Variant => "variant",
            Self::Trait => "trait",
            Self::Interface => "interface",
            Self::Impl => "impl",
            Self::Module => "module",
            Self::Constant => "constant",
            Self::TypeAlias => "type_alias",
            Self::Variable => "variable",
            Self::Macro => "macro",
            Self::Field => "field",
        }
    }
}

impl fmt::Display for SymbolKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Who may use a [`Symbol`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Visibility {
    /// Everybody: `pub`, `export`, `public`; in Python, a name without a leading underscore.
    Public,
    /// Some: `pub(crate)` and the like, `protected`.
    Restricted,
    /// Only its own module or type; in Python by convention.
    Private,
}

/// What the scope is in which a declaration stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Container {
    Module,
    Type,
    /// A type whose members are as visible as itself: trait, interface, enumeration.
    Interface,
    Function,
}

/// A symbol as the rules of a language describe it.
struct Draft<'t> {
    kind: SymbolKind,
    name: &'t str,
    name_range: Range<usize>,
    range: Range<usize>,
    /// What the signature is made of.
    head: Range<usize>,
    visibility: Option<Visibility>,
    export: Option<String>,
}

impl<'t> Draft<'t> {
    /// A symbol declared by all of `node`, or nothing when the parser made the name up.
    fn new(kind: SymbolKind, node: Node<'t>, name: Node<'t>) -> Option<Self> {
        let range = node.byte_range();
        (!name.text().is_empty()).then(|| Self {
            kind,
            name: name.text(),
            name_range: name.byte_range(),
            head: range.clone(),
            range,
            visibility: None,
            export: None,
        })
    }

    /// Ends the signature before `body`, if there is one.
    fn before(mut self, body: Option<Node<'t>>) -> Self {
        if let Some(body) = body {
            self.head.end = body.byte_range().start;
        }
        self
    }

    /// Ends the signature before a value that is too long to be part of it.
    fn before_long(self, value: Option<Node<'t>>) -> Self {
        self.before(value.filter(|value| value.text().len() > 60 || value.text().contains('\n')))
    }

    fn visible(mut self, visibility: impl Into<Option<Visibility>>) -> Self {
        self.visibility = visibility.into();
        self
    }
}

/// A scope that the walk is in.
struct Scope {
    /// One past the last record of it.
    past: u32,
    container: Container,
    symbol: Option<usize>,
}

impl SyntaxTree {
    /// What the file declares, in order of the text, what is declared inside functions included.
    ///
    /// Broken code gives the symbols that the parser could make out. Local variables and parameters are
    /// no symbols. O(nodes), most of them at the cost of a table look-up.
    ///
    /// # Errors
    ///
    /// [`UnsupportedAnalysis`](super::AstErrorKind::UnsupportedAnalysis) for a language without an outline;
    /// [`OutputTooLarge`](super::AstErrorKind::OutputTooLarge) when names and signatures come to more than 32 MiB.
    pub fn outline(&self) -> Result<Vec<Symbol>, AstError> {
        let analysis = self.analysis("outline")?;
        let visit = match analysis.dialect {
            Dialect::Rust => rust::visit,
            Dialect::Ecma => ecma::visit,
            Dialect::Python => python::visit,
        };
        let base = Scope { past: u32::MAX, container: Container::Module, symbol: None };
        let mut scopes = vec![base];
        let mut symbols: Vec<Symbol> = Vec::new();
        let mut drafts = Vec::new();
        let mut text_bytes = 0;
        for (index, record) in (0u32..).zip(self.records()) {
            if !analysis.wants(record.kind, OUTLINE) {
                continue;
            }
            while scopes.last().is_some_and(|scope| scope.past <= index) {
                scopes.pop();
            }
            let scope = scopes.last().expect("the base scope ends after every record");
            let (container, parent) = (scope.container, scope.symbol);
            let node = Node::new(self, index);
            let opened = visit(node, container, &mut drafts);
            let first = (!drafts.is_empty()).then_some(symbols.len());
            for draft in drafts.drain(..) {
                let symbol = finish(node, parent, draft);
                text_bytes += symbol.name.len() + symbol.signature.len();
                check_text("the outline", text_bytes)?;
                symbols.push(symbol);
            }
            if let Some(container) = opened {
                scopes.push(Scope { past: node.past(), container, symbol: first.or(parent) });
            }
        }
        match analysis.dialect {
            Dialect::Rust => {}
            Dialect::Ecma => ecma::mark_exports(self, &mut symbols),
            Dialect::Python => keep_first_bindings(&mut symbols),
        }
        Ok(symbols)
    }
}

/// Which kinds the outline of a dialect looks at.
pub(super) fn interest(dialect: Dialect, kind: &str) -> u8 {
    let wanted = match dialect {
        Dialect::Rust => rust::KINDS,
        Dialect::Ecma => ecma::KINDS,
        Dialect::Python => python::KINDS,
    };
    if wanted.contains(&kind) { OUTLINE } else { 0 }
}

fn finish(node: Node<'_>, parent: Option<usize>, draft: Draft<'_>) -> Symbol {
    Symbol {
        kind: draft.kind,
        name: draft.name.to_owned(),
        signature: signature(node, draft.head),
        range: draft.range,
        name_range: draft.name_range,
        parent,
        visibility: draft.visibility,
        export: draft.export,
    }
}

/// The text of a range in one line, without the comments below `node` and what leads into a body.
fn signature(node: Node<'_>, head: Range<usize>) -> String {
    let source = node.tree().source();
    let end = head.end.min(source.floor_char_boundary(head.start + MAX_HEAD_BYTES));
    let mut line = String::new();
    // A tree of the host's own may have a body before the decorators that the head starts after.
    let mut at = head.start.min(end);
    for comment in comments(node, at..end) {
        if comment.start >= at {
            push_words(&mut line, &source[at..comment.start]);
            at = comment.end.min(end);
        }
    }
    push_words(&mut line, &source[at..end]);
    if end == head.end {
        let kept = line.trim_end_matches([' ', '{', ';', ':', ',', '=']);
        // An arrow leads into a body, where a lone `>` would close type parameters.
        let kept = kept.strip_suffix("=>").unwrap_or(kept).trim_end();
        line.truncate(kept.len());
    }
    if end < head.end || line.len() > MAX_SIGNATURE_BYTES {
        line.truncate(line.floor_char_boundary(MAX_SIGNATURE_BYTES - 3));
        line.push_str("...");
    }
    line
}

fn push_words(line: &mut String, text: &str) {
    for word in text.split_ascii_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
}

/// Where the comments stand that are below `node` and start in `head`.
fn comments(node: Node<'_>, head: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let tree = node.tree();
    let below = &tree.records()[node.id() as usize..node.past() as usize];
    // In pre-order no record starts before the one that it follows.
    let first = below.partition_point(|record| (record.start as usize) < head.start);
    below[first..]
        .iter()
        .take_while(move |record| (record.start as usize) < head.end)
        .filter(|record| {
            record.has(NodeRecord::EXTRA) && tree.kind_of(record).name.ends_with("comment")
        })
        .map(|record| record.start as usize..record.end as usize)
}

/// Where a language has no declaration of variables, the first binding of a name is taken for it.
fn keep_first_bindings(symbols: &mut Vec<Symbol>) {
    let mut seen = HashSet::new();
    let mut kept_as = Vec::with_capacity(symbols.len());
    let mut kept = 0;
    for symbol in symbols.iter() {
        let binds =
            matches!(symbol.kind, SymbolKind::Variable | SymbolKind::Constant | SymbolKind::Field);
        let first = !binds || seen.insert((symbol.parent, symbol.name.clone()));
        kept_as.push(first.then_some(kept));
        kept += usize::from(first);
    }
    let mut at = 0;
    symbols.retain_mut(|symbol| {
        // Bindings are no parents, so every parent is kept.
        symbol.parent = symbol.parent.and_then(|parent| kept_as[parent]);
        at += 1;
        kept_as[at - 1].is_some()
    });
}
