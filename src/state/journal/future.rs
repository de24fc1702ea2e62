//! A wait for durability as a future of no particular runtime.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::{Journal, Sink, WaiterKey};
use crate::Error;
use crate::state::Version;

/// The future of [`StateManager::wait_durable_async`](crate::state::StateManager::wait_durable_async).
pub(in crate::state) struct WaitDurable<J: AsRef<Journal<S>>, S: Sink> {
    journal: J,
    version: Version,
    key: Option<WaiterKey>,
    sink: std::marker::PhantomData<fn() -> S>,
}

impl<J: AsRef<Journal<S>>, S: Sink> WaitDurable<J, S> {
    pub(in crate::state) fn new(journal: J, version: Version) -> Self {
        Self { journal, version, key: None, sink: std::marker::PhantomData }
    }
}

impl<J: AsRef<Journal<S>> + Unpin, S: Sink> Future for WaitDurable<J, S> {
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.journal.as_ref().poll(this.version, &mut this.key, cx.waker())
    }
}

impl<J: AsRef<Journal<S>>, S: Sink> Drop for WaitDurable<J, S> {
    fn drop(&mut self) {
        self.journal.as_ref().forget(&mut self.key);
    }
}
