//! The actors of the peers: a tokio task with a channel, actix, xtra, kameo and ractor.
//!
//! Mailboxes are without bounds where that is faster. None of the peers traces or follows messages.

use std::future::Future;
use std::pin::Pin;
use std::thread;

use kameo::actor::Spawn as _;
use ractor::ActorProcessingErr;
use tokio::sync::{mpsc, oneshot};
use xtra::{Address, Mailbox};

use super::actors::{Actors, Home, Threads, Tokio, at_once};
use super::tally::Counter;

/// How many messages a bounded mailbox has room for: the most that an agent is told in a unit.
pub const ROOM: usize = 1024;
/// How many messages a task takes from its channel at once.
const BATCH: usize = 64;

/// A tokio task that takes what there is from an unbounded channel.
pub struct Unbounded;

impl Actors for Unbounded {
    type Address = mpsc::UnboundedSender<u64>;
    type Home = Tokio;

    async fn start(mut counter: Counter) -> Self::Address {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            counter.started();
            while let Some(message) = receiver.recv().await {
                counter.handle(message);
            }
            counter.report();
        });
        sender
    }

    fn tell(address: &Self::Address, message: u64) {
        address.send(message).expect("the task is there");
    }

    fn stop(address: Self::Address) {
        drop(address);
    }
}

/// The same, which takes many at once.
pub struct UnboundedBatch;

impl Actors for UnboundedBatch {
    type Address = mpsc::UnboundedSender<u64>;
    type Home = Tokio;

    async fn start(mut counter: Counter) -> Self::Address {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            counter.started();
            let mut batch = Vec::with_capacity(BATCH);
            while receiver.recv_many(&mut batch, BATCH).await > 0 {
                batch.drain(..).for_each(|message| counter.handle(message));
            }
            counter.report();
        });
        sender
    }

    fn tell(address: &Self::Address, message: u64) {
        address.send(message).expect("the task is there");
    }

    fn stop(address: Self::Address) {
        drop(address);
    }
}

/// A tokio task with a channel that has bounds.
pub struct Bounded;

impl Actors for Bounded {
    type Address = mpsc::Sender<u64>;
    type Home = Tokio;

    async fn start(mut counter: Counter) -> Self::Address {
        let (sender, mut receiver) = mpsc::channel(ROOM);
        tokio::spawn(async move {
            counter.started();
            while let Some(message) = receiver.recv().await {
                counter.handle(message);
            }
            counter.report();
        });
        sender
    }

    fn tell(address: &Self::Address, message: u64) {
        address.try_send(message).expect("the task is there, and has room");
    }

    fn stop(address: Self::Address) {
        drop(address);
    }
}

/// A tokio task that is asked, with a channel for each answer.
pub type Question = (u64, oneshot::Sender<u64>);

/// Starts a task that answers with one more than it is asked.
pub fn answering() -> mpsc::UnboundedSender<Question> {
    let (sender, mut receiver) = mpsc::unbounded_channel::<Question>();
    tokio::spawn(async move {
        while let Some((number, answer)) = receiver.recv().await {
            answer.send(number + 1).expect("who asked waits");
        }
    });
    sender
}

/// The same, with a channel that has bounds.
pub fn answering_bounded() -> mpsc::Sender<Question> {
    let (sender, mut receiver) = mpsc::channel::<Question>(ROOM);
    tokio::spawn(async move {
        while let Some((number, answer)) = receiver.recv().await {
            answer.send(number + 1).expect("who asked waits");
        }
    });
    sender
}

// xtra.

pub struct Xtra;

pub struct XtraActor(Counter);

impl xtra::Actor for XtraActor {
    type Stop = ();

    async fn started(&mut self, _: &Mailbox<Self>) -> Result<(), ()> {
        self.0.started();
        Ok(())
    }

    async fn stopped(mut self) {
        self.0.report();
    }
}

pub struct Told(pub u64);

impl xtra::Handler<Told> for XtraActor {
    type Return = ();

    /// What lies in its mailbox is handled in some order of its own.
    async fn handle(&mut self, Told(message): Told, _: &mut xtra::Context<Self>) {
        self.0.handle_whenever(message);
    }
}

/// What is asked.
pub struct Asked(pub u64);

impl xtra::Handler<Asked> for XtraActor {
    type Return = u64;

    async fn handle(&mut self, Asked(number): Asked, _: &mut xtra::Context<Self>) -> u64 {
        number + 1
    }
}

impl Actors for Xtra {
    type Address = Address<XtraActor>;
    type Home = Tokio;

    async fn start(counter: Counter) -> Self::Address {
        xtra::spawn_tokio(XtraActor(counter), Mailbox::unbounded())
    }

    fn tell(address: &Self::Address, message: u64) {
        drop(at_once(address.send(Told(message)).detach()).expect("the actor is there"));
    }

    fn stop(address: Self::Address) {
        drop(address);
    }
}

// actix.

pub struct Actix;

pub struct ActixActor(Counter);

impl actix::Actor for ActixActor {
    type Context = actix::Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        self.0.started();
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.0.report();
    }
}

impl actix::Message for Told {
    type Result = ();
}

impl actix::Handler<Told> for ActixActor {
    type Result = ();

    fn handle(&mut self, Told(message): Told, _: &mut Self::Context) {
        self.0.handle(message);
    }
}

impl actix::Message for Asked {
    type Result = u64;
}

impl actix::Handler<Asked> for ActixActor {
    type Result = u64;

    fn handle(&mut self, Asked(number): Asked, _: &mut Self::Context) -> u64 {
        number + 1
    }
}

impl Actors for Actix {
    type Address = actix::Addr<ActixActor>;
    type Home = ActixHome;

    async fn start(counter: Counter) -> Self::Address {
        actix::Actor::start(ActixActor(counter))
    }

    fn tell(address: &Self::Address, message: u64) {
        address.do_send(Told(message));
    }

    fn stop(address: Self::Address) {
        drop(address);
    }
}

/// A thread of its own with all that actix needs.
pub struct ActixHome {
    work: Option<mpsc::UnboundedSender<Work>>,
    thread: Option<thread::JoinHandle<()>>,
}

type Work = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

impl Home for ActixHome {
    fn apart(threads: Threads) -> Self {
        assert!(matches!(threads, Threads::One), "its actors stay on one thread");
        let (work, mut to_do) = mpsc::unbounded_channel::<Work>();
        let thread = thread::spawn(move || {
            actix::System::new().block_on(async move {
                while let Some(make) = to_do.recv().await {
                    make().await;
                }
            });
        });
        Self { work: Some(work), thread: Some(thread) }
    }

    fn run<F>(&self, make: impl FnOnce() -> F + Send + 'static) -> F::Output
    where
        F: Future + 'static,
        F::Output: Send + 'static,
    {
        let (sender, receiver) = std::sync::mpsc::channel();
        let work: Work = Box::new(move || {
            Box::pin(async move { sender.send(make().await).expect("who asked waits") })
        });
        self.work.as_ref().expect("it is there").send(work).expect("its thread is there");
        receiver.recv().expect("it answers")
    }

    fn together<F: Future>(future: F) -> F::Output {
        actix::System::new().block_on(future)
    }
}

impl Drop for ActixHome {
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            thread.join().expect("an actor does not panic");
        }
    }
}

// kameo.

pub struct Kameo;

pub struct KameoActor(Counter);

impl kameo::Actor for KameoActor {
    type Args = Counter;
    type Error = kameo::error::Infallible;

    async fn on_start(
        counter: Counter,
        _: kameo::actor::ActorRef<Self>,
    ) -> Result<Self, Self::Error> {
        counter.started();
        Ok(Self(counter))
    }

    async fn on_stop(
        &mut self,
        _: kameo::actor::WeakActorRef<Self>,
        _: kameo::error::ActorStopReason,
    ) -> Result<(), Self::Error> {
        self.0.report();
        Ok(())
    }
}

impl kameo::message::Message<Told> for KameoActor {
    type Reply = ();

    async fn handle(
        &mut self,
        Told(message): Told,
        _: &mut kameo::message::Context<Self, Self::Reply>,
    ) {
        self.0.handle(message);
    }
}

impl kameo::message::Message<Asked> for KameoActor {
    type Reply = u64;

    async fn handle(
        &mut self,
        Asked(number): Asked,
        _: &mut kameo::message::Context<Self, Self::Reply>,
    ) -> u64 {
        number + 1
    }
}

impl Actors for Kameo {
    type Address = kameo::actor::ActorRef<KameoActor>;
    type Home = Tokio;

    async fn start(counter: Counter) -> Self::Address {
        KameoActor::spawn_with_mailbox(counter, kameo::mailbox::unbounded())
    }

    fn tell(address: &Self::Address, message: u64) {
        address.tell(Told(message)).try_send().expect("the actor is there");
    }

    fn stop(address: Self::Address) {
        at_once(address.stop_gracefully()).expect("the actor is there");
    }
}

// ractor.

pub struct Ractor;

pub struct RactorActor;

pub enum RactorMessage {
    Told(u64),
    Asked(u64, ractor::RpcReplyPort<u64>),
}

impl ractor::Actor for RactorActor {
    type Msg = RactorMessage;
    type State = Counter;
    type Arguments = Counter;

    async fn pre_start(
        &self,
        _: ractor::ActorRef<Self::Msg>,
        counter: Counter,
    ) -> Result<Counter, ActorProcessingErr> {
        counter.started();
        Ok(counter)
    }

    async fn handle(
        &self,
        _: ractor::ActorRef<Self::Msg>,
        message: RactorMessage,
        counter: &mut Counter,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RactorMessage::Told(message) => counter.handle(message),
            RactorMessage::Asked(number, answer) => answer.send(number + 1)?,
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _: ractor::ActorRef<Self::Msg>,
        counter: &mut Counter,
    ) -> Result<(), ActorProcessingErr> {
        counter.report();
        Ok(())
    }
}

impl Actors for Ractor {
    type Address = ractor::ActorRef<RactorMessage>;
    type Home = Tokio;

    async fn start(counter: Counter) -> Self::Address {
        let (actor, _) =
            ractor::Actor::spawn(None, RactorActor, counter).await.expect("an actor starts");
        actor
    }

    fn tell(address: &Self::Address, message: u64) {
        address.send_message(RactorMessage::Told(message)).expect("the actor is there");
    }

    fn stop(address: Self::Address) {
        address.drain().expect("the actor is there");
    }
}
