//! Agents struck between parse and commit: the work is done elsewhere, and the index is the same.

use super::program::Job;
use super::tree::Tree;

#[test]
fn fifty_of_a_hundred_agents_struck_change_nothing_in_the_index() {
    let tree = Tree::of_modules(120);
    let undisturbed = Job::new().run(tree.root(), &[]).expect_sound();
    let struck = Job::new().run(tree.root(), &["--kill", "50"]).expect_sound();
    assert_eq!(struck.count("agents.spawned"), 100);
    assert_eq!(struck.count("agents.killed"), 50);
    assert_eq!(struck.count("tasks.rerun"), 50);
    assert_eq!(struck.count("tasks.late_completions_refused"), 50);
    assert_eq!(struck.count("tasks.failed"), 0);
    assert_eq!(struck.count("files.indexed"), 122);
    assert_eq!(struck.acks().len(), 122);
    assert_eq!(struck.digest(), undisturbed.digest());
    assert_eq!(undisturbed.count("agents.killed"), 0);
    assert_eq!(undisturbed.count("tasks.rerun"), 0);
}

#[test]
fn with_too_little_work_the_count_of_struck_agents_is_the_true_one() {
    let (tree, job) = (Tree::new(), Job::new());
    tree.write("only.py", "x = 1\n");
    let run = job.run(tree.root(), &["--kill", "50"]).expect_sound();
    let killed = run.count("agents.killed");
    assert!((1..50).contains(&killed), "{killed}");
    assert_eq!(run.count("tasks.rerun"), killed);
    assert_eq!(run.count("tasks.late_completions_refused"), killed);
    assert_eq!(run.count("files.indexed"), 1);
}
