//! Every limit ends a parse with an error that names it, and the engine goes on.

use std::num::NonZeroUsize;
use std::time::Duration;

use phalanx::ast::wasm::{LanguageStats, WasmEngine};
use phalanx::ast::{AstEngine, AstError, AstErrorKind, Language, Limits, Source};

use super::{patient, shared_engine};

const MIB: u64 = 1 << 20;

fn failure(engine: &WasmEngine, language: Language, text: &str, limits: &Limits) -> AstError {
    engine.parse(&Source::new(language, text), limits).expect_err("a limit is hit")
}

fn small_engine() -> WasmEngine {
    WasmEngine::builder()
        .workers(NonZeroUsize::MIN)
        .memory_limit_bytes(8 * MIB)
        .build()
        .expect("it starts")
}

fn javascript(engine: &WasmEngine) -> LanguageStats {
    engine.stats().language(Language::JAVASCRIPT).expect("it has the language").clone()
}

fn assert_works(engine: &WasmEngine) {
    let source = Source::new(Language::JAVASCRIPT, "f(1)");
    let tree = engine.parse(&source, &patient()).expect("it works again");
    assert!(!tree.has_error());
}

#[test]
fn a_source_over_the_limit_is_refused_before_it_reaches_a_guest() {
    let limits = patient().max_source_bytes(10);
    let error = failure(shared_engine(), Language::PYTHON, "abcdefghijk", &limits);
    assert_eq!(error.kind(), AstErrorKind::SourceTooLarge);
    assert_eq!((error.limit(), error.found()), (Some(10), Some(11)));
}

#[test]
fn a_deadline_ends_a_parse_that_runs_and_its_instance_lives_on() {
    let engine = WasmEngine::builder().workers(NonZeroUsize::MIN).build().expect("it starts");
    assert_works(&engine);
    // The parse of this takes far longer than the deadline on any machine.
    let text = "f([1, {a: b}]);\n".repeat(60_000);
    let limits = patient().deadline(Duration::from_millis(1));
    let error = failure(&engine, Language::JAVASCRIPT, &text, &limits);
    assert_eq!(error.kind(), AstErrorKind::DeadlineExceeded);
    assert_eq!(error.limit(), Some(1));
    assert!(error.is_retryable());
    assert_works(&engine);
    let stats = javascript(&engine);
    assert_eq!((stats.deadline_hits, stats.instances_discarded), (1, 0));
}

#[test]
fn a_deadline_of_zero_has_always_passed() {
    let limits = patient().deadline(Duration::ZERO);
    let error = failure(shared_engine(), Language::JAVASCRIPT, "1", &limits);
    assert_eq!(error.kind(), AstErrorKind::DeadlineExceeded);
}

#[test]
fn a_parse_that_needs_more_memory_than_allowed_ends_and_its_instance_is_replaced() {
    let engine = small_engine();
    assert_works(&engine);
    let text = "f([1, {a: b}]);\n".repeat(60_000);
    let error = failure(&engine, Language::JAVASCRIPT, &text, &patient());
    assert_eq!(error.kind(), AstErrorKind::MemoryExceeded, "{error}");
    assert_eq!(error.limit(), Some(8 * MIB));
    assert!(error.found() > error.limit(), "{error}");
    assert_works(&engine);
    let stats = javascript(&engine);
    assert_eq!((stats.memory_hits, stats.instances_discarded), (1, 1));
}

#[test]
fn a_hundred_thousand_brackets_are_too_deep_or_a_tree_but_never_a_crash() {
    for language in [Language::RUST, Language::JAVASCRIPT, Language::TYPESCRIPT, Language::PYTHON] {
        for (open, close) in [("(", ")"), ("[", "]"), ("{", "}")] {
            let nested = open.repeat(100_000) + &close.repeat(100_000);
            for text in [nested.as_str(), &nested[..100_000]] {
                let limits = patient();
                match shared_engine().parse(&Source::new(language, text), &limits) {
                    Ok(tree) => assert!(tree.node_count() > 1),
                    Err(error) => assert!(
                        matches!(
                            error.kind(),
                            AstErrorKind::TooDeep | AstErrorKind::MemoryExceeded
                        ),
                        "{language} {open}: {error}"
                    ),
                }
            }
        }
    }
}

#[test]
fn a_deep_tree_is_given_out_where_the_limit_allows_it() {
    let text = "[".repeat(100_000) + &"]".repeat(100_000);
    let limits = patient().max_depth(1_000_000);
    let tree = shared_engine()
        .parse(&Source::new(Language::JAVASCRIPT, &text), &limits)
        .expect("a deep tree is a tree");
    assert!(tree.node_count() > 300_000);
    assert!(!tree.has_error());
}

#[test]
fn a_tree_deeper_than_allowed_is_an_error_and_its_instance_lives_on() {
    let engine = WasmEngine::builder().workers(NonZeroUsize::MIN).build().expect("it starts");
    let limits = patient().max_depth(10);
    let error = failure(&engine, Language::JAVASCRIPT, "[[[[[[[[[[]]]]]]]]]]", &limits);
    assert_eq!((error.kind(), error.limit()), (AstErrorKind::TooDeep, Some(10)));
    assert_works(&engine);
    let stats = javascript(&engine);
    assert_eq!((stats.other_limit_hits, stats.instances_discarded), (1, 0));
}

#[test]
fn the_depth_limit_allows_exactly_that_many_levels() {
    // program, expression_statement, array, `[`
    for (depth, fits) in [(3, false), (4, true)] {
        let limits = patient().max_depth(depth);
        let source = Source::new(Language::JAVASCRIPT, "[]");
        assert_eq!(shared_engine().parse(&source, &limits).is_ok(), fits, "{depth}");
    }
}

#[test]
fn the_node_limit_allows_exactly_that_many_nodes() {
    let source = Source::new(Language::JAVASCRIPT, "f(1); g(2)");
    let tree = shared_engine().parse(&source, &patient()).expect("it parses");
    let nodes = u32::try_from(tree.node_count()).expect("a few");
    shared_engine().parse(&source, &patient().max_nodes(nodes)).expect("they fit");
    let limits = patient().max_nodes(nodes - 1);
    let error = failure(shared_engine(), Language::JAVASCRIPT, "f(1); g(2)", &limits);
    assert_eq!(error.kind(), AstErrorKind::OutputTooLarge);
    assert_eq!(error.limit(), Some(u64::from(nodes - 1)));
}

#[test]
fn an_instance_whose_memory_grew_past_the_watermark_is_recycled() {
    let engine = WasmEngine::builder()
        .workers(NonZeroUsize::MIN)
        .recycle_above_bytes(16 * MIB)
        .build()
        .expect("it starts");
    assert_works(&engine);
    assert_eq!(javascript(&engine).instances_recycled, 0);
    let text = "f([1, {a: b}]);\n".repeat(20_000);
    engine
        .parse(&Source::new(Language::JAVASCRIPT, &text), &patient())
        .expect("a large source parses");
    assert_works(&engine);
    assert_eq!(javascript(&engine).instances_recycled, 1);
}

#[test]
fn an_instance_uses_its_memory_again_from_parse_to_parse() {
    let engine = WasmEngine::builder()
        .workers(NonZeroUsize::MIN)
        .recycle_above_bytes(8 * MIB)
        .build()
        .expect("it starts");
    // Each parse needs some hundred KiB; kept, they would pass the watermark many times over.
    let text = "f([1, {a: b}]);\n".repeat(200);
    for _ in 0..200 {
        let source = Source::new(Language::JAVASCRIPT, &text);
        engine.parse(&source, &patient()).expect("it parses");
    }
    assert_eq!(javascript(&engine).instances_recycled, 0);
}

#[test]
fn settings_outside_their_range_are_refused() {
    let many = NonZeroUsize::new(1_025).expect("not zero");
    for builder in [
        WasmEngine::builder().workers(many),
        WasmEngine::builder().memory_limit_bytes(4 * MIB - 1),
        WasmEngine::builder().memory_limit_bytes(1024 * MIB + 1),
    ] {
        let error = builder.build().expect_err("out of range");
        assert_eq!(error.kind(), phalanx::ErrorKind::InvalidArgument);
    }
}
