//! The trees of a small corpus, held to digests that are committed beside it.
//!
//! `guests/build.sh --check` runs this over modules that another compiler built: they have to give the same
//! trees. The corpus has broken code in each language, for that is where parsers differ first.

use crate::ast::engine::AstEngine;
use crate::ast::language::Language;
use crate::ast::limits::Limits;
use crate::ast::source::Source;
use crate::ast::tree::SyntaxTree;

use super::WasmEngine;

const CORPUS: [(Language, &str); 5] = [
    (Language::JAVASCRIPT, include_str!("guests/corpus/javascript.txt")),
    (Language::PYTHON, include_str!("guests/corpus/python.txt")),
    (Language::RUST, include_str!("guests/corpus/rust.txt")),
    (Language::TSX, include_str!("guests/corpus/tsx.txt")),
    (Language::TYPESCRIPT, include_str!("guests/corpus/typescript.txt")),
];

/// Limits without a deadline: what comes out must not depend on how busy the machine is.
fn patient() -> Limits {
    Limits::default().deadline(std::time::Duration::MAX)
}

/// The hash of everything that a tree says.
fn digest(tree: &SyntaxTree) -> String {
    let mut hasher = blake3::Hasher::new();
    for node in tree.root().descendants() {
        let flags = [node.is_named(), node.is_error(), node.is_missing(), node.is_extra()];
        let range = node.byte_range();
        let facts = (node.kind(), node.field(), flags, range, node.descendant_count());
        hasher.update(format!("{facts:?}\n").as_bytes());
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

#[test]
fn the_trees_of_the_corpus_are_those_that_are_committed() {
    let engine = WasmEngine::builder().build().expect("the engine starts");
    let digests: String = CORPUS
        .iter()
        .map(|(language, text)| {
            let tree = engine
                .parse(&Source::new(*language, text), &patient())
                .unwrap_or_else(|error| panic!("{language}: {error}"));
            assert!(tree.has_error(), "the corpus of {language} has broken code in it");
            assert!(tree.node_count() > 300, "{language}: {}", tree.node_count());
            format!("{language} {} {}\n", tree.node_count(), digest(&tree))
        })
        .collect();
    assert_eq!(digests, include_str!("guests/corpus/digests.txt"), "found:\n{digests}");
}

#[test]
fn every_source_outside_the_corpus_has_a_tree_too_however_it_is_cut() {
    let engine = WasmEngine::builder().build().expect("the engine starts");
    for (language, text) in CORPUS {
        for cut in (0..text.len()).step_by(97) {
            let cut = text.floor_char_boundary(cut);
            for part in [&text[..cut], &text[cut..]] {
                let tree = engine.parse(&Source::new(language, part), &patient());
                tree.unwrap_or_else(|error| panic!("{language} cut at {cut}: {error}"));
            }
        }
    }
}
