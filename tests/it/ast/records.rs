//! Records from an engine that cannot be trusted.

use std::sync::Arc;

use phalanx::ast::{
    AstErrorKind, Grammar, KindInfo, Language, Limits, Node, NodeRecord, SyntaxTree,
};
use proptest::prelude::*;

use super::{assert_walks_agree, grammar, models, tree};

/// `root(branch(leaf, +), leaf)` over "h\u{e9}llo world".
fn valid() -> (&'static str, Vec<NodeRecord>) {
    let record = |start, end, descendants, kind, field| NodeRecord {
        start,
        end,
        descendants,
        kind,
        field,
        flags: if kind == 3 { 0 } else { NodeRecord::NAMED },
    };
    let records = vec![
        record(0, 12, 4, 0, 0),
        record(0, 6, 2, 1, 1),
        record(0, 3, 0, 2, 0),
        record(3, 6, 0, 3, 2),
        record(7, 12, 0, 2, 0),
    ];
    ("h\u{e9}llo world", records)
}

fn refused(text: &str, records: &[NodeRecord]) -> String {
    let error = tree(text, records).expect_err("the records are broken");
    assert_eq!(error.kind(), AstErrorKind::InvalidTree, "{error}");
    error.message().to_owned()
}

#[test]
fn a_sound_list_of_records_is_a_tree() {
    let (text, records) = valid();
    let tree = tree(text, &records).expect("the records are sound");
    assert_eq!(tree.to_sexp(), "(root left: (branch (leaf)) (leaf))");
    assert_walks_agree(&tree);
}

#[test]
fn every_rule_refuses_the_records_that_break_it() {
    type Break = fn(&mut Vec<NodeRecord>);
    let cases: &[(&str, Break)] = &[
        ("no record at all", |r| r.clear()),
        ("record 0 fills a field", |r| r[0].field = 1),
        ("record 0 is the root but", |r| r[0].descendants = 3),
        ("record 0 is the root but", |r| r[0].descendants = u32::MAX),
        ("record 4 ends before it starts", |r| r[4].end = 6),
        ("record 1 ends before it starts", |r| (r[1].start, r[1].end) = (u32::MAX, 6)),
        ("record 3 starts before its parent", |r| r[3].start = 1),
        ("record 2 starts before its parent", |r| {
            (r[1].start, r[2].start) = (1, 0);
        }),
        ("record 4 ends after its parent or the text", |r| r[4].end = 13),
        ("record 0 ends after its parent or the text", |r| r[0].end = u32::MAX),
        ("record 3 ends after its parent", |r| r[3].end = 7),
        ("record 2 cuts a character", |r| r[2].end = 2),
        ("record 3 cuts a character", |r| {
            r[2].end = 1;
            r[3].start = 2;
        }),
        ("record 2 has a kind", |r| r[2].kind = 4),
        ("record 2 has a kind", |r| r[2].kind = u16::MAX),
        ("record 2 has a field", |r| r[2].field = 3),
        ("record 4 has an unknown flag", |r| r[4].flags |= 1 << 5),
        ("record 4 is missing but not empty", |r| r[4].flags |= NodeRecord::MISSING),
        ("record 1 is missing but not empty", |r| {
            r[1].flags |= NodeRecord::MISSING;
            (r[1].end, r[2].end, r[3].start, r[3].end) = (0, 0, 0, 0);
        }),
        ("record 2 claims more descendants", |r| r[2].descendants = 2),
        ("record 4 claims more descendants", |r| r[4].descendants = 1),
        ("record 1 claims more descendants", |r| r[1].descendants = u32::MAX),
    ];
    for (at, (expected, break_it)) in cases.iter().enumerate() {
        let (text, mut records) = valid();
        break_it(&mut records);
        let message = refused(text, &records);
        assert!(message.contains(expected), "case {at}: expected {expected:?}, found {message:?}");
    }
}

#[test]
fn a_wrong_count_moves_nodes_but_never_past_their_parents() {
    // One descendant fewer: what was a child of record 1 becomes one of the root, in range and in order.
    let (text, mut records) = valid();
    records[1].descendants = 1;
    records[3].start = 6;
    let tree = tree(text, &records).expect("another tree, but a sound one");
    assert_eq!(tree.root().children().count(), 3);
    assert_walks_agree(&tree);
}

#[test]
fn limits_are_checked_on_records_with_the_numbers_told() {
    let (text, records) = valid();
    let cases = [
        (Limits::default().max_source_bytes(11), AstErrorKind::SourceTooLarge, 11, 12),
        (Limits::default().max_nodes(4), AstErrorKind::OutputTooLarge, 4, 5),
        (Limits::default().max_depth(2), AstErrorKind::TooDeep, 2, 3),
    ];
    for (limits, kind, limit, found) in cases {
        let error = SyntaxTree::from_records(grammar(), text.into(), records.clone(), &limits)
            .expect_err("past a limit");
        assert_eq!(error.kind(), kind);
        assert_eq!((error.limit(), error.found()), (Some(limit), Some(found)));
        assert!(!error.is_retryable());
    }
    let limits = Limits::default().max_source_bytes(12).max_nodes(5).max_depth(3);
    SyntaxTree::from_records(grammar(), text.into(), records, &limits).expect("just within them");
}

#[test]
fn where_errors_are_is_worked_out_and_not_believed() {
    let (text, mut records) = valid();
    records[4].flags |= NodeRecord::HAS_ERROR;
    records[2].flags |= NodeRecord::ERROR;
    let tree = tree(text, &records).expect("sound");
    let marked: Vec<u32> = std::iter::once(tree.root())
        .chain(tree.root().descendants())
        .filter(|node| node.has_error())
        .map(Node::id)
        .collect();
    assert_eq!(marked, [0, 1, 2]);
}

#[test]
fn tables_of_a_grammar_have_to_fit_its_numbers() {
    let language = Language::new("test").expect("a valid id");
    let kinds = |count| vec![KindInfo::named("k"); count];
    let fields = |count| (0..count).map(|field| format!("f{field}")).collect::<Vec<_>>();
    for (kinds, fields) in [
        (kinds(0), fields(0)),
        (kinds(65_536), fields(0)),
        (kinds(1), fields(65_536)),
        (kinds(1), vec!["twice".to_owned(), "twice".to_owned()]),
    ] {
        let error = Grammar::new(language, kinds, fields).expect_err("no tables");
        assert_eq!(error.kind(), AstErrorKind::InvalidTree);
    }
    // The largest tables work up to their last number.
    let grammar = Grammar::new(language, kinds(65_535), fields(65_535)).expect("they fit");
    let root = NodeRecord { start: 0, end: 0, descendants: 1, kind: 65_534, field: 0, flags: 1 };
    let records = vec![root, NodeRecord { descendants: 0, field: 65_535, ..root }];
    let tree = SyntaxTree::from_records(Arc::new(grammar), "".into(), records, &Limits::default())
        .expect("sound");
    let child = tree.root().children().next().expect("a child");
    assert_eq!((child.kind(), child.field()), ("k", Some("f65534")));
    assert_eq!(tree.root().child_by_field("f65534"), Some(child));
}

fn any_record() -> impl Strategy<Value = NodeRecord> {
    let place = || prop_oneof![4 => 0..20u32, 1 => any::<u32>()];
    let count = prop_oneof![4 => 0..6u32, 1 => any::<u32>()];
    let flags = prop_oneof![4 => 0..32u8, 1 => any::<u8>()];
    (place(), place(), count, 0..5u16, 0..4u16, flags).prop_map(
        |(start, end, descendants, kind, field, flags)| NodeRecord {
            start,
            end,
            descendants,
            kind,
            field,
            flags,
        },
    )
}

proptest! {
    #[test]
    fn random_records_are_refused_or_can_be_walked(
        text in "[a\u{e9}\u{1f980}\n]{0,8}",
        records in prop::collection::vec(any_record(), 0..8),
    ) {
        if let Ok(tree) = tree(&text, &records) {
            assert_walks_agree(&tree);
        }
    }

    #[test]
    fn sound_records_with_one_of_them_broken_are_refused_or_can_be_walked(
        model in models(),
        at in any::<prop::sample::Index>(),
        broken in any_record(),
        what in 0..7u8,
    ) {
        let mut records = model.to_records();
        let record = at.get_mut(&mut records[..]);
        match what {
            0 => record.start = broken.start,
            1 => record.end = broken.end,
            2 => record.descendants = broken.descendants,
            3 => record.kind = broken.kind,
            4 => record.field = broken.field,
            5 => record.flags = broken.flags,
            _ => *record = broken,
        }
        if let Ok(tree) = tree(&model.to_text(), &records) {
            assert_walks_agree(&tree);
        }
    }
}
