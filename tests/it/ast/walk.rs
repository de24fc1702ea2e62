//! Places, depth, and what a tree weighs.

use phalanx::ast::{Limits, Node, NodeRecord, Point, SyntaxErrorKind, SyntaxTree};
use proptest::prelude::*;

use super::{assert_walks_agree, grammar, tree};

fn leaf(text: &str) -> SyntaxTree {
    let end = text.len() as u32;
    let root = NodeRecord { start: 0, end, descendants: 0, kind: 0, field: 0, flags: 1 };
    tree(text, &[root]).expect("a root alone")
}

#[test]
fn a_point_counts_bytes_and_line_feeds() {
    let tree = leaf("a\u{e9}b\r\n\n\u{1f980}x");
    let point = |row, column| Point { row, column };
    let places = [
        (0, point(0, 0)),
        (3, point(0, 3)),
        (4, point(0, 4)),
        (5, point(0, 5)),
        (6, point(1, 0)),
        (7, point(2, 0)),
        (11, point(2, 4)),
        (12, point(2, 5)),
    ];
    for (byte, place) in places {
        assert_eq!(tree.point_at(byte), place, "byte {byte}");
        assert_eq!(tree.byte_at(place), Some(byte), "{place:?}");
    }
    assert_eq!(tree.point_at(usize::MAX), point(2, 5), "past the end is the end");
    for nowhere in [point(0, 6), point(1, 1), point(2, 6), point(3, 0), point(u32::MAX, u32::MAX)] {
        assert_eq!(tree.byte_at(nowhere), None, "{nowhere:?}");
    }
    assert_eq!(leaf("").point_at(0), point(0, 0));
    assert_eq!(leaf("\n").point_at(1), point(1, 0));
}

proptest! {
    #[test]
    fn points_agree_with_counting(text in "[a\u{e9}\u{1f980}\r\n]{0,30}") {
        let tree = leaf(&text);
        for byte in 0..=text.len() {
            let before = &text.as_bytes()[..byte];
            let row = before.iter().filter(|&&b| b == b'\n').count();
            let column = before.iter().rev().take_while(|&&b| b != b'\n').count();
            let expected = Point { row: row as u32, column: column as u32 };
            prop_assert_eq!(tree.point_at(byte), expected);
            prop_assert_eq!(tree.byte_at(expected), Some(byte));
        }
    }
}

#[test]
fn a_tree_of_a_hundred_thousand_levels_is_walked_without_recursion() {
    const LEVELS: u32 = 100_000;
    let records: Vec<NodeRecord> = (0..LEVELS)
        .map(|level| NodeRecord {
            start: 0,
            end: 1,
            descendants: LEVELS - 1 - level,
            kind: 1,
            field: 0,
            flags: if level == LEVELS - 1 { NodeRecord::ERROR | 1 } else { 1 },
        })
        .collect();
    let limits = Limits::default().max_depth(LEVELS);
    // A stack that recursion over the levels could not live on.
    let small = std::thread::Builder::new().stack_size(256 << 10);
    let walk = move || {
        let tree = SyntaxTree::from_records(grammar(), "x".into(), records, &limits)
            .expect("just within the limit");
        assert_walks_agree(&tree);
        let deepest = tree.root().descendant_for(0..1).expect("the root spans it");
        assert_eq!(deepest.id(), LEVELS - 1);
        assert_eq!(std::iter::successors(Some(deepest), |node| node.parent()).count(), 100_000);
        assert_eq!(tree.syntax_errors().len(), 1);
        assert_eq!(tree.to_sexp().matches('(').count(), 100_000);
    };
    small.spawn(walk).expect("a thread").join().expect("the walk ends");
}

#[test]
fn the_weight_counts_nodes_lines_and_text() {
    let small = leaf("x");
    assert_eq!(leaf("xy").weight_bytes(), small.weight_bytes() + 1);
    assert_eq!(leaf("x\n").weight_bytes(), small.weight_bytes() + 1 + 4);
    let record = NodeRecord { start: 0, end: 1, descendants: 1, kind: 1, field: 0, flags: 1 };
    let two = tree("x", &[record, NodeRecord { descendants: 0, ..record }]).expect("sound");
    assert_eq!(two.weight_bytes(), small.weight_bytes() + size_of::<NodeRecord>() + 4);
}

#[test]
fn the_node_for_a_range_is_the_smallest_that_spans_it() {
    let record = |start, end, descendants| NodeRecord {
        start,
        end,
        descendants,
        kind: 1,
        field: 0,
        flags: 1,
    };
    let tree =
        tree("abcdef", &[record(1, 6, 3), record(1, 3, 1), record(2, 3, 0), record(3, 5, 0)])
            .expect("sound");
    let found = |range| tree.root().descendant_for(range).map(Node::id);
    assert_eq!(found(2..3), Some(2));
    assert_eq!(found(1..3), Some(1));
    assert_eq!(found(2..4), Some(0), "it crosses two children");
    assert_eq!(found(3..4), Some(3));
    assert_eq!(found(5..6), Some(0));
    assert_eq!(found(0..2), None, "the root starts later");
}

#[test]
fn an_error_within_an_error_is_one_and_quotes_the_start_of_its_first_line() {
    let text = format!("ok \n  {}\nmore", "\u{e9}".repeat(50));
    let end = text.len() as u32;
    let record = |start, end, descendants, flags| NodeRecord {
        start,
        end,
        descendants,
        kind: 1,
        field: 0,
        flags: flags | NodeRecord::NAMED,
    };
    let records = [
        record(0, end, 4, 0),
        record(0, 2, 0, 0),
        record(3, end, 1, NodeRecord::ERROR),
        record(6, 8, 0, NodeRecord::ERROR),
        record(end, end, 0, NodeRecord::MISSING),
    ];
    let errors = tree(&text, &records).expect("sound").syntax_errors();
    let kinds: Vec<_> = errors.iter().map(|error| &error.kind).collect();
    let excerpt = "\u{e9}".repeat(30);
    let expected = "branch".to_owned();
    assert_eq!(
        kinds,
        [&SyntaxErrorKind::Unexpected { excerpt }, &SyntaxErrorKind::Missing { expected }]
    );
    assert_eq!(errors[0].range, 3..text.len());
    assert_eq!(errors[0].point, Point { row: 0, column: 3 });
}
