//! A subscription as a stream.
//!
//! 1. An event is taken in the poll that yields it and in no other, so a stream may be dropped, or received
//!    from in another way, after any poll.
//! 2. A loss is an item, and the stream goes on behind it; only what no event can follow ends the stream.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::error::RecvError;
use super::event::Event;
use super::subscriber::Subscriber;

/// The events of the subscription as they come, on any executor.
///
/// Losses are items too: [`RecvError::Lagged`] stands where the events are missing, and the stream goes on
/// behind it. The stream ends where [`recv`](Subscriber::recv) would say [`RecvError::Closed`], or
/// [`RecvError::HandlerPanicked`] (that panic has passed through the call that met it); polled again, it
/// stays at its end.
///
/// # Cancel safety
///
/// Dropping the stream, or a future that polls it, between any two polls loses no event.
///
/// # Panics
///
/// As [`recv`](Subscriber::recv), within the poll.
///
/// # Examples
///
/// ```
/// use std::pin::Pin;
/// use std::task::{Context, Poll, Waker};
///
/// use futures_core::Stream;
/// use phalanx::bus::{EventBus, Filter, Overflow};
///
/// let bus = EventBus::builder().capacity(16).build()?;
/// let topic = bus.topic("task/completed")?;
/// let mut events = bus.subscribe(Filter::all(), Overflow::Block);
/// bus.publisher().publish(topic, 1)?;
/// bus.close();
///
/// let mut cx = Context::from_waker(Waker::noop());
/// match Pin::new(&mut events).poll_next(&mut cx) {
///     Poll::Ready(Some(Ok(event))) => assert_eq!(event.payload, 1),
///     other => panic!("{other:?}"),
/// }
/// assert_eq!(Pin::new(&mut events).poll_next(&mut cx), Poll::Ready(None));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl<E: Clone> Stream for Subscriber<E> {
    type Item = Result<Event<E>, RecvError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll(cx, Subscriber::take_cloned).map(|item| match item {
            Err(RecvError::Closed | RecvError::HandlerPanicked) => None,
            item => Some(item),
        })
    }
}

// Nothing in a subscription is pinned: payloads are moved out of the ring or lent for the length of a call.
impl<E> Unpin for Subscriber<E> {}
