//! Behaviour of `bus`.

mod batches;
mod closing;
mod dead_letters;
mod exclusive;
mod filters;
mod futures;
mod group;
mod hostile;
mod lanes;
mod oracle;
mod overflow;
mod policies;
mod publishing_futures;
#[cfg(target_os = "linux")]
mod soak;
mod stream;
#[cfg(feature = "test-util")]
mod timeouts;
mod topics;
mod unwritten;
mod waiting;

use std::future::Future;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake};
use std::thread::{self, Thread};
use std::vec;

use phalanx::bus::{
    EventBus, ExclusivePublisher, Publish, PublishBatchError, PublishError, Publisher, Recv,
    Subscriber, Topic, TryPublishError,
};

#[test]
fn handles_may_be_sent_and_shared() {
    fn sent_and_shared<T: Send + Sync>() {}
    fn sent<T: Send>() {}
    sent_and_shared::<EventBus<String>>();
    sent_and_shared::<Publisher<String>>();
    sent_and_shared::<ExclusivePublisher<String>>();
    sent_and_shared::<Subscriber<String>>();
    sent::<Recv<'_, String>>();
    sent::<Publish<'_, String>>();
}

/// A bus of a small ring and a topic of it.
fn bus<E>(capacity: usize) -> (EventBus<E>, Topic) {
    let bus = EventBus::builder().capacity(capacity).build().expect("a valid capacity");
    let topic = bus.topic("test/topic").expect("a valid name");
    (bus, topic)
}

/// Numbers in a row, as a batch.
fn numbers(range: Range<u64>) -> vec::IntoIter<u64> {
    range.collect::<Vec<_>>().into_iter()
}

fn panics<R>(f: impl FnOnce() -> R) -> bool {
    catch_unwind(AssertUnwindSafe(f)).is_err()
}

/// A publisher of either kind, for what both do alike.
enum Any<E> {
    Shared(Publisher<E>),
    Exclusive(ExclusivePublisher<E>),
}

type Kind<E> = fn(&EventBus<E>) -> Any<E>;

/// How to come by either kind.
fn each_kind<E>() -> [Kind<E>; 2] {
    [
        |bus| Any::Shared(bus.publisher()),
        |bus| Any::Exclusive(bus.exclusive_publisher().expect("there is no other publisher")),
    ]
}

impl<E> Any<E> {
    fn publish(&mut self, topic: Topic, payload: E) -> Result<u64, PublishError<E>> {
        match self {
            Self::Shared(publisher) => publisher.publish(topic, payload),
            Self::Exclusive(publisher) => publisher.publish(topic, payload),
        }
    }

    fn try_publish(&mut self, topic: Topic, payload: E) -> Result<u64, TryPublishError<E>> {
        match self {
            Self::Shared(publisher) => publisher.try_publish(topic, payload),
            Self::Exclusive(publisher) => publisher.try_publish(topic, payload),
        }
    }

    fn publish_with<F: FnOnce() -> E>(
        &mut self,
        topic: Topic,
        make: F,
    ) -> Result<u64, PublishError<F>> {
        match self {
            Self::Shared(publisher) => publisher.publish_with(topic, make),
            Self::Exclusive(publisher) => publisher.publish_with(topic, make),
        }
    }

    fn publish_batch<I: ExactSizeIterator<Item = E>>(
        &mut self,
        topic: Topic,
        payloads: &mut I,
    ) -> Result<u64, PublishBatchError> {
        match self {
            Self::Shared(publisher) => publisher.publish_batch(topic, payloads),
            Self::Exclusive(publisher) => publisher.publish_batch(topic, payloads),
        }
    }

    fn publish_async(&mut self, topic: Topic, payload: E) -> Publish<'_, E> {
        match self {
            Self::Shared(publisher) => publisher.publish_async(topic, payload),
            Self::Exclusive(publisher) => publisher.publish_async(topic, payload),
        }
    }
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
