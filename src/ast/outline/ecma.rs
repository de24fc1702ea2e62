//! What JavaScript, TypeScript and TSX declare.

use std::collections::HashMap;

use super::{Container, Draft, Symbol, SymbolKind, Visibility};
use crate::ast::node::Node;
use crate::ast::tree::SyntaxTree;

/// How many children of a statement are looked at from within it: a bound, since a hostile statement
/// can have as many comments as variables.
const MAX_CHILDREN: usize = 64;

pub(super) const KINDS: &[&str] = &[
    "function_declaration",
    "generator_function_declaration",
    "function_signature",
    "function_expression",
    "generator_function",
    "arrow_function",
    "class_declaration",
    "abstract_class_declaration",
    "class",
    "class_static_block",
    "method_definition",
    "abstract_method_signature",
    "method_signature",
    "field_definition",
    "public_field_definition",
    "property_signature",
    "interface_declaration",
    "type_alias_declaration",
    "enum_declaration",
    "enum_body",
    "internal_module",
    "module",
    "variable_declarator",
    "assignment_expression",
];

pub(super) fn visit<'t>(
    node: Node<'t>,
    container: Container,
    drafts: &mut Vec<Draft<'t>>,
) -> Option<Container> {
    match node.kind() {
        "function_declaration" | "generator_function_declaration" | "function_signature" => {
            declaration(SymbolKind::Function, node, container, drafts);
            Some(Container::Function)
        }
        "class_declaration" | "abstract_class_declaration" => {
            declaration(SymbolKind::Class, node, container, drafts);
            Some(Container::Type)
        }
        "function_expression" | "generator_function" | "arrow_function" => {
            default_export(SymbolKind::Function, node, drafts);
            Some(Container::Function)
        }
        "class" => {
            default_export(SymbolKind::Class, node, drafts);
            Some(Container::Type)
        }
        "class_static_block" => Some(Container::Function),
        "interface_declaration" => {
            declaration(SymbolKind::Interface, node, container, drafts);
            Some(Container::Interface)
        }
        "type_alias_declaration" => {
            declaration(SymbolKind::TypeAlias, node, container, drafts);
            Some(Container::Interface)
        }
        "enum_declaration" => {
            declaration(SymbolKind::Enum, node, container, drafts);
            Some(Container::Interface)
        }
        "enum_body" => {
            variants(node, drafts);
            None
        }
        "internal_module" | "module" => {
            declaration(SymbolKind::Module, node, container, drafts);
            Some(Container::Module)
        }
        "variable_declarator" => variables(node, container, drafts),
        "assignment_expression" if container == Container::Module => assignment(node, drafts),
        "assignment_expression" => None,
        _ => member(node, container, drafts),
    }
}

/// The statement that a declaration is part of, and what it says about who may use it.
struct Statement<'t> {
    node: Node<'t>,
    exported: bool,
    default: bool,
}

impl<'t> Statement<'t> {
    /// `declaration` may be wrapped by `declare`, by an expression statement (as namespaces are), by `export`.
    fn of(declaration: Node<'t>) -> Self {
        let mut found = Self { node: declaration, exported: false, default: false };
        while let Some(outer) = found.node.parent() {
            match outer.kind() {
                "export_statement" => {
                    found.exported = true;
                    found.default |=
                        outer.children().take(MAX_CHILDREN).any(|child| child.kind() == "default");
                }
                "ambient_declaration" | "expression_statement" => {}
                _ => break,
            }
            found.node = outer;
        }
        found
    }

    fn apply(&self, mut draft: Draft<'t>, container: Container) -> Draft<'t> {
        draft.visibility = match container {
            _ if self.exported => Some(Visibility::Public),
            Container::Module => Some(Visibility::Private),
            _ => None,
        };
        draft.export = self.default.then(|| "default".to_owned());
        draft
    }
}

fn declaration<'t>(
    kind: SymbolKind,
    node: Node<'t>,
    container: Container,
    drafts: &mut Vec<Draft<'t>>,
) {
    let Some(name) = node.child_by_field("name") else { return };
    let statement = Statement::of(node);
    let Some(mut draft) = Draft::new(kind, node, name) else { return };
    draft.name = unquoted(name);
    draft.range = statement.node.byte_range();
    draft.head.start = head_start(statement.node, node);
    let draft = draft.before(node.child_by_field("body")).before_long(node.child_by_field("value"));
    drafts.push(statement.apply(draft, container));
}

/// Modules, members and variants may have strings for names.
fn unquoted(name: Node<'_>) -> &str {
    match name.kind() {
        "string" => name.text().trim_matches(['"', '\'']),
        _ => name.text(),
    }
}

/// Where the declaration starts after its decorators.
fn head_start(statement: Node<'_>, declaration: Node<'_>) -> usize {
    [statement, declaration]
        .into_iter()
        .flat_map(Node::children)
        .filter(|child| child.kind() == "decorator")
        .map(|decorator| decorator.byte_range().end)
        .max()
        .unwrap_or(statement.byte_range().start)
}

/// A function or class without a declaration is a symbol where the file exports it as its default.
fn default_export<'t>(kind: SymbolKind, node: Node<'t>, drafts: &mut Vec<Draft<'t>>) {
    let Some(statement) = node.parent().filter(|outer| outer.kind() == "export_statement") else {
        return;
    };
    let Some(default) = statement.children().find(|child| child.kind() == "default") else {
        return;
    };
    let name = node.child_by_field("name").unwrap_or(default);
    drafts.extend(Draft::new(kind, statement, name).map(|draft| {
        let draft = draft.before(node.child_by_field("body"));
        Statement { node: statement, exported: true, default: true }.apply(draft, Container::Module)
    }));
}

fn variants<'t>(body: Node<'t>, drafts: &mut Vec<Draft<'t>>) {
    for child in body.named_children() {
        let name = match child.kind() {
            "enum_assignment" => child.child_by_field("name"),
            "property_identifier" | "string" => Some(child),
            _ => None,
        };
        drafts.extend(name.and_then(|name| {
            let draft = Draft::new(SymbolKind::Variant, child, name)?;
            Some(Draft { name: unquoted(name), ..draft })
        }));
    }
}

/// The variables of modules and namespaces; `let`, `const` and `var` alike.
fn variables<'t>(
    node: Node<'t>,
    container: Container,
    drafts: &mut Vec<Draft<'t>>,
) -> Option<Container> {
    let value = node.child_by_field("value");
    let of_value = value.and_then(|value| opened_by(value.kind()));
    let declaration = node.parent()?;
    let statement = Statement::of(declaration);
    // Loops and blocks have variables of their own, which nobody else sees.
    let outer = statement.node.parent();
    let in_module = outer.is_some_and(|outer| match outer.kind() {
        "program" => true,
        "statement_block" => outer.parent().is_some_and(|outer| {
            matches!(outer.kind(), "internal_module" | "module" | "ambient_declaration")
        }),
        _ => false,
    });
    let name = node.child_by_field("name")?;
    let imports = name.kind() != "array_pattern" && value.is_some_and(is_module_value);
    if container != Container::Module || !in_module || imports {
        return None;
    }
    let mut beside = declaration.children().take(MAX_CHILDREN);
    let alone = beside.clone().filter(|child| child.kind() == node.kind()).count();
    // Not by `child_by_field`: a `var` has no such field, and all it declares would be looked through.
    let constant = beside
        .find(|child| child.field() == Some("kind"))
        .is_some_and(|kind| kind.text() == "const");
    let (kind, opens) = match of_value {
        Some((kind, opens)) => (kind, Some(opens)),
        None if constant => (SymbolKind::Constant, None),
        None => (SymbolKind::Variable, None),
    };
    let names: Vec<Node<'t>> = match name.kind() {
        "identifier" => vec![name],
        _ => name.descendants().filter(|node| is_bound_by_pattern(*node)).collect(),
    };
    for name in names {
        let Some(mut draft) = Draft::new(kind, node, name) else { continue };
        if alone == 1 {
            draft.range = statement.node.byte_range();
            draft.head.start = statement.node.byte_range().start;
        }
        let draft = match value {
            Some(value) if opens.is_some() => draft.before(value.child_by_field("body")),
            value => draft.before_long(value),
        };
        drafts.push(statement.apply(draft, container));
    }
    opens
}

fn is_bound_by_pattern(node: Node<'_>) -> bool {
    match node.kind() {
        "shorthand_property_identifier_pattern" => true,
        "identifier" => node.parent().is_some_and(|outer| match outer.kind() {
            "pair_pattern" => node.field() == Some("value"),
            "array_pattern" | "rest_pattern" => true,
            "assignment_pattern" => node.field() == Some("left"),
            _ => false,
        }),
        _ => false,
    }
}

/// Whether a variable stands for (a part of) another module, which makes it an import.
fn is_module_value(value: Node<'_>) -> bool {
    let called = match value.kind() {
        "await_expression" => value.named_children().next(),
        "member_expression" => value.child_by_field("object"),
        _ => Some(value),
    };
    called.is_some_and(|called| {
        called.kind() == "call_expression"
            && called
                .child_by_field("function")
                .is_some_and(|function| matches!(function.text(), "require" | "import"))
    })
}

fn opened_by(kind: &str) -> Option<(SymbolKind, Container)> {
    match kind {
        "function_expression" | "generator_function" | "arrow_function" => {
            Some((SymbolKind::Function, Container::Function))
        }
        "class" => Some((SymbolKind::Class, Container::Type)),
        _ => None,
    }
}

/// What CommonJS modules and old-style classes declare: `exports.f = ..`, `C.prototype.m = function ..`.
fn assignment<'t>(node: Node<'t>, drafts: &mut Vec<Draft<'t>>) -> Option<Container> {
    let statement = node.parent().filter(|outer| outer.kind() == "expression_statement")?;
    statement.parent().filter(|outer| outer.kind() == "program")?;
    let left = node.child_by_field("left").filter(|left| left.kind() == "member_expression")?;
    let name = left.child_by_field("property")?;
    let value = node.child_by_field("right")?;
    let object = left.child_by_field("object")?.text();
    let (kind, opens) = match opened_by(value.kind()) {
        Some((_, opens)) if object.ends_with(".prototype") => (SymbolKind::Method, Some(opens)),
        Some((kind, opens)) => (kind, Some(opens)),
        None => (SymbolKind::Constant, None),
    };
    let exported = matches!(object, "exports" | "module.exports");
    // `module.exports = ..` has the property `exports`, and is no declaration of that name.
    if !exported && kind != SymbolKind::Method {
        return None;
    }
    drafts.extend(Draft::new(kind, statement, name).map(|draft| {
        let draft = match opens {
            Some(_) => draft.before(value.child_by_field("body")),
            None => draft.before_long(Some(value)),
        };
        draft.visible(Visibility::Public)
    }));
    opens
}

/// Members of classes, interfaces and object types.
fn member<'t>(
    node: Node<'t>,
    container: Container,
    drafts: &mut Vec<Draft<'t>>,
) -> Option<Container> {
    let value = node.child_by_field("value");
    let (kind, opens) = match node.kind() {
        "method_definition" | "method_signature" | "abstract_method_signature" => {
            (SymbolKind::Method, Some(Container::Function))
        }
        _ => match value.and_then(|value| opened_by(value.kind())) {
            Some((SymbolKind::Function, opens)) => (SymbolKind::Method, Some(opens)),
            _ => (SymbolKind::Field, None),
        },
    };
    let is_member = node.parent().is_some_and(|outer| match outer.kind() {
        "class_body" | "interface_body" => true,
        "object_type" => outer.parent().is_some_and(|outer| {
            matches!(outer.kind(), "type_alias_declaration" | "interface_declaration")
        }),
        _ => false,
    });
    let name = node.child_by_field("name").or_else(|| node.child_by_field("property"));
    if is_member
        && let Some(name) = name
        && let Some(mut draft) = Draft::new(kind, node, name)
    {
        draft.name = unquoted(name);
        draft.head.start = head_start(node, node);
        let draft = match (node.child_by_field("body"), value) {
            (Some(body), _) => draft.before(Some(body)),
            (None, Some(value)) if opens.is_some() => draft.before(value.child_by_field("body")),
            (None, value) => draft.before_long(value),
        };
        drafts.push(draft.visible(member_visibility(node, name, container)));
    }
    opens
}

fn member_visibility(node: Node<'_>, name: Node<'_>, container: Container) -> Option<Visibility> {
    if container == Container::Interface {
        return None;
    }
    let modifier = node.children().find(|child| child.kind() == "accessibility_modifier");
    Some(match modifier.map(Node::text) {
        Some("private") => Visibility::Private,
        Some("protected") => Visibility::Restricted,
        _ if name.kind() == "private_property_identifier" => Visibility::Private,
        _ => Visibility::Public,
    })
}

/// Applies `export { a as b }` and `export default a` to what they name.
///
/// A file that neither imports nor exports is a script or a CommonJS module: there the language does not
/// say who may use a name.
pub(super) fn mark_exports(tree: &SyntaxTree, symbols: &mut [Symbol]) {
    let mut exported: HashMap<&str, Option<&str>> = HashMap::new();
    let mut is_module = false;
    for statement in tree.root().named_children() {
        if !matches!(statement.kind(), "import_statement" | "export_statement") {
            continue;
        }
        is_module = true;
        if statement.kind() == "import_statement" || statement.child_by_field("source").is_some() {
            continue;
        }
        if let Some(value) = statement.child_by_field("value")
            && value.kind() == "identifier"
        {
            exported.entry(value.text()).or_insert(Some("default"));
        }
        let clause = statement.named_children().filter(|child| child.kind() == "export_clause");
        for specifier in clause.flat_map(Node::named_children) {
            if let Some(name) = specifier.child_by_field("name") {
                let alias = specifier.child_by_field("alias").map(Node::text);
                exported.entry(name.text()).or_insert(alias.filter(|&alias| alias != name.text()));
            }
        }
    }
    for symbol in symbols.iter_mut().filter(|symbol| symbol.parent.is_none()) {
        if let Some(alias) = exported.get(symbol.name.as_str()) {
            symbol.visibility = Some(Visibility::Public);
            symbol.export = alias.map(str::to_owned);
        } else if !is_module && symbol.visibility == Some(Visibility::Private) {
            symbol.visibility = None;
        }
    }
}
