//! Those who wait for room in the queue without a thread, and for the end of all that was accepted.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use super::books::{Spec, Token};
use super::world::{Bell, World};
use phalanx::fleet::{BatchSubmission, FleetDrain, Submission, SubmitError, Task, TaskHandle};

type Handles = Vec<TaskHandle<Token>>;
/// A batch may be refused for any of its tasks.
type Refused = Option<SubmitError<Task<Token>>>;

/// One task, or several that are accepted together.
enum Submitted {
    One(Pin<Box<Submission<Token, Token>>>),
    Batch(Pin<Box<BatchSubmission<Token, Token>>>),
}

impl Submitted {
    /// The handles, or what refused the one; `None` if it waits.
    fn poll(&mut self, context: &mut Context<'_>) -> Option<Result<Handles, Refused>> {
        let result = match self {
            Self::One(future) => match future.as_mut().poll(context) {
                Poll::Ready(result) => result.map(|handle| vec![handle]).map_err(Some),
                Poll::Pending => return None,
            },
            Self::Batch(future) => match future.as_mut().poll(context) {
                Poll::Ready(result) => result.map_err(|_| None),
                Poll::Pending => return None,
            },
        };
        Some(result)
    }
}

/// Tasks that wait to be accepted.
pub(super) struct Patient {
    codes: Vec<u64>,
    future: Submitted,
    pub(super) bell: Arc<Bell>,
}

/// A fleet that is drained.
pub(super) struct Drain {
    future: FleetDrain<Token, Token>,
    bell: Arc<Bell>,
    is_begun: bool,
}

impl World {
    pub(super) fn submit_patiently(&mut self) {
        let (code, task) = self.describe_patiently();
        let future = Submitted::One(Box::pin(self.fleet.submit_async(task)));
        self.wait_for_acceptance(vec![code], future);
    }

    pub(super) fn submit_batch_patiently(&mut self) {
        let count = 1 + self.random.below(6);
        let (codes, tasks) = (0..count).map(|_| self.describe_patiently()).unzip();
        let future = Submitted::Batch(Box::pin(self.fleet.submit_batch_async(tasks)));
        self.wait_for_acceptance(codes, future);
    }

    fn describe_patiently(&mut self) -> (u64, Task<Token>) {
        // What it asks for is what the books know of it, whenever it is accepted.
        let spec = Spec { key: None, deadline: None, after: Vec::new(), ..self.describe() };
        self.core.write_down(spec)
    }

    fn wait_for_acceptance(&mut self, codes: Vec<u64>, future: Submitted) {
        let waits = if codes.len() > 1 { "batch submission waits" } else { "submission waits" };
        let bell = self.bell();
        self.patients.push(Patient { codes, future, bell });
        if !self.poll_patient(self.patients.len() - 1) {
            self.core.books().totals.count(waits);
        }
    }

    /// Polls one; whether it is over.
    fn poll_patient(&mut self, at: usize) -> bool {
        let Patient { codes, future, bell } = &mut self.patients[at];
        bell.rung.store(false, Ordering::Relaxed);
        let pay = |pays: bool| {
            let mut books = self.core.books();
            for code in &*codes {
                let spec = books.specs[code].clone();
                let paid_by = if pays { books.payers(&spec) } else { Vec::new() };
                books.specs.get_mut(code).expect("it was written down").paid_by = paid_by;
            }
        };
        pay(true);
        let waker = Waker::from(Arc::clone(bell));
        let Some(result) = future.poll(&mut Context::from_waker(&waker)) else {
            pay(false);
            return false;
        };
        let Patient { codes, .. } = self.patients.swap_remove(at);
        match result {
            Ok(handles) => {
                let mut books = self.core.books();
                assert_eq!(handles.len(), codes.len());
                let accepted = if codes.len() > 1 {
                    "batch submission accepted"
                } else {
                    "submission accepted"
                };
                for (code, handle) in codes.into_iter().zip(handles) {
                    assert_eq!(books.codes.get(&handle.id()), Some(&code));
                    books.handles.push((code, handle));
                }
                books.totals.count(accepted);
            }
            Err(Some(refused)) => self.core.refused(codes[0], &refused),
            Err(None) => self.forget(&codes),
        }
        true
    }

    /// They were not accepted.
    fn forget(&self, codes: &[u64]) {
        let mut books = self.core.books();
        for code in codes {
            let spec = books.specs.remove(code).expect("it was written down");
            assert!(spec.id.is_none(), "it was accepted and nobody was told");
        }
    }

    /// Polls those whose wakers were called; how many there were.
    pub(super) fn poll_woken_patients(&mut self) -> usize {
        let (mut polled, mut at) = (0, 0);
        while at < self.patients.len() {
            if self.patients[at].bell.rung.load(Ordering::Relaxed) {
                polled += 1;
                at += usize::from(!self.poll_patient(at));
            } else {
                at += 1;
            }
        }
        polled
    }

    pub(super) fn drop_patient(&mut self) {
        if !self.patients.is_empty() {
            let at = self.random.below(self.patients.len());
            let Patient { codes, future, bell } = self.patients.swap_remove(at);
            let woken = bell.rung.load(Ordering::Relaxed);
            drop(future);
            self.forget(&codes);
            let what =
                if woken { "submission dropped after it was woken" } else { "submission dropped" };
            self.core.books().totals.count(what);
        }
    }

    /// When nothing is ready: who waits for room waits because there is not enough, or behind somebody for whom there
    /// is not.
    pub(super) fn check_patients(&self) {
        let queued = self.fleet.stats().tasks_queued;
        let most = self.patients.iter().map(|patient| patient.codes.len() as u64).max();
        for patient in &self.patients {
            assert!(!patient.bell.rung.load(Ordering::Relaxed));
            let lacks = queued + most.unwrap_or(0) > self.room as u64;
            assert!(lacks, "{queued} of {}, and somebody waits", self.room);
        }
    }

    /// After the end: all are told.
    pub(super) fn close_patients(&mut self) {
        for patient in &self.patients {
            assert!(patient.bell.rung.load(Ordering::Relaxed), "a submission sleeps for ever");
        }
        self.poll_woken_patients();
        assert!(self.patients.is_empty(), "who waits is told");
    }

    pub(super) fn drain_patiently(&mut self) -> Drain {
        Drain { future: self.fleet.drain_async(), bell: self.bell(), is_begun: false }
    }

    /// When nothing is ready, in a fleet that drains: it is over if, and only if, nothing that was accepted is left, and
    /// who waits for it was told.
    pub(super) fn check_the_drain(&self, drain: &mut Drain) -> bool {
        let was_woken = drain.bell.rung.swap(false, Ordering::Relaxed);
        let is_first = !std::mem::replace(&mut drain.is_begun, true);
        let waker = Waker::from(Arc::clone(&drain.bell));
        let Poll::Ready(report) =
            Pin::new(&mut drain.future).poll(&mut Context::from_waker(&waker))
        else {
            let books = self.core.books();
            let tasks = books.specs.values().any(Spec::is_pending);
            let flying = books.flights.values().any(|flight| !flight.counted);
            assert!(tasks || flying || !books.letters.is_empty(), "it waits for nothing");
            return false;
        };
        assert!(was_woken || is_first, "it is over, and nobody told");
        let report = report.expect("no handler asks for it");
        let left = self.core.books().specs.values().filter(|spec| spec.is_pending()).count();
        assert!(left == 0 && report.unfinished.is_empty(), "{left} are left of {report:?}");
        true
    }
}
