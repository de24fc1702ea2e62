//! The analyses over trees of an engine of the host's own, which need not look like those of the grammars.

use std::sync::Arc;

use phalanx::ast::{Grammar, KindInfo, Language, Limits, NodeRecord, SyntaxTree};
use proptest::prelude::*;

/// Kinds that the analyses of some language look at; the first one is for the root.
const KINDS: &[(Language, &[&str])] = &[
    (
        Language::TYPESCRIPT,
        &[
            "program",
            "export_statement",
            "class_declaration",
            "method_definition",
            "function_declaration",
            "arrow_function",
            "lexical_declaration",
            "variable_declarator",
            "call_expression",
            "import_statement",
            "import_clause",
            "decorator",
            "identifier",
            "string",
            "comment",
            "class_body",
            "object_pattern",
            "shorthand_property_identifier_pattern",
            "assignment_expression",
            "member_expression",
            "expression_statement",
            "enum_body",
        ],
    ),
    (
        Language::RUST,
        &[
            "source_file",
            "function_item",
            "impl_item",
            "macro_definition",
            "const_item",
            "struct_item",
            "use_declaration",
            "scoped_use_list",
            "use_list",
            "use_as_clause",
            "scoped_identifier",
            "use_wildcard",
            "mod_item",
            "identifier",
            "line_comment",
            "visibility_modifier",
        ],
    ),
    (
        Language::PYTHON,
        &[
            "module",
            "class_definition",
            "function_definition",
            "decorated_definition",
            "assignment",
            "expression_statement",
            "pattern_list",
            "type_alias_statement",
            "import_from_statement",
            "import_statement",
            "aliased_import",
            "dotted_name",
            "identifier",
            "comment",
        ],
    ),
];

const FIELDS: &[&str] = &[
    "name",
    "body",
    "value",
    "source",
    "left",
    "right",
    "object",
    "property",
    "function",
    "arguments",
    "path",
    "list",
    "alias",
    "argument",
    "kind",
    "type",
    "module_name",
];

fn grammar(of: usize) -> Arc<Grammar> {
    let (language, kinds) = KINDS[of];
    let kinds = kinds.iter().map(|kind| KindInfo::named(*kind)).collect();
    let fields = FIELDS.iter().map(|field| (*field).to_owned()).collect();
    Arc::new(Grammar::new(language, kinds, fields).expect("small tables"))
}

fn assert_analyses_come_back(tree: &SyntaxTree) {
    let outline = tree.outline().expect("the root's kind is known");
    for (at, symbol) in outline.iter().enumerate() {
        assert!(symbol.parent.is_none_or(|parent| parent < at), "{symbol:?}");
        assert!(tree.source().get(symbol.range.clone()).is_some(), "{symbol:?}");
        assert!(tree.source().get(symbol.name_range.clone()).is_some(), "{symbol:?}");
    }
    tree.imports().expect("the root's kind is known");
    tree.references().expect("the root's kind is known").count();
}

#[test]
fn a_body_that_stands_before_the_decorators_ends_a_signature_before_it_starts() {
    let node = |start, end, descendants, kind: &str, field: &str| NodeRecord {
        start,
        end,
        descendants,
        kind: grammar(0).kind_id(kind, true).expect("it is in the table"),
        field: grammar(0).field_id(field).unwrap_or(0),
        flags: NodeRecord::NAMED,
    };
    let records = vec![
        node(0, 10, 4, "program", ""),
        node(0, 10, 3, "class_declaration", ""),
        node(0, 2, 0, "class_body", "body"),
        node(3, 6, 0, "decorator", ""),
        node(7, 8, 0, "identifier", "name"),
    ];
    let tree =
        SyntaxTree::from_records(grammar(0), "{} @ab A; ".into(), records, &Limits::default())
            .expect("sound, though no parser of the language would give it");
    let outline = tree.outline().expect("the language has an outline");
    assert_eq!((outline[0].name.as_str(), outline[0].signature.as_str()), ("A", ""));
}

/// A tree as two choices a node, kind and field, and a shape.
#[derive(Clone, Debug)]
struct Shape {
    kind: prop::sample::Index,
    field: usize,
    extra: bool,
    text: String,
    children: Vec<Self>,
}

impl Shape {
    fn write(&self, of: usize, text: &mut String, records: &mut Vec<NodeRecord>) {
        let index = records.len();
        let root = index == 0;
        records.push(NodeRecord {
            start: text.len() as u32,
            end: 0,
            descendants: 0,
            kind: if root { 0 } else { self.kind.index(KINDS[of].1.len()) as u16 },
            // The first few fields decide most.
            field: if root { 0 } else { self.field as u16 },
            flags: NodeRecord::NAMED | if self.extra { NodeRecord::EXTRA } else { 0 },
        });
        text.push_str(&self.text);
        for child in &self.children {
            child.write(of, text, records);
            text.push_str(&self.text);
        }
        records[index].end = text.len() as u32;
        records[index].descendants = (records.len() - index - 1) as u32;
    }
}

fn shapes() -> impl Strategy<Value = Shape> {
    let node = |children: Vec<Shape>| {
        let kind = any::<prop::sample::Index>();
        let field = prop_oneof![3 => 0..3_usize, 1 => 0..=FIELDS.len()];
        let text = "[a{=>;\u{e9}\n \"]{0,2}|require|const|default";
        (kind, field, prop::bool::weighted(0.2), text, Just(children)).prop_map(
            |(kind, field, extra, text, children)| Shape { kind, field, extra, text, children },
        )
    };
    node(Vec::new()).prop_recursive(6, 60, 6, move |inner| {
        prop::collection::vec(inner, 0..6).prop_flat_map(node)
    })
}

proptest! {
    #[test]
    fn the_analyses_of_any_sound_tree_come_back(shape in shapes(), of in 0..KINDS.len()) {
        let (mut text, mut records) = (String::new(), Vec::new());
        shape.write(of, &mut text, &mut records);
        let tree = SyntaxTree::from_records(
            grammar(of), text.into(), records, &Limits::default(),
        ).expect("sound");
        assert_analyses_come_back(&tree);
    }
}
