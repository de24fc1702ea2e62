//! Leads, groups and wakers of group commit, on sinks that do what they are told.

use std::sync::{Arc, OnceLock};
use std::task::Wake;

use super::*;

struct Hostile(AtomicU64);

impl Wake for Hostile {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
        panic!("a hostile waker");
    }
}

/// Waits for as long as it takes. While it writes its first group another commit comes, and who waits for
/// it.
struct Patient {
    journal: Arc<OnceLock<Journal<Self>>>,
    groups: Arc<std::sync::Mutex<Vec<usize>>>,
}

impl Sink for Patient {
    type Image = ();
    type Draft = Endless;

    fn append(&mut self, _: Version, deltas: &[Vec<u8>]) -> Result<u64, Error> {
        let mut groups = self.groups.lock().expect("nobody panics with it");
        groups.push(deltas.len());
        if groups.len() == 1 {
            let journal = self.journal.get().expect("it is there before it is used");
            let next = Version::from_u64(2);
            assert!(publish(journal, next));
            assert!(journal.poll(next, &mut None, Waker::noop()).is_pending());
        }
        Ok(1)
    }

    fn patience(&self) -> Duration {
        Duration::MAX
    }

    fn checkpointed(&self) -> Version {
        Version::ZERO
    }

    fn is_due(&self) -> bool {
        false
    }

    fn is_past(&self, _: u64) -> bool {
        false
    }

    fn step_bytes(&self) -> usize {
        1
    }

    fn begin(&mut self, (): &()) -> Option<Endless> {
        None
    }

    fn sweep(&mut self) -> Option<Endless> {
        None
    }

    fn step(&mut self, _: &mut Endless) -> Result<(Step, u64), Error> {
        Ok((Step::Done, 1))
    }

    fn close(self) -> Result<(), Error> {
        Ok(())
    }
}

fn publish<S: Sink<Image = ()>>(journal: &Journal<S>, version: Version) -> bool {
    matches!(journal.publish(&mut vec![0], Durability::Memory, || (version, ())), Ok(Some(())))
}

#[test]
fn a_group_has_the_commits_of_those_who_waited_for_the_last_one() {
    let groups = Arc::new(std::sync::Mutex::new(Vec::new()));
    let journal = Arc::new(OnceLock::new());
    let sink = Patient { journal: Arc::clone(&journal), groups: Arc::clone(&groups) };
    let journal = journal.get_or_init(|| Journal::new(sink, Version::ZERO, (), 1 << 10));
    assert!(publish(journal, Version::from_u64(1)));
    journal.wait(Version::from_u64(1)).expect("the sink does not fail");
    // Two waited for the first group: whoever leads the second one waits for the other.
    std::thread::scope(|scope| {
        let leader = scope.spawn(|| journal.wait(Version::from_u64(2)));
        while journal.log.lock().sink.is_some() {
            std::thread::yield_now();
        }
        assert!(publish(journal, Version::from_u64(3)));
        journal.wait(Version::from_u64(3)).expect("the sink does not fail");
        leader.join().expect("it does not panic").expect("the sink does not fail");
    });
    assert_eq!(*groups.lock().expect("nobody panics with it"), [1, 2]);
}

#[test]
fn who_polls_does_not_wait_for_others_to_join_its_group() {
    let groups = Arc::new(std::sync::Mutex::new(Vec::new()));
    let journal = Arc::new(OnceLock::new());
    let sink = Patient { journal: Arc::clone(&journal), groups: Arc::clone(&groups) };
    let journal = journal.get_or_init(|| Journal::new(sink, Version::ZERO, (), 1 << 10));
    assert!(publish(journal, Version::from_u64(1)));
    journal.wait(Version::from_u64(1)).expect("the sink does not fail");
    // Two waited for the first group, and this would wait for the other without end.
    let poll = journal.poll(Version::from_u64(2), &mut None, Waker::noop());
    assert!(matches!(poll, Poll::Ready(Ok(()))));
    assert_eq!(*groups.lock().expect("nobody panics with it"), [1, 1]);
}

/// While it writes its first group another commit comes, and two who wait for it; and two more while it
/// does its first step of a checkpoint.
struct Busy {
    journal: Arc<OnceLock<Journal<Self>>>,
    waker: Waker,
    calls: u32,
}

impl Busy {
    fn call(&mut self) {
        self.calls += 1;
        let journal = self.journal.get().expect("it is there before it is used");
        if self.calls == 1 {
            commit(journal, 2);
        }
        for _ in 0..if self.calls <= 2 { 2 } else { 0 } {
            let next = Version::from_u64(2);
            assert!(journal.poll(next, &mut None, &self.waker).is_pending());
        }
    }
}

/// It is always ready, and never done.
struct Endless(Version);

impl Draft for Endless {
    type Image = ();

    fn version(&self) -> Version {
        self.0
    }

    fn has_image(&self) -> bool {
        false
    }

    fn is_ready(&self) -> bool {
        true
    }

    fn prepare(&mut self, _: usize) -> Result<Option<()>, Error> {
        Ok(None)
    }

    fn abandon(&mut self) {}
}

fn commit(journal: &Journal<Busy>, version: u64) {
    let published =
        journal.publish(&mut vec![0], Durability::Memory, || (Version::from_u64(version), ()));
    assert_eq!(published.ok(), Some(Some(())));
}

impl Sink for Busy {
    type Image = ();
    type Draft = Endless;

    fn append(&mut self, _: Version, _: &[Vec<u8>]) -> Result<u64, Error> {
        self.call();
        Ok(1)
    }

    fn patience(&self) -> Duration {
        Duration::ZERO
    }

    fn checkpointed(&self) -> Version {
        Version::ZERO
    }

    fn is_due(&self) -> bool {
        false
    }

    fn is_past(&self, _: u64) -> bool {
        false
    }

    fn step_bytes(&self) -> usize {
        1
    }

    fn begin(&mut self, (): &()) -> Option<Endless> {
        None
    }

    fn sweep(&mut self) -> Option<Endless> {
        Some(Endless(Version::ZERO))
    }

    fn step(&mut self, _: &mut Endless) -> Result<(Step, u64), Error> {
        self.call();
        Ok((Step::More, 1 << 10))
    }

    fn close(self) -> Result<(), Error> {
        Ok(())
    }
}

#[test]
fn wakers_that_panic_before_and_after_a_step_do_not_take_the_sink_along() {
    let hostile = Arc::new(Hostile(AtomicU64::new(0)));
    let journal = Arc::new(OnceLock::new());
    let waker = Arc::clone(&hostile).into();
    let sink = Busy { journal: Arc::clone(&journal), waker, calls: 0 };
    let journal = journal.get_or_init(|| Journal::new(sink, Version::ZERO, (), 1));
    commit(journal, 1);
    journal.wait(Version::from_u64(1)).expect("the sink does not fail");
    assert_eq!(hostile.0.load(Ordering::Relaxed), 4, "all of them were woken");
    assert_eq!(journal.counts().caught_panics, 4);
    // Without the sink this would never end.
    assert!(journal.log.lock().sink.is_some());
    journal.wait(Version::from_u64(2)).expect("the sink does not fail");
    journal.close().expect("the sink does not fail");
}
