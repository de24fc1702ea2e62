//! The pools of the peers that hand out tasks: ractor's factory and kameo's pool of actors.
//!
//! A task is a number, and its result one more. So many are under way at once: when there are, the oldest is
//! waited for before the next is sent.

use std::collections::VecDeque;
use std::future::Future;

use kameo::actor::{ActorRef, Spawn as _};
use kameo_actors::pool::{ActorPool, Dispatch};
use ractor::ActorProcessingErr;
use ractor::factory::queues::DefaultQueue;
use ractor::factory::routing::{QueuerRouting, RoundRobinRouting, Router};
use ractor::factory::{
    Factory, FactoryArguments, FactoryMessage, FactoryRef, Job, JobOptions, Worker, WorkerId,
    worker_builder,
};
use tokio::sync::oneshot;

use super::actors::{Home, Threads, Tokio};
use super::peers_actors::Asked;
use crate::measure::Watch;

/// A pool of workers to which tasks go.
pub trait Dispatcher: Send + 'static {
    /// What a task's result is got from.
    type Pending: Send;

    fn open(workers: usize) -> impl Future<Output = Self> + Send;

    fn send(&self, number: u64) -> Self::Pending;

    fn result(pending: Self::Pending) -> impl Future<Output = u64>;

    /// As [`result`](Self::result), on a thread that runs no task.
    fn result_blocking(pending: Self::Pending) -> u64;

    fn close(self) -> impl Future<Output = ()> + Send;
}

/// The sum of the results of so many tasks, of which so many are under way at once.
pub fn pipelined<P>(
    tasks: u64,
    window: usize,
    mut send: impl FnMut(u64) -> P,
    mut result: impl FnMut(P) -> u64,
) -> u64 {
    let (mut under_way, mut sum) = (VecDeque::with_capacity(window), 0_u64);
    for number in 0..tasks {
        if under_way.len() == window {
            sum += under_way.pop_front().map(&mut result).expect("the window is not empty");
        }
        under_way.push_back(send(number));
    }
    sum + under_way.into_iter().map(result).sum::<u64>()
}

async fn pipelined_async<D: Dispatcher>(pool: &D, tasks: u64, window: usize) -> u64 {
    let (mut under_way, mut sum) = (VecDeque::with_capacity(window), 0_u64);
    for number in 0..tasks {
        if under_way.len() == window {
            sum += D::result(under_way.pop_front().expect("the window is not empty")).await;
        }
        under_way.push_back(pool.send(number));
    }
    for pending in under_way {
        sum += D::result(pending).await;
    }
    sum
}

/// Units of tasks from a thread of its own; `each` is given the sum of each unit.
pub fn apart<D: Dispatcher>(
    (workers, threads): (usize, Threads),
    (tasks, window): (u64, usize),
    watch: &mut Watch<'_>,
    mut each: impl FnMut(u64),
) {
    let home = Tokio::apart(threads);
    let pool: D = home.run(move || D::open(workers));
    for _ in watch.units() {
        each(watch.time(tasks, || {
            pipelined(tasks, window, |number| pool.send(number), D::result_blocking)
        }));
    }
    home.run(move || pool.close());
}

/// The same from a task on the thread of the workers.
pub fn together<D: Dispatcher>(
    workers: usize,
    (tasks, window): (u64, usize),
    watch: &mut Watch<'_>,
    mut each: impl FnMut(u64),
) {
    Tokio::together(async {
        let pool = D::open(workers).await;
        for _ in watch.units() {
            watch.begin();
            let sum = pipelined_async(&pool, tasks, window).await;
            watch.end(tasks);
            each(sum);
        }
        pool.close().await;
    });
}

// ractor.

pub struct Answering;

type Question = (u64, oneshot::Sender<u64>);

impl Worker for Answering {
    type Key = u64;
    type Message = Question;
    type Arguments = ();
    type State = ();

    async fn pre_start(
        &self,
        _: WorkerId,
        _: &FactoryRef<u64, Question>,
        (): (),
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        _: WorkerId,
        _: &FactoryRef<u64, Question>,
        Job { key, msg: (number, answer), .. }: Job<u64, Question>,
        (): &mut (),
    ) -> Result<u64, ActorProcessingErr> {
        answer.send(number + 1).expect("who asked waits");
        Ok(key)
    }
}

/// A factory with a routing of its own.
pub struct RactorFactory<R> {
    factory: FactoryRef<u64, Question>,
    ended: ractor::concurrency::JoinHandle<()>,
    _routing: std::marker::PhantomData<fn() -> R>,
}

pub type Queuer = QueuerRouting<u64, Question>;
pub type RoundRobin = RoundRobinRouting<u64, Question>;

impl<R: Router<u64, Question> + Default + Sync> Dispatcher for RactorFactory<R> {
    type Pending = oneshot::Receiver<u64>;

    async fn open(workers: usize) -> Self {
        let definition =
            Factory::<u64, Question, (), Answering, R, DefaultQueue<u64, Question>>::default();
        let arguments = FactoryArguments::builder()
            .worker_builder(Box::new(worker_builder(|_| (Answering, ()))))
            .num_initial_workers(workers)
            .router(R::default())
            .queue(DefaultQueue::default())
            .build();
        let (factory, ended) =
            ractor::Actor::spawn(None, definition, arguments).await.expect("a factory starts");
        Self { factory, ended, _routing: std::marker::PhantomData }
    }

    fn send(&self, number: u64) -> Self::Pending {
        let (answer, pending) = oneshot::channel();
        let job = Job {
            key: number,
            msg: (number, answer),
            options: JobOptions::default(),
            accepted: None,
        };
        self.factory.cast(FactoryMessage::Dispatch(job)).expect("the factory is there");
        pending
    }

    async fn result(pending: Self::Pending) -> u64 {
        pending.await.expect("the worker answers")
    }

    fn result_blocking(pending: Self::Pending) -> u64 {
        pending.blocking_recv().expect("the worker answers")
    }

    async fn close(self) {
        self.factory.stop(None);
        self.ended.await.expect("the factory ends");
    }
}

// kameo.

/// An actor that answers, and the pool of such.
pub struct KameoAnswering;

impl kameo::Actor for KameoAnswering {
    type Args = Self;
    type Error = kameo::error::Infallible;

    async fn on_start(this: Self, _: ActorRef<Self>) -> Result<Self, Self::Error> {
        Ok(this)
    }
}

impl kameo::message::Message<Asked> for KameoAnswering {
    type Reply = u64;

    async fn handle(
        &mut self,
        Asked(number): Asked,
        _: &mut kameo::message::Context<Self, Self::Reply>,
    ) -> u64 {
        number + 1
    }
}

pub struct KameoPool(ActorRef<ActorPool<KameoAnswering>>);

impl Dispatcher for KameoPool {
    type Pending = kameo::request::PendingReply<
        Dispatch<Asked>,
        kameo_actors::pool::WorkerReply<KameoAnswering, Asked>,
    >;

    async fn open(workers: usize) -> Self {
        let worker =
            || KameoAnswering::spawn_with_mailbox(KameoAnswering, kameo::mailbox::unbounded());
        let pool = ActorPool::new(workers, worker);
        Self(ActorPool::spawn_with_mailbox(pool, kameo::mailbox::unbounded()))
    }

    fn send(&self, number: u64) -> Self::Pending {
        self.0.ask(Dispatch(Asked(number))).try_enqueue().expect("the pool is there")
    }

    async fn result(pending: Self::Pending) -> u64 {
        pending.await.map_err(|_| ()).expect("the worker answers")
    }

    fn result_blocking(pending: Self::Pending) -> u64 {
        super::actors::wait(Self::result(pending))
    }

    async fn close(self) {
        self.0.kill();
        self.0.wait_for_shutdown().await;
    }
}
