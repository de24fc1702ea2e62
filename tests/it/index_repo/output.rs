//! Where the output goes when nobody takes it.

use super::program::{Job, PROGRAM, Run};
use super::tree::Tree;
use std::io::pipe;
use std::process::Command;

/// A pipe whose reading end is closed already.
fn nobody() -> std::io::PipeWriter {
    let (reader, writer) = pipe().expect("a pipe");
    drop(reader);
    writer
}

#[test]
fn an_acknowledgement_that_cannot_be_printed_ends_the_run_and_nothing_is_lost() {
    let (tree, job) = (Tree::of_modules(200), Job::new());
    let output = job.command(tree.root()).stdout(nobody()).output().expect("the program starts");
    let cut = Run::new(&output, &job.json());
    assert_eq!(cut.code, Some(1), "{cut:?}");
    assert!(cut.stderr.contains("could not print an acknowledgement"), "{cut:?}");
    assert!(cut.summary.is_null(), "a run that did not come to its end has no summary: {cut:?}");

    let next = job.run(tree.root(), &[]).expect_sound();
    assert_eq!(next.count("files.indexed") + next.count("files.unchanged"), 202);
    // What the run had done by then is not done again.
    assert!(next.count("files.unchanged") > 0, "{next:?}");
    assert_eq!(next.digest(), Job::new().run(tree.root(), &[]).expect_sound().digest());
}

#[test]
fn a_summary_that_nobody_reads_and_help_that_nobody_reads_are_no_failures() {
    let (tree, state) = (Tree::of_modules(1), tempfile::tempdir().expect("a folder"));
    let runs = [
        vec![tree.root().as_os_str(), "--state".as_ref(), state.path().as_os_str()],
        vec!["--help".as_ref()],
    ];
    for args in runs {
        let mut command = Command::new(&*PROGRAM);
        let output = command.args(&args).stdout(nobody()).output().expect("the program starts");
        assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_summary_for_machines_that_cannot_be_written_is_a_failure_that_names_the_place() {
    let (tree, state) = (Tree::of_modules(1), tempfile::tempdir().expect("a folder"));
    let mut command = Command::new(&*PROGRAM);
    command.arg(tree.root()).arg("--state").arg(state.path()).arg("--quiet");
    // There is such a folder, and nobody may make a file in it.
    let output = command.args(["--json", "/proc/x.json"]).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(stderr.contains("cannot write /proc/x.json"), "{stderr}");
    assert_eq!(stderr.matches("os error").count(), 1, "{stderr}");
}
