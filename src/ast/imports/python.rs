//! `import` and `from .. import`.

use super::{Found, Import, ImportKind, ImportedName};
use crate::ast::node::Node;

pub(super) const KINDS: &[&str] =
    &["import_statement", "import_from_statement", "future_import_statement"];

pub(super) fn visit(node: Node<'_>, found: &mut Found) {
    let names = node.children_by_field("name").filter_map(named);
    if node.kind() == "import_statement" {
        for (path, alias, range) in names {
            let mut import = Import::new(ImportKind::Import, path, range);
            import.alias = alias.map(str::to_owned);
            found.push(import);
        }
        return;
    }
    let path = match node.kind() {
        "future_import_statement" => "__future__".to_owned(),
        _ => match node.child_by_field("module_name") {
            Some(module) => without_space(module.text()),
            None => return,
        },
    };
    let mut import = Import::new(ImportKind::Import, path, node.byte_range());
    import.names.extend(names.map(|(name, alias, _)| ImportedName::new(&name, alias)));
    import.glob = node.named_children().any(|child| child.kind() == "wildcard_import");
    // A statement that breaks off before its names takes nothing.
    if import.glob || !import.names.is_empty() {
        found.push(import);
    }
}

type Named<'t> = (String, Option<&'t str>, std::ops::Range<usize>);

/// The path, the alias and the place of `a.b` or `a.b as c`.
fn named(node: Node<'_>) -> Option<Named<'_>> {
    let (name, alias) = match node.kind() {
        "aliased_import" => (node.child_by_field("name")?, node.child_by_field("alias")),
        _ => (node, None),
    };
    let path = without_space(name.text());
    (!path.is_empty()).then(|| (path, alias.map(Node::text), node.byte_range()))
}

/// `a . b` is the path `a.b`.
fn without_space(path: &str) -> String {
    path.split(|c: char| c.is_whitespace() || c == '\\').collect()
}
