//! A script of all that makes something durable in real files, for `.ci/syncs.py` to watch under strace.
//!
//! It says on the standard output what is durable by now; what it says is only worth something there. By itself it
//! checks that the counters agree.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use phalanx::state::{Compression, Import, StateManager, Version};

use super::script::{Tables, check, commit_next};

/// One call writes the line, so that strace shows it whole.
fn say(line: &str) {
    if std::env::var_os("PHALANX_TEST_SYNCS").is_some() {
        let mut out = std::io::stdout().lock();
        out.write_all(format!("durable: {line}\n").as_bytes()).expect("it is there");
        out.flush().expect("it is there");
    }
}

/// As a process that made a name for these bytes and ended before it synced the folder.
fn name(folder: &Path, file: &str, bytes: &[u8]) {
    let new = folder.join(format!("{file}.new"));
    fs::write(&new, bytes).expect("the disk works");
    File::open(&new).and_then(|file| file.sync_all()).expect("the disk works");
    fs::rename(&new, folder.join(file)).expect("the disk works");
}

fn rename(from: &Path, to: PathBuf) -> PathBuf {
    fs::rename(from, &to).expect("the disk works");
    to
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
    let header = fs::read(folder.join("state.header")).expect("it is there");
    // A host that moves a store, and writes its header, and syncs neither.
    let moved = root.join("moved");
    fs::create_dir(&moved).expect("the disk works");
    let folder = rename(&folder, moved.join("store"));
    fs::write(folder.join("state.header"), &header).expect("the disk works");
    let state = StateManager::builder().path(&folder).open().expect("it was closed");
    say("opening");
    check(&state, version, version);
    state.close().expect("the disk works");
    say("close");
    #[cfg(unix)]
    {
        // One that names it by a link.
        let (again, links) = (root.join("again"), root.join("links"));
        fs::create_dir(&again).expect("the disk works");
        let folder = rename(&folder, again.join("store"));
        fs::create_dir(&links).expect("the disk works");
        let link = links.join("current");
        std::os::unix::fs::symlink(&folder, &link).expect("the disk works");
        fs::write(folder.join("state.header"), &header).expect("the disk works");
        let state = StateManager::builder().path(&link).open().expect("it was closed");
        say("opening");
        check(&state, version, version);
    }
    let import = Import::read_file(&export).expect("it is whole");
    let other = StateManager::builder().path(root.join("other")).import(import);
    let other = other.open().expect("it is new");
    say("import");
    check(&other, version, version);

    // Folders that the host has made, and whose names nobody has synced.
    let made = root.join("of").join("the host");
    fs::create_dir_all(&made).expect("the disk works");
    let state = StateManager::builder().path(&made).open().expect("it is new");
    say("creation");
    state.close().expect("the disk works");
    say("close");

    // A creation that ended once the data had its name.
    let begun = root.join("begun").join("by the host");
    fs::create_dir_all(&begun).expect("the disk works");
    name(&begun, "state.redb", &fs::read(made.join("state.redb")).expect("it is there"));
    let state = StateManager::builder().path(&begun).open().expect("nothing is in it");
    say("opening");
    assert_eq!(state.version(), Version::ZERO);
}
