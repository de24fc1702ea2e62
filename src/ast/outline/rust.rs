//! What Rust declares.

use super::{Container, Draft, SymbolKind, Visibility};
use crate::ast::node::Node;

pub(super) const KINDS: &[&str] = &[
    "function_item",
    "function_signature_item",
    "struct_item",
    "union_item",
    "enum_item",
    "enum_variant",
    "field_declaration",
    "trait_item",
    "impl_item",
    "mod_item",
    "const_item",
    "static_item",
    "type_item",
    "associated_type",
    "macro_definition",
];

pub(super) fn visit<'t>(
    node: Node<'t>,
    container: Container,
    drafts: &mut Vec<Draft<'t>>,
) -> Option<Container> {
    let in_type = matches!(container, Container::Type | Container::Interface);
    let body = node.child_by_field("body");
    let (kind, opens) = match node.kind() {
        "function_item" | "function_signature_item" if in_type => {
            (SymbolKind::Method, Some(Container::Function))
        }
        "function_item" | "function_signature_item" => {
            (SymbolKind::Function, Some(Container::Function))
        }
        "struct_item" => (SymbolKind::Struct, Some(Container::Type)),
        "union_item" => (SymbolKind::Union, Some(Container::Type)),
        "enum_item" => (SymbolKind::Enum, Some(Container::Interface)),
        "enum_variant" => (SymbolKind::Variant, Some(Container::Interface)),
        "field_declaration" => (SymbolKind::Field, None),
        "trait_item" => (SymbolKind::Trait, Some(Container::Interface)),
        "impl_item" => {
            let opens = match node.child_by_field("trait") {
                Some(_) => Container::Interface,
                None => Container::Type,
            };
            if let Some(name) = node.child_by_field("type") {
                drafts.extend(
                    Draft::new(SymbolKind::Impl, node, name).map(|draft| draft.before(body)),
                );
            }
            return Some(opens);
        }
        "mod_item" => (SymbolKind::Module, Some(Container::Module)),
        "const_item" => (SymbolKind::Constant, Some(Container::Function)),
        "static_item" => (SymbolKind::Variable, Some(Container::Function)),
        "type_item" | "associated_type" => (SymbolKind::TypeAlias, None),
        "macro_definition" => (SymbolKind::Macro, None),
        _ => return None,
    };
    // `const _: () = ..;` declares nothing that could be named.
    let name = node.child_by_field("name").filter(|name| name.text() != "_");
    if let Some(name) = name
        && let Some(draft) = Draft::new(kind, node, name)
    {
        let draft = match kind {
            SymbolKind::Macro => draft.before(name.next_sibling()),
            // The body of a tuple struct is what its signature is about.
            _ if body.is_some_and(|body| body.kind().starts_with("ordered")) => draft,
            _ => draft.before(body).before_long(node.child_by_field("value")),
        };
        drafts.push(draft.visible(visibility(node, kind, container)));
    }
    opens
}

fn visibility(node: Node<'_>, kind: SymbolKind, container: Container) -> Option<Visibility> {
    if container == Container::Interface || kind == SymbolKind::Macro {
        return None;
    }
    let modifier = node.children().find(|child| child.kind() == "visibility_modifier");
    Some(match modifier.map(Node::text) {
        None => Visibility::Private,
        Some("pub") => Visibility::Public,
        Some(_) => Visibility::Restricted,
    })
}
