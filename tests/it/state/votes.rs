//! Votes of an election that are kept in the state: no two in one term, whatever crashes.
//!
//! A vote is a compare-and-set on the row of its term, from none to the candidate, that is made durable before it
//! is told. Whoever asks again for the same candidate is told again, once that row is durable; whoever asks for
//! another one is refused.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread;

use phalanx::Error;
use phalanx::state::{Collection, FaultDisk, StateManager};

use super::long::long;
use super::power::loss::survivors;

/// Of either form the steps below have no divisor in common with it.
fn terms() -> u64 {
    if long() { 60 } else { 12 }
}

const CANDIDATES: u32 = 4;

struct Voter {
    state: StateManager,
    votes: Collection<u64, u32>,
    /// Off in the weakened twin.
    waits: bool,
}

impl Voter {
    fn open(disk: &FaultDisk, waits: bool) -> Result<Self, Error> {
        let state = StateManager::builder().fault_disk(disk).checkpoint_every_commits(5).open()?;
        let votes = state.collection("votes")?;
        Ok(Self { state, votes, waits })
    }

    /// Whether the candidate has this voter's vote in the term.
    fn ask(&self, term: u64, candidate: u32) -> Result<bool, Error> {
        let version = match self.votes.compare_and_set(&term, None, Some(candidate))? {
            Ok(version) => version,
            Err(taken) if taken.current == Some(candidate) => self.state.version(),
            Err(_) => return Ok(false),
        };
        if self.waits {
            self.state.wait_durable(version)?;
        }
        Ok(true)
    }
}

/// Which candidates were told in a term, each with the call after which it was.
type Told = Mutex<Vec<(u64, u32, u64)>>;

/// All candidates ask at once, each in an order of its own, and some twice.
fn elections(voter: &Voter, disk: &FaultDisk) -> Vec<(u64, u32, u64)> {
    let told = Told::default();
    let terms = terms();
    let ask = |term, candidate| {
        if voter.ask(term, candidate).expect("the disk works") {
            told.lock().expect("no thread panics").push((term, candidate, disk.calls()));
        }
    };
    thread::scope(|scope| {
        for candidate in 0..CANDIDATES {
            let ask = &ask;
            scope.spawn(move || {
                for step in 0..terms {
                    let term = 1 + (step * [1, 17, 7, 11][candidate as usize] + 3) % terms;
                    ask(term, candidate);
                    if step % 3 == 0 {
                        ask(term, candidate);
                    }
                }
            });
        }
    });
    told.into_inner().expect("no thread panics")
}

/// Loses the power after every call, asks for other candidates, and tells where a term then has two votes.
fn second_votes(waits: bool) -> Vec<String> {
    let disk = FaultDisk::new();
    Voter::open(&disk, waits).expect("the disk works").state.close().expect("the disk works");
    disk.record();
    let first = disk.calls();
    let voter = Voter::open(&disk, waits).expect("the disk works");
    let told = elections(&voter, &disk);
    assert!(told.len() as u64 >= terms(), "every term has a vote: {told:?}");
    let effort = if long() { 200 } else { 2 };
    let mut second = Vec::new();
    for call in first..=disk.calls() {
        let mut votes = BTreeMap::new();
        for (term, candidate, at) in &told {
            let before = (*at <= call).then(|| votes.insert(*term, *candidate)).flatten();
            assert!(before.is_none_or(|before| before == *candidate), "two without a crash");
        }
        for survivor in survivors(&disk.rewound(call, |_| false), call, effort) {
            let again = Voter::open(&survivor.disk, true).expect("the disk was closed once");
            for (term, candidate) in &votes {
                let other = (candidate + 1) % CANDIDATES;
                if again.ask(*term, other).expect("the disk works") {
                    let what = &survivor.what;
                    second.push(format!("{candidate} and {other} in {term}, after {call}, {what}"));
                }
                // A vote that was told is told again.
                assert!(again.ask(*term, *candidate).expect("the disk works") || !waits);
            }
        }
    }
    second
}

#[test]
fn no_voter_votes_twice_in_one_term_whatever_crashes() {
    assert_eq!(second_votes(true), Vec::<String>::new());
}

/// So the test above can fail.
#[test]
fn a_voter_that_tells_before_its_vote_is_durable_is_found_out() {
    assert!(!second_votes(false).is_empty());
}
