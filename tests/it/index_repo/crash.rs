//! SIGKILL at random moments: nothing acknowledged is lost, and the index comes out the same.

use super::program::{Job, Run};
use super::tree::Tree;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

const ROUNDS: u64 = 24;
const MODULES: usize = 60;

/// xorshift64*: a failure names its round, and the round is all that it depends on.
struct Random(u64);

impl Random {
    fn of_round(round: u64) -> Self {
        Self((round + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }
}

/// Runs until so many acknowledgements were read and a little longer, then kills; what was acknowledged.
fn run_and_kill(job: &Job, tree: &Tree, random: &mut Random) -> BTreeSet<String> {
    let acks_first = usize::try_from(random.below(MODULES as u64)).expect("small");
    let longer = Duration::from_micros(random.below(4_000));
    let mut child = job.command(tree.root()).spawn().expect("the program starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut acked: BTreeSet<String> = BTreeSet::new();
    let mut read = |line: Option<std::io::Result<String>>| {
        let line = line?.expect("UTF-8");
        assert!(acked.insert(line.clone()), "{line} was acknowledged twice");
        Some(())
    };
    for _ in 0..acks_first {
        if read(lines.next()).is_none() {
            break;
        }
    }
    let until = Instant::now() + longer;
    while Instant::now() < until {
        std::hint::spin_loop();
    }
    child.kill().expect("it was not waited for");
    child.wait().expect("it was started here");
    // What it had written by then lies in the pipe; a line that was cut off is no acknowledgement.
    let mut rest = String::new();
    for line in lines {
        rest = line.expect("UTF-8");
        acked.insert(rest.clone());
    }
    if !rest.ends_with(".py") {
        acked.remove(&rest);
    }
    acked
}

#[test]
fn what_was_acknowledged_before_a_kill_is_there_after_it_and_the_index_is_the_same() {
    let tree = Tree::of_modules(MODULES);
    let undisturbed = Job::new().run(tree.root(), &[]).expect_sound();
    let total = undisturbed.count("files.indexed");
    let (mut cut_short, mut kills) = (0, 0);
    for round in 0..ROUNDS {
        let random = &mut Random::of_round(round);
        let job = Job::new();
        let mut acked = BTreeSet::new();
        // Now and then the run after the kill is killed as well.
        for _ in 0..=random.below(2) {
            let more = run_and_kill(&job, &tree, random);
            let again: Vec<_> = acked.intersection(&more).collect();
            assert!(again.is_empty(), "round {round}: indexed again: {again:?}");
            acked.extend(more);
            kills += 1;
        }
        let after: Run = job.run(tree.root(), &[]).expect_sound();
        let again: Vec<_> = after.acks().into_iter().filter(|path| acked.contains(*path)).collect();
        assert!(again.is_empty(), "round {round}: indexed again: {again:?}");
        assert!(after.count("files.unchanged") >= acked.len() as u64, "round {round}: {after:?}");
        assert_eq!(after.count("files.unchanged") + after.count("files.indexed"), total);
        assert_eq!(after.digest(), undisturbed.digest(), "round {round}");
        cut_short += u64::from(after.count("tasks.accepted") > 0);
    }
    // A test that only ever kills what was done already would show nothing.
    assert!(cut_short * 2 > ROUNDS, "{cut_short} of {ROUNDS} rounds, {kills} kills");
}
