//! Trees built node by node.

use phalanx::ast::{AstError, AstErrorKind, Limits, Node, NodeSpec, SyntaxTree, TreeBuilder};
use proptest::prelude::*;

use super::{Model, assert_walks_agree, grammar, models};

fn builder(text: &str, limits: &Limits) -> TreeBuilder {
    TreeBuilder::new(grammar(), text, limits).expect("the text is small")
}

fn build(model: &Model) -> SyntaxTree {
    fn add(builder: &mut TreeBuilder, model: &Model, at: usize) -> usize {
        let mut spec = NodeSpec::new(model.kind).in_field(model.field);
        if model.error {
            spec = spec.error();
        }
        builder.open(spec, at).expect("within limits");
        let mut end = at + model.text[0].len();
        for (child, text) in model.children.iter().zip(&model.text[1..]) {
            end = add(builder, child, end) + text.len();
        }
        builder.close(end).expect("it is open");
        end
    }
    let text = model.to_text();
    let mut builder = builder(&text, &Limits::default());
    assert_eq!(add(&mut builder, model, 0), text.len());
    builder.finish().expect("the model is sound")
}

fn assert_equal(node: Node<'_>, model: &Model) {
    let grammar = node.tree().grammar();
    assert_eq!(node.kind(), grammar.kinds()[usize::from(model.kind)].name);
    assert_eq!(node.is_named(), model.kind != 3);
    assert_eq!(node.field(), [None, Some("left"), Some("right")][usize::from(model.field)]);
    assert_eq!(node.is_error(), model.error);
    assert_eq!(node.text(), model.to_text());
    let children: Vec<Node<'_>> = node.children().collect();
    assert_eq!(children.len(), model.children.len());
    for (child, model) in children.into_iter().zip(&model.children) {
        assert_equal(child, model);
    }
}

proptest! {
    #[test]
    fn what_was_built_is_what_is_walked(model in models()) {
        let tree = build(&model);
        assert_equal(tree.root(), &model);
        assert_walks_agree(&tree);
    }

    #[test]
    fn a_builder_and_records_make_the_same_tree(model in models()) {
        let built = build(&model);
        let made = super::tree(&model.to_text(), &model.to_records()).expect("sound");
        prop_assert_eq!(built.to_sexp(), made.to_sexp());
        prop_assert_eq!(built.weight_bytes(), made.weight_bytes());
        prop_assert_eq!(built.syntax_errors(), made.syntax_errors());
    }
}

#[test]
fn calls_that_make_no_tree_are_refused() {
    let limits = Limits::default();
    let invalid = |result: Result<(), AstError>| {
        assert_eq!(result.expect_err("no tree").kind(), AstErrorKind::InvalidTree);
    };
    invalid(builder("ab", &limits).open(4, 0));
    invalid(builder("ab", &limits).open(0, 3));
    invalid(builder("ab", &limits).close(0));
    invalid(builder("ab", &limits).finish().map(drop));

    let mut unclosed = builder("ab", &limits);
    unclosed.open(0, 0).expect("a root");
    invalid(unclosed.finish().map(drop));

    let mut two_roots = builder("ab", &limits);
    two_roots.leaf(0, 0..1).expect("a root");
    two_roots.leaf(0, 1..2).expect("known only at the end");
    invalid(two_roots.finish().map(drop));

    let mut backwards = builder("ab", &limits);
    backwards.leaf(0, 2..2).expect("a root");
    assert!(backwards.finish().is_ok());
    let mut backwards = builder("ab", &limits);
    backwards.open(0, 2).expect("a root");
    backwards.close(1).expect("known only at the end");
    invalid(backwards.finish().map(drop));
}

#[test]
fn a_call_that_failed_changes_nothing() {
    let mut builder = builder("ab", &Limits::default().max_depth(2).max_nodes(3));
    builder.open(0, 0).expect("a root");
    builder.leaf(1, 0..9).expect_err("outside the text");
    builder.close(3).expect_err("outside the text");
    builder.open(1, 0).expect("the second level");
    let error = builder.open(1, 0).expect_err("the third level");
    assert_eq!((error.kind(), error.found()), (AstErrorKind::TooDeep, Some(3)));
    builder.close(1).expect("the second level");
    builder.leaf(2, 1..2).expect("the third node");
    let error = builder.leaf(2, 2..2).expect_err("the fourth node");
    assert_eq!((error.kind(), error.found()), (AstErrorKind::OutputTooLarge, Some(4)));
    assert_eq!(builder.depth(), 1);
    builder.close(2).expect("the root");
    let tree = builder.finish().expect("sound");
    assert_eq!(tree.to_sexp(), "(root (branch) (leaf))");
}

#[test]
fn a_text_past_its_limit_is_refused_before_anything_is_built() {
    let error = TreeBuilder::new(grammar(), "abc", &Limits::default().max_source_bytes(2))
        .expect_err("three bytes");
    assert_eq!(error.kind(), AstErrorKind::SourceTooLarge);
    assert_eq!((error.limit(), error.found()), (Some(2), Some(3)));
}

#[test]
fn marks_are_kept_and_a_missing_node_has_to_be_empty() {
    let mut marked = builder("ab", &Limits::default());
    marked.open(0, 0).expect("a root");
    marked.leaf(NodeSpec::new(2).extra(), 0..1).expect("a comment");
    marked.leaf(NodeSpec::new(3).missing(), 1..1).expect("a missing token");
    marked.leaf(NodeSpec::new(2).missing(), 1..1).expect("a missing leaf");
    marked.close(2).expect("the root");
    let tree = marked.finish().expect("sound");
    assert_eq!(tree.to_sexp(), "(root (leaf) (MISSING \"+\") (MISSING leaf))");
    let marks: Vec<_> =
        tree.root().children().map(|node| (node.is_extra(), node.is_missing())).collect();
    assert_eq!(marks, [(true, false), (false, true), (false, true)]);
    assert!(tree.has_error());

    let mut full = builder("ab", &Limits::default());
    full.leaf(NodeSpec::new(0).missing(), 0..1).expect("known only at the end");
    assert_eq!(full.finish().expect_err("not empty").kind(), AstErrorKind::InvalidTree);
}
