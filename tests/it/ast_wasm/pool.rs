//! Many callers at once, and the end of an engine.

use std::num::NonZeroUsize;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use phalanx::ast::wasm::WasmEngine;
use phalanx::ast::{AstEngine, AstErrorKind, Language, Source};

use super::{patient, shared_engine};

fn sample(language: Language, number: usize) -> String {
    match language {
        Language::RUST => format!("fn f{number}() -> u32 {{ {number} }}\n"),
        Language::PYTHON => format!("def f{number}():\n    return {number}\n"),
        _ => format!("function f{number}() {{ return {number} }}\n"),
    }
    .repeat(1 + number % 7)
}

#[test]
fn many_threads_that_parse_at_once_each_get_their_own_tree() {
    let languages = [
        Language::RUST,
        Language::JAVASCRIPT,
        Language::TYPESCRIPT,
        Language::TSX,
        Language::PYTHON,
    ];
    let before = shared_engine().stats();
    thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for round in 0..40 {
                    let number = thread * 1_000 + round;
                    let language = languages[number % languages.len()];
                    let text = sample(language, number);
                    let tree = shared_engine()
                        .parse(&Source::new(language, &text), &patient())
                        .expect("it parses");
                    assert!(!tree.has_error());
                    assert_eq!(&**tree.source(), text);
                    assert_eq!(tree.language(), language);
                    assert_eq!(tree.root().byte_range(), 0..text.len());
                    let name = format!("f{number}");
                    let named =
                        tree.root().descendants().filter(|node| node.text() == name).count();
                    assert_eq!(named, 1 + number % 7);
                }
            });
        }
    });
    let after = shared_engine().stats();
    for (before, after) in before.languages.iter().zip(&after.languages) {
        assert!(after.parses >= before.parses + 8 * 40 / 5, "{after:?}");
        assert_eq!(after.compiles, 1, "{after:?}");
        assert!(after.parsed_bytes > 0 && after.compile_time > Duration::ZERO);
    }
}

#[test]
fn a_caller_that_finds_the_queue_full_waits_and_is_counted() {
    let engine = WasmEngine::builder()
        .workers(NonZeroUsize::MIN)
        .queue_capacity(NonZeroUsize::MIN)
        .build()
        .expect("it starts");
    let callers = 6;
    let together = Barrier::new(callers);
    thread::scope(|scope| {
        for _ in 0..callers {
            scope.spawn(|| {
                together.wait();
                // The first compiles the grammar, which leaves the others time to come.
                engine
                    .parse(&Source::new(Language::PYTHON, "x = 1"), &patient())
                    .expect("all get their turn");
            });
        }
    });
    let stats = engine.stats();
    assert_eq!(stats.language(Language::PYTHON).expect("it is there").parses, callers as u64);
    assert!(stats.queue_waits > 0, "{stats:?}");
}

#[test]
fn a_shutdown_ends_the_parses_that_run_and_wait_and_refuses_later_ones() {
    let engine = WasmEngine::builder().workers(NonZeroUsize::MIN).build().expect("it starts");
    engine.parse(&Source::new(Language::JAVASCRIPT, "1"), &patient()).expect("it works");
    let text = "f([1, {a: b}]);\n".repeat(120_000);
    let limits = patient().max_source_bytes(u32::MAX);
    let together = Barrier::new(5);
    thread::scope(|scope| {
        let callers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    together.wait();
                    // One after the other these take much longer than it takes to shut down.
                    (0..5)
                        .map(|_| engine.parse(&Source::new(Language::JAVASCRIPT, &text), &limits))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        together.wait();
        engine.shutdown();
        for caller in callers {
            let outcomes = caller.join().expect("no caller panics");
            let last = outcomes.last().expect("five").as_ref().expect_err("shut down by then");
            assert_eq!(last.kind(), AstErrorKind::EngineClosed);
            for error in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
                assert_eq!(error.kind(), AstErrorKind::EngineClosed);
            }
        }
    });
    engine.shutdown();
    let error = engine
        .parse(&Source::new(Language::JAVASCRIPT, "1"), &patient())
        .expect_err("it is shut down");
    assert_eq!(error.kind(), AstErrorKind::EngineClosed);
}

#[test]
fn clones_share_the_workers_and_the_last_one_ends_them() {
    let engine = WasmEngine::builder().workers(NonZeroUsize::MIN).build().expect("it starts");
    let clone = engine.clone();
    drop(engine);
    clone.parse(&Source::new(Language::PYTHON, "x"), &patient()).expect("it lives on");
    assert_eq!(clone.stats().language(Language::PYTHON).expect("it is there").parses, 1);
}
