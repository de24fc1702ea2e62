//! Files that cannot be indexed: each is counted under its reason, and none ends the run.

use super::program::{Job, PROGRAM, Run};
use super::tree::Tree;
use std::fs::{self, File};

fn hostile_tree() -> Tree {
    let tree = Tree::new();
    tree.write("good.rs", "pub fn good() {}\n");
    tree.write("broken.js", "function broken( { return 1; }\nlet = = 3;\n");
    tree.write("empty.py", "");
    tree.write("binary.js", b"let a = 1;\0\x01\x02");
    tree.write("latin1.py", b"name = 'caf\xe9'\n");
    tree.write("notes.txt", "no grammar for this\n");
    tree.write("brackets.js", "[".repeat(100_000));
    tree.write("brackets.py", "(".repeat(100_000));
    let huge = File::create(tree.path("huge.rs")).expect("made");
    huge.set_len(50 << 20).expect("grown");
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        fs::create_dir(tree.path("a")).expect("made");
        symlink("..", tree.path("a/up")).expect("linked");
        symlink("a", tree.path("again")).expect("linked");
        symlink("good.rs", tree.path("link.rs")).expect("linked");
        symlink("nowhere.rs", tree.path("dangling.rs")).expect("linked");
    }
    tree
}

#[test]
fn each_file_is_counted_under_its_reason_in_the_first_run_and_in_the_second() {
    let (tree, job) = (hostile_tree(), Job::new());
    let first = job.run(tree.root(), &[]).expect_sound();
    let reasons = |run: &Run| {
        assert_eq!(run.count("files.skipped.empty"), 1);
        assert_eq!(run.count("files.skipped.binary"), 1);
        assert_eq!(run.count("files.skipped.not_utf8"), 1);
        assert_eq!(run.count("files.skipped.too_large"), 1);
        assert_eq!(run.count("files.skipped.unsupported_language"), 1);
        assert_eq!(run.count("files.skipped.symlink"), if cfg!(unix) { 4 } else { 0 });
        assert_eq!(run.summary["files"]["skipped"].as_object().map(|reasons| reasons.len()), {
            Some(if cfg!(unix) { 6 } else { 5 })
        });
    };
    reasons(&first);
    assert_eq!(first.count("files.seen"), if cfg!(unix) { 13 } else { 9 });
    // Whether the brackets come out as a tree with errors or over a limit is up to the engine; in either
    // case they are accounted for, and nothing else failed.
    let failed = &first.summary["files"]["failed"];
    let brackets = failed.as_object().expect("reasons").values().filter_map(|n| n.as_u64());
    let failed_total = brackets.sum::<u64>();
    assert!(failed_total <= 2, "{failed}");
    assert_eq!(first.count("files.indexed"), 4 - failed_total);
    assert!(first.count("syntax_errors") >= 1);
    let acks = first.acks();
    assert!(acks.contains(&"good.rs") && acks.contains(&"broken.js"), "{acks:?}");
    assert_eq!(acks.len() as u64, first.count("files.indexed"));

    let second = job.run(tree.root(), &[]).expect_sound();
    reasons(&second);
    assert_eq!(&second.summary["files"]["failed"], failed);
    assert_eq!(second.count("files.indexed"), 0);
    assert_eq!(second.count("files.unchanged"), first.count("files.indexed"));
    assert_eq!(second.digest(), first.digest());
    assert!(second.acks().is_empty());
}

/// Permissions mean nothing to root, so root has the program run as nobody.
#[cfg(unix)]
#[test]
fn what_may_not_be_read_is_counted_as_unreadable() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65_534;

    let (tree, job) = (Tree::new(), Job::new());
    tree.write("good.py", "x = 1\n");
    tree.write("locked.py", "y = 2\n");
    tree.write("closed/inside.py", "z = 3\n");
    let allow = |path: &std::path::Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permitted");
    };
    allow(tree.root(), 0o755);
    allow(&tree.path("locked.py"), 0o000);
    allow(&tree.path("closed"), 0o000);

    let mut command = job.command(tree.root());
    if fs::metadata(tree.root()).expect("it is there").uid() == 0 {
        // Nobody has to reach the program, wherever the tests were built, and to write the state.
        let folder = job.folder.path();
        allow(folder, 0o755);
        chown(folder, Some(NOBODY), Some(NOBODY)).expect("root may");
        let program = folder.join("program");
        fs::copy(&*PROGRAM, &program).expect("copied");
        let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        command = std::process::Command::new(program);
        command.args(args).uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().expect("the program starts");
    let run = Run::new(&output, &job.json()).expect_sound();
    allow(&tree.path("closed"), 0o755);
    assert_eq!(run.count("files.seen"), 3);
    assert_eq!(run.count("files.indexed"), 1);
    assert_eq!(run.count("files.failed.unreadable"), 2);
}
