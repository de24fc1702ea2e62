//! What others do while somebody leads, and what becomes of the log after it: over a sink that does as it is told.
//!
//! A wait that does not end is a test that does not end.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::task::Wake;
use std::thread::{self, JoinHandle};

use super::*;

type Log = Journal<Scripted>;
type Shared = Arc<OnceLock<Log>>;
type Step = Box<dyn FnOnce(&Shared) -> Result<(), Error> + Send>;

/// Does one step in each of its calls, whichever it is, and succeeds in those for which there is none.
struct Scripted {
    journal: Shared,
    steps: VecDeque<Step>,
}

impl Scripted {
    fn call(&mut self) -> Result<(), Error> {
        self.steps.pop_front().map_or(Ok(()), |step| step(&self.journal))
    }
}

impl Sink for Scripted {
    type Image = ();

    fn append(&mut self, _: Version, _: &[Vec<u8>]) -> Result<(), Error> {
        self.call()
    }

    fn patience(&self) -> Duration {
        Duration::ZERO
    }

    fn checkpoint_due(&self) -> bool {
        false
    }

    fn checkpoint(&mut self, (): &()) -> Result<bool, Error> {
        self.call().map(|()| true)
    }

    fn close(mut self) -> Result<(), Error> {
        self.call()
    }
}

/// A journal with one commit, over these steps.
fn journal(steps: impl IntoIterator<Item = Step>) -> Shared {
    let journal = Shared::default();
    let sink = Scripted { journal: Arc::clone(&journal), steps: steps.into_iter().collect() };
    assert!(journal.set(Journal::new(sink, Version::ZERO, (), 1 << 10)).is_ok());
    commit(get(&journal), 1);
    journal
}

fn get(journal: &Shared) -> &Log {
    journal.get().expect("it is there before it is used")
}

fn v(number: u64) -> Version {
    Version::from_u64(number)
}

fn commit(journal: &Log, version: u64) {
    let published = journal.publish(&mut vec![0], Durability::Buffered, || (v(version), ()));
    assert_eq!(published.ok(), Some(Some(())));
}

/// A waker that does something once.
struct Does(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Wake for Does {
    fn wake(self: Arc<Self>) {
        let does = self.0.lock().expect("nothing panics under it").take();
        does.expect("it is woken once")();
    }
}

/// Has the host wait for `version` while somebody leads.
fn when_woken(journal: &Log, version: u64, does: impl FnOnce() + Send + 'static) {
    let waker = Arc::new(Does(Mutex::new(Some(Box::new(does))))).into();
    assert!(journal.poll(v(version), &mut None, &waker).is_pending());
}

/// A thread for each version that waits for it; they all do when it returns.
fn waits(journal: &Shared, versions: &[u64]) -> Vec<JoinHandle<Result<(), Error>>> {
    let before = get(journal).counts().waiters;
    let waits = versions.iter().map(|&version| {
        let journal = Arc::clone(journal);
        thread::spawn(move || get(&journal).wait(v(version)))
    });
    let waits: Vec<_> = waits.collect();
    while get(journal).counts().waiters < before + versions.len() as u64 {
        thread::yield_now();
    }
    waits
}

/// Three commits come while the first is written, and one thread for each waits; what the next call does.
fn three_behind_one(next: Step) -> (Shared, Vec<Result<(), Error>>) {
    let (give, take) = mpsc::channel();
    let first: Step = Box::new(move |journal| {
        for version in 2..=4 {
            commit(get(journal), version);
        }
        give.send(waits(journal, &[2, 3, 4])).expect("the test takes them");
        Ok(())
    });
    let journal = journal([first, next]);
    get(&journal).wait(v(1)).expect("the first succeeds");
    let waits = take.recv().expect("the first gave them");
    let ended = waits.into_iter().map(|wait| wait.join().expect("a wait does not panic"));
    let ended = ended.collect();
    (journal, ended)
}

#[test]
fn those_who_wait_while_one_writes_share_the_next_group() {
    let (journal, ended) = three_behind_one(Box::new(|_| Ok(())));
    assert!(ended.iter().all(Result::is_ok), "{ended:?}");
    assert_eq!((get(&journal).counts().groups, get(&journal).durable()), (2, v(4)));
}

#[test]
fn all_of_a_group_that_fails_are_told_and_a_close_beside_it_too() {
    let (give, take) = mpsc::channel();
    let fails: Step = Box::new(move |journal| {
        let closes = Arc::clone(journal);
        let close = thread::spawn(move || get(&closes).close());
        // It refuses commits from its beginning, and waits for who leads.
        while get(journal).check().is_ok() {
            thread::yield_now();
        }
        give.send(close).expect("the test takes it");
        Err(Error::new(ErrorKind::Io, "the disk is gone"))
    });
    let (journal, ended) = three_behind_one(fails);
    let close = take.recv().expect("it was given").join().expect("a close does not panic");
    for ended in ended.into_iter().chain([close, get(&journal).close()]) {
        assert_eq!(ended.map_err(|error| error.kind()), Err(ErrorKind::Poisoned));
    }
    assert_eq!((get(&journal).counts().groups, get(&journal).durable()), (1, v(1)));
}

#[test]
fn who_leads_and_would_wait_for_itself_is_told_so_and_commits_nothing() {
    let (give, take) = mpsc::channel();
    let step: Step = Box::new(move |shared| {
        commit(get(shared), 2);
        let inner = Arc::clone(shared);
        when_woken(get(shared), 2, move || {
            let journal = get(&inner);
            let synced = journal.publish(&mut vec![0], Durability::Synced, || {
                unreachable!("it is refused before that");
            });
            let refused = [
                journal.wait(v(2)),
                journal.make_room(true),
                journal.checkpoint().map(drop),
                journal.close(),
                synced.map(drop),
            ];
            let kinds = refused.map(|refused| refused.map_err(|error| error.kind()));
            assert_eq!(journal.write_wanted(), (false, false), "it is no failure");
            // What waits for nothing goes on, and so does what another thread will wake.
            commit(journal, 3);
            when_woken(journal, 3, || ());
            give.send(kinds).expect("the test takes them");
        });
        Ok(())
    });
    let journal = journal([step]);
    get(&journal).wait(v(1)).expect("the sink does not fail");
    assert_eq!(take.recv().expect("it was woken"), [Err(ErrorKind::Reentrant); 5]);
    assert_eq!(get(&journal).counts().caught_panics, 0);
    get(&journal).wait(v(3)).expect("the sink is back");
    get(&journal).close().expect("nothing was closed");
}

#[test]
fn a_waker_of_the_host_may_wait_for_a_thread_that_waits_for_the_disk() {
    let step: Step = Box::new(|journal| {
        let (give, take) = mpsc::channel::<JoinHandle<Result<(), Error>>>();
        when_woken(get(journal), 1, move || {
            let wait = take.recv().expect("there is one");
            wait.join().expect("a wait does not panic").expect("it is durable");
        });
        let wait = waits(journal, &[1]).pop().expect("one was asked for");
        give.send(wait).expect("the waker takes it");
        Ok(())
    });
    let journal = journal([step]);
    get(&journal).wait(v(1)).expect("the sink does not fail");
    assert_eq!(get(&journal).counts().caught_panics, 0);
}

#[test]
fn a_checkpoint_that_was_written_is_told_as_written_whoever_closes_next() {
    let checkpoint: Step = Box::new(|shared| {
        commit(get(shared), 2);
        let inner = Arc::clone(shared);
        when_woken(get(shared), 2, move || get(&inner).close().expect("the sink does not fail"));
        Ok(())
    });
    let journal = journal([Box::new(|_: &Shared| Ok(())) as Step, checkpoint]);
    assert_eq!(get(&journal).checkpoint().ok(), Some(v(1)));
    assert_eq!(get(&journal).check().map_err(|error| error.kind()), Err(ErrorKind::Closed));
    assert_eq!(get(&journal).durable(), v(2));
}

#[test]
fn an_engine_that_panics_as_it_goes_is_counted_and_all_is_written() {
    let panics: Step = Box::new(|_| panic!("a hostile engine"));
    let journal = journal([Box::new(|_: &Shared| Ok(())) as Step, panics]);
    for _ in 0..2 {
        get(&journal).close().expect("all is durable");
    }
    assert_eq!((get(&journal).durable(), get(&journal).counts().caught_panics), (v(1), 1));
}
