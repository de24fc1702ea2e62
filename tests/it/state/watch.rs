//! Watches: what is told, to whom, from where on, and what ends.

use std::fmt::Debug;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use futures_core::Stream;
use phalanx::ManualClock;
use phalanx::state::{
    Changes, Commit, Key, StateManager, Value, Version, Watch, WatchError, WatchEvent,
};

fn v(number: u64) -> Version {
    Version::from_u64(number)
}

/// A change as key, old value, new value.
type Row<K, V> = (K, Option<V>, Option<V>);

fn rows<K: Key, V: Value + Ord>(changes: &Changes<K, V>) -> (u64, Vec<Row<K, V>>) {
    let row = |value: &Option<Arc<V>>| value.as_deref().cloned();
    let mut rows: Vec<_> =
        changes.into_iter().map(|it| (it.key.clone(), row(&it.old), row(&it.new))).collect();
    rows.sort();
    (changes.version().as_u64(), rows)
}

/// All that a watch has to tell now; a resync is a version without rows.
fn drain<K: Key, V: Value + Ord>(watch: &mut Watch<Changes<K, V>>) -> Vec<(u64, Vec<Row<K, V>>)> {
    let mut told = Vec::new();
    while let Ok(event) = watch.try_recv() {
        told.push(match event {
            WatchEvent::Changed(changes) => rows(&changes),
            WatchEvent::Resync { version } => (version.as_u64(), Vec::new()),
        });
    }
    told
}

#[track_caller]
fn is_resync<E: Debug>(event: Result<WatchEvent<E>, WatchError>, version: u64) {
    assert!(
        matches!(event, Ok(WatchEvent::Resync { version: told }) if told == v(version)),
        "{event:?} is no resync at {version}"
    );
}

#[track_caller]
fn is_changed<E: Debug>(event: Result<WatchEvent<E>, WatchError>) -> E {
    match event {
        Ok(WatchEvent::Changed(changes)) => changes,
        other => panic!("{other:?} is no change"),
    }
}

fn limited(commits: usize, rows: usize) -> StateManager {
    let builder = StateManager::builder().in_memory();
    builder.change_log_commits(commits).change_log_rows(rows).open().expect("the limits are valid")
}

#[test]
fn a_watch_tells_every_commit_once_in_order_and_all_its_rows_together() {
    let state = StateManager::in_memory();
    let names = state.collection::<u32, String>("names").unwrap();
    names.insert(9, "before".into()).unwrap();
    let mut watch = names.watch();
    assert_eq!(watch.version(), v(1));
    assert!(matches!(watch.try_recv(), Err(WatchError::Empty)));
    names.insert(1, "a".into()).unwrap();
    state
        .transaction(|tx| {
            tx.insert(&names, 1, "b".into());
            tx.insert(&names, 2, "c".into());
            tx.remove(&names, &9);
            Ok(())
        })
        .unwrap();
    assert_eq!(rows(&is_changed(watch.recv())), (2, vec![(1, None, Some("a".into()))]));
    assert_eq!(watch.version(), v(2));
    let both = vec![
        (1, Some("a".into()), Some("b".into())),
        (2, None, Some("c".into())),
        (9, Some("before".into()), None),
    ];
    assert_eq!(rows(&is_changed(watch.recv())), (3, both));
    assert!(matches!(watch.try_recv(), Err(WatchError::Empty)));
    assert_eq!(watch.version(), v(3));
}

#[test]
fn a_watch_of_the_state_tells_what_each_commit_did_in_every_collection() {
    let state = StateManager::in_memory();
    let names = state.collection::<u32, String>("names").unwrap();
    let ages = state.collection::<String, u32>("ages").unwrap();
    let mut watch = state.watch();
    // Made later than the watch.
    let late = state.collection::<u8, u8>("late").unwrap();
    state
        .transaction(|tx| {
            tx.insert(&late, 1, 1);
            tx.insert(&names, 7, "ada".into());
            Ok(())
        })
        .unwrap();
    ages.insert("ada".into(), 36).unwrap();
    let first: Commit = is_changed(watch.recv());
    assert_eq!((first.version(), first.rows()), (v(1), 2));
    assert_eq!(first.collections().collect::<Vec<_>>(), ["names", "late"]);
    assert_eq!(first.changes(&names)[0].new.as_deref(), Some(&"ada".to_owned()));
    assert_eq!((first.changes(&late).len(), first.changes(&ages).len()), (1, 0));
    let second = is_changed(watch.recv());
    assert_eq!((second.version(), second.changes(&ages)[0].key.as_str()), (v(2), "ada"));
    let other = StateManager::in_memory();
    let foreign = other.collection::<u32, String>("names").unwrap();
    assert!(first.changes(&foreign).is_empty(), "the same number and types, of another manager");
}

#[test]
fn a_watch_of_a_key_a_prefix_or_a_condition_tells_its_rows_alone() {
    let state = StateManager::in_memory();
    let tasks = state.collection::<String, u32>("tasks").unwrap();
    let blobs = state.collection::<Vec<u8>, u32>("blobs").unwrap();
    let mut key = tasks.watch_key("b/1".into());
    let mut prefix = tasks.watch_prefix("b/");
    let mut none = tasks.watch_prefix("");
    let mut long = tasks.watch_where(|key| key.len() > 3);
    let mut bytes = blobs.watch_prefix([0xff]);
    state
        .transaction(|tx| {
            for (value, key) in ["a/1", "b", "b/1", "b/22", "c"].into_iter().enumerate() {
                tx.insert(&tasks, key.into(), value as u32);
            }
            tx.insert(&blobs, vec![0xff, 0], 1);
            tx.insert(&blobs, vec![0xfe, 0xff], 2);
            Ok(())
        })
        .unwrap();
    tasks.insert("c".into(), 9).unwrap();
    tasks.remove(&"b/1".into()).unwrap();
    let new = |key: &str, value| (key.to_owned(), None, Some(value));
    let gone = (3, vec![("b/1".to_owned(), Some(2), None)]);
    assert_eq!(drain(&mut key), [(1, vec![new("b/1", 2)]), gone.clone()]);
    assert_eq!(drain(&mut prefix), [(1, vec![new("b/1", 2), new("b/22", 3)]), gone]);
    assert_eq!(drain(&mut long), [(1, vec![new("b/22", 3)])]);
    assert_eq!(drain(&mut none).len(), 3, "every key starts with nothing");
    assert_eq!(drain(&mut bytes), [(1, vec![(vec![0xff, 0], None, Some(1))])]);
    assert_eq!(key.version(), v(3));
    assert_eq!(long.version(), v(3), "what was none of its affair is behind it too");
}

#[test]
fn a_commit_that_leaves_every_row_as_absent_as_it_was_is_not_told() {
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    let (mut all, mut watch) = (state.watch(), rows.watch());
    state
        .transaction(|tx| {
            tx.insert(&rows, 1, 1);
            tx.remove(&rows, &1);
            Ok(())
        })
        .unwrap();
    assert_eq!(state.version(), v(1));
    assert!(matches!(all.try_recv(), Err(WatchError::Empty)));
    rows.insert(1, 2).unwrap();
    assert_eq!(drain(&mut watch), [(2, vec![(1, None, Some(2))])]);
    assert_eq!(is_changed(all.recv()).version(), v(2));
}

#[test]
fn a_watch_goes_back_and_forth_in_what_the_log_holds() {
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    rows.insert(0, 0).unwrap();
    let _first = state.watch();
    for value in 1..=4 {
        rows.insert(0, value).unwrap();
    }
    let change =
        |version: u32| (u64::from(version), vec![(0, Some(version - 2), Some(version - 1))]);
    let mut watch = rows.watch().from_version(v(1));
    assert_eq!(drain(&mut watch), [change(2), change(3), change(4), change(5)]);
    watch.seek(v(3));
    let mut other = watch.clone();
    assert_eq!(drain(&mut watch), [change(4), change(5)]);
    assert_eq!(drain(&mut other), [change(4), change(5)]);
    watch.seek(v(1));
    watch.seek(v(5));
    assert!(drain(&mut watch).is_empty());
    let mut all = state.watch_from(v(4));
    assert_eq!(is_changed(all.try_recv()).version(), v(5));
}

#[test]
fn who_asks_for_what_was_before_the_log_is_told_to_start_over() {
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    rows.insert(0, 0).unwrap();
    rows.insert(0, 1).unwrap();
    assert_eq!(state.stats().change_log_commits, 0, "nobody has watched so far");
    let mut watch = rows.watch().from_version(v(1));
    is_resync(watch.try_recv(), 2);
    assert_eq!(state.stats().resyncs, 1);
    assert!(matches!(watch.try_recv(), Err(WatchError::Empty)), "once is enough");
    rows.insert(0, 2).unwrap();
    assert_eq!(drain(&mut watch), [(3, vec![(0, Some(1), Some(2))])]);
}

#[test]
fn who_asks_for_a_version_that_is_not_there_is_told_so_even_once_it_is() {
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    let mut ahead = state.watch_from(v(3));
    let mut later = rows.watch().from_version(v(2));
    is_resync(ahead.try_recv(), 0);
    for value in 0..3 {
        rows.insert(0, value).unwrap();
    }
    is_resync(later.try_recv(), 3);
    assert_eq!(is_changed(ahead.try_recv()).version(), v(1));
}

#[test]
fn a_reader_that_fell_behind_is_told_where_to_start_over_and_goes_on_from_there() {
    let state = limited(2, 100);
    let rows = state.collection::<u32, u32>("rows").unwrap();
    let quiet = state.collection::<u32, u32>("quiet").unwrap();
    let (mut all, mut slow, mut other) = (state.watch(), rows.watch(), quiet.watch());
    let mut key = rows.watch_key(77);
    for value in 0..3 {
        rows.insert(0, value).unwrap();
    }
    assert_eq!(state.stats().change_log_commits, 2);
    is_resync(slow.try_recv(), 3);
    is_resync(all.try_recv(), 3);
    is_resync(key.try_recv(), 3);
    rows.insert(0, 3).unwrap();
    assert_eq!(drain(&mut slow), [(4, vec![(0, Some(2), Some(3))])]);
    assert_eq!(is_changed(all.try_recv()).version(), v(4));
    // Of its own collection the log has lost nothing.
    assert!(matches!(other.try_recv(), Err(WatchError::Empty)));
    assert_eq!(other.version(), v(0));
    quiet.insert(1, 1).unwrap();
    assert_eq!(drain(&mut other), [(5, vec![(1, None, Some(1))])]);
    assert_eq!(state.stats().resyncs, 3);
}

#[test]
fn the_log_is_bounded_by_rows_too_and_a_larger_commit_is_not_kept_at_all() {
    let state = limited(100, 3);
    let rows = state.collection::<u32, u32>("rows").unwrap();
    let mut watch = rows.watch();
    let insert = |keys: std::ops::Range<u32>| {
        state
            .transaction(|tx| {
                keys.clone().for_each(|key| tx.insert(&rows, key, key));
                Ok(())
            })
            .unwrap();
    };
    insert(0..2);
    insert(2..3);
    assert_eq!((state.stats().change_log_commits, state.stats().change_log_rows), (2, 3));
    insert(3..4);
    assert_eq!((state.stats().change_log_commits, state.stats().change_log_rows), (2, 2));
    is_resync(watch.try_recv(), 3);
    insert(4..8);
    assert_eq!((state.stats().change_log_commits, state.stats().change_log_rows), (0, 0));
    is_resync(watch.try_recv(), 4);
    insert(0..3);
    assert_eq!(is_changed(watch.try_recv()).rows().len(), 3);
}

#[test]
fn a_log_of_nothing_tells_of_every_commit_to_start_over() {
    let state = limited(0, 0);
    let rows = state.collection::<u32, u32>("rows").unwrap();
    let mut watch = rows.watch();
    rows.insert(1, 1).unwrap();
    is_resync(watch.recv(), 1);
    rows.insert(1, 1).unwrap();
    is_resync(watch.recv(), 2);
    assert!(matches!(watch.try_recv(), Err(WatchError::Empty)));
}

#[test]
fn a_wait_with_a_timeout_ends_on_the_clock_of_the_builder_and_leaves_nothing_behind() {
    let (clock, hand) = ManualClock::new();
    let state = StateManager::builder().in_memory().clock(clock).open().unwrap();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    let mut watch = rows.watch();
    let gone = watch.recv_timeout(Duration::ZERO);
    assert!(matches!(gone, Err(WatchError::Timeout)));
    let waiting = thread::spawn(move || (watch.recv_timeout(Duration::from_secs(10)), watch));
    while hand.sleepers() == 0 {
        thread::yield_now();
    }
    hand.advance(Duration::from_secs(10));
    let (gone, mut watch) = waiting.join().unwrap();
    assert!(matches!(gone, Err(WatchError::Timeout)));
    let waiting = thread::spawn(move || watch.recv_timeout(Duration::from_secs(10)));
    while hand.sleepers() == 0 {
        thread::yield_now();
    }
    rows.insert(1, 1).unwrap();
    assert_eq!(is_changed(waiting.join().unwrap()).version(), v(1));
}

#[test]
fn a_wait_with_a_timeout_ends_though_what_it_does_not_watch_never_does() {
    let (clock, hand) = ManualClock::new();
    let state = StateManager::builder().in_memory().clock(clock).open().unwrap();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    let other = rows.clone();
    let looks = AtomicU32::new(0);
    // Each look takes a second, and there is another commit by then.
    let mut watch = rows.watch_where(move |key| {
        assert!(looks.fetch_add(1, Ordering::SeqCst) < 10_000, "it goes on for ever");
        hand.advance(Duration::from_secs(1));
        other.insert(key + 1, 0).expect("it is open");
        false
    });
    rows.insert(0, 0).unwrap();
    let gone = watch.recv_timeout(Duration::from_secs(600));
    assert!(matches!(gone, Err(WatchError::Timeout)));
    assert!(watch.version() >= v(600), "it passed what came in that time");
}

#[derive(Default)]
struct Counted(AtomicU32);

impl Counted {
    fn get(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Counted {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_wait_that_is_dropped_after_any_poll_loses_neither_an_event_nor_anybodys_wake_up() {
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    for polls in 0..4 {
        for before in [false, true] {
            let (mut watch, mut other) = (rows.watch(), rows.watch());
            let (woken, others) = (Arc::new(Counted::default()), Arc::new(Counted::default()));
            let waker = Waker::from(Arc::clone(&others));
            let mut wait = pin!(other.recv_async());
            assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            {
                let waker = Waker::from(Arc::clone(&woken));
                let mut dropped = Box::pin(watch.recv_async());
                for _ in 0..polls {
                    assert!(dropped.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
                }
                if before {
                    rows.insert(polls, 1).unwrap();
                    assert_eq!(woken.get(), u32::from(polls > 0));
                }
                drop(dropped);
                drop(waker);
                assert_eq!(Arc::strong_count(&woken), 1, "its waker went with it");
            }
            if !before {
                rows.insert(polls, 1).unwrap();
                assert_eq!(woken.get(), 0, "nobody waits there any more");
            }
            assert_eq!(others.get(), 1);
            assert_eq!(is_changed(watch.try_recv()).rows()[0].key, polls);
            let ready = wait.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(matches!(ready, Poll::Ready(Ok(WatchEvent::Changed(_)))));
        }
    }
    assert_eq!(state.stats().watchers, 0);
}

#[test]
fn a_commit_wakes_only_who_waits_for_a_collection_that_it_changed() {
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    let other = state.collection::<u32, u32>("other").unwrap();
    let woken: Vec<_> = (0..3).map(|_| Arc::new(Counted::default())).collect();
    let (mut all, mut of_rows, mut of_other) = (state.watch(), rows.watch(), other.watch());
    let (mut a, mut b, mut c) =
        (pin!(all.recv_async()), pin!(of_rows.recv_async()), pin!(of_other.recv_async()));
    let wakers: Vec<_> = woken.iter().map(|woken| Waker::from(Arc::clone(woken))).collect();
    assert!(a.as_mut().poll(&mut Context::from_waker(&wakers[0])).is_pending());
    assert!(b.as_mut().poll(&mut Context::from_waker(&wakers[1])).is_pending());
    assert!(c.as_mut().poll(&mut Context::from_waker(&wakers[2])).is_pending());
    rows.insert(1, 1).unwrap();
    assert_eq!(woken.iter().map(|woken| woken.get()).collect::<Vec<_>>(), [1, 1, 0]);
    rows.insert(1, 1).unwrap();
    assert_eq!(woken[1].get(), 1, "one wake-up for one wait");
    assert!(a.as_mut().poll(&mut Context::from_waker(&wakers[0])).is_ready());
    let mut last = state.watch();
    let mut d = pin!(last.recv_async());
    assert!(d.as_mut().poll(&mut Context::from_waker(&wakers[0])).is_pending());
    state.close().unwrap();
    let all_woken = woken.iter().map(|woken| woken.get()).collect::<Vec<_>>();
    assert_eq!(all_woken, [2, 1, 1], "the end is everybody's who still waits");
}

#[test]
fn a_stream_yields_the_events_and_ends_with_the_manager() {
    let state = limited(1, 100);
    let rows = state.collection::<u32, u32>("rows").unwrap();
    let mut watch = rows.watch();
    let woken = Arc::new(Counted::default());
    let waker = Waker::from(Arc::clone(&woken));
    let cx = &mut Context::from_waker(&waker);
    assert!(Pin::new(&mut watch).poll_next(cx).is_pending());
    rows.insert(1, 1).unwrap();
    assert_eq!(woken.get(), 1);
    assert!(matches!(
        Pin::new(&mut watch).poll_next(cx),
        Poll::Ready(Some(WatchEvent::Changed(_)))
    ));
    rows.insert(1, 2).unwrap();
    rows.insert(1, 3).unwrap();
    let told = Pin::new(&mut watch).poll_next(cx);
    assert!(matches!(told, Poll::Ready(Some(WatchEvent::Resync { .. }))));
    assert!(Pin::new(&mut watch).poll_next(cx).is_pending());
    rows.insert(1, 4).unwrap();
    state.close().unwrap();
    assert!(matches!(
        Pin::new(&mut watch).poll_next(cx),
        Poll::Ready(Some(WatchEvent::Changed(_)))
    ));
    assert!(matches!(Pin::new(&mut watch).poll_next(cx), Poll::Ready(None)));
    assert!(matches!(Pin::new(&mut watch).poll_next(cx), Poll::Ready(None)), "it stays there");
}

#[test]
fn a_poll_looks_at_so_many_foreign_commits_and_then_lets_others_run() {
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    let mut watch = rows.watch_key(9);
    for value in 0..1000 {
        rows.insert(0, value).unwrap();
    }
    rows.insert(9, 9).unwrap();
    let woken = Arc::new(Counted::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut wait = pin!(watch.recv_async());
    let mut polls = 0;
    while wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
        polls += 1;
        assert_eq!(woken.get(), polls, "whoever has more to do says so");
    }
    assert!(polls > 1, "a thousand is not so many");
}

#[test]
fn a_close_ends_every_wait_once_all_is_told() {
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    let mut watch = rows.watch();
    let mut blocked = state.watch();
    let waiting = thread::spawn(move || {
        let mut told = 0;
        while blocked.recv().is_ok() {
            told += 1;
        }
        told
    });
    rows.insert(1, 1).unwrap();
    state.close().unwrap();
    assert_eq!(waiting.join().unwrap(), 1);
    assert_eq!(drain(&mut watch).len(), 1);
    assert_eq!(watch.recv().unwrap_err(), WatchError::Closed);
    assert_eq!(watch.try_recv().unwrap_err(), WatchError::Closed);
    assert_eq!(watch.recv_timeout(Duration::from_secs(1)).unwrap_err(), WatchError::Closed);
    assert_eq!(rows.watch().recv().unwrap_err(), WatchError::Closed, "one that begins later");
    let mut late = state.watch_from(v(0));
    assert_eq!(is_changed(late.recv()).version(), v(1), "the log is there until the end");
    assert_eq!(late.recv().unwrap_err(), WatchError::Closed);
}

#[test]
fn a_watch_outlives_the_manager_and_keeps_it_from_nothing() {
    struct Told(Arc<()>);
    impl Drop for Told {
        fn drop(&mut self) {
            let _ = &self.0;
        }
    }
    let state = StateManager::in_memory();
    let rows = state.collection::<u32, u32>("rows").unwrap();
    let alive = Arc::new(());
    let held = Told(Arc::clone(&alive));
    let mut watch = rows.watch_where(move |_| Arc::strong_count(&held.0) > 0);
    let mut blocked = state.watch();
    let waiting = thread::spawn(move || while blocked.recv().is_ok() {});
    rows.insert(1, 1).unwrap();
    drop(rows);
    drop(state);
    waiting.join().unwrap();
    assert_eq!(drain(&mut watch), [(1, vec![(1, None, Some(1))])]);
    assert_eq!(watch.recv().unwrap_err(), WatchError::Closed);
    drop(watch);
    assert_eq!(Arc::strong_count(&alive), 1, "what it watched by went with it");
}
