//! Collections, transactions and snapshots, in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::{fmt, panic, thread};

use phalanx::ErrorKind;
use phalanx::state::{Abort, StateManager, Version};

fn v(number: u64) -> Version {
    Version::from_u64(number)
}

#[test]
fn a_row_is_read_as_it_was_written_last() {
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, String>("rows").unwrap();
    assert!(rows.is_empty());
    assert_eq!(rows.insert(1, "a".into()).unwrap(), v(1));
    assert_eq!(rows.insert(1, "b".into()).unwrap(), v(2));
    assert_eq!(rows.get(&1), Some("b".into()));
    assert_eq!(rows.len(), 1);
    assert_eq!(rows.remove(&1).unwrap(), (Some("b".into()), v(3)));
    assert_eq!(rows.get(&1), None);
    assert!(!rows.contains_key(&1));
    assert_eq!(rows.remove(&1).unwrap(), (None, v(3)), "removing nothing is no commit");
    assert_eq!(state.version(), v(3));
    assert_eq!(state.stats().commits, 3);
}

#[test]
fn a_transaction_reads_its_own_writes_and_shows_them_only_once_it_commits() {
    let state = StateManager::in_memory();
    let names = state.collection::<u32, String>("names").unwrap();
    let ages = state.collection::<String, u32>("ages").unwrap();
    names.insert(7, "ada".into()).unwrap();
    let (seen, version) = state
        .transaction(|tx| {
            assert_eq!(tx.base_version(), v(1));
            tx.insert(&ages, "ada".into(), 36);
            tx.insert(&names, 8, "bob".into());
            assert_eq!(tx.remove(&names, &7), Some("ada".into()));
            assert_eq!(tx.get(&names, &7), None);
            assert!(!tx.contains_key(&names, &7));
            assert_eq!(tx.len(&names), 1);
            assert_eq!(tx.rows(&names), [(8, "bob".into())]);
            assert_eq!((ages.len(), names.len()), (0, 1), "nothing shows outside");
            Ok(tx.get(&ages, &"ada".into()))
        })
        .unwrap();
    assert_eq!((seen, version), (Some(36), v(2)));
    assert_eq!((names.get(&7), names.get(&8)), (None, Some("bob".into())));
}

#[test]
fn an_abort_leaves_nothing_and_gives_the_host_its_reason() {
    #[derive(Debug, PartialEq)]
    struct Broke(u32);
    impl fmt::Display for Broke {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{} short", self.0)
        }
    }
    impl std::error::Error for Broke {}

    let state = StateManager::in_memory();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    let error = state
        .transaction(|tx| {
            tx.insert(&rows, 1, 1);
            Err::<(), _>(Broke(5))?;
            Ok(())
        })
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Aborted);
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.downcast_ref(), Some(&Broke(5)));
    assert_eq!((rows.len(), state.version()), (0, Version::ZERO));

    let error = state.transaction(|_| Err::<(), _>(Abort::new("enough"))).unwrap_err();
    assert!(error.to_string().contains("enough"), "{error}");
    assert_eq!(state.stats().aborts, 2);
}

#[test]
fn a_panic_in_a_transaction_leaves_nothing_and_the_state_usable() {
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    let caught = panic::catch_unwind(panic::AssertUnwindSafe(|| {
        state.transaction(|tx| {
            tx.insert(&rows, 1, 1);
            if tx.len(&rows) == 1 {
                panic!("the closure is broken");
            }
            Ok(())
        })
    }));
    assert!(caught.is_err());
    assert_eq!((rows.len(), state.version()), (0, Version::ZERO));
    rows.insert(2, 2).unwrap();
    assert_eq!(rows.get(&2), Some(2));
}

#[test]
fn a_transaction_runs_again_when_what_it_read_has_changed() {
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    rows.insert(1, 10).unwrap();
    let mut runs = 0;
    let (seen, version) = state
        .transaction(|tx| {
            runs += 1;
            let seen = tx.get(&rows, &1).unwrap();
            if runs == 1 {
                rows.insert(1, 20).unwrap();
            }
            tx.insert(&rows, 2, seen);
            Ok(seen)
        })
        .unwrap();
    assert_eq!((seen, version, runs), (20, v(3), 2));
    assert_eq!(rows.get(&2), Some(20));
    assert_eq!(state.stats().reruns, 1);
}

#[test]
fn a_transaction_runs_again_when_a_row_it_missed_has_appeared_or_a_scan_has_changed() {
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    let mut runs = 0;
    state
        .transaction(|tx| {
            runs += 1;
            let missing = tx.get(&rows, &1).is_none();
            if runs == 1 {
                rows.insert(1, 1).unwrap();
            }
            tx.insert(&rows, 2, u32::from(missing));
            Ok(())
        })
        .unwrap();
    assert_eq!((runs, rows.get(&2)), (2, Some(0)));

    let mut runs = 0;
    state
        .transaction(|tx| {
            runs += 1;
            let count = tx.len(&rows) as u32;
            if runs == 1 {
                rows.insert(3, 3).unwrap();
            }
            tx.insert(&rows, 4, count);
            Ok(())
        })
        .unwrap();
    assert_eq!((runs, rows.get(&4)), (2, Some(3)));
}

#[test]
fn a_transaction_does_not_run_again_for_rows_it_did_not_read() {
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    let other = state.collection::<u32, u32>("other").unwrap();
    rows.insert(1, 1).unwrap();
    let mut runs = 0;
    state
        .transaction(|tx| {
            runs += 1;
            let seen = tx.get(&rows, &1).unwrap();
            rows.insert(9, 9).unwrap();
            other.insert(1, 1).unwrap();
            tx.insert(&rows, 2, seen);
            Ok(())
        })
        .unwrap();
    assert_eq!((runs, state.stats().reruns), (1, 0));
    assert_eq!((rows.get(&2), rows.get(&9), other.get(&1)), (Some(1), Some(9), Some(1)));
}

#[test]
fn a_transaction_that_always_conflicts_ends_with_an_error() {
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    let error = state
        .transaction(|tx| {
            let seen = tx.get(&rows, &1).unwrap_or(0);
            rows.insert(1, seen + 1).unwrap();
            tx.insert(&rows, 2, seen);
            Ok(())
        })
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.is_retryable());
    assert_eq!((rows.get(&1), rows.get(&2)), (Some(1000), None));
}

#[test]
fn a_snapshot_keeps_showing_its_version_over_all_collections() {
    let state = StateManager::in_memory();
    let a = state.collection::<u32, String>("a").unwrap();
    let b = state.collection::<u32, String>("b").unwrap();
    let empty = state.snapshot();
    state
        .transaction(|tx| {
            tx.insert(&a, 1, "one".into());
            tx.insert(&b, 2, "two".into());
            Ok(())
        })
        .unwrap();
    let then = state.snapshot();
    a.remove(&1).unwrap();
    b.insert(2, "zwei".into()).unwrap();
    let late = state.collection::<u32, u32>("late").unwrap();
    late.insert(1, 1).unwrap();

    assert_eq!((empty.version(), empty.len(&a), empty.total_len()), (v(0), 0, 0));
    assert_eq!(then.version(), v(1));
    assert_eq!(then.get(&a, &1), Some("one".into()));
    assert_eq!(then.get_ref(&b, &2).map(String::as_str), Some("two"));
    assert_eq!((then.len(&late), then.get(&late, &1)), (0, None));
    let mut rows: Vec<_> = then.iter(&b).map(|(k, v)| (*k, v.clone())).collect();
    rows.sort();
    assert_eq!(rows, [(2, "two".into())]);
    assert_eq!(then.total_len(), 2);
    assert_eq!((state.snapshot().len(&a), state.snapshot().len(&late)), (0, 1));
}

#[test]
fn one_name_has_one_pair_of_types() {
    let state = StateManager::in_memory();
    state.collection::<u32, u32>("rows").unwrap();
    state.collection::<u32, u32>("rows").unwrap();
    let error = state.collection::<u32, String>("rows").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().contains("rows") && error.to_string().contains("String"), "{error}");
    assert_eq!(state.collection::<u32, u32>("").unwrap_err().kind(), ErrorKind::InvalidArgument);
    let long: &'static str = Box::leak("x".repeat(256).into_boxed_str());
    assert_eq!(state.collection::<u32, u32>(long).unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn a_collection_of_another_manager_has_no_rows_and_takes_none() {
    let (one, two) = (StateManager::in_memory(), StateManager::in_memory());
    let ours = one.collection::<u32, u32>("rows").unwrap();
    let theirs = two.collection::<u32, u32>("rows").unwrap();
    ours.insert(1, 1).unwrap();
    theirs.insert(1, 2).unwrap();
    assert_eq!(one.snapshot().get(&theirs, &1), None);
    assert_eq!(one.snapshot().len(&theirs), 0);
    assert_eq!(one.snapshot().iter(&theirs).count(), 0);
    one.transaction(|tx| {
        assert_eq!((tx.get(&theirs, &1), tx.get(&ours, &1)), (None, Some(1)));
        Ok(())
    })
    .unwrap();
    let error = one
        .transaction(|tx| {
            tx.insert(&ours, 2, 2);
            tx.insert(&theirs, 2, 2);
            Ok(())
        })
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert_eq!((ours.get(&2), theirs.get(&2)), (None, None));
}

#[test]
fn what_is_in_memory_alone_is_never_called_durable() {
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    let version = rows.insert(1, 1).unwrap();
    assert!(!state.is_durable());
    assert_eq!(state.durable_version(), Version::ZERO);
    assert_eq!(state.wait_durable(version).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(state.flush().unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(state.checkpoint().unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn a_closed_state_is_read_and_no_longer_written() {
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    rows.insert(1, 1).unwrap();
    state.close().unwrap();
    state.close().unwrap();
    assert_eq!(rows.insert(2, 2).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!((rows.get(&1), rows.get(&2)), (Some(1), None));
}

#[test]
fn a_transaction_that_is_running_when_the_state_is_closed_commits_nothing() {
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    let result = state.transaction(|tx| {
        tx.insert(&rows, 1, 1);
        state.close().unwrap();
        Ok(())
    });
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!((rows.len(), state.version()), (0, Version::ZERO));
}

#[test]
fn concurrent_transfers_keep_the_sum_in_every_snapshot() {
    const ACCOUNTS: u32 = 8;
    const TRANSFERS: u32 = 400;
    let state = StateManager::in_memory();
    let accounts = state.collection::<u32, i64>("accounts").unwrap();
    state
        .transaction(|tx| {
            (0..ACCOUNTS).for_each(|account| tx.insert(&accounts, account, 100));
            Ok(())
        })
        .unwrap();
    let running = Arc::new(AtomicU32::new(2));
    thread::scope(|scope| {
        for writer in 0..2u32 {
            let (state, accounts, running) = (&state, &accounts, &running);
            scope.spawn(move || {
                for step in 0..TRANSFERS {
                    let from = (step * 7 + writer) % ACCOUNTS;
                    let to = (step * 5 + 3 * writer + 1) % ACCOUNTS;
                    state
                        .transaction(|tx| {
                            let left = tx.get(accounts, &from).unwrap() - 1;
                            tx.insert(accounts, from, left);
                            let more = tx.get(accounts, &to).unwrap() + 1;
                            tx.insert(accounts, to, more);
                            Ok(())
                        })
                        .unwrap();
                }
                running.fetch_sub(1, Ordering::SeqCst);
            });
        }
        let mut last = Version::ZERO;
        while running.load(Ordering::SeqCst) > 0 {
            let snapshot = state.snapshot();
            assert!(snapshot.version() >= last);
            last = snapshot.version();
            let sum: i64 = snapshot.iter(&accounts).map(|(_, balance)| balance).sum();
            assert_eq!(sum, i64::from(ACCOUNTS) * 100, "at {last}");
        }
    });
    assert_eq!(state.version(), v(u64::from(2 * TRANSFERS) + 1));
}

#[test]
fn a_value_that_blocks_in_its_drop_stops_nobody_else() {
    use serde::{Deserialize, Serialize};

    #[derive(Clone, Default, Serialize, Deserialize)]
    struct Slow {
        #[serde(skip)]
        gate: Option<Arc<Gate>>,
    }
    struct Gate {
        entered: mpsc::SyncSender<()>,
        leave: std::sync::Mutex<mpsc::Receiver<()>>,
    }
    impl Drop for Slow {
        fn drop(&mut self) {
            if let Some(gate) = self.gate.take() {
                gate.entered.send(()).unwrap();
                gate.leave.lock().unwrap().recv().unwrap();
            }
        }
    }

    let state = StateManager::in_memory();
    let rows = state.collection::<u32, Slow>("rows").unwrap();
    let (entered, has_entered) = mpsc::sync_channel(1);
    let (leave, may_leave) = mpsc::channel();
    let gate = Arc::new(Gate { entered, leave: std::sync::Mutex::new(may_leave) });
    rows.insert(1, Slow { gate: Some(gate) }).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| rows.insert(1, Slow { gate: None }).unwrap());
        has_entered.recv().unwrap();
        // The other commit is inside the drop of the old value now.
        rows.insert(2, Slow { gate: None }).unwrap();
        assert_eq!(state.snapshot().len(&rows), 2);
        assert_eq!(state.stats().version, state.version());
        leave.send(()).unwrap();
    });
}

#[test]
fn a_builder_opens_in_memory_only_when_it_is_told_to() {
    let forgotten = StateManager::builder().open().unwrap_err();
    assert_eq!(forgotten.kind(), ErrorKind::InvalidArgument);
    let state = StateManager::builder().in_memory().open().unwrap();
    assert!(!state.is_durable() && state.recovery().created);
    let version = state.collection::<u32, u32>("rows").unwrap().insert(1, 1).unwrap();
    assert_eq!((version, state.durable_version()), (v(1), Version::ZERO));
}
