//! What a thread is while it is being joined, which nobody can see from without.

use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::Duration;

use crate::ErrorKind;
use crate::fleet::{Fleet, WeakFleet};
use crate::sync::{Mutex, thread};

/// Waits for what runs as it is called, once somebody joins the thread on which it is called.
struct Waiting {
    fleet: WeakFleet<(), ()>,
    told: Mutex<Option<ErrorKind>>,
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        let fleet = self.fleet.upgrade().expect("whoever joins has a handle");
        while fleet.inner().state.lock().workers.joining.is_empty() {
            thread::yield_now();
        }
        // Without end it would be a shutdown's wait.
        let drained = fleet.drain(Duration::ZERO);
        *self.told.lock() = drained.err().map(|error| error.kind());
    }
}

#[test]
fn a_waker_on_a_thread_that_is_joined_is_refused_to_wait_for_it() {
    let fleet = Fleet::<(), ()>::builder().workers(1).build().expect("the thread starts");
    let waiting = Arc::new(Waiting { fleet: fleet.downgrade(), told: Mutex::default() });
    // Whoever waits for progress is called by the thread as it leaves.
    let inner = fleet.inner();
    {
        let mut state = inner.state.lock();
        let key = state.progress.key();
        state.progress.register(key, Waker::from(Arc::clone(&waiting)));
    }
    inner.runner.stop();
    while inner.state.lock().workers.alive > 0 {
        thread::yield_now();
    }
    fleet.shutdown(Duration::MAX).expect("this is no worker");
    assert_eq!(*waiting.told.lock(), Some(ErrorKind::Unsupported));
}
