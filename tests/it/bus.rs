//! Behaviour of `bus`.

mod closing;
mod futures;
mod hostile;
mod oracle;
mod overflow;
#[cfg(feature = "test-util")]
mod timeouts;
mod topics;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake};
use std::thread::{self, Thread};

use phalanx::bus::{EventBus, Publisher, Recv, Subscriber, Topic};

#[test]
fn handles_may_be_sent_and_shared() {
    fn sent_and_shared<T: Send + Sync>() {}
    fn sent<T: Send>() {}
    sent_and_shared::<EventBus<String>>();
    sent_and_shared::<Publisher<String>>();
    sent_and_shared::<Subscriber<String>>();
    sent::<Recv<'_, String>>();
}

/// A bus of a small ring and a topic of it.
fn bus<E>(capacity: usize) -> (EventBus<E>, Topic) {
    let bus = EventBus::builder().capacity(capacity).build().expect("a valid capacity");
    let topic = bus.topic("test/topic").expect("a valid name");
    (bus, topic)
}

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Woken {
    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Polls once.
fn poll_once<F: Future + Unpin>(future: &mut F, woken: &Arc<Woken>) -> Poll<F::Output> {
    let waker = Arc::clone(woken).into();
    pin!(future).poll(&mut Context::from_waker(&waker))
}

/// The smallest executor there is.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}
