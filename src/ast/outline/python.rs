//! What Python declares.

use super::{Container, Draft, SymbolKind, Visibility};
use crate::ast::node::Node;

pub(super) const KINDS: &[&str] =
    &["function_definition", "class_definition", "assignment", "type_alias_statement"];

pub(super) fn visit<'t>(
    node: Node<'t>,
    container: Container,
    drafts: &mut Vec<Draft<'t>>,
) -> Option<Container> {
    let in_type = container == Container::Type;
    let (kind, opens) = match node.kind() {
        "function_definition" if in_type => (SymbolKind::Method, Container::Function),
        "function_definition" => (SymbolKind::Function, Container::Function),
        "class_definition" => (SymbolKind::Class, Container::Type),
        "type_alias_statement" => {
            if let Some(name) = node.child_by_field("left").and_then(first_identifier) {
                push(drafts, Draft::new(SymbolKind::TypeAlias, node, name), container);
            }
            return None;
        }
        "assignment" => {
            bindings(node, container, drafts);
            return None;
        }
        _ => return None,
    };
    if let Some(name) = node.child_by_field("name")
        && let Some(mut draft) = Draft::new(kind, node, name)
    {
        if let Some(outer) = node.parent().filter(|outer| outer.kind() == "decorated_definition") {
            draft.range = outer.byte_range();
        }
        push(drafts, Some(draft.before(node.child_by_field("body"))), container);
    }
    Some(opens)
}

/// The names that an assignment binds, outside of functions.
fn bindings<'t>(node: Node<'t>, container: Container, drafts: &mut Vec<Draft<'t>>) {
    // In `a = b = 1` the second assignment is the right side of the first.
    let stands_alone = node
        .parent()
        .is_some_and(|outer| matches!(outer.kind(), "expression_statement" | "assignment"));
    let Some(left) = node.child_by_field("left") else { return };
    if container == Container::Function || !stands_alone {
        return;
    }
    // Only names count: `x.y = 1` and `x[0] = 1` bind nothing new.
    let names: Vec<Node<'t>> = match left.kind() {
        "identifier" => vec![left],
        "pattern_list" | "tuple_pattern" | "list_pattern" => {
            left.descendants().filter(|node| is_bound_by_pattern(*node)).collect()
        }
        _ => return,
    };
    for name in names {
        let kind = match container {
            Container::Type => SymbolKind::Field,
            _ if is_constant(name.text()) => SymbolKind::Constant,
            _ => SymbolKind::Variable,
        };
        let draft = Draft::new(kind, node, name);
        push(drafts, draft.map(|draft| draft.before_long(node.child_by_field("right"))), container);
    }
}

/// Patterns nest: `a, (b, *c) = ..`; what stands in `x.y` or `x[y]` among them is not bound.
fn is_bound_by_pattern(node: Node<'_>) -> bool {
    node.kind() == "identifier"
        && node.parent().is_some_and(|outer| {
            matches!(
                outer.kind(),
                "pattern_list" | "tuple_pattern" | "list_pattern" | "list_splat_pattern"
            )
        })
}

fn push<'t>(drafts: &mut Vec<Draft<'t>>, draft: Option<Draft<'t>>, container: Container) {
    drafts.extend(draft.map(|draft| {
        let visibility = match draft.name {
            _ if container == Container::Function => None,
            name if name.starts_with("__") && name.ends_with("__") => Some(Visibility::Public),
            name if name.starts_with('_') => Some(Visibility::Private),
            _ => Some(Visibility::Public),
        };
        draft.visible(visibility)
    }));
}

/// By convention a constant is written in capitals.
fn is_constant(name: &str) -> bool {
    name.chars().any(char::is_uppercase) && !name.chars().any(char::is_lowercase)
}

fn first_identifier(node: Node<'_>) -> Option<Node<'_>> {
    std::iter::once(node).chain(node.descendants()).find(|node| node.kind() == "identifier")
}
