//! Checkpoints beside groups: who comes first, what fails, and what is owed.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Wake, Waker};
use std::thread;

use super::super::debts;
use super::super::scripted_tests::{
    Act, Call, Log, Script, Shared, commit, get, scripted, until, v, waits, when_woken,
};
use super::*;

fn kind<R>(result: Result<R, Error>) -> Result<R, ErrorKind> {
    result.map_err(|error| error.kind())
}

fn calls(script: &Mutex<Script>) -> Vec<Call> {
    script.lock().expect("nothing panics under it").calls.clone()
}

/// Succeeds in so many calls before `act`.
fn after(calls: usize, act: Act) -> VecDeque<Act> {
    let nothing = (0..calls).map(|_| Box::new(|_: &Shared| Ok(())) as Act);
    nothing.chain([act]).collect()
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Commits version 2 and leaves a waker for it, as somebody who waits does.
fn somebody_waits(journal: &Log) -> Arc<Woken> {
    commit(journal, 2);
    let woken = Arc::new(Woken(AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&woken));
    assert!(journal.poll(v(2), &mut None, &waker).is_pending());
    woken
}

#[test]
fn who_waits_during_a_sweep_is_overtaken_by_no_other_step() {
    let (give, take) = mpsc::channel();
    // Within the first step that removes something.
    let waits: Act = Box::new(move |journal| {
        give.send(somebody_waits(get(journal))).expect("the test takes it");
        Ok(())
    });
    let (journal, script) =
        scripted(Script { acts: after(2, waits), sweeps: 9, ..Script::default() });
    assert_eq!(kind(get(&journal).checkpoint()), Ok(v(1)));
    use Call::{Append, Prepare, Step};
    let calls = calls(&script);
    assert_eq!(calls[..6], [Append, Prepare, Step, Step, Append, Step], "{calls:?}");
    assert_eq!(calls[6..], [Step; 7]);
    assert!(take.recv().expect("it was left").0.load(Ordering::SeqCst));
    assert_eq!(get(&journal).durable(), v(2));
}

#[test]
fn who_waits_during_a_sweep_is_woken_once_and_for_its_group() {
    let (give, take) = mpsc::channel();
    let waits: Act = Box::new(move |shared| {
        commit(get(shared), 2);
        let inner = Arc::clone(shared);
        // It panics where it is woken twice.
        when_woken(get(shared), 2, move || {
            give.send(get(&inner).durable()).expect("the test takes it");
        });
        Ok(())
    });
    let (journal, _) = scripted(Script { acts: after(2, waits), sweeps: 9, ..Script::default() });
    assert_eq!(kind(get(&journal).checkpoint()), Ok(v(1)));
    assert_eq!(take.try_recv(), Ok(v(2)));
    assert_eq!(get(&journal).counts().caught_panics, 0);
}

#[test]
fn what_nobody_waits_for_is_not_written_by_who_does_the_steps() {
    let commits: Act = Box::new(|journal| {
        commit(get(journal), 2);
        Ok(())
    });
    let (journal, _) = scripted(Script { acts: after(2, commits), sweeps: 9, ..Script::default() });
    assert_eq!(kind(get(&journal).checkpoint()), Ok(v(1)));
    assert_eq!((get(&journal).durable(), get(&journal).counts().groups), (v(1), 1));
}

/// The journal after a checkpoint was asked for whose encoding is `prepare`, and how that ended; the commits of two
/// groups are durable.
fn failing(prepare: Act) -> (Shared, Result<Version, ErrorKind>) {
    let (journal, _) = scripted(Script { prepares: [prepare].into(), ..Script::default() });
    let ended = kind(get(&journal).checkpoint());
    (journal, ended)
}

#[test]
fn a_checkpoint_that_cannot_be_encoded_is_told_and_groups_go_on() {
    let fails: Act = Box::new(|_| Err(Error::new(ErrorKind::Codec, "a row has no form")));
    let panics: Act = Box::new(|_| panic!("the clone of a key"));
    for (prepare, reason) in [(fails, ErrorKind::Codec), (panics, ErrorKind::Internal)] {
        let (journal, ended) = failing(prepare);
        let journal = get(&journal);
        assert_eq!(ended, Err(reason));
        let counts = journal.counts();
        assert_eq!((counts.checkpoints_failed, counts.checkpoints), (1, 0));
        assert_eq!((counts.poisoned, counts.checkpoint_pending), (false, false));
        commit(journal, 2);
        journal.wait(v(2)).expect("the sink does not fail");
        let told = journal.counts().checkpoint_failure.expect("none is valid since");
        assert!(
            told.starts_with("a checkpoint could not be encoded, and was given up: "),
            "{told}"
        );
        // What failed is no concern of the next one.
        assert_eq!(kind(journal.checkpoint()), Ok(v(2)));
        let counts = journal.counts();
        assert_eq!((counts.checkpoints_failed, counts.checkpoints), (1, 1));
        assert_eq!(counts.checkpoint_failure, None);
        journal.close().expect("the sink does not fail");
    }
}

#[test]
fn a_checkpoint_that_fails_beside_a_group_is_no_affair_of_the_group() {
    let (ask, asked) = mpsc::channel::<()>();
    let fails: Act = Box::new(move |_| {
        asked.recv().expect("a group asks for it");
        Err(Error::new(ErrorKind::Codec, "a row has no form"))
    });
    let beside: Act = Box::new(move |journal| {
        ask.send(()).expect("it is being encoded");
        while get(journal).counts().checkpoints_failed == 0 {
            thread::yield_now();
        }
        Ok(())
    });
    let script = Script { acts: after(1, beside), prepares: [fails].into(), ..Script::default() };
    let (journal, script) = scripted(script);
    let journal = get(&journal);
    thread::scope(|scope| {
        let checkpoint = scope.spawn(|| kind(journal.checkpoint()));
        while calls(&script).last() != Some(&Call::Prepare) {
            thread::yield_now();
        }
        commit(journal, 2);
        journal.wait(v(2)).expect("it is written");
        assert_eq!(checkpoint.join().expect("it does not panic"), Err(ErrorKind::Codec));
    });
    assert_eq!((journal.durable(), journal.counts().poisoned), (v(2), false));
    journal.close().expect("the sink does not fail");
}

#[test]
fn a_close_waits_for_nobody_who_encodes_and_is_not_concerned_where_that_fails() {
    let closes: Act = Box::new(|journal| {
        commit(get(journal), 2);
        get(journal).close().expect("the sink does not fail");
        Err(Error::new(ErrorKind::Codec, "a row has no form"))
    });
    let (journal, ended) = failing(closes);
    assert_eq!(ended, Err(ErrorKind::Closed));
    assert_eq!(get(&journal).durable(), v(2));
    get(&journal).close().expect("it was closed in order");
    assert!(!get(&journal).counts().checkpoint_pending);
}

#[test]
fn who_encodes_may_wait_for_the_disk_and_not_for_its_own_checkpoint() {
    let (give, take) = mpsc::channel();
    let waits: Act = Box::new(move |journal| {
        let journal = get(journal);
        commit(journal, 2);
        journal.wait(v(2))?;
        give.send(kind(journal.checkpoint())).expect("the test takes it");
        Ok(())
    });
    let (journal, ended) = failing(waits);
    assert_eq!(ended, Ok(v(1)));
    assert_eq!(take.recv().expect("it was encoded"), Err(ErrorKind::Reentrant));
    assert_eq!(get(&journal).durable(), v(2));
}

#[test]
fn a_step_that_fails_ends_the_log_and_the_checkpoint_and_is_told() {
    for at in [1, 2] {
        let (give, take) = mpsc::channel();
        let fails: Act = Box::new(move |journal| {
            commit(get(journal), 2);
            give.send(waits(journal, &[2])).expect("the test takes them");
            Err(Error::new(ErrorKind::Io, "the disk is gone"))
        });
        let (journal, _) = scripted(Script { acts: after(at, fails), ..Script::default() });
        let journal = get(&journal);
        // One that is valid is not told as lost because of what comes after.
        let ended = kind(journal.checkpoint());
        assert_eq!(ended, if at == 2 { Ok(v(1)) } else { Err(ErrorKind::Poisoned) });
        for wait in take.recv().expect("they wait") {
            let wait = wait.join().expect("a wait does not panic");
            assert_eq!(kind(wait), Err(ErrorKind::Poisoned));
        }
        let counts = journal.counts();
        assert_eq!((journal.durable(), counts.poisoned), (v(1), true));
        assert_eq!((counts.checkpoint_pending, counts.checkpoint_snapshot), (false, None));
    }
}

/// The next call of the sink fails.
fn fails() -> Act {
    Box::new(|_| Err(Error::new(ErrorKind::Io, "the disk is gone")))
}

#[test]
fn a_log_that_ends_holds_no_draft() {
    for closes in [false, true] {
        let (journal, script) = begun(0, 1, 3);
        let journal = get(&journal);
        assert_eq!(journal.counts().checkpoint_snapshot, Some(v(1)));
        // The sink, the test, and the draft.
        assert_eq!(Arc::strong_count(&script), 3);
        if closes {
            journal.close().expect("the sink does not fail");
            assert_eq!(Arc::strong_count(&script), 1, "its image was let go of with the sink");
        } else {
            commit(journal, 2);
            script.lock().expect("nothing panics under it").acts.push_back(fails());
            assert_eq!(kind(journal.wait(v(2))), Err(ErrorKind::Poisoned));
            assert_eq!(Arc::strong_count(&script), 2, "its image was let go of");
        }
    }
}

#[test]
fn a_log_that_ends_while_a_draft_is_prepared_does_not_get_it_back() {
    for closes in [false, true] {
        let ends: Act = Box::new(move |journal| {
            let journal = get(journal);
            commit(journal, 2);
            let ended = if closes { journal.close() } else { journal.wait(v(2)) };
            assert_eq!(ended.is_ok(), closes, "{ended:?}");
            Ok(())
        });
        let acts = if closes { VecDeque::new() } else { after(1, fails()) };
        let (journal, script) =
            scripted(Script { acts, prepares: [ends].into(), ..Script::default() });
        let expected = if closes { ErrorKind::Closed } else { ErrorKind::Poisoned };
        assert_eq!(kind(get(&journal).checkpoint()), Err(expected));
        assert_eq!(get(&journal).counts().checkpoints_failed, 0, "it ended as it was to");
        // The test, and the sink where nobody has closed it.
        assert_eq!(Arc::strong_count(&script), if closes { 1 } else { 2 });
    }
}

/// Has the next part encoded, as a leader does after its group.
fn prepared(journal: &Log) {
    let mut log = journal.log.lock();
    let leader = log.checkpoints.debts.enter();
    drop(journal.pay(log, leader, false));
}

#[test]
fn what_ends_with_a_step_is_dropped_once_the_sink_is_put_back() {
    // A step that fails of who wants it, and of a leader; and the last one.
    for (leads, acts) in
        [(false, after(1, fails())), (true, after(1, fails())), (false, after(9, fails()))]
    {
        let (give, take) = mpsc::channel();
        let (journal, script) = begun(0, 1, 1);
        // Whoever drops a draft may wait for the disk.
        let dropped: Act = Box::new(move |journal| {
            give.send(kind(get(journal).check_parks())).expect("the test takes it");
            Ok(())
        });
        {
            let mut script = script.lock().expect("nothing panics under it");
            (script.dropped, script.acts) = (Some(dropped), acts);
        }
        if leads {
            prepared(get(&journal));
            commit(get(&journal), 2);
            get(&journal).wait(v(2)).expect("its group is written before that");
        } else {
            script.lock().expect("nothing panics under it").acts.pop_front();
            while let Ok(Advance::Stepped) = get(&journal).advance(None) {}
        }
        assert_eq!(take.try_recv(), Ok(Ok(())), "a leader: {leads}");
    }
}

/// Another thread that wants a checkpoint, and waits for the one that is being encoded.
fn another_one_wants(journal: &Shared) -> thread::JoinHandle<Result<Version, ErrorKind>> {
    let inner = Arc::clone(journal);
    let wants = thread::spawn(move || kind(get(&inner).checkpoint()));
    until("it waits", || {
        assert!(!wants.is_finished(), "it waits for nobody");
        !get(journal).log.lock().checkpoints.steppers.is_empty()
    });
    wants
}

#[test]
fn who_wants_a_later_checkpoint_is_not_told_that_an_earlier_one_failed() {
    let (give, take) = mpsc::channel();
    let fails: Act = Box::new(move |journal| {
        commit(get(journal), 2);
        give.send(another_one_wants(journal)).expect("the test takes it");
        Err(Error::new(ErrorKind::Codec, "a row has no form"))
    });
    let (journal, ended) = failing(fails);
    // The later one may be valid before the first looks.
    assert!(matches!(ended, Err(ErrorKind::Codec)) || ended == Ok(v(2)), "{ended:?}");
    let other = take.recv().expect("it was encoded").join().expect("it does not panic");
    assert_eq!(other, Ok(v(2)));
    let counts = get(&journal).counts();
    assert_eq!((counts.checkpoints_failed, counts.checkpoints), (1, 1));
}

#[test]
fn who_waits_for_a_checkpoint_of_another_is_told_of_a_close_before_that_is_encoded() {
    let closes: Act = Box::new(|journal| {
        let other = another_one_wants(journal);
        get(journal).close().expect("the sink does not fail");
        assert_eq!(other.join().expect("it does not panic"), Err(ErrorKind::Closed));
        Ok(())
    });
    let (journal, ended) = failing(closes);
    assert_eq!(ended, Err(ErrorKind::Closed));
    assert_eq!(get(&journal).counts().checkpoints_failed, 0, "the other was told what it was");
}

/// A journal with a checkpoint that is begun and not done, over groups and steps of so many bytes.
fn begun(group_bytes: u64, step_bytes: u64, sweeps: usize) -> (Shared, Arc<Mutex<Script>>) {
    let script = Script { group_bytes, step_bytes, sweeps, ..Script::default() };
    let (journal, script) = scripted(script);
    {
        let journal = get(&journal);
        let mut log = journal.log.lock();
        let sink = log.sink.take().expect("nobody has it");
        drop(journal.write(log, sink, true, Group { of: None, by: None }));
    }
    script.lock().expect("nothing panics under it").calls.clear();
    (journal, script)
}

#[test]
fn a_leader_does_three_times_the_bytes_of_its_group_in_steps_and_one_step_at_least() {
    for (group_bytes, steps) in [(0, 1), (4, 2), (10, 3), (11, 4)] {
        let (journal, script) = begun(group_bytes, 10, 99);
        prepared(get(&journal));
        commit(get(&journal), 2);
        get(&journal).wait(v(2)).expect("the sink does not fail");
        let made = calls(&script);
        let done = made.iter().filter(|call| **call == Call::Step).count();
        assert_eq!(done, steps, "of {group_bytes} bytes: {made:?}");
        assert_eq!(made[..3], [Call::Prepare, Call::Append, Call::Step]);
    }
}

#[test]
fn the_sink_is_put_back_between_the_steps_of_one_leader() {
    let (journal, script) = begun(10, 10, 99);
    prepared(get(&journal));
    commit(get(&journal), 2);
    let (give, take) = mpsc::channel();
    // Within the second step after the group.
    let waits: Act = Box::new(move |journal| {
        commit(get(journal), 3);
        give.send(waits(journal, &[3])).expect("the test takes them");
        Ok(())
    });
    script.lock().expect("nothing panics under it").acts = after(2, waits);
    get(&journal).wait(v(2)).expect("the sink does not fail");
    for wait in take.recv().expect("they wait") {
        wait.join().expect("a wait does not panic").expect("it is written");
    }
    let made = calls(&script);
    assert_eq!(made[4], Call::Append, "it comes next, whoever writes it: {made:?}");
    assert_eq!(get(&journal).durable(), v(3));
}

const MIB: u64 = 1 << 20;

/// Commits this version within a call of the sink, and leaves a waker for it.
fn somebody_waits_for(version: u64) -> Act {
    Box::new(move |journal| {
        commit(get(journal), version);
        assert!(get(journal).poll(v(version), &mut None, Waker::noop()).is_pending());
        Ok(())
    })
}

/// Where groups were written, among all calls.
fn groups(script: &Mutex<Script>) -> Vec<usize> {
    let calls = calls(script).into_iter().enumerate();
    calls.filter(|(_, call)| *call == Call::Append).map(|(at, _)| at).collect()
}

#[test]
fn one_large_group_puts_off_no_group_of_others() {
    let (journal, script) = begun(64 * MIB, MIB, 999);
    prepared(get(&journal));
    commit(get(&journal), 2);
    // Within the first step after the group, of which 191 more are owed.
    script.lock().expect("nothing panics under it").acts = after(1, somebody_waits_for(3));
    get(&journal).wait(v(2)).expect("the sink does not fail");
    assert_eq!(groups(&script), [1, 3]);
}

/// In this call of the sink and each one after it somebody commits the next version and leaves a waker for it; the
/// most that nobody was at in any of them.
fn others_go_on(script: Arc<Mutex<Script>>, version: u64, nobodys_max: Arc<AtomicU64>) -> Act {
    Box::new(move |journal| {
        let nobodys = get(journal).log.lock().checkpoints.debts.nobodys();
        nobodys_max.fetch_max(nobodys, Ordering::SeqCst);
        somebody_waits_for(version)(journal)?;
        let next = others_go_on(Arc::clone(&script), version + 1, nobodys_max);
        let mut script = script.lock().expect("nothing panics under it");
        // After the large one.
        script.group_bytes = MIB;
        script.acts.push_back(next);
        Ok(())
    })
}

#[test]
fn others_that_go_on_beside_a_large_group_are_put_off_no_more_than_by_twice_what_they_owe() {
    let (journal, script) = begun(256 * MIB, MIB, 99_999);
    prepared(get(&journal));
    commit(get(&journal), 2);
    let nobodys_max = Arc::new(AtomicU64::new(0));
    let others = others_go_on(Arc::clone(&script), 3, Arc::clone(&nobodys_max));
    script.lock().expect("nothing panics under it").acts = after(1, others);
    get(&journal).wait(v(2)).expect("the sink does not fail");
    script.lock().expect("nothing panics under it").acts.clear();

    let between = |groups: Vec<usize>| groups.windows(2).map(|two| two[1] - two[0] - 1).max();
    assert_eq!(between(groups(&script)), Some(6), "of a mebibyte each, half for others");
    let most = debts::BYTES_MAX + PACE * MIB;
    assert_eq!(
        nobodys_max.load(Ordering::SeqCst),
        most,
        "one group beyond what may be left undone"
    );
    let steps = calls(&script).iter().filter(|call| **call == Call::Step).count();
    assert!((1400..=2 * 768).contains(&steps), "{steps} for the 768 that it owes");

    // And nothing is left to those who come afterwards that was hidden behind it.
    assert!(get(&journal).log.lock().checkpoints.debts.nobodys() <= most);
    script.lock().expect("nothing panics under it").calls.clear();
    let newest = get(&journal).log.lock().committed;
    get(&journal).wait(newest).expect("the sink does not fail");
    assert!(groups(&script)[0] <= 3, "{:?}", groups(&script));
}

#[test]
fn steps_come_before_groups_where_nobody_is_at_what_earlier_ones_owe() {
    let (journal, script) = begun(10 * MIB, MIB, 999);
    let journal = get(&journal);
    // Whoever wants the checkpoint writes both groups, the second one 21 steps after the first, which owes 30.
    script.lock().expect("nothing panics under it").acts =
        [somebody_waits_for(2), Box::new(|_: &Shared| Ok(())) as Act, somebody_waits_for(3)].into();
    assert_eq!(kind(journal.finish(v(1))), Ok(Some(v(1))));
    let groups = groups(&script);
    assert_eq!(groups, [2, 25]);
}

#[test]
fn who_would_lead_does_steps_first_where_nobody_is_at_what_earlier_groups_owe() {
    let (journal, script) = begun(10 * MIB, MIB, 999);
    let journal = get(&journal);
    // Steps without a group of their own, beside which a group is written for another: it owes 30.
    script.lock().expect("nothing panics under it").acts = [somebody_waits_for(2)].into();
    for _ in 0..3 {
        assert_eq!(kind(journal.advance(None)), Ok(Advance::Stepped));
    }
    assert_eq!(groups(&script), [2]);
    commit(journal, 3);
    journal.wait(v(3)).expect("the sink does not fail");
    let groups = groups(&script);
    assert_eq!(groups, [2, 25]);
    // Both are paid by whoever wrote the second one.
    let done = calls(&script).iter().filter(|call| **call == Call::Step).count();
    assert_eq!(done, 1 + 30 + 30);
}

#[test]
fn who_wrote_more_than_may_be_left_undone_waits_for_who_has_the_checkpoint() {
    for (group_bytes, waits) in [(2 * MIB, false), (10 * MIB, true)] {
        let (give, take) = mpsc::channel();
        // Whoever encodes goes on once the group of another is written, and that one waits or has ended.
        let encodes: Act = Box::new(move |journal| {
            commit(get(journal), 2);
            let inner = Arc::clone(journal);
            let leader = thread::spawn(move || get(&inner).wait(v(2)));
            let is_over = || leader.is_finished();
            until("it waits or has ended", || {
                !get(journal).log.lock().checkpoints.steppers.is_empty() || is_over()
            });
            assert_eq!(get(journal).durable(), v(2));
            // Time enough for one that would go on all the same.
            let ended = (0..10_000).any(|_| {
                thread::yield_now();
                leader.is_finished()
            });
            give.send((ended, leader)).expect("the test takes it");
            Ok(())
        });
        let prepares = [encodes].into();
        let script =
            Script { group_bytes, step_bytes: MIB, sweeps: 99, prepares, ..Script::default() };
        let (journal, _) = scripted(script);
        assert_eq!(kind(get(&journal).checkpoint()), Ok(v(1)));
        let (ended, leader) = take.recv().expect("it was encoded");
        leader.join().expect("it does not panic").expect("it is written");
        assert_eq!(ended, !waits, "after a group of {group_bytes} bytes");
    }
}

#[test]
fn a_leader_goes_on_to_the_end_of_a_checkpoint_that_is_overdue() {
    let (journal, script) = begun(0, 1, 9);
    script.lock().expect("nothing panics under it").past = OVERDUE;
    commit(get(&journal), 2);
    get(&journal).wait(v(2)).expect("the sink does not fail");
    let counts = get(&journal).counts();
    assert_eq!((counts.checkpoints, counts.checkpoint_steps), (1, 10));
    assert!(!counts.checkpoint_pending);
}

#[test]
fn a_leader_leaves_a_checkpoint_that_is_overdue_to_the_server_and_wakes_it() {
    let (journal, script) = begun(1, 1, 99);
    script.lock().expect("nothing panics under it").past = OVERDUE_SERVED - 1;
    let journal = get(&journal);
    let server = Arc::new(Woken(AtomicBool::new(false)));
    let served = Waker::from(Arc::clone(&server));
    thread::scope(|scope| {
        scope.spawn(|| journal.serve(served));
    });
    for version in 2..4 {
        prepared(journal);
        commit(journal, version);
        let before = journal.counts().checkpoint_steps;
        journal.wait(v(version)).expect("the sink does not fail");
        assert_eq!(journal.counts().checkpoint_steps - before, PACE, "what its group owes");
        assert!(server.0.swap(false, Ordering::SeqCst), "it is there for the rest");
        assert!(journal.is_overdue());
    }
    // The server itself goes on.
    let (groups, steps) = (journal.counts().groups, journal.counts().checkpoint_steps);
    commit(journal, 4);
    let own = journal.log.lock().server.take().expect("it is there").waker;
    journal.serve(own);
    journal.wait(v(4)).expect("the sink does not fail");
    let counts = journal.counts();
    assert_eq!((counts.groups - groups, counts.checkpoint_steps), (1, 100));
    assert!(steps < 100 && !counts.checkpoint_pending && !journal.is_overdue());
    assert!(!server.0.load(Ordering::SeqCst), "it is this thread");
}

#[test]
fn a_leader_goes_on_where_the_server_has_not_or_has_gone() {
    for gone in [false, true] {
        let (journal, script) = begun(0, 1, 9);
        let journal = get(&journal);
        thread::scope(|scope| {
            scope.spawn(|| journal.serve(Waker::noop().clone()));
        });
        let past = if gone { OVERDUE } else { OVERDUE_SERVED };
        script.lock().expect("nothing panics under it").past = past;
        if gone {
            journal.unserve();
        }
        commit(journal, 2);
        journal.wait(v(2)).expect("the sink does not fail");
        let counts = journal.counts();
        assert_eq!((counts.checkpoint_steps, counts.checkpoint_pending), (10, false), "{gone}");
    }
}

/// One who wants the checkpoint of version 1, and waits for the sink as this call has it; a waker of the host that
/// waits for that one; what it waited for.
fn waker_waits_for_who_wants() -> (Act, mpsc::Receiver<Result<Option<Version>, ErrorKind>>) {
    let (give, take) = mpsc::channel();
    let act: Act = Box::new(move |shared| {
        if get(shared).log.lock().committed == v(1) {
            commit(get(shared), 2);
        }
        let inner = Arc::clone(shared);
        let wants = thread::spawn(move || kind(get(&inner).finish(v(1))));
        until("it waits", || !get(shared).log.lock().checkpoints.steppers.is_empty());
        when_woken(get(shared), 2, move || {
            give.send(wants.join().expect("it does not panic")).expect("the test takes it");
        });
        Ok(())
    });
    (act, take)
}

#[test]
fn a_waker_of_the_host_may_wait_for_a_thread_that_waits_for_a_step() {
    let (step, take) = waker_waits_for_who_wants();
    let (journal, _) = scripted(Script { acts: after(1, step), ..Script::default() });
    assert_eq!(kind(get(&journal).checkpoint()), Ok(v(1)));
    assert_eq!(take.recv().expect("it was woken"), Ok(Some(v(1))));
    assert_eq!(get(&journal).counts().caught_panics, 0);

    // The same within a group.
    let (group, take) = waker_waits_for_who_wants();
    let (journal, script) = begun(0, 1, 3);
    prepared(get(&journal));
    script.lock().expect("nothing panics under it").acts = [group].into();
    commit(get(&journal), 2);
    get(&journal).wait(v(2)).expect("the sink does not fail");
    assert_eq!(take.recv().expect("it was woken"), Ok(Some(v(1))));
    assert_eq!(get(&journal).counts().caught_panics, 0);
}
