//! Behaviour of `ast`.

mod analyses;
mod builder;
mod host_engine;
mod records;
mod walk;

#[cfg(feature = "wasm")]
mod imports;
#[cfg(feature = "wasm")]
mod outline;
#[cfg(feature = "wasm")]
mod references;

use std::sync::Arc;

use phalanx::ast::{AstError, Grammar, KindInfo, Language, Limits, Node, NodeRecord, SyntaxTree};
use proptest::prelude::*;

/// Parses in the sandbox, which all tests of this file share; however slow the machine is.
#[cfg(feature = "wasm")]
fn parse(language: Language, text: &str) -> Arc<SyntaxTree> {
    use phalanx::ast::{AstEngine, Source, wasm::WasmEngine};
    use std::sync::OnceLock;
    use std::time::Duration;

    static ENGINE: OnceLock<WasmEngine> = OnceLock::new();
    let engine = ENGINE.get_or_init(|| WasmEngine::builder().build().expect("the defaults build"));
    let limits = Limits::default().deadline(Duration::MAX);
    engine.parse(&Source::new(language, text), &limits).expect("any text is parsed")
}

/// A grammar with more than one of everything: kinds 0 to 2 are named, 3 is a token; fields 1 and 2.
fn grammar() -> Arc<Grammar> {
    let language = Language::new("test").expect("a valid id");
    let kinds = vec![
        KindInfo::named("root"),
        KindInfo::named("branch"),
        KindInfo::named("leaf"),
        KindInfo::anonymous("+"),
    ];
    let fields = vec!["left".to_owned(), "right".to_owned()];
    Arc::new(Grammar::new(language, kinds, fields).expect("small tables"))
}

fn tree(text: &str, records: &[NodeRecord]) -> Result<SyntaxTree, AstError> {
    SyntaxTree::from_records(grammar(), text.into(), records.to_vec(), &Limits::default())
}

/// A tree as tests make one up: what a [`SyntaxTree`] is compared with.
#[derive(Clone, Debug)]
struct Model {
    kind: u16,
    field: u16,
    error: bool,
    /// Text before its first child, and after each child.
    text: Vec<String>,
    children: Vec<Self>,
}

impl Model {
    fn write_text(&self, out: &mut String) {
        out.push_str(&self.text[0]);
        for (child, text) in self.children.iter().zip(&self.text[1..]) {
            child.write_text(out);
            out.push_str(text);
        }
    }

    fn to_text(&self) -> String {
        let mut text = String::new();
        self.write_text(&mut text);
        text
    }

    fn write_records(&self, at: u32, out: &mut Vec<NodeRecord>) {
        let index = out.len();
        let named = if self.kind == 3 { 0 } else { NodeRecord::NAMED };
        let error = if self.error { NodeRecord::ERROR } else { 0 };
        out.push(NodeRecord {
            start: at,
            end: at,
            descendants: 0,
            kind: self.kind,
            field: self.field,
            flags: named | error,
        });
        let mut end = at + self.text[0].len() as u32;
        for (child, text) in self.children.iter().zip(&self.text[1..]) {
            child.write_records(end, out);
            end += child.to_text().len() as u32 + text.len() as u32;
        }
        out[index].end = end;
        out[index].descendants = (out.len() - index - 1) as u32;
    }

    fn to_records(&self) -> Vec<NodeRecord> {
        let mut records = Vec::new();
        self.write_records(0, &mut records);
        records
    }
}

/// Small trees over texts with characters of one to four bytes and line ends of both kinds.
fn models() -> impl Strategy<Value = Model> {
    let piece = || "[a\u{e9}\u{4e16}\u{1f980}\r\n ]{0,3}";
    let node = move |children: Vec<Model>| {
        let texts = prop::collection::vec(piece(), children.len() + 1);
        (0..4u16, 0..3u16, prop::bool::weighted(0.1), texts, Just(children)).prop_map(
            |(kind, field, error, text, children)| Model { kind, field, error, text, children },
        )
    };
    let leaf = node(Vec::new());
    leaf.prop_recursive(6, 40, 5, move |inner| {
        prop::collection::vec(inner, 0..5).prop_flat_map(node)
    })
    .prop_map(|root| Model { field: 0, ..root })
}

/// Walks a tree in every way there is and checks that the ways agree.
fn assert_walks_agree(tree: &SyntaxTree) {
    let text = tree.source();
    let mut count = 0;
    let mut stack = vec![tree.root()];
    let mut pre_order = Vec::new();
    while let Some(node) = stack.pop() {
        count += 1;
        pre_order.push(node);
        let range = node.byte_range();
        assert_eq!(node.text(), &text[range.clone()]);
        assert_eq!(tree.byte_at(node.start_point()), Some(range.start));
        assert_eq!(tree.byte_at(node.end_point()), Some(range.end));
        let children: Vec<Node<'_>> = node.children().collect();
        let below: usize = children.iter().map(|child| child.descendant_count() + 1).sum();
        assert_eq!(below, node.descendant_count());
        let mut floor = range.start;
        let mut previous: Option<Node<'_>> = None;
        for &child in &children {
            assert_eq!(child.parent(), Some(node));
            assert_eq!(child.prev_sibling(), previous);
            assert!(previous.is_none_or(|previous| previous.next_sibling() == Some(child)));
            assert!(floor <= child.byte_range().start && child.byte_range().end <= range.end);
            floor = child.byte_range().end;
            previous = Some(child);
        }
        assert!(previous.is_none_or(|last| last.next_sibling().is_none()));
        let marked = node.is_error() || node.is_missing();
        assert_eq!(node.has_error(), marked || children.iter().any(|child| child.has_error()));
        for field in tree.grammar().fields() {
            let first = children.iter().find(|child| child.field() == Some(field)).copied();
            assert_eq!(node.child_by_field(field), first);
            assert_eq!(node.children_by_field(field).next(), first);
        }
        let named = children.iter().filter(|child| child.is_named()).count();
        assert_eq!(node.named_children().count(), named);
        stack.extend(children.into_iter().rev());
    }
    assert_eq!(count, tree.node_count());
    let descendants: Vec<Node<'_>> = tree.root().descendants().collect();
    assert_eq!(&pre_order[1..], &descendants[..]);
    for node in pre_order {
        assert_eq!(tree.node(node.id()), Some(node));
    }
    assert_eq!(tree.node(count as u32), None);
    // These have no oracle here; they have to come back.
    let _ = (tree.to_sexp(), tree.syntax_errors(), tree.weight_bytes(), format!("{tree:?}"));
}
