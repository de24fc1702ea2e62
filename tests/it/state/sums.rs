//! Transfers by several threads keep their sum: in every snapshot, and in whatever a power loss leaves.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use phalanx::state::{Abort, Collection, FaultDisk, Snapshot, StateManager, Version};

use super::power::loss::{Random, survivors};

const ACCOUNTS: u32 = 6;
const EACH: i64 = 100;
const THREADS: u32 = 3;

/// Two collections, so that a torn cut between them would show.
type Accounts = [Collection<u32, i64>; 2];

fn open(disk: &FaultDisk) -> (StateManager, Accounts) {
    let builder = StateManager::builder().fault_disk(disk).checkpoint_every_commits(16);
    // A row a step, so that checkpoints are there in part while threads write groups.
    let builder = builder.max_pending_bytes(200).checkpoint_step_bytes(1);
    let state = builder.open().expect("the disk works");
    let accounts = ["left", "right"].map(|name| state.collection(name).expect("it has one type"));
    (state, accounts)
}

fn sum(snapshot: &Snapshot, accounts: &Accounts) -> i64 {
    accounts.iter().flat_map(|side| snapshot.iter(side)).map(|(_, balance)| *balance).sum()
}

/// Moves an amount from one side to the other, if it is there; some are put down and taken up again.
fn transfer(state: &StateManager, accounts: &Accounts, number: u32) -> Option<Version> {
    // Two transfers share one row now and then: of two that share both the later one's rows would add up by themselves.
    let mut random = Random::new(u64::from(number));
    let (from, to) = (random.draw(2) as u32, random.draw(ACCOUNTS as usize) as u32);
    let side = (number % 2) as usize;
    let amount = i64::from(number % 13 + 1);
    let done = state.transaction(|tx| {
        let balance = tx.get(&accounts[side], &from).unwrap_or(0);
        // So that others commit in between, also on one core.
        thread::yield_now();
        if balance < amount {
            return Err(Abort::new("too little is left"));
        }
        tx.insert(&accounts[side], from, balance - amount);
        if number.is_multiple_of(17) {
            return Err(Abort::new("changed its mind"));
        }
        let there = tx.get(&accounts[1 - side], &to).unwrap_or(0);
        tx.insert(&accounts[1 - side], to, there + amount);
        Ok(())
    });
    done.ok().map(|((), version)| version)
}

#[test]
fn transfers_keep_their_sum_in_every_snapshot_and_after_every_power_loss() {
    let long = std::env::var_os("PHALANX_LONG_TESTS").is_some();
    let transfers = if long { 400 } else { 40 };
    let disk = FaultDisk::new();
    let (state, accounts) = open(&disk);
    let setup = state.transaction(|tx| {
        for side in &accounts {
            (0..ACCOUNTS).for_each(|account| tx.insert(side, account, EACH));
        }
        Ok(())
    });
    setup.expect("nothing refuses it");
    state.flush().expect("the disk works");
    disk.record();
    let (first, total) = (disk.calls(), sum(&state.snapshot(), &accounts));
    let running = AtomicU32::new(THREADS);
    let mut seen = 0;
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (state, accounts, running) = (&state, &accounts, &running);
            scope.spawn(move || {
                for number in 0..transfers {
                    let version = transfer(state, accounts, number * THREADS + thread);
                    if let Some(version) = version.filter(|_| number % 4 == 0) {
                        state.wait_durable(version).expect("the disk works");
                    }
                }
                running.fetch_sub(1, Ordering::SeqCst);
            });
        }
        let mut last = Version::ZERO;
        while running.load(Ordering::SeqCst) > 0 {
            let snapshot = state.snapshot();
            assert!(snapshot.version() >= last);
            seen += u64::from(snapshot.version() > last);
            last = snapshot.version();
            assert_eq!(sum(&snapshot, &accounts), total, "at {last}");
        }
    });
    state.flush().expect("the disk works");
    assert!(seen > 0 && state.version().as_u64() > u64::from(transfers));
    assert_eq!(sum(&state.snapshot(), &accounts), total);
    let step = if long { 1 } else { 3 };
    for call in (first..=disk.calls()).step_by(step) {
        for survivor in survivors(&disk.rewound(call, |_| false), call, if long { 12 } else { 1 }) {
            let (state, accounts) = open(&survivor.disk);
            let found = sum(&state.snapshot(), &accounts);
            assert_eq!(found, total, "after call {call}, {}, {}", survivor.what, state.version());
        }
    }
}
