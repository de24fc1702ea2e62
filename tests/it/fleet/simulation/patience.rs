//! Those who wait for room in the queue without a thread, and for the end of all that was accepted.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use super::books::{Spec, Token};
use super::world::{Bell, World};
use phalanx::fleet::{FleetDrain, Submission};

/// A task that waits to be accepted.
pub(super) struct Patient {
    code: u64,
    future: Pin<Box<Submission<Token, Token>>>,
    pub(super) bell: Arc<Bell>,
}

impl World {
    pub(super) fn submit_patiently(&mut self) {
        // What it asks for is what the books know of it, whenever it is accepted.
        let spec = Spec { key: None, deadline: None, after: Vec::new(), ..self.describe() };
        let (code, task) = self.core.write_down(spec);
        let (future, bell) = (Box::pin(self.fleet.submit_async(task)), self.bell());
        self.patients.push(Patient { code, future, bell });
        if !self.poll_patient(self.patients.len() - 1) {
            self.core.books().totals.count("submission waits");
        }
    }

    /// Polls one; whether it is over.
    fn poll_patient(&mut self, at: usize) -> bool {
        let Patient { code, future, bell } = &mut self.patients[at];
        bell.rung.store(false, Ordering::Relaxed);
        let pay = |pays: bool| {
            let mut books = self.core.books();
            let spec = books.specs[&*code].clone();
            let paid_by = if pays { books.payers(&spec) } else { Vec::new() };
            books.specs.get_mut(code).expect("it was written down").paid_by = paid_by;
        };
        pay(true);
        let waker = Waker::from(Arc::clone(bell));
        let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(&waker)) else {
            pay(false);
            return false;
        };
        let Patient { code, .. } = self.patients.swap_remove(at);
        match result {
            Ok(handle) => {
                let mut books = self.core.books();
                assert_eq!(books.codes.get(&handle.id()), Some(&code));
                books.handles.push((code, handle));
                books.totals.count("submission accepted");
            }
            Err(refused) => self.core.refused(code, &refused),
        }
        true
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
            let Patient { code, future, bell } = self.patients.swap_remove(at);
            let woken = bell.rung.load(Ordering::Relaxed);
            drop(future);
            let mut books = self.core.books();
            let spec = books.specs.remove(&code).expect("it was written down");
            assert!(spec.id.is_none(), "it was accepted and nobody was told");
            let what =
                if woken { "submission dropped after it was woken" } else { "submission dropped" };
            books.totals.count(what);
        }
    }

    /// When nothing is ready: who waits for room waits because there is none.
    pub(super) fn check_patients(&self) {
        let queued = self.fleet.stats().tasks_queued;
        for patient in &self.patients {
            assert!(!patient.bell.rung.load(Ordering::Relaxed));
            assert!(queued >= self.room as u64, "{queued} of {}, and somebody waits", self.room);
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

    /// When nothing is ready, in a fleet that drains: it is over if, and only if, nothing that was accepted is left.
    pub(super) fn check_the_drain(&self, drain: &mut FleetDrain<Token, Token>) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(report) = Pin::new(drain).poll(&mut context) else {
            let books = self.core.books();
            let tasks = books.specs.values().any(Spec::is_pending);
            let flying = books.flights.values().any(|flight| !flight.counted);
            assert!(tasks || flying || !books.letters.is_empty(), "it waits for nothing");
            return false;
        };
        let report = report.expect("no handler asks for it");
        let left = self.core.books().specs.values().filter(|spec| spec.is_pending()).count();
        assert!(left == 0 && report.unfinished.is_empty(), "{left} are left of {report:?}");
        true
    }
}
