//! Actors of the peers, behind one door: how they are started, told, asked and ended, and where they run.
//!
//! There are two ways to run them, and a peer is seen in each that it can: *apart*, where who tells has a
//! thread of its own and the actors have others (as this crate's agents do), and *together*, where who tells
//! is a task on the one thread of all the actors.

use std::future::Future;
use std::hint;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Notify;

use super::tally::Counter;

/// The actors of one peer.
pub trait Actors: 'static {
    type Address: Send + Sync + 'static;
    type Home: Home;

    /// Starts one, at home. It says when it is there.
    fn start(counter: Counter) -> impl Future<Output = Self::Address>;

    /// Tells it something. Never waits: there is room.
    fn tell(address: &Self::Address, message: u64);

    /// Has it handle what it was told, report and end.
    fn stop(address: Self::Address);
}

/// Where actors run, apart from the thread that made this.
pub trait Home: Send + Sized + 'static {
    fn apart(threads: Threads) -> Self;

    /// Runs a future there, or at least where actors can be started; waits for it.
    fn run<F>(&self, make: impl FnOnce() -> F + Send + 'static) -> F::Output
    where
        F: Future + 'static,
        F::Output: Send + 'static;

    /// Runs a future together with the actors that it starts, on this one thread.
    fn together<F: Future>(future: F) -> F::Output;
}

/// How the threads of a home are run.
#[derive(Clone, Copy, Debug)]
pub enum Threads {
    /// One, by a runtime of one thread.
    One,
    /// So many, by a runtime that has as many threads as it likes.
    Many(usize),
}

/// Those who run on tokio.
#[derive(Debug)]
pub struct Tokio {
    handle: Handle,
    /// Its thread, and what ends it.
    driven: Option<(thread::JoinHandle<()>, Arc<Notify>)>,
    runtime: Option<Runtime>,
}

pub fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_time().build().expect("a runtime starts")
}

impl Home for Tokio {
    fn apart(threads: Threads) -> Self {
        match threads {
            Threads::One => {
                let runtime = one_thread();
                let (handle, end) = (runtime.handle().clone(), Arc::new(Notify::new()));
                let ended = Arc::clone(&end);
                let thread = thread::spawn(move || runtime.block_on(ended.notified()));
                Self { handle, driven: Some((thread, end)), runtime: None }
            }
            Threads::Many(threads) => {
                let runtime = Builder::new_multi_thread()
                    .worker_threads(threads)
                    .enable_time()
                    .build()
                    .expect("a runtime starts");
                let handle = runtime.handle().clone();
                Self { handle, driven: None, runtime: Some(runtime) }
            }
        }
    }

    fn run<F>(&self, make: impl FnOnce() -> F + Send + 'static) -> F::Output
    where
        F: Future + 'static,
        F::Output: Send + 'static,
    {
        self.handle.block_on(make())
    }

    fn together<F: Future>(future: F) -> F::Output {
        one_thread().block_on(future)
    }
}

impl Drop for Tokio {
    fn drop(&mut self) {
        if let Some((thread, end)) = self.driven.take() {
            end.notify_one();
            thread.join().expect("an actor does not panic");
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(std::time::Duration::from_secs(10));
        }
    }
}

/// The outcome of a future that does not wait.
pub fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it was not to wait"),
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits on this thread, which runs no task, for a future.
pub fn wait<F: Future>(future: F) -> F::Output {
    wait_after(0, future)
}

/// The same, by a thread that looks so many times before it sleeps.
pub fn wait_after<F: Future>(looks: usize, future: F) -> F::Output {
    thread_local! {
        static WAKER: Waker = Waker::from(Arc::new(Unpark(thread::current())));
    }
    WAKER.with(|waker| {
        let mut future = pin!(future);
        let mut context = Context::from_waker(waker);
        let mut looks = looks;
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return output;
            }
            if looks == 0 {
                thread::park();
            } else {
                looks -= 1;
                (0..8).for_each(|_| hint::spin_loop());
            }
        }
    })
}
