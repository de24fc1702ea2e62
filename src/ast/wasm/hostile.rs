//! Guests that lie, crash and loop, written by hand: the host answers each with an error and goes on.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::guests::Guest;
use super::{LanguageStats, WasmEngine, WasmEngineBuilder};
use crate::ast::engine::AstEngine;
use crate::ast::error::{AstError, AstErrorKind};
use crate::ast::language::{Language, LanguageInfo};
use crate::ast::limits::Limits;
use crate::ast::source::Source;

const HOSTILE: Language = Language::new("hostile").expect("a valid id");
const HONEST: Language = Language::new("honest").expect("a valid id");
/// The memory limit of these tests: small enough that a lie about sizes stands out.
const MEMORY_LIMIT_BYTES: u64 = 4 << 20;

/// The bodies of a guest's functions, as WebAssembly text. The default is an honest guest whose tree is
/// one empty root.
#[derive(Clone, Copy)]
struct Bodies {
    imports: &'static str,
    abi: &'static str,
    reset: &'static str,
    alloc: &'static str,
    tables: &'static str,
    parse: &'static str,
    output: &'static str,
    output_len: &'static str,
    table_bytes: &'static str,
    table_len: u32,
    tree_bytes: &'static str,
    tree_len: u32,
    more: &'static str,
}

const FUNCTIONS: &str = r#"
(import "phalanx" "should_stop" (func $should_stop (result i32)))
(import "phalanx" "out_of_memory" (func $out_of_memory (param i32)))"#;

impl Default for Bodies {
    fn default() -> Self {
        Self {
            imports: r#"(import "env" "memory" (memory 2 1000))"#,
            abi: "(i32.const 1)",
            reset: "",
            alloc: "(i32.const 4096)",
            tables: "(global.set $parsed (i32.const 0)) (i32.const 0)",
            parse: "(global.set $parsed (i32.const 1)) (i32.const 0)",
            output: "(select (i32.const 1024) (i32.const 0) (global.get $parsed))",
            output_len: "(select (global.get $tree_len) (global.get $table_len) (global.get $parsed))",
            // Two kinds, `root` and `ERROR`, and a field `f`.
            table_bytes: "\\02\\00\\00\\00\\01\\00\\00\\00\\00\\04\\00root\\00\\05\\00ERROR\\00\\01\\00f",
            table_len: 27,
            tree_bytes: "\\00\\00\\00\\00\\01\\00\\00\\00",
            tree_len: 20,
            more: "",
        }
    }
}

impl Bodies {
    fn text(&self) -> String {
        let Self { imports, abi, reset, alloc, tables, parse, output, output_len, .. } = self;
        let Self { table_bytes, table_len, tree_bytes, tree_len, more, .. } = self;
        format!(
            r#"(module {imports} {FUNCTIONS}
              (global $parsed (mut i32) (i32.const 0))
              (global $table_len i32 (i32.const {table_len}))
              (global $tree_len i32 (i32.const {tree_len}))
              (func (export "guest_abi") (result i32) {abi})
              (func (export "guest_reset") {reset})
              (func (export "guest_alloc") (param i32) (result i32) {alloc})
              (func (export "guest_tables") (result i32) {tables})
              (func (export "guest_parse") (param i32 i32 i32 i32) (result i32) {parse})
              (func (export "guest_output") (result i32) {output})
              (func (export "guest_output_len") (result i32) {output_len})
              (data (i32.const 0) "{table_bytes}")
              (data (i32.const 1024) "{tree_bytes}")
              {more})"#
        )
    }

    fn engine(&self) -> WasmEngine {
        engine_of(&self.text())
    }
}

fn guest(language: Language, text: &str) -> Guest {
    let module = wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    Guest { info: LanguageInfo::new(language, "Test", "0"), module: module.into() }
}

/// An engine of one worker with a hostile guest beside an honest one.
fn engine_of(text: &str) -> WasmEngine {
    engine_of_guest(guest(HOSTILE, text))
}

fn engine_of_guest(hostile: Guest) -> WasmEngine {
    let config = WasmEngineBuilder::default()
        .workers(NonZeroUsize::MIN)
        .memory_limit_bytes(MEMORY_LIMIT_BYTES)
        .into_config()
        .expect("the settings are in range");
    let honest = guest(HONEST, &Bodies::default().text());
    WasmEngine::with_guests(vec![hostile, honest], config).expect("the engine starts")
}

fn stats(engine: &WasmEngine) -> LanguageStats {
    engine.stats().language(HOSTILE).expect("it is there").clone()
}

/// Parses with the hostile guest, twice, and with the honest one after each; gives the first error.
#[track_caller]
fn failure_with(engine: &WasmEngine, text: &str, limits: &Limits) -> AstError {
    let first = engine.parse(&Source::new(HOSTILE, text), limits).expect_err("the host notices");
    let honest = Source::new(HONEST, "abc");
    assert_eq!(engine.parse(&honest, &Limits::default()).expect("unharmed").node_count(), 1);
    let second = engine.parse(&Source::new(HOSTILE, text), limits).expect_err("the same again");
    assert_eq!(first.kind(), second.kind(), "{first} / {second}");
    assert_eq!(engine.parse(&honest, &Limits::default()).expect("unharmed").node_count(), 1);
    assert_eq!(engine.stats().worker_panics, 0);
    first
}

#[track_caller]
fn failure(bodies: Bodies) -> AstError {
    failure_with(&bodies.engine(), "abc", &Limits::default())
}

#[track_caller]
fn assert_misbehaves(bodies: Bodies, about: &str) {
    let error = failure(bodies);
    assert_eq!(error.kind(), AstErrorKind::GuestMisbehaved, "{error}");
    assert!(error.message().contains(about), "{error}");
}

#[test]
fn an_honest_guest_gives_its_tree() {
    let engine = Bodies::default().engine();
    let tree = engine.parse(&Source::new(HOSTILE, "abc"), &Limits::default()).expect("a tree");
    assert_eq!((tree.root().kind(), tree.node_count()), ("root", 1));
    assert_eq!(stats(&engine).instances_discarded, 0);
}

#[test]
fn a_length_or_place_outside_the_memory_is_refused_before_anything_is_allocated() {
    let huge = "(select (i32.const -1) (global.get $table_len) (global.get $parsed))";
    assert_misbehaves(Bodies { output_len: huge, ..Bodies::default() }, "4294967295 bytes");
    let table = "(i32.const -1)";
    assert_misbehaves(Bodies { output_len: table, ..Bodies::default() }, "bytes of names");
    let far = "(select (i32.const -1) (i32.const 0) (global.get $parsed))";
    assert_misbehaves(Bodies { output: far, ..Bodies::default() }, "outside its memory");
    let edge = "(select (i32.const 131060) (i32.const 0) (global.get $parsed))";
    assert_misbehaves(Bodies { output: edge, ..Bodies::default() }, "outside its memory");
    for alloc in ["(i32.const -1)", "(i32.const 131070)", "(i32.const -2147483648)"] {
        assert_misbehaves(Bodies { alloc, ..Bodies::default() }, "outside its memory");
    }
}

#[test]
fn a_tree_larger_than_allowed_is_refused_though_it_lies_in_memory() {
    let engine = Bodies { tree_len: 2_000, ..Bodies::default() }.engine();
    let error = failure_with(&engine, "abc", &Limits::default().max_nodes(99));
    assert_eq!(error.kind(), AstErrorKind::GuestMisbehaved, "{error}");
    assert!(error.message().contains("100 nodes"), "{error}");
}

#[test]
fn names_that_do_not_check_are_refused() {
    let with = |table_bytes, table_len| Bodies { table_bytes, table_len, ..Bodies::default() };
    assert_misbehaves(with("\\ff\\ff\\ff\\ff\\00\\00\\00\\00", 8), "end too early");
    assert_misbehaves(with("\\01\\00", 2), "end too early");
    assert_misbehaves(with("\\01\\00\\00\\00\\00\\00\\00\\00\\00\\ff\\ffab", 13), "end too early");
    assert_misbehaves(
        with("\\01\\00\\00\\00\\00\\00\\00\\00\\00\\02\\00\\ff\\fe", 13),
        "not UTF-8",
    );
    assert_misbehaves(with("\\01\\00\\00\\00\\00\\00\\00\\00\\09\\01\\00a", 12), "unknown class");
    assert_misbehaves(
        with("\\01\\00\\00\\00\\00\\00\\00\\00\\00\\01\\00ab", 13),
        "after its names",
    );
    assert_misbehaves(with("\\00\\00\\00\\00\\00\\00\\00\\00", 8), "no usable grammar");
    assert_misbehaves(with("", 0), "end too early");
}

#[test]
fn records_that_are_no_tree_are_refused() {
    let with = |tree_bytes, tree_len| Bodies { tree_bytes, tree_len, ..Bodies::default() };
    let zeros = "\\00\\00\\00\\00";
    // Not whole records, no record, unknown flags.
    assert_misbehaves(with(zeros, 19), "whole records");
    assert_misbehaves(with(zeros, 0), "no tree");
    assert_misbehaves(with("\\00\\00\\00\\00\\00\\01\\00\\00", 20), "unknown flags");
    assert_misbehaves(with("\\00\\00\\00\\00\\20\\00\\00\\00", 20), "no tree");
    // A kind and a field outside the tables.
    assert_misbehaves(with("\\02\\00\\00\\00", 20), "no tree");
    assert_misbehaves(with("\\00\\00\\02\\00", 20), "no tree");
    // Ranges: past the source of three bytes, backwards.
    assert_misbehaves(
        with("\\00\\00\\00\\00\\01\\00\\00\\00\\00\\00\\00\\00\\04\\00\\00\\00", 20),
        "no tree",
    );
    assert_misbehaves(
        with("\\00\\00\\00\\00\\01\\00\\00\\00\\02\\00\\00\\00\\01\\00\\00\\00", 20),
        "no tree",
    );
    // Descendants that are not there, and a second root.
    assert_misbehaves(
        with(
            "\\00\\00\\00\\00\\01\\00\\00\\00\\00\\00\\00\\00\\00\\00\\00\\00\\ff\\ff\\ff\\ff",
            20,
        ),
        "no tree",
    );
    assert_misbehaves(with("\\00\\00\\00\\00\\01\\00\\00\\00", 40), "no tree");
}

#[test]
fn a_trap_in_any_call_is_an_error_and_the_instance_is_replaced() {
    let trap = "(unreachable)";
    let honest = Bodies::default();
    for bodies in [
        Bodies { abi: trap, ..honest },
        Bodies { reset: trap, ..honest },
        Bodies { alloc: trap, ..honest },
        Bodies { tables: trap, ..honest },
        Bodies { parse: trap, ..honest },
        Bodies { output: trap, ..honest },
        Bodies { output_len: trap, ..honest },
        Bodies { more: "(func $boom (unreachable)) (start $boom)", ..honest },
        Bodies { parse: "(i32.div_u (i32.const 1) (i32.const 0))", ..honest },
        Bodies { parse: "(i32.load (i32.const -4))", ..honest },
        Bodies {
            parse: "(call $deeper) (i32.const 0)",
            more: "(func $deeper (call $deeper))",
            ..honest
        },
    ] {
        let error = failure(bodies);
        assert_eq!(error.kind(), AstErrorKind::GuestTrapped, "{error}");
    }
    let engine = Bodies { parse: trap, ..honest }.engine();
    failure_with(&engine, "abc", &Limits::default());
    let stats = stats(&engine);
    assert_eq!((stats.traps, stats.instances_discarded, stats.parses), (2, 2, 0), "{stats:?}");
    assert_eq!(stats.compiles, 1);
}

#[test]
fn after_a_trap_the_next_parse_runs_in_a_fresh_instance() {
    // The first parse of an instance works, the second would trap; the source decides.
    let engine = Bodies {
        parse: "(if (i32.eq (local.get 1) (i32.const 1)) (then unreachable)) \
                (global.set $parsed (i32.const 1)) (i32.const 0)",
        ..Bodies::default()
    }
    .engine();
    let parse = |text| engine.parse(&Source::new(HOSTILE, text), &Limits::default());
    for _ in 0..3 {
        parse("ok").expect("two bytes do not trap");
        assert_eq!(parse("x").expect_err("one does").kind(), AstErrorKind::GuestTrapped);
    }
    let stats = stats(&engine);
    assert_eq!((stats.parses, stats.traps, stats.instances_discarded), (3, 3, 3), "{stats:?}");
}

#[test]
fn after_an_answer_that_does_not_check_the_instance_is_replaced() {
    for bodies in [
        Bodies { tree_bytes: "\\07\\00", ..Bodies::default() },
        Bodies { tree_len: 19, ..Bodies::default() },
        Bodies { parse: "(i32.const 99)", ..Bodies::default() },
    ] {
        let engine = bodies.engine();
        failure_with(&engine, "abc", &Limits::default());
        let stats = stats(&engine);
        assert_eq!((stats.misbehaviours, stats.instances_discarded), (2, 2), "{stats:?}");
    }
}

#[test]
fn a_guest_that_grows_its_memory_for_ever_ends_at_the_limit() {
    let grow = "(local $pages i32)
        (loop $more
          (local.set $pages (i32.add (local.get $pages) (i32.const 1)))
          (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
        ;; 4 MiB are 64 pages; it started with two.
        (if (i32.ne (local.get $pages) (i32.const 63)) (then unreachable))
        (call $out_of_memory (i32.const 7))
        (i32.const 0)";
    let error = failure(Bodies { parse: grow, ..Bodies::default() });
    assert_eq!(error.kind(), AstErrorKind::MemoryExceeded, "{error}");
    assert_eq!(error.limit(), Some(MEMORY_LIMIT_BYTES));
    assert_eq!(error.found(), Some(MEMORY_LIMIT_BYTES + 7));
}

#[test]
fn a_guest_that_needs_more_memory_than_allowed_to_start_is_refused() {
    let imports = r#"(import "env" "memory" (memory 65 1000))"#;
    let error = failure(Bodies { imports, ..Bodies::default() });
    assert_eq!(error.kind(), AstErrorKind::MemoryExceeded, "{error}");
}

#[test]
fn a_guest_that_asks_stops_when_told_and_one_that_does_not_listen_is_thrown_out() {
    let limits = Limits::default().deadline(Duration::from_millis(1));
    let polite = "(loop $on (br_if $on (i32.eqz (call $should_stop)))) (i32.const 1)";
    let engine = Bodies { parse: polite, ..Bodies::default() }.engine();
    assert_eq!(failure_with(&engine, "abc", &limits).kind(), AstErrorKind::DeadlineExceeded);
    assert_eq!((stats(&engine).deadline_hits, stats(&engine).instances_discarded), (2, 0));

    let deaf = "(loop $on (drop (call $should_stop)) (br $on)) (i32.const 0)";
    let engine = Bodies { parse: deaf, ..Bodies::default() }.engine();
    assert_eq!(failure_with(&engine, "abc", &limits).kind(), AstErrorKind::DeadlineExceeded);
    assert_eq!((stats(&engine).deadline_hits, stats(&engine).instances_discarded), (2, 2));
}

#[test]
fn a_shutdown_stops_the_guest_that_runs() {
    let endless = "(loop $on (br_if $on (i32.eqz (call $should_stop)))) (i32.const 1)";
    let engine = Bodies { parse: endless, ..Bodies::default() }.engine();
    let limits = Limits::default().deadline(Duration::MAX);
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| engine.parse(&Source::new(HOSTILE, "abc"), &limits));
        // One instance reads the tables, the second one parses: by then the worker has the job.
        while stats(&engine).instances_created < 2 {
            std::thread::yield_now();
        }
        engine.shutdown();
        let error = caller.join().expect("the caller does not panic").expect_err("it was stopped");
        assert_eq!(error.kind(), AstErrorKind::EngineClosed, "{error}");
    });
}

#[cfg(feature = "test-util")]
#[test]
fn a_deadline_passes_on_the_clock_of_the_engine_and_on_no_other() {
    let (clock, hand) = crate::ManualClock::new();
    let config = WasmEngineBuilder::default().workers(NonZeroUsize::MIN).clock(clock);
    let config = config.into_config().expect("the settings are in range");
    // Asks a million times; then it has an answer of its own.
    let asks = "(local $left i32) (local.set $left (i32.const 1000000))
        (loop $on
          (if (call $should_stop) (then (return (i32.const 1))))
          (br_if $on (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
        (global.set $parsed (i32.const 1)) (i32.const 0)";
    let guests = vec![guest(HOSTILE, &Bodies { parse: asks, ..Bodies::default() }.text())];
    let engine = WasmEngine::with_guests(guests, config).expect("the engine starts");
    let limits = Limits::default().deadline(Duration::from_nanos(1));
    let source = Source::new(HOSTILE, "abc");
    engine.parse(&source, &limits).expect("the clock stands still");
    std::thread::scope(|scope| {
        let parse = scope.spawn(|| {
            loop {
                if let Err(error) = engine.parse(&source, &limits) {
                    return error;
                }
            }
        });
        while !parse.is_finished() {
            hand.advance(Duration::from_secs(1));
        }
        let error = parse.join().expect("the caller does not panic");
        assert_eq!(error.kind(), AstErrorKind::DeadlineExceeded);
    });
}

#[test]
fn answers_that_mean_nothing_are_refused() {
    assert_misbehaves(Bodies { abi: "(i32.const 2)", ..Bodies::default() }, "version 2");
    assert_misbehaves(Bodies { tables: "(i32.const 4)", ..Bodies::default() }, "its names");
    for parse in ["(i32.const 4)", "(i32.const -1)", "(i32.const 99)"] {
        assert_misbehaves(Bodies { parse, ..Bodies::default() }, "to a parse");
    }
    assert_misbehaves(Bodies { parse: "(i32.const 1)", ..Bodies::default() }, "without being told");
}

#[test]
fn a_module_that_does_not_fit_its_host_is_refused() {
    let refused = |text: &str, about: &str| {
        let error = failure_with(&engine_of(text), "abc", &Limits::default());
        assert_eq!(error.kind(), AstErrorKind::GuestMisbehaved, "{error}");
        assert!(error.message().contains(about), "{error}");
    };
    let honest = Bodies::default().text();
    for name in ["abi", "reset", "alloc", "tables", "parse", "output", "output_len"] {
        let name = format!("guest_{name}");
        let missing = honest.replace(&format!("\"{name}\""), "\"other\"");
        refused(&missing, &format!("no usable {name}"));
    }
    let wrong = honest.replace(
        "(func (export \"guest_alloc\") (param i32) (result i32)",
        "(func (export \"guest_alloc\") (param i64) (result i32)",
    );
    refused(&wrong, "no usable guest_alloc");
    refused(&honest.replace("\"should_stop\"", "\"open_file\""), "does not fit");
    let wrong =
        honest.replace("(func $should_stop (result i32))", "(func $should_stop (result i64))");
    refused(&wrong, "does not fit");

    let own = Bodies { imports: "", more: "(memory 2)", ..Bodies::default() };
    assert_misbehaves(own, "import one memory");
    let two = Bodies { more: "(memory 2)", ..Bodies::default() };
    assert_eq!(failure(two).kind(), AstErrorKind::GuestMisbehaved);
    let table = "(table 4294967295 funcref)";
    assert_misbehaves(Bodies { more: table, ..Bodies::default() }, "4294967295 elements");
    for imports in [
        r#"(import "env" "memory" (memory 2 1000)) (import "env" "more" (memory 2 1000))"#,
        r#"(import "env" "memory" (memory 2 1000 shared))"#,
        r#"(import "env" "memory" (memory i64 2 1000))"#,
    ] {
        let error = failure(Bodies { imports, ..Bodies::default() });
        assert_eq!(error.kind(), AstErrorKind::GuestMisbehaved, "{error}");
    }
    for bytes in [&b""[..], b"\0asm", b"\0asm\x01\0\0\0", b"not a module at all"] {
        let info = LanguageInfo::new(HOSTILE, "Test", "0");
        let hostile = Guest { info, module: bytes.to_vec().into() };
        let error = failure_with(&engine_of_guest(hostile), "abc", &Limits::default());
        assert_eq!(error.kind(), AstErrorKind::GuestMisbehaved, "{error}");
    }
}

#[test]
fn a_guest_cannot_keep_a_limit_that_the_caller_set() {
    // It says that its tree is fine; the host counts for itself.
    let chain = "\\00\\00\\00\\00\\01\\00\\00\\00\\00\\00\\00\\00\\00\\00\\00\\00\\01\\00\\00\\00\
                 \\00\\00\\00\\00\\01\\00\\00\\00";
    let engine = Bodies { tree_bytes: chain, tree_len: 40, ..Bodies::default() }.engine();
    let source = Source::new(HOSTILE, "abc");
    assert_eq!(engine.parse(&source, &Limits::default()).expect("two levels").node_count(), 2);
    let error = engine.parse(&source, &Limits::default().max_depth(1)).expect_err("too deep");
    assert_eq!(error.kind(), AstErrorKind::TooDeep);
}
