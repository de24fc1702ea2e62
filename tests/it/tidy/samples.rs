//! Bad samples, one for each rule, that it must complain about, beside good ones that it must not.

use super::source::{Source, mark_tests};
use super::{code, pages};

type Rule = fn(&Source) -> Vec<String>;

#[track_caller]
fn catches(rule: Rule, path: &str, bad: &str) {
    assert_ne!(rule(&Source::new(path, bad)), Vec::<String>::new(), "{path}: {bad}");
}

#[track_caller]
fn accepts(rule: Rule, path: &str, good: &str) {
    assert_eq!(rule(&Source::new(path, good)), Vec::<String>::new(), "{path}: {good}");
}

#[test]
fn an_import_upward_is_caught() {
    let rule: Rule = code::imports_upward;
    catches(rule, "src/bus/ring.rs", "use crate::fleet::Fleet;");
    catches(rule, "src/bus.rs", "use crate::{Error, clock::Clock, cache::{self}};");
    catches(rule, "src/bus/ring.rs", "fn f() { crate::coordinator::start() }");
    catches(rule, "src/bus/ring.rs", "use super::super::state::Version;");
    catches(rule, "src/clock.rs", "use crate::error::Error;");
    catches(rule, "src/ast/wasm/engine.rs", "use crate::state::StateManager;");
    catches(rule, "src/newcomer.rs", "");
    accepts(rule, "src/bus/ring.rs", "use crate::{Error, clock::Clock, sync::{Mutex, atomic}};");
    accepts(rule, "src/bus/ring.rs", "use super::wait; // crate::fleet is not known here");
    accepts(rule, "src/ast/wasm/engine.rs", "use crate::cache::Cache;");
    accepts(rule, "src/coordinator/builder.rs", "use crate::{ast, bus, cache, fleet, state};");
    accepts(rule, "src/bus.rs", "mod tests { use super::*; }");
}

#[test]
fn sync_primitives_outside_of_their_file_are_caught() {
    let rule: Rule = code::foreign_sync;
    catches(rule, "src/bus/ring.rs", "use std::sync::atomic::AtomicU64;");
    catches(rule, "src/bus/ring.rs", "use std::{fmt, sync::{Arc, Mutex}};");
    catches(rule, "src/bus/ring.rs", "use core::sync::atomic;");
    catches(rule, "src/bus/ring.rs", "use std::sync;");
    catches(rule, "src/bus/ring.rs", "use std::sync::{self, Arc};");
    catches(rule, "src/fleet/worker.rs", "fn f() { std::thread::spawn(g); }");
    catches(rule, "src/cache.rs", "use parking_lot::RwLock;");
    accepts(rule, "src/bus/ring.rs", "use std::sync::{Arc, Weak};\nuse crate::sync::atomic;");
    accepts(rule, "src/sync.rs", "use std::sync::atomic;");
    accepts(rule, "src/sync/parker.rs", "use std::sync::atomic;");
    catches(rule, "src/synchrony.rs", "use std::sync::atomic;");
    accepts(rule, "src/bus/loom_tests.rs", "use std::sync::atomic;");
    accepts(rule, "src/bus.rs", "#[cfg(test)]\nmod tests {\n    use std::sync::atomic;\n}");
    accepts(rule, "tests/it/bus.rs", "use std::sync::Mutex;");
}

#[test]
fn a_long_file_is_caught() {
    catches(code::too_long, "src/bus.rs", &"\n".repeat(701));
    accepts(code::too_long, "src/bus.rs", &"\n".repeat(700));
}

#[test]
fn a_missing_header_is_caught() {
    catches(code::no_header, "src/bus.rs", "use std::fmt;");
    catches(code::no_header, "src/bus.rs", "");
    accepts(code::no_header, "src/bus.rs", "//! The bus.");
}

#[test]
fn an_old_layout_is_caught() {
    catches(code::mod_rs, "src/bus/mod.rs", "");
    accepts(code::mod_rs, "src/bus.rs", "");
}

#[test]
fn code_in_the_root_is_caught() {
    catches(code::root_with_code, "src/lib.rs", "pub fn run() {}");
    catches(code::root_with_code, "src/lib.rs", "impl Thing {");
    catches(code::root_with_code, "src/lib.rs", &"mod a;\n".repeat(151));
    accepts(
        code::root_with_code,
        "src/lib.rs",
        "//! fn of it\npub mod bus;\npub use bus::EventBus;",
    );
}

#[test]
fn characters_beyond_ascii_are_caught() {
    assert_eq!(code::not_ascii("a.md", "plain\ncaf\u{e9}").len(), 1);
    assert_eq!(code::not_ascii("a.md", "plain").len(), 0);
}

#[test]
fn unsafe_code_in_an_unlisted_file_is_caught() {
    let bad = "#![expect(unsafe_code, reason = \"a sample\")]";
    catches(code::unexpected_unsafe, "src/newcomer.rs", bad);
    accepts(code::unexpected_unsafe, "src/newcomer.rs", "//! #![expect(unsafe_code)]");
}

#[test]
fn unsafe_code_without_a_reason_is_caught() {
    let rule: Rule = code::unsafe_without_reason;
    catches(rule, "src/bus.rs", "fn f() {\n    unsafe { g() }\n}");
    catches(rule, "src/bus.rs", "unsafe impl Send for Ring {}");
    catches(rule, "src/bus.rs", "/// Reads.\npub unsafe fn read() {}");
    accepts(rule, "src/bus.rs", "// SAFETY: invariant 1.\nunsafe { g() }");
    accepts(rule, "src/bus.rs", "/// # Safety\n///\n/// Keep still.\npub unsafe fn read() {}");
    accepts(rule, "src/bus.rs", "let word = \"unsafe\"; #![deny(unsafe_code)]");
}

#[test]
fn a_strong_ordering_without_a_reason_is_caught() {
    let rule: Rule = code::ordering_without_reason;
    catches(rule, "src/bus.rs", "a.load(Ordering::Acquire);");
    catches(rule, "src/bus.rs", "a.store(1, SeqCst);");
    accepts(rule, "src/bus.rs", "// Ordering: pairs with the store in `put`.\na.load(Acquire);");
    catches(rule, "src/bus.rs", "fence(Ordering::SeqCst);");
    accepts(rule, "src/bus.rs", "a.load(Ordering::Relaxed);");
    accepts(rule, "src/bus.rs", "fn f(how: Release) { g(Release(self)) }");
    accepts(rule, "src/bus.rs", "let off = site(\"x\", Ordering::SeqCst) == Ordering::Relaxed;");
    accepts(rule, "src/bus.rs", "use crate::sync::atomic::Ordering::Acquire;");
    accepts(rule, "src/bus.rs", "#[cfg(test)]\nmod tests {\n    a.load(Acquire);\n}");
    accepts(rule, "src/bus/loom_tests.rs", "a.load(Acquire);");
}

#[test]
fn what_is_left_to_do_is_caught() {
    let rule: Rule = code::unfinished;
    catches(rule, "src/bus.rs", concat!("// TO", "DO: later"));
    catches(rule, "src/bus.rs", concat!("/* FIX", "ME */"));
    catches(rule, "src/bus.rs", concat!("fn f() { to", "do!() }"));
    catches(rule, "src/bus.rs", concat!("fn f() { un", "implemented!() }"));
    catches(rule, "src/bus.rs", concat!("db", "g!(x);"));
    accepts(rule, "src/bus.rs", "let text = \"todo!\"; // all done");
}

#[test]
fn printing_is_caught() {
    catches(code::prints, "src/bus.rs", "fn f() { println!(\"x\"); }");
    catches(code::prints, "src/bus.rs", "fn f() { eprint!(\"x\"); }");
    accepts(code::prints, "src/bus.rs", "/// println!(\"x\");\nfn f() {}");
    accepts(code::prints, "examples/run.rs", "fn f() { println!(\"x\"); }");
}

#[test]
fn a_code_map_that_lies_is_caught() {
    let top = ["bus".to_owned(), "bus.rs".to_owned(), "sync.rs".to_owned()];
    let exists = |path: &str| ["src/bus", "src/sync.rs", "src/bus.rs"].contains(&path);
    assert_eq!(pages::code_map("`src/bus/` and `src/sync.rs`", &top, exists).len(), 0);
    assert_eq!(pages::code_map("`src/sync.rs`", &top, exists).len(), 2);
    assert_eq!(pages::code_map("`src/bus/`, `src/sync.rs`, `src/gone.rs`", &top, exists).len(), 1);
}

#[test]
fn a_promise_without_a_test_is_caught() {
    let text = "#[test]\n#[should_panic]\nfn nothing_is_lost() {}\nfn nothing() {}";
    let rust = [Source::new("tests/it/bus.rs", text)];
    let good = "- Nothing is\n  lost. Borne by `nothing_is_lost`.\n\nText.";
    assert_eq!(pages::promises(good, &rust).len(), 0);
    assert_eq!(pages::promises("- Nothing is lost.", &rust).len(), 1);
    assert_eq!(pages::promises("- Nothing is lost. Borne by luck.", &rust).len(), 1);
    assert_eq!(pages::promises("- Nothing is lost. Borne by `a_test`.", &rust).len(), 1);
    assert_eq!(pages::promises("- Nothing is lost. Borne by `nothing`.", &rust).len(), 1);
    assert_eq!(pages::promises("No promises.", &rust).len(), 1);
}

#[test]
fn a_readme_that_lies_is_caught() {
    let manifest =
        "version = \"0.1.0\"\nrust-version = \"1.95\"\n[features]\ndefault = []\nwasm = []";
    let good = "Rust 1.95\nphalanx = \"0.1\"\n## Features\n| `wasm` | the sandbox |\n## More";
    assert_eq!(pages::readme(good, manifest).len(), 0);
    assert_eq!(pages::readme(&good.replace("1.95", "1.80"), manifest).len(), 1);
    assert_eq!(pages::readme(&good.replace("0.1", "0.2"), manifest).len(), 1);
    assert_eq!(pages::readme(&good.replace("wasm", "wings"), manifest).len(), 2);
}

#[test]
fn an_unlisted_example_is_caught() {
    let here = ["run".to_owned()];
    assert_eq!(pages::examples("## Examples\n- `run`: runs.", &here).len(), 0);
    assert_eq!(pages::examples("## Examples\n", &here).len(), 1);
    assert_eq!(pages::examples("## Examples\n- `run`: runs.\n- `fly`: no.", &here).len(), 1);
}

#[test]
fn a_changelog_that_lags_is_caught() {
    let manifest = "version = \"0.2.0\"";
    assert_eq!(pages::changelog("## [0.2.0] - soon", manifest).len(), 0);
    assert_eq!(pages::changelog("## [0.1.0] - then", manifest).len(), 1);
}

#[test]
fn a_dependency_without_a_reason_is_caught() {
    let table = "[target.'cfg(unix)'.dependencies]";
    assert_eq!(pages::dependencies(&format!("{table}\n# For x.\nx = \"1\"")).len(), 0);
    assert_eq!(pages::dependencies(&format!("{table}\nx = \"1\"")).len(), 1);
    assert_eq!(pages::dependencies(&format!("{table}\n# For x.\nx = \"1\"\ny = \"1\"")).len(), 1);
}

#[test]
fn an_unused_dependency_is_caught() {
    let rust = [
        Source::new("src/bus.rs", "use left::pad; // right::pad"),
        Source::new("tests/it/bus.rs", "fn f() { up_side::down() }"),
    ];
    let manifest = "[dependencies]\nleft = 1\n[dev-dependencies]\nup-side = 1";
    assert_eq!(pages::unused(manifest, &rust).len(), 0);
    assert_eq!(pages::unused("[dependencies]\nright = 1", &rust).len(), 1);
    assert_eq!(pages::unused("[dependencies]\nup-side = 1", &rust).len(), 1);
    assert_eq!(pages::unused("[dev-dependencies]\ndown = 1", &rust).len(), 1);
}

#[test]
fn strings_characters_and_comments_are_not_code() {
    let text = "let a = \"// no\"; let b = '\"'; let c = r#\"\"quoted\"\"#; // yes\nf(/* in */ 'x', &'a T);";
    let source = Source::new("src/bus.rs", text);
    assert_eq!(source.code, ["let a = \"\"; let b = ' '; let c = \"\"; ", "f( ' ', &'a T);"]);
    assert_eq!(source.comments, [" yes", " in "]);
}

#[test]
fn a_file_declared_for_tests_is_told_from_one_that_ships() {
    let mut sources = [
        Source::new("src/bus.rs", "#[cfg(all(test, unix))]\nmod hostile;\nmod host;"),
        Source::new("src/bus/hostile.rs", ""),
        Source::new("src/bus/hostile/deep.rs", ""),
        Source::new("src/bus/host.rs", ""),
    ];
    mark_tests(&mut sources);
    assert_eq!(sources.map(|source| source.is_test()), [false, true, true, false]);
}
