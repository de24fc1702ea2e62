//! Running again: what changed is done again, what did not is not.

use super::program::Job;
use super::tree::Tree;
use std::fs;

#[test]
fn a_second_run_indexes_nothing_and_says_the_same() {
    let (tree, job) = (Tree::of_modules(20), Job::new());
    let first = job.run(tree.root(), &[]).expect_sound();
    assert_eq!(first.count("files.indexed"), 22);
    let mut acks = first.acks();
    acks.sort_unstable();
    acks.dedup();
    assert_eq!(acks.len(), 22, "each file is acknowledged once: {acks:?}");
    assert_eq!(acks.first(), Some(&"pkg/__init__.py"));
    // 20 of the common module, 19 of the one before, one in the package; `os` is from elsewhere.
    assert_eq!(first.count("references.resolved"), 40);
    assert_eq!(first.count("references.unresolved"), 20);

    let second = job.run(tree.root(), &[]).expect_sound();
    assert_eq!((second.count("files.indexed"), second.count("files.unchanged")), (0, 22));
    assert_eq!(second.count("tasks.accepted"), 0);
    assert!(second.acks().is_empty());
    assert!(second.summary["parse_us"].as_object().is_some_and(|rows| rows.is_empty()));
    for same in ["state_digest", "symbols", "references", "syntax_errors"] {
        assert_eq!(second.summary[same], first.summary[same], "{same}");
    }
}

#[test]
fn three_changed_files_are_indexed_again_and_their_dependants_only_resolved_again() {
    let (tree, job) = (Tree::of_modules(20), Job::new());
    let first = job.run(tree.root(), &[]).expect_sound();
    // Imported by m006 and m013, and the common module by all.
    for path in ["pkg/m005.py", "pkg/m012.py"] {
        let text = fs::read_to_string(tree.path(path)).expect("read");
        tree.write(path, text.replace("def work", "def labour"));
    }
    tree.write("pkg/m019.py", "from .m018 import work\n\nwork(1)\n");
    let second = job.run(tree.root(), &[]).expect_sound();
    assert_eq!((second.count("files.indexed"), second.count("files.unchanged")), (3, 19));
    let mut acks = second.acks();
    acks.sort_unstable();
    assert_eq!(acks, ["pkg/m005.py", "pkg/m012.py", "pkg/m019.py"]);
    // Three indexed, these three resolved, and the two that import from them.
    assert_eq!(second.count("tasks.completed"), 3 + 3 + 2);
    // Two names that are gone; and m019 has one import less that was found, and no `os`.
    assert_eq!(second.count("references.resolved"), first.count("references.resolved") - 2 - 1);
    assert_eq!(second.count("references.unresolved"), 20 + 2 - 1);
    assert_ne!(second.digest(), first.digest());
    let fresh = Job::new().run(tree.root(), &[]).expect_sound();
    assert_eq!(second.digest(), fresh.digest());
}

#[test]
fn a_file_that_is_gone_leaves_the_index_and_its_importers_are_resolved_again() {
    let (tree, job) = (Tree::of_modules(5), Job::new());
    job.run(tree.root(), &[]).expect_sound();
    fs::remove_file(tree.path("pkg/m002.py")).expect("removed");
    let second = job.run(tree.root(), &[]).expect_sound();
    assert_eq!((second.count("files.indexed"), second.count("files.unchanged")), (0, 6));
    assert_eq!(second.count("tasks.completed"), 1);
    let fresh = Job::new().run(tree.root(), &[]).expect_sound();
    assert_eq!(second.digest(), fresh.digest());
}

#[test]
fn a_tree_in_four_languages_is_resolved_across_its_files() {
    let (tree, job) = (Tree::new(), Job::new());
    tree.write("rs/lib.rs", "mod part;\nuse part::Part;\nfn f() -> Part { Part }\n");
    tree.write("rs/part.rs", "pub struct Part;\n");
    tree.write("js/a.js", "import { b } from './b';\nb();\n");
    tree.write("js/b.js", "export function b() {}\n");
    tree.write("ts/a.ts", "import type { T } from './t.js';\nexport let t: T;\n");
    tree.write("ts/t.ts", "export interface T { x: number }\n");
    tree.write("py/a.py", "from b import c\nc()\n");
    tree.write("py/b.py", "def c(): pass\n");
    let run = job.run(tree.root(), &["--agents", "4"]).expect_sound();
    assert_eq!(run.count("files.indexed"), 8);
    assert_eq!(run.count("syntax_errors"), 0);
    assert_eq!(run.count("references.resolved"), 5, "{run:?}");
    assert_eq!(run.count("references.unresolved"), 0);
    let languages = run.summary["parse_us"].as_object().expect("rows");
    let languages: Vec<&str> = languages.keys().map(String::as_str).collect();
    assert_eq!(languages, ["javascript", "python", "rust", "typescript"]);
}
