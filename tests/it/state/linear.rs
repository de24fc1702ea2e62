//! Whether recorded concurrent histories are linearizable.
//!
//! Threads do what the state offers on a few keys of two collections and write down each operation: a number from one
//! shared counter before it was invoked and one after it returned, what it found, what it wrote, and its version where
//! it was told one. The versions give the order of the writes, so the check is exact and needs no search:
//!
//! 1. Each version is of one operation, and none is missing.
//! 2. Done in the order of the versions by a naive map, each operation finds there what it found: also in rows that it
//!    only read, and in all of a collection that it went through. So a state whose commits saw to the rows that
//!    they write, and to no others, does not pass: two of them may each have found what the other one changed.
//! 3. That order respects real time: what returned before another was invoked has the smaller version.
//! 4. Each operation that wrote nothing equals the map at a version between the newest of those that had returned
//!    before it was invoked and the oldest of those invoked after it returned, and no older than what an earlier
//!    read saw: the smallest such version is taken, in the order of invocation, which leaves the most to those
//!    after it.

mod check;
mod record;

use super::long::long;
use check::check;
use phalanx::state::{FaultDisk, StateManager, Version};
use record::{Key, Operation, record};

/// Of each of the two collections.
const KEYS: u8 = 3;

fn states() -> [(&'static str, StateManager); 2] {
    let disk = FaultDisk::new();
    let builder = StateManager::builder().fault_disk(&disk);
    let durable = builder.checkpoint_every_commits(7).max_pending_bytes(200).open();
    [("memory", StateManager::in_memory()), ("disk", durable.expect("the disk works"))]
}

/// Of each thread.
const OPERATIONS: u64 = 300;

#[test]
fn what_threads_saw_and_wrote_is_linearizable() {
    let (mut overlapped, mut reruns) = (0, 0);
    for seed in 0..if long() { 30 } else { 3 } {
        for (kind, state) in states() {
            let history =
                record(&state, seed, 4, if long() { 10 * OPERATIONS } else { OPERATIONS });
            if let Err(broken) = check(&history, state.version()) {
                panic!("{kind}, seed {seed}: {broken}");
            }
            let wrote = history.iter().filter(|done| done.wrote()).count();
            assert!(wrote > 50 && wrote < history.len() - 50, "{wrote} of {}", history.len());
            for what in record::KINDS {
                let found = history.iter().any(|done| done.what == *what && done.wrote());
                assert!(found, "{kind}, seed {seed}: no {what} wrote anything");
            }
            overlapped += overlaps(&history);
            reruns += state.stats().reruns;
        }
    }
    assert!(overlapped > 100, "{overlapped} began within another");
    assert!(reruns > 100, "{reruns} found what they had read changed");
}

/// How many operations were invoked before one of another thread, invoked earlier, had returned.
fn overlaps(history: &[Operation]) -> usize {
    let mut by_time: Vec<_> = history.iter().collect();
    by_time.sort_by_key(|done| done.invoked);
    let pairs = by_time.windows(2);
    pairs
        .filter(|pair| pair[0].thread != pair[1].thread && pair[1].invoked < pair[0].returned)
        .count()
}

/// Changes a sound history with `change` wherever that can, and expects each to be refused.
fn refused(what: &str, change: impl Fn(&mut Vec<Operation>, usize) -> bool) {
    let [(_, state), _] = states();
    let sound = record(&state, 9, 4, OPERATIONS);
    check(&sound, state.version()).expect("it is sound");
    let mut changed = 0;
    for at in 0..sound.len() {
        let mut broken = sound.clone();
        if change(&mut broken, at) {
            changed += 1;
            assert!(check(&broken, state.version()).is_err(), "{what} at {at}: {:?}", sound[at]);
        }
    }
    assert!(changed > 20, "{what} was possible {changed} times");
}

#[test]
fn a_history_in_which_a_read_found_what_never_was_is_refused() {
    refused("another value", |history, at| {
        let Some(found) = history[at].found.first_mut() else { return false };
        found.1 = Some(u64::MAX);
        true
    });
}

#[test]
fn a_history_in_which_what_was_read_of_another_row_is_stale_is_refused() {
    // As where a commit sees to the rows that it writes alone.
    refused("a read of another row is stale", |history, at| {
        let done = &history[at];
        let Some(version) = done.version.filter(|_| done.wrote()) else { return false };
        let only_read =
            |key: Key| done.writes.iter().all(|(written, _)| *written != key).then_some(key);
        let stale = done.found.iter().enumerate().find_map(|(place, (key, found))| {
            let before = value_before(history, only_read(*key)?, version, *found)?;
            Some((place, before))
        });
        let Some((place, before)) = stale else { return false };
        history[at].found[place].1 = before;
        true
    });
}

/// What a row was before it became what it was last before a version; none where it never was anything else.
fn value_before(
    history: &[Operation],
    key: Key,
    version: Version,
    last: Option<u64>,
) -> Option<Option<u64>> {
    let mut writes: Vec<_> = history
        .iter()
        .filter(|done| done.version < Some(version))
        .flat_map(|done| done.writes.iter().map(|(row, value)| (done.version, *row, *value)))
        .filter(|(_, row, _)| *row == key)
        .collect();
    writes.sort_unstable();
    let mut values = writes.iter().rev().map(|(.., value)| *value).chain([None]);
    values.find(|value| *value != last)
}

#[test]
fn a_history_in_which_a_read_is_late_is_refused() {
    refused("a read after the end", |history, at| {
        if history[at].wrote() {
            return false;
        }
        // Where the row was written since, it is now too late for what was found.
        let end = history.iter().map(|done| done.returned).max().unwrap_or(0);
        let last: Vec<_> =
            history[at].found.iter().map(|(key, _)| value_at_end(history, *key)).collect();
        let differs = history[at].found.iter().zip(last).any(|((_, found), last)| *found != last);
        (history[at].invoked, history[at].returned) = (end + 1, end + 2);
        differs
    });
}

/// What the operation of the newest version left in a row.
fn value_at_end(history: &[Operation], key: Key) -> Option<u64> {
    let writes = history.iter().filter(|done| done.wrote());
    let of_key = writes.flat_map(|done| {
        done.writes
            .iter()
            .filter(move |(row, _)| *row == key)
            .map(move |write| (done.version, write.1))
    });
    of_key.max_by_key(|(version, _)| *version).and_then(|(_, value)| value)
}

#[test]
fn a_history_in_which_two_versions_changed_places_is_refused() {
    refused("two versions in each other's place", |history, at| {
        let Some(mine) = history[at].version.filter(|_| history[at].wrote()) else { return false };
        let next = Version::from_u64(mine.as_u64() + 20);
        let other = history.iter().position(|done| done.wrote() && done.version == Some(next));
        let Some(other) = other else { return false };
        // In real time one was over before the other began.
        if history[at].returned >= history[other].invoked {
            return false;
        }
        history[at].version = Some(next);
        history[other].version = Some(mine);
        true
    });
}

#[test]
fn a_history_in_which_an_update_was_lost_is_refused() {
    refused("no version", |history, at| {
        let writes = history[at].wrote();
        if writes {
            history.remove(at);
        }
        writes
    });
}
