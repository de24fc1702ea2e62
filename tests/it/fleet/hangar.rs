//! An executor for tests, and futures that wait until the test says so.

use std::future::Future;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use phalanx::fleet::{AgentSpec, Fleet, FleetBuilder, SpawnedFuture, Spawner, Task};

use super::support::eventually;

/// An executor that polls when the test says so.
#[derive(Default)]
pub(super) struct Hangar {
    futures: Mutex<Vec<(Arc<Flag>, SpawnedFuture)>>,
    pub(super) refuses: AtomicBool,
}

#[derive(Default)]
pub(super) struct Flag(pub(super) AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Spawner for Hangar {
    fn spawn(&self, future: SpawnedFuture) {
        if self.refuses.load(Ordering::SeqCst) {
            return;
        }
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        self.futures.lock().unwrap().push((flag, future));
    }
}

impl Hangar {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(super) fn len(&self) -> usize {
        self.futures.lock().unwrap().len()
    }

    /// Waits until so many futures are there.
    pub(super) fn await_len(&self, count: usize) {
        eventually("so many futures are spawned", || self.len() >= count);
    }

    /// Polls what was woken until nothing is; not what is spawned meanwhile.
    pub(super) fn run(&self) {
        let there: Vec<_> =
            self.futures.lock().unwrap().iter().map(|(flag, _)| Arc::clone(flag)).collect();
        let is_due = |flag: &Arc<Flag>| {
            there.iter().any(|of| Arc::ptr_eq(of, flag)) && flag.0.swap(false, Ordering::SeqCst)
        };
        loop {
            let woken: Vec<_> = {
                let mut futures = self.futures.lock().unwrap();
                futures.extract_if(.., |(flag, _)| is_due(flag)).collect()
            };
            if woken.is_empty() {
                return;
            }
            for (flag, mut future) in woken {
                let waker = Waker::from(Arc::clone(&flag));
                if future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
                    self.futures.lock().unwrap().push((flag, future));
                }
            }
        }
    }

    /// Drops all futures.
    pub(super) fn burn(&self) {
        let futures = std::mem::take(&mut *self.futures.lock().unwrap());
        drop(futures);
    }
}

/// A future that is ready once the test says so.
#[derive(Clone, Default)]
pub(super) struct Door(Arc<Mutex<(bool, Vec<Waker>)>>);

impl Door {
    pub(super) fn open(&self) {
        let wakers = {
            let mut door = self.0.lock().unwrap();
            door.0 = true;
            std::mem::take(&mut door.1)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(super) fn pass(&self) -> impl Future<Output = ()> + Send + use<> {
        let door = Self::clone(self);
        std::future::poll_fn(move |cx| {
            let mut door = door.0.lock().unwrap();
            if door.0 {
                return Poll::Ready(());
            }
            door.1.push(cx.waker().clone());
            Poll::Pending
        })
    }
}

pub(super) fn builder(hangar: &Arc<Hangar>) -> FleetBuilder<u64, u64> {
    let spawner: Arc<dyn Spawner> = Arc::clone(hangar) as Arc<dyn Spawner>;
    Fleet::builder().workers(1).spawner(spawner)
}

pub(super) fn doubler(name: &str, door: &Door) -> AgentSpec<u64, u64> {
    let door = door.clone();
    AgentSpec::new(name).handler_async(move |task: Arc<Task<u64>>, _cx| {
        let door = door.clone();
        async move {
            door.pass().await;
            Ok(*task.payload() * 2)
        }
    })
}

pub(super) fn leases(count: u32) -> NonZeroU32 {
    NonZeroU32::new(count).expect("not zero")
}
