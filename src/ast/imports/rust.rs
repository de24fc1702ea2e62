//! `use` trees, `mod name;` and `extern crate`.

use std::rc::Rc;

use super::{Found, Import, ImportKind, ImportedName};
use crate::ast::node::Node;

pub(super) const KINDS: &[&str] = &["use_declaration", "mod_item", "extern_crate_declaration"];

pub(super) fn visit(node: Node<'_>, found: &mut Found) {
    let public = node.children().any(|child| child.kind() == "visibility_modifier");
    match node.kind() {
        "use_declaration" => {
            let kind = if public { ImportKind::ReExport } else { ImportKind::Use };
            if let Some(argument) = node.child_by_field("argument") {
                expand(kind, node, argument, found);
            }
        }
        "extern_crate_declaration" => {
            if let Some(name) = node.child_by_field("name") {
                let mut import =
                    Import::new(ImportKind::ExternCrate, name.text(), node.byte_range());
                import.alias = node.child_by_field("alias").map(|alias| alias.text().to_owned());
                found.push(import);
            }
        }
        _ => {
            if node.child_by_field("body").is_none()
                && let Some(name) = node.child_by_field("name").filter(|name| !name.is_missing())
            {
                found.push(Import::new(ImportKind::ModDeclaration, name.text(), node.byte_range()));
            }
        }
    }
}

/// A part of a `use` tree that is still to be read, under the path that leads to it.
struct Pending<'t> {
    node: Node<'t>,
    prefix: Rc<str>,
}

/// Reads a `use` tree without recursion: each list gives one import for the names that stand in it.
fn expand<'t>(kind: ImportKind, statement: Node<'t>, argument: Node<'t>, found: &mut Found) {
    let mut pending = vec![Pending { node: argument, prefix: Rc::default() }];
    while let Some(Pending { node, prefix }) = pending.pop() {
        if found.is_full() {
            return;
        }
        match node.kind() {
            "scoped_use_list" => {
                let prefix: Rc<str> = join(&prefix, node.child_by_field("path")).into();
                found.text_bytes += prefix.len();
                if let Some(list) = node.child_by_field("list") {
                    pending.push(Pending { node: list, prefix });
                }
            }
            "use_list" => {
                let mut import = Import::new(kind, &*prefix, node.byte_range());
                let mut below = Vec::new();
                for part in node.named_children() {
                    match leaf(part) {
                        // In a list at the very start, `use {a, b::c};`, a name is a path of its own.
                        Some(Leaf { path: None, name, .. }) if !prefix.is_empty() => {
                            import.names.push(name);
                        }
                        _ => below.push(Pending { node: part, prefix: Rc::clone(&prefix) }),
                    }
                }
                if !import.names.is_empty() {
                    found.push(import);
                }
                pending.extend(below.into_iter().rev());
            }
            "use_wildcard" => {
                let path = join(&prefix, node.named_children().next());
                let mut import = Import::new(kind, path, node.byte_range());
                import.glob = true;
                found.push(import);
            }
            _ => {
                let Some(Leaf { path, name }) = leaf(node) else { continue };
                let range = if node == argument { statement } else { node }.byte_range();
                let path = join(&prefix, path);
                found.push(if path.is_empty() {
                    let mut import = Import::new(kind, name.name, range);
                    import.alias = name.alias;
                    import
                } else {
                    let mut import = Import::new(kind, path, range);
                    import.names.push(name);
                    import
                });
            }
        }
    }
}

/// A single name of a `use` tree, and the path before it.
struct Leaf<'t> {
    path: Option<Node<'t>>,
    name: ImportedName,
}

fn leaf(node: Node<'_>) -> Option<Leaf<'_>> {
    let (target, alias) = match node.kind() {
        "use_as_clause" => (node.child_by_field("path")?, node.child_by_field("alias")),
        _ => (node, None),
    };
    let alias = alias.map(Node::text);
    match target.kind() {
        "scoped_identifier" => {
            let name = target.child_by_field("name")?;
            // `::a` has no path before its name, yet is not the name `a`: the colons are kept with it.
            match target.child_by_field("path") {
                Some(path) => {
                    Some(Leaf { path: Some(path), name: ImportedName::new(name.text(), alias) })
                }
                None => {
                    let name = ImportedName::new(&join("", Some(target)), alias);
                    Some(Leaf { path: None, name })
                }
            }
        }
        "identifier" | "self" | "super" | "crate" | "metavariable" => {
            Some(Leaf { path: None, name: ImportedName::new(target.text(), alias) })
        }
        _ => None,
    }
}

/// A path under a prefix, without the white space and comments that may stand in it.
fn join(prefix: &str, path: Option<Node<'_>>) -> String {
    let mut joined = prefix.to_owned();
    let Some(path) = path else { return joined };
    if !joined.is_empty() {
        joined.push_str("::");
    }
    let mut past_comment = 0;
    for node in std::iter::once(path).chain(path.descendants()) {
        if node.id() < past_comment {
            continue;
        }
        if node.is_extra() {
            past_comment = node.past();
        } else if node.descendant_count() == 0 {
            joined.push_str(node.text());
        }
    }
    joined
}
