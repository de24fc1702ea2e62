//! A script of all that makes something durable in real files, for `.ci/syncs.py` to watch under strace.
//!
//! It says on the standard output what is durable by now; what it says is only worth something there. By itself it
//! checks that the counters agree.

use std::io::Write;

use phalanx::state::{Compression, Import, StateManager};

use super::script::{Tables, check, commit_next};

/// One call writes the line, so that strace shows it whole.
fn say(line: &str) {
    if std::env::var_os("PHALANX_TEST_SYNCS").is_some() {
        let mut out = std::io::stdout().lock();
        out.write_all(format!("durable: {line}\n").as_bytes()).expect("it is there");
        out.flush().expect("it is there");
    }
}

#[test]
fn the_script_that_strace_watches() {
    let scratch = tempfile::tempdir().expect("a folder");
    let root = scratch.path().canonicalize().expect("it is there");
    say(&format!("nothing in {}", root.display()));
    let folder = root.join("above").join("store");
    let state = StateManager::builder().path(&folder).open().expect("it is new");
    say("creation");
    let tables = Tables::open(&state).expect("they have one type each");
    for _ in 0..5 {
        commit_next(&state, &tables).expect("nothing refuses it");
        let version = commit_next(&state, &tables).expect("nothing refuses it");
        let before = state.stats().syncs;
        state.wait_durable(version).expect("the disk works");
        assert_eq!(state.stats().syncs - before, 1);
        say("group");
    }
    state.checkpoint().expect("the disk works");
    say("checkpoint");
    let export = root.join("export");
    state.snapshot().export_to_file(&export, Compression::None).expect("the disk works");
    say("export");
    state.close().expect("the disk works");
    say("close");

    let version = state.version();
    let state = StateManager::builder().path(&folder).open().expect("it was closed");
    say("opening");
    check(&state, version, version);
    let import = Import::read_file(&export).expect("it is whole");
    let other = StateManager::builder().path(root.join("other")).import(import);
    let other = other.open().expect("it is new");
    say("import");
    check(&other, version, version);
}
