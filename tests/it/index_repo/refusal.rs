//! What is refused: command lines without sense, and state folders that cannot be used.

use super::program::{Job, PROGRAM};
use super::tree::Tree;
use phalanx::state::StateManager;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn a_command_line_without_sense_ends_with_code_2_and_a_hint() {
    let tree = Tree::of_modules(1);
    let root = tree.root().to_str().expect("a plain name");
    let inside = format!("{root}/state");
    let nonsense: &[&[&str]] = &[
        &["/no/such/folder"],
        &["--agents", "0", root],
        &["--agents", "many", root],
        &["--agents", root],
        &["--agents"],
        &["--kill", "100", root],
        &["--agents", "3", "--kill", "3", root],
        &["--kill", "-1", root],
        &["--no-such-option", root],
        &[root, "another"],
        &["--json", "/no/such/folder/x.json", root],
        &["--state", &inside, root],
    ];
    for args in nonsense {
        let output = Command::new(&*PROGRAM).args(*args).output().expect("the program starts");
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
        let stderr = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(stderr.starts_with("error: ") && stderr.contains("usage: "), "{args:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    assert!(!Path::new(&inside).exists());
    let help = Command::new(&*PROGRAM).arg("--help").output().expect("the program starts");
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&help.stdout).contains("--print-acks"));
}

/// Every file of a folder.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).expect("listed").map(|entry| entry.expect("an entry"));
    entries
        .map(|entry| {
            let name = entry.file_name().into_string().expect("a plain name");
            (name, fs::read(entry.path()).expect("read"))
        })
        .collect()
}

/// Runs over a state folder that cannot be used: exit code 1, the word for it, and nothing touched.
#[track_caller]
fn refused(job: &Job, tree: &Tree, word: &str) {
    let before = contents(&job.state());
    let run = job.run(tree.root(), &[]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains(word), "{word} in {run:?}");
    assert!(run.stderr.contains(job.state().to_str().expect("a plain name")), "{run:?}");
    assert!(run.stdout.is_empty() && run.summary.is_null(), "{run:?}");
    assert!(contents(&job.state()) == before, "the folder was changed");
}

fn used() -> (Tree, Job) {
    let (tree, job) = (Tree::of_modules(3), Job::new());
    job.run(tree.root(), &[]).expect_sound();
    (tree, job)
}

#[test]
fn a_damaged_state_folder_is_called_corrupt_and_left_as_it_is() {
    let (tree, job) = used();
    let data = job.state().join("state.redb");
    let whole = fs::read(&data).expect("read");

    fs::write(&data, &whole[..whole.len() / 2]).expect("written");
    refused(&job, &tree, "corrupt");
    // Past the header, and past what the engine itself looks at first.
    let mut flipped = whole.clone();
    for byte in flipped.iter_mut().skip(4096).step_by(512) {
        *byte ^= 0x55;
    }
    fs::write(&data, flipped).expect("written");
    refused(&job, &tree, "corrupt");
    fs::remove_file(&data).expect("removed");
    refused(&job, &tree, "corrupt");

    fs::write(&data, &whole).expect("written");
    let header = job.state().join("state.header");
    let mut damaged = fs::read(&header).expect("read");
    damaged[20] ^= 1;
    fs::write(&header, damaged).expect("written");
    refused(&job, &tree, "corrupt");
}

#[test]
fn a_state_folder_of_a_newer_format_is_called_that_and_left_as_it_is() {
    let (tree, job) = used();
    let path = job.state().join("state.header");
    let mut header = fs::read(&path).expect("read");
    // The format number stands at the fifth byte, the checksum over all before it at the end.
    header[4] += 1;
    let body = header.len() - 32;
    let checksum = blake3::hash(&header[..body]);
    header[body..].copy_from_slice(checksum.as_bytes());
    fs::write(&path, header).expect("written");
    refused(&job, &tree, "unsupported version");
}

#[test]
fn a_state_folder_that_another_process_holds_is_called_in_use_and_left_as_it_is() {
    let (tree, job) = used();
    let holder = StateManager::builder().path(job.state()).open().expect("it is free");
    refused(&job, &tree, "in use");
    drop(holder);
    job.run(tree.root(), &[]).expect_sound();
}

#[test]
fn a_state_folder_that_is_a_file_is_named_and_the_cause_is_said_once() {
    let (tree, job) = (Tree::of_modules(1), Job::new());
    fs::write(job.state(), "a file").expect("written");
    let run = job.run(tree.root(), &[]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains(job.state().to_str().expect("a plain name")), "{run:?}");
    assert_eq!(run.stderr.matches("os error").count(), 1, "{run:?}");
    assert_eq!(fs::read(job.state()).expect("read"), b"a file");
}

#[test]
fn without_a_state_folder_the_index_lies_in_the_cache_folder_of_the_user_and_never_in_the_tree() {
    let (tree, other) = (Tree::of_modules(1), Tree::of_modules(1));
    let cache = tempfile::tempdir().expect("a folder");
    let run = |root: &Path, cache: &Path| {
        let mut command = Command::new(&*PROGRAM);
        command.arg(root).arg("--quiet").env("XDG_CACHE_HOME", cache);
        let output = command.output().expect("the program starts");
        (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
    };
    assert_eq!(run(tree.root(), cache.path()).0, Some(0));
    assert_eq!(run(other.root(), cache.path()).0, Some(0));
    assert_eq!(run(tree.root(), cache.path()).0, Some(0));
    let folders = fs::read_dir(cache.path().join("phalanx/index_repo")).expect("listed").count();
    assert_eq!(folders, 2, "one for each tree");

    let inside = tree.path("cache");
    let (code, stderr) = run(tree.root(), &inside);
    assert_eq!(code, Some(2));
    // Whoever did not say `--state` is told whose folder that is, and what to say.
    assert!(stderr.starts_with("error: the default state folder "), "{stderr}");
    assert!(stderr.contains("say another --state DIR"), "{stderr}");
    assert!(!inside.exists());
}

#[cfg(unix)]
#[test]
fn a_link_into_the_tree_is_no_way_for_the_state_to_get_there() {
    let (tree, beside) = (Tree::of_modules(1), tempfile::tempdir().expect("a folder"));
    fs::create_dir(tree.path("hidden")).expect("made");
    let link = beside.path().join("link");
    std::os::unix::fs::symlink(tree.path("hidden"), &link).expect("linked");
    let root = beside.path().join("root");
    std::os::unix::fs::symlink(tree.root(), &root).expect("linked");
    // Seen from the folder of both links, so that the paths are relative as well.
    for (state, root) in [("link/state", "root"), ("root/state", "link/.."), ("root", "root")] {
        let mut command = Command::new(&*PROGRAM);
        command.current_dir(beside.path()).args([root, "--quiet", "--state", state]);
        let output = command.output().expect("the program starts");
        assert_eq!(output.status.code(), Some(2), "{state} {root}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("lies inside"), "{output:?}");
    }
    assert_eq!(fs::read_dir(tree.path("hidden")).expect("listed").count(), 0);
}
