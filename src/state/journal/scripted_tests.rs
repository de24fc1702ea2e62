//! What others do while somebody leads, and what becomes of the log after it: over a sink that does as it is told.
//!
//! A wait that does not end is a test that does not end.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, mpsc};
use std::task::Wake;
use std::thread::{self, JoinHandle};

use super::*;

pub(super) type Log = Journal<Scripted>;
pub(super) type Shared = Arc<OnceLock<Log>>;
pub(super) type Act = Box<dyn FnOnce(&Shared) -> Result<(), Error> + Send>;

/// What was called, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Append,
    Prepare,
    Step,
    Close,
}

/// What a sink and its drafts do, and did.
#[derive(Default)]
pub(super) struct Script {
    /// One for each call of the sink, whichever it is; those for which there is none succeed.
    pub(super) acts: VecDeque<Act>,
    /// The same for drafts.
    pub(super) prepares: VecDeque<Act>,
    /// What the drop of a draft does.
    pub(super) dropped: Option<Act>,
    pub(super) calls: Vec<Call>,
    /// What a group and a step have each.
    pub(super) group_bytes: u64,
    pub(super) step_bytes: u64,
    /// How many times as much was appended as makes a checkpoint due.
    pub(super) past: u64,
    /// Steps after the one that makes a checkpoint valid.
    pub(super) sweeps: usize,
}

/// Does as its script says.
pub(super) struct Scripted {
    journal: Shared,
    pub(super) script: Arc<Mutex<Script>>,
    checkpointed: Version,
}

fn call(journal: &Shared, script: &Mutex<Script>, call: Call) -> Result<(), Error> {
    let mut script = script.lock().expect("nothing panics under it");
    script.calls.push(call);
    let acts = if call == Call::Prepare { &mut script.prepares } else { &mut script.acts };
    let act = acts.pop_front();
    drop(script);
    act.map_or(Ok(()), |act| act(journal))
}

/// One part, which is ready once it is prepared.
pub(super) struct Plan {
    journal: Shared,
    script: Arc<Mutex<Script>>,
    version: Version,
    ready: bool,
    valid: bool,
    sweeps: usize,
}

impl Draft for Plan {
    type Image = Version;

    fn version(&self) -> Version {
        self.version
    }

    fn has_image(&self) -> bool {
        !self.ready
    }

    fn is_ready(&self) -> bool {
        self.ready
    }

    fn prepare(&mut self, _: usize) -> Result<Option<Version>, Error> {
        call(&self.journal, &self.script, Call::Prepare)?;
        self.ready = true;
        Ok(Some(self.version))
    }

    fn abandon(&mut self) {
        (self.ready, self.valid) = (true, true);
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        let dropped = self.script.lock().expect("nothing panics under it").dropped.take();
        if let Some(dropped) = dropped {
            dropped(&self.journal).expect("it does not fail");
        }
    }
}

impl Scripted {
    fn call(&self, of: Call) -> Result<(), Error> {
        call(&self.journal, &self.script, of)
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().expect("nothing panics under it")
    }
}

impl Sink for Scripted {
    type Image = Version;
    type Draft = Plan;

    fn append(&mut self, _: Version, _: &[Vec<u8>]) -> Result<u64, Error> {
        self.call(Call::Append)?;
        Ok(self.script().group_bytes)
    }

    fn patience(&self) -> Duration {
        Duration::ZERO
    }

    fn checkpointed(&self) -> Version {
        self.checkpointed
    }

    fn is_due(&self) -> bool {
        false
    }

    fn is_past(&self, times: u64) -> bool {
        self.script().past >= times
    }

    fn step_bytes(&self) -> usize {
        1
    }

    fn begin(&mut self, image: &Version) -> Option<Plan> {
        (self.checkpointed != *image).then(|| Plan {
            journal: Arc::clone(&self.journal),
            script: Arc::clone(&self.script),
            version: *image,
            ready: false,
            valid: false,
            sweeps: self.script().sweeps,
        })
    }

    fn sweep(&mut self) -> Option<Plan> {
        None
    }

    fn step(&mut self, draft: &mut Plan) -> Result<(Step, u64), Error> {
        self.call(Call::Step)?;
        let bytes = self.script().step_bytes;
        if !draft.valid {
            draft.valid = true;
            self.checkpointed = draft.version;
            return Ok((Step::Valid, bytes));
        }
        draft.sweeps = draft.sweeps.saturating_sub(1);
        Ok((if draft.sweeps == 0 { Step::Done } else { Step::More }, bytes))
    }

    fn close(self) -> Result<(), Error> {
        self.call(Call::Close)
    }
}

/// A journal with one commit, over this script.
pub(super) fn scripted(script: Script) -> (Shared, Arc<Mutex<Script>>) {
    let journal = Shared::default();
    let script = Arc::new(Mutex::new(script));
    let sink = Scripted {
        journal: Arc::clone(&journal),
        script: Arc::clone(&script),
        checkpointed: Version::ZERO,
    };
    assert!(journal.set(Journal::new(sink, Version::ZERO, Version::ZERO, 1 << 10)).is_ok());
    commit(get(&journal), 1);
    (journal, script)
}

/// The same with what its sink does.
fn journal(acts: impl IntoIterator<Item = Act>) -> Shared {
    scripted(Script { acts: acts.into_iter().collect(), ..Script::default() }).0
}

pub(super) fn get(journal: &Shared) -> &Log {
    journal.get().expect("it is there before it is used")
}

pub(super) fn v(number: u64) -> Version {
    Version::from_u64(number)
}

pub(super) fn commit(journal: &Log, version: u64) {
    let swap = || (v(version), v(version));
    let published = journal.publish(&mut vec![0], Durability::Buffered, swap);
    assert_eq!(published.ok(), Some(Some(v(version - 1))));
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
pub(super) fn when_woken(journal: &Log, version: u64, does: impl FnOnce() + Send + 'static) {
    let waker = Arc::new(Does(Mutex::new(Some(Box::new(does))))).into();
    assert!(journal.poll(v(version), &mut None, &waker).is_pending());
}

/// Waits for what another thread brings about.
pub(super) fn until(what: &str, holds: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(120), "it does not come about: {what}");
        thread::yield_now();
    }
}

/// A thread for each version that waits for it; they all do when it returns.
pub(super) fn waits(journal: &Shared, versions: &[u64]) -> Vec<JoinHandle<Result<(), Error>>> {
    let before = get(journal).counts().waiters;
    let waits = versions.iter().map(|&version| {
        let journal = Arc::clone(journal);
        thread::spawn(move || get(&journal).wait(v(version)))
    });
    let waits: Vec<_> = waits.collect();
    until("they wait", || get(journal).counts().waiters >= before + versions.len() as u64);
    waits
}

/// Three commits come while the first is written, and one thread for each waits; what the next call does.
fn three_behind_one(next: Act) -> (Shared, Vec<Result<(), Error>>) {
    let (give, take) = mpsc::channel();
    let first: Act = Box::new(move |journal| {
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
    let fails: Act = Box::new(move |journal| {
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
fn the_last_group_of_a_close_that_fails_is_told_to_who_waits_for_it() {
    let (give, take) = mpsc::channel();
    let fails: Act = Box::new(move |journal| {
        give.send(waits(journal, &[1])).expect("the test takes them");
        Err(Error::new(ErrorKind::Io, "the disk is gone"))
    });
    let journal = journal([fails]);
    let ended = get(&journal).close();
    assert_eq!(ended.map_err(|error| error.kind()), Err(ErrorKind::Poisoned));
    for wait in take.recv().expect("it was written by the close") {
        let ended = wait.join().expect("a wait does not panic");
        assert_eq!(ended.map_err(|error| error.kind()), Err(ErrorKind::Poisoned));
    }
    assert_eq!((get(&journal).durable(), get(&journal).counts().groups), (v(0), 0));
}

#[test]
fn a_lead_without_a_group_makes_nothing_durable() {
    let fails: Act = Box::new(|_| Err(Error::new(ErrorKind::Io, "the disk is gone")));
    let journal = journal([fails]);
    get(&journal).wait(v(1)).expect_err("it is not written");
    // Nobody does, once the log has ended; but what is lost stays so whoever might.
    let mut log = get(&journal).log.lock();
    let sink = log.sink.take().expect("it is put back");
    drop(get(&journal).lead(log, sink, false));
    assert_eq!(get(&journal).durable(), v(0));
}

#[test]
fn who_leads_and_would_wait_for_itself_is_told_so_and_commits_nothing() {
    let (give, take) = mpsc::channel();
    let step: Act = Box::new(move |shared| {
        let journal = get(shared);
        commit(journal, 2);
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
fn a_waker_of_the_host_may_wait_for_the_disk() {
    let (give, take) = mpsc::channel();
    let step: Act = Box::new(move |shared| {
        let inner = Arc::clone(shared);
        when_woken(get(shared), 1, move || {
            commit(get(&inner), 2);
            give.send(get(&inner).wait(v(2)).is_ok()).expect("the test takes it");
        });
        Ok(())
    });
    let journal = journal([step]);
    get(&journal).wait(v(1)).expect("the sink does not fail");
    assert!(take.recv().expect("it was woken"));
    assert_eq!((get(&journal).durable(), get(&journal).counts().caught_panics), (v(2), 0));
}

#[test]
fn a_waker_of_the_host_may_wait_for_a_thread_that_waits_for_the_disk() {
    let step: Act = Box::new(|journal| {
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
    let checkpoint: Act = Box::new(|shared| {
        commit(get(shared), 2);
        let inner = Arc::clone(shared);
        when_woken(get(shared), 2, move || get(&inner).close().expect("the sink does not fail"));
        Ok(())
    });
    let journal = journal([Box::new(|_: &Shared| Ok(())) as Act, checkpoint]);
    assert_eq!(get(&journal).checkpoint().ok(), Some(v(1)));
    assert_eq!(get(&journal).check().map_err(|error| error.kind()), Err(ErrorKind::Closed));
    assert_eq!(get(&journal).durable(), v(2));
}

#[test]
fn an_engine_that_panics_as_it_goes_is_counted_and_all_is_written() {
    let panics: Act = Box::new(|_| panic!("a hostile engine"));
    let journal = journal([Box::new(|_: &Shared| Ok(())) as Act, panics]);
    for _ in 0..2 {
        get(&journal).close().expect("all is durable");
    }
    assert_eq!((get(&journal).durable(), get(&journal).counts().caught_panics), (v(1), 1));
}
