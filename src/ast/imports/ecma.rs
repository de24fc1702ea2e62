//! `import`, `export .. from`, `require` and `import()`.

use super::{Found, Import, ImportKind, ImportedName};
use crate::ast::node::Node;

pub(super) const KINDS: &[&str] = &["import_statement", "export_statement", "call_expression"];

pub(super) fn visit(node: Node<'_>, found: &mut Found) {
    let import = match node.kind() {
        "import_statement" => import(node),
        "export_statement" => re_export(node),
        _ => call(node),
    };
    if let Some(import) = import {
        found.push(import);
    }
}

fn import(node: Node<'_>) -> Option<Import> {
    let required = node.named_children().find(|child| child.kind() == "import_require_clause");
    let (kind, source) = match required {
        Some(clause) => (ImportKind::Require, clause.child_by_field("source")?),
        None => (ImportKind::Import, node.child_by_field("source")?),
    };
    let mut import = Import::new(kind, literal(source)?, node.byte_range());
    import.type_only = is_type_only(node);
    if let Some(clause) = required {
        import.alias = first_identifier(clause);
    }
    let clause = node.named_children().find(|child| child.kind() == "import_clause");
    for part in clause.into_iter().flat_map(Node::named_children) {
        match part.kind() {
            "identifier" => {
                import.names.push(ImportedName::new("default", Some(part.text())));
            }
            "namespace_import" => import.alias = first_identifier(part),
            "named_imports" => import.names.extend(specifiers(part)),
            _ => {}
        }
    }
    Some(import)
}

fn re_export(node: Node<'_>) -> Option<Import> {
    let source = literal(node.child_by_field("source")?)?;
    let mut import = Import::new(ImportKind::ReExport, source, node.byte_range());
    import.type_only = is_type_only(node);
    for part in node.named_children() {
        match part.kind() {
            "namespace_export" => import.alias = part.named_children().next().map(unquoted),
            "export_clause" => import.names.extend(specifiers(part)),
            _ => {}
        }
    }
    // That of `* as name` stands inside of a `namespace_export`.
    import.glob = node.children().any(|child| child.kind() == "*");
    Some(import)
}

fn specifiers(list: Node<'_>) -> impl Iterator<Item = ImportedName> {
    list.named_children().filter_map(|specifier| {
        let name = unquoted(specifier.child_by_field("name")?);
        let alias = specifier.child_by_field("alias").map(unquoted);
        (!name.is_empty()).then(|| ImportedName::new(&name, alias.as_deref()))
    })
}

/// `import type ..` and `export type ..`: the word stands right after the first one.
fn is_type_only(node: Node<'_>) -> bool {
    node.children().nth(1).is_some_and(|word| matches!(word.kind(), "type" | "typeof"))
}

fn call(node: Node<'_>) -> Option<Import> {
    let kind = match node.child_by_field("function")?.text() {
        "require" => ImportKind::Require,
        "import" => ImportKind::DynamicImport,
        _ => return None,
    };
    let source = node.child_by_field("arguments")?.named_children().find(|arg| !arg.is_extra())?;
    let mut import = Import::new(kind, literal(source)?, node.byte_range());
    // What the result is bound to: `const x = ..`, `const {a, b: c} = ..`, `const x = (..).a`.
    let mut value = node;
    let mut outer = node.parent();
    while let Some(wrapper) = outer
        .filter(|outer| matches!(outer.kind(), "await_expression" | "parenthesized_expression"))
    {
        value = wrapper;
        outer = wrapper.parent();
    }
    let member = outer.filter(|outer| outer.kind() == "member_expression");
    if let Some(member) = member {
        let name = member.child_by_field("property")?.text();
        let holder = member.parent().filter(|outer| is_value_of(*outer, member));
        let alias = holder
            .and_then(|outer| outer.child_by_field("name"))
            .filter(|name| name.kind() == "identifier");
        // `require('x')(..)` and `import('x').then(..)` say nothing about names.
        if holder.is_some() {
            import.names.push(ImportedName::new(name, alias.map(Node::text)));
        }
        return Some(import);
    }
    if let Some(name) = outer
        .filter(|outer| is_value_of(*outer, value))
        .and_then(|outer| outer.child_by_field("name"))
    {
        match name.kind() {
            "identifier" => import.alias = Some(name.text().to_owned()),
            "object_pattern" => import.names.extend(name.named_children().filter_map(property)),
            _ => {}
        }
    }
    Some(import)
}

fn is_value_of(declarator: Node<'_>, value: Node<'_>) -> bool {
    declarator.kind() == "variable_declarator" && value.field() == Some("value")
}

/// A name that an object pattern takes out: `a`, `a: b`, `a = 1`.
fn property(node: Node<'_>) -> Option<ImportedName> {
    match node.kind() {
        "shorthand_property_identifier_pattern" => Some(ImportedName::new(node.text(), None)),
        "object_assignment_pattern" => property(node.child_by_field("left")?),
        "pair_pattern" => {
            let alias = node.child_by_field("value").filter(|value| value.kind() == "identifier");
            let key = unquoted(node.child_by_field("key")?);
            Some(ImportedName::new(&key, alias.map(Node::text)))
        }
        _ => None,
    }
}

fn first_identifier(node: Node<'_>) -> Option<String> {
    let name = node.named_children().find(|child| child.kind() == "identifier")?;
    Some(name.text().to_owned())
}

/// The text between the quotes of a string, or of a template that contains nothing computed.
fn literal(node: Node<'_>) -> Option<String> {
    let plain = match node.kind() {
        "string" => true,
        "template_string" => node.named_children().all(|part| part.kind() == "string_fragment"),
        _ => false,
    };
    plain.then(|| unquoted(node))
}

fn unquoted(node: Node<'_>) -> String {
    match node.kind() {
        "string" | "template_string" => node.text().trim_matches(['"', '\'', '`']).to_owned(),
        _ => node.text().to_owned(),
    }
}
