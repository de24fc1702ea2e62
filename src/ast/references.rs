//! Names that a file uses, as against those that it declares.

use std::iter::FusedIterator;
use std::ops::Range;

use super::analysis::{Analysis, Dialect, NAME, OUTLINE};
use super::error::AstError;
use super::imports;
use super::node::Node;
use super::tree::SyntaxTree;

/// A place where a file uses a name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reference<'t> {
    /// The name.
    pub name: &'t str,
    /// Where it stands.
    pub range: Range<usize>,
}

impl SyntaxTree {
    /// The names that the file uses, in order of the text; one for each place.
    ///
    /// By syntax alone: a name that is written where something is used, whatever it turns out to mean.
    /// Left out are names where they are declared (symbols, parameters, `let` and the like), in imports
    /// (see [`imports`](Self::imports)), of keyword arguments, and of keys in object literals. O(nodes) for
    /// all of them.
    ///
    /// # Errors
    ///
    /// [`UnsupportedAnalysis`](super::AstErrorKind::UnsupportedAnalysis) for a language without this.
    pub fn references(&self) -> Result<References<'_>, AstError> {
        Ok(References { tree: self, analysis: self.analysis("analysis of references")?, next: 0 })
    }
}

/// The names that a file uses: see [`SyntaxTree::references`].
#[derive(Clone, Debug)]
pub struct References<'t> {
    tree: &'t SyntaxTree,
    analysis: &'t Analysis,
    next: u32,
}

impl<'t> Iterator for References<'t> {
    type Item = Reference<'t>;

    fn next(&mut self) -> Option<Reference<'t>> {
        while let Some(record) = self.tree.records().get(self.next as usize) {
            let node = Node::new(self.tree, self.next);
            self.next += 1;
            if !self.analysis.wants(record.kind, NAME) {
                continue;
            }
            if !is_name(self.analysis.dialect, node.kind()) {
                if imports::is_statement(node) {
                    self.next = node.past();
                }
                continue;
            }
            if !node.text().is_empty() && !self.is_declared(node) {
                return Some(Reference { name: node.text(), range: node.byte_range() });
            }
        }
        None
    }
}

impl FusedIterator for References<'_> {}

impl References<'_> {
    fn is_declared(&self, node: Node<'_>) -> bool {
        let Some(outer) = node.parent() else { return false };
        let of_symbol = self.analysis.wants(outer.kind_id(), OUTLINE);
        match (self.analysis.dialect, node.field(), outer.kind()) {
            (_, Some("name"), _) if of_symbol => true,
            (Dialect::Rust, field, kind) => is_declared_in_rust(node, field, kind),
            (Dialect::Ecma, field, kind) => is_declared_in_ecma(field, kind),
            (Dialect::Python, field, kind) => is_declared_in_python(node, field, kind),
        }
    }
}

/// Which kinds matter to the references of a dialect: names, and statements that are passed over.
pub(super) fn interest(dialect: Dialect, kind: &str) -> u8 {
    let skipped = matches!(
        kind,
        "use_declaration"
            | "extern_crate_declaration"
            | "import_statement"
            | "import_from_statement"
            | "future_import_statement"
            | "export_statement"
    );
    if skipped || is_name(dialect, kind) { NAME } else { 0 }
}

fn is_name(dialect: Dialect, kind: &str) -> bool {
    match dialect {
        Dialect::Rust => matches!(
            kind,
            "identifier" | "type_identifier" | "field_identifier" | "shorthand_field_identifier"
        ),
        Dialect::Ecma => matches!(
            kind,
            "identifier"
                | "type_identifier"
                | "property_identifier"
                | "private_property_identifier"
                | "shorthand_property_identifier"
        ),
        Dialect::Python => kind == "identifier",
    }
}

fn is_declared_in_rust(node: Node<'_>, field: Option<&str>, outer: &str) -> bool {
    match outer {
        // A pattern that is a bare name binds it; one with a path or fields uses those.
        "let_declaration" | "parameter" | "for_expression" | "let_condition" | "match_pattern" => {
            // A capital is taken for a constant or variant that is compared with.
            field == Some("pattern") && starts_lower(node)
                || outer == "match_pattern" && field.is_none() && starts_lower(node)
        }
        "tuple_pattern" | "slice_pattern" | "ref_pattern" | "mut_pattern" | "reference_pattern"
        | "captured_pattern" | "or_pattern" => starts_lower(node),
        "tuple_struct_pattern" => field.is_none() && starts_lower(node),
        "field_pattern" => field == Some("pattern") && starts_lower(node),
        "closure_parameters" => true,
        "type_parameter" | "const_parameter" => field == Some("name"),
        _ => false,
    }
}

fn starts_lower(node: Node<'_>) -> bool {
    node.text().starts_with(|c: char| c == '_' || c.is_lowercase())
}

fn is_declared_in_ecma(field: Option<&str>, outer: &str) -> bool {
    match outer {
        "formal_parameters" | "array_pattern" | "rest_pattern" => true,
        "required_parameter" | "optional_parameter" => field == Some("pattern"),
        "assignment_pattern" => field == Some("left"),
        "pair_pattern" => matches!(field, Some("key" | "value")),
        "pair" => field == Some("key"),
        "arrow_function" | "catch_clause" => field == Some("parameter"),
        "for_in_statement" => field == Some("left"),
        "field_definition" => field == Some("property"),
        "enum_body" => true,
        "enum_assignment" | "type_parameter" | "index_signature" => field == Some("name"),
        "export_specifier" => field == Some("alias"),
        "labeled_statement" => field == Some("label"),
        _ => false,
    }
}

fn is_declared_in_python(node: Node<'_>, field: Option<&str>, outer: &str) -> bool {
    match outer {
        "parameters" | "lambda_parameters" => true,
        "default_parameter" | "typed_default_parameter" | "keyword_argument" => {
            field == Some("name")
        }
        "typed_parameter" => field.is_none(),
        "list_splat_pattern"
        | "dictionary_splat_pattern"
        | "pattern_list"
        | "tuple_pattern"
        | "as_pattern_target" => true,
        "assignment" | "for_statement" | "for_in_clause" => field == Some("left"),
        // The left side of `type X = ..` is a type of its own.
        "type" => node.parent().is_some_and(|outer| {
            outer.field() == Some("left")
                && outer.parent().is_some_and(|alias| alias.kind() == "type_alias_statement")
        }),
        _ => false,
    }
}
