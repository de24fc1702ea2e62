//! What the simulated fleet calls: handlers that do as they like, and the log, verifier, observer and hook.

use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use super::books::{Core, Spec, Token};
use super::purses::coin;
use super::world::Bell;
use phalanx::fleet::{
    Agent, AgentId, AsyncContext, Attempt, Backoff, Condition, Fleet, FleetEvent, IdempotencyKey,
    IfDependencyFails, LogPosition, Observer, Outcome, ReturnReason, Returned, SpawnedFuture,
    Spawner, SubmitError, Task, TaskContext, TaskError, TaskId, TaskLog, Verifier, WeakFleet,
};
use phalanx::{Error, ErrorKind};

/// What the handler of an agent that runs futures returns.
type HandlerFuture = Pin<Box<dyn Future<Output = Result<Token, TaskError>> + Send>>;

pub(super) const SKILLS: [&str; 3] = ["read", "write", "check"];

/// A panic that prints nothing.
pub(super) fn quiet_panic() -> ! {
    resume_unwind(Box::new("a simulated panic".to_owned()))
}

impl Core {
    pub(super) fn fleet(&self) -> Option<Fleet<Token, Token>> {
        self.fleet.get().and_then(WeakFleet::upgrade)
    }

    /// Kills an agent; whether it lived.
    pub(super) fn kill(&self, fleet: &Fleet<Token, Token>, agent: AgentId) -> bool {
        let lived = self.books().bury(agent);
        let killed = fleet.kill(agent);
        let mut books = self.books();
        books.must(killed.is_ok() == lived, || {
            format!("kill of {agent}, lived {lived}: {killed:?}")
        });
        books.totals.count("killed");
        lived
    }

    /// Submits a task as it is described, and keeps its handle if it is accepted.
    pub(super) fn submit(&self, fleet: &Fleet<Token, Token>, spec: Spec) -> Option<TaskId> {
        let (code, task) = self.write_down(spec);
        match fleet.submit(task) {
            Ok(handle) => {
                let mut books = self.books();
                let id = handle.id();
                let known = books.codes.get(&id).copied();
                if known == Some(code) {
                    books.handles.push((code, handle));
                    return Some(id);
                }
                // Its key was known.
                let key = books.specs.remove(&code).and_then(|spec| spec.key);
                let first = known.and_then(|known| books.specs[&known].key);
                books.must(key.is_some() && key == first, || format!("task {id} is not {key:?}"));
                books.totals.count("key repeated");
                None
            }
            Err(refused) => {
                self.refused(code, &refused);
                None
            }
        }
    }

    /// A task by its description, which the books have from now on.
    pub(super) fn write_down(&self, spec: Spec) -> (u64, Task<Token>) {
        let mut books = self.books();
        let code = books.code();
        let spec = Spec { paid_by: books.payers(&spec), ..spec };
        let mut task = Task::new(self.token(code));
        for (bit, skill) in SKILLS.iter().enumerate() {
            if spec.needs & (1 << bit) != 0 {
                task = task.capability(skill);
            }
        }
        task = task.max_attempts(spec.attempts.try_into().expect("it is not 0"));
        if let Some(agent) = spec.agent {
            task = task.to(agent);
        }
        if let Some(group) = spec.group {
            task = task.group(group);
        }
        if spec.cost > 0 {
            task = task.cost(coin(), spec.cost);
        }
        if let Some(deadline) = spec.deadline {
            task = task.timeout(deadline.saturating_since(self.clock.now()));
        }
        if !spec.backoff.is_zero() {
            task = task.retry_backoff(Backoff::constant(spec.backoff));
        }
        if let Some(key) = spec.key {
            task = task.idempotency_key(IdempotencyKey::new(key));
        }
        for id in &spec.after {
            let known = books.codes[id];
            let handle = books.handles.iter().find(|(code, _)| *code == known);
            task = match handle {
                Some((_, handle)) => task.after(handle),
                None => task.after_id(*id),
            };
        }
        if spec.release {
            task = task.if_dependency_fails(IfDependencyFails::Release);
        }
        books.specs.insert(code, spec);
        (code, task)
    }

    pub(super) fn refused<R>(&self, code: u64, refused: &SubmitError<R>) {
        let mut books = self.books();
        let spec = books.specs.remove(&code).expect("it was written down before");
        match refused {
            SubmitError::NoAgent(_) => {
                let mut agents = books.agents.iter();
                let able = agents.any(|(id, body)| match spec.agent {
                    Some(agent) => *id == agent && body.runs && !body.drained,
                    None => body.runs && body.has(spec.needs),
                });
                books.must(!able, || format!("no agent for {spec:?}"));
            }
            SubmitError::Closed(_) => {
                let closing = books.closing;
                books.must(closing, || "closed to tasks".to_owned());
            }
            SubmitError::NotRecorded { .. } => books.totals.count("acceptance not recorded"),
            SubmitError::OverBudget { exceeded, .. } => books.check_refusal(&spec, exceeded),
            SubmitError::Full(_) => books.totals.count("queue full"),
            SubmitError::UnknownDependency(_) => books.totals.count("unknown dependency"),
            _ => books.wrong.push(format!("{spec:?} was refused: {refused:?}")),
        }
    }

    /// Tells or asks an agent something.
    pub(super) fn write_letter(
        &self,
        fleet: &Fleet<Token, Token>,
        to: AgentId,
        sort: usize,
    ) -> Option<(u64, phalanx::fleet::Reply<Token>)> {
        let code = self.books().code();
        let token = self.token(code);
        let sent = match sort {
            0 => fleet.tell_control(to, token).map(|()| None),
            1 => fleet.ask(to, token).map(Some),
            _ => fleet.tell(to, token).map(|()| None),
        };
        let mut books = self.books();
        match sent {
            Ok(reply) => {
                let letter = super::books::Letter { to, control: sort == 0, asked: sort == 1 };
                books.letters.insert(code, letter);
                books.messages += 1;
                reply.map(|reply| (code, reply))
            }
            Err(refused) => {
                use phalanx::fleet::TellError as Why;
                let body = books.agents.get(&to).cloned();
                let closing = books.closing;
                let rightly = match &refused {
                    Why::Full(_) => body.is_some(),
                    Why::Gone(_) => body.is_none(),
                    Why::Draining(_) => body.is_some_and(|body| body.drained),
                    Why::NoMailbox(_) => body.is_some_and(|body| !body.runs),
                    Why::Closed(_) => closing,
                    _ => false,
                };
                books.must(rightly, || format!("message to {to}: {refused:?}"));
                // A payload that comes back is dropped without the books.
                drop(books);
                drop(refused);
                None
            }
        }
    }

    /// A handler begins: an attempt of a task, or a message.
    fn take_off(
        self: &Arc<Self>,
        code: u64,
        task: Option<TaskId>,
        attempt: Attempt,
        agent: AgentId,
    ) -> Trip {
        let number = {
            let (now, mut books) = (self.clock.now(), self.books());
            match task {
                Some(id) => books.begin(id, code, attempt, agent, now),
                None => {
                    books.open_letter(code, agent);
                    code
                }
            }
        };
        let core = Arc::clone(self);
        let body = core.books().agents.get(&agent).map(|body| body.incarnation);
        let incarnation = body.unwrap_or(0);
        Trip { core, number, code, task, attempt, agent, incarnation, result: Some(Err(true)) }
    }

    fn handle(
        self: &Arc<Self>,
        task: &Task<Token>,
        cx: &TaskContext<'_>,
    ) -> Result<Token, TaskError> {
        let trip = self.take_off(task.payload().code, cx.task_id(), cx.attempt(), cx.agent());
        trip.act(true, cx.is_revoked(), || cx.report_progress(0.5, "half"));
        trip.must_be_told(cx.is_revoked(), cx.is_cancelled());
        trip.arrive()
    }

    async fn fly(trip: Trip, cx: AsyncContext) -> Result<Token, TaskError> {
        let (stops, ending) = {
            let random = &mut trip.core.books().random;
            (random.below(4), random.below(10))
        };
        for _ in 0..stops {
            trip.act(false, cx.is_revoked(), || cx.report_progress(0.5, "half"));
            trip.must_be_told(cx.is_revoked(), cx.is_cancelled());
            Pause(false).await;
        }
        match ending {
            // It hangs.
            0..=1 => {
                trip.wait_to_be_struck();
                cx.revoked().await;
                trip.core.books().totals.count("future struck");
            }
            2 => cx.cancelled().await,
            _ => {}
        }
        trip.must_be_told(cx.is_revoked(), cx.is_cancelled());
        trip.core.books().totals.count("future resolved");
        trip.arrive()
    }
}

/// Lets others come first, once.
struct Pause(bool);

impl Future for Pause {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// A handler at work, from its beginning to its end, however that comes.
struct Trip {
    core: Arc<Core>,
    number: u64,
    code: u64,
    task: Option<TaskId>,
    attempt: Attempt,
    agent: AgentId,
    incarnation: u32,
    /// What it brings when it ends, of an error whether the task may run again: a panic or the drop of a
    /// future is one that does.
    result: Option<Result<(), bool>>,
}

impl Drop for Trip {
    fn drop(&mut self) {
        let now = self.core.clock.now();
        let mut books = self.core.books();
        books.flights.remove(&self.number);
        let result = self.result.take().expect("it ends once");
        let mut counts = true;
        if self.task.is_some() {
            counts = books.bring(self.code, self.attempt, self.agent, now, result);
        } else if result.is_err() {
            books.totals.count("message failed");
        }
        books.went(self.agent, self.incarnation, counts, result.is_ok(), now);
    }
}

impl Trip {
    /// The end of the handler.
    fn arrive(mut self) -> Result<Token, TaskError> {
        let choice = self.core.books().random.below(20);
        match choice {
            0..=12 => {
                self.result = Some(Ok(()));
                Ok(self.core.token(self.code))
            }
            13..=15 => Err(TaskError::retryable("not this time")),
            16 => {
                self.result = Some(Err(false));
                Err(TaskError::permanent("never"))
            }
            _ => {
                self.core.books().handler_lost(self.agent, self.incarnation);
                quiet_panic()
            }
        }
    }

    fn wait_to_be_struck(&self) {
        if let Some(flight) = self.core.books().flights.get_mut(&self.number) {
            flight.waits_to_be_struck = true;
        }
    }

    /// Whether the handler knows what became of its agent.
    fn must_be_told(&self, revoked: bool, cancelled: bool) {
        let mut books = self.core.books();
        let lives = books.agents.contains_key(&self.agent);
        books.must(lives || revoked, || "a kill was not told".to_owned());
        let asked = self.task.is_some_and(|_| {
            let spec = &books.specs[&self.code];
            spec.cancelled && spec.running == Some((self.attempt, self.agent))
        });
        books.must(!asked || cancelled, || "a cancellation was not told".to_owned());
    }

    /// What a handler does beside its work.
    fn act(&self, on_worker: bool, _revoked: bool, report: impl FnOnce()) {
        let core = &*self.core;
        let Some(fleet) = core.fleet() else { return };
        let (choice, other, time) = {
            let mut books = core.books();
            let agents: Vec<_> = books.agents.keys().copied().collect();
            let random = &mut books.random;
            let other = random.pick(&agents).copied();
            (random.below(100), other, Duration::from_millis(random.below(400) as u64))
        };
        match choice {
            0..=4 => drop(core.kill(&fleet, self.agent)),
            5..=7 => drop(other.map(|other| core.kill(&fleet, other))),
            8..=11 => {
                if let Some(handle) = self.task.and_then(|id| fleet.task(id)) {
                    core.cancel(handle.id(), || handle.cancel());
                    core.books().totals.count("cancelled while it ran");
                }
            }
            12..=20 => core.hand.advance(time),
            21..=23 => {
                core.submit(&fleet, Spec { attempts: 2, ..Spec::default() });
            }
            24..=27 => {
                if let Some(other) = other {
                    drop(core.write_letter(&fleet, other, choice % 4));
                }
            }
            28 if on_worker => {
                let ran = fleet.run_ready(usize::MAX);
                core.books().must(ran == 0, || "a handler drove".to_owned());
            }
            29 if on_worker => {
                let refused = fleet.shutdown(Duration::ZERO).is_err();
                core.books().must(refused, || "a handler stopped its fleet".to_owned());
            }
            30..=33 => {
                core.hand.advance(time);
                fleet.tick();
            }
            34..=36 => report(),
            _ => {}
        }
    }
}

impl Core {
    /// Cancels a task, and writes down that it did if it says so.
    pub(super) fn cancel(&self, id: TaskId, cancel: impl FnOnce() -> bool) {
        let pending = {
            let mut books = self.books();
            let code = books.codes[&id];
            let spec = books.specs.get_mut(&code).expect("it was accepted");
            let pending = spec.is_pending();
            spec.cancelled |= pending;
            pending
        };
        let mattered = cancel();
        self.books().must(mattered == pending, || format!("cancel of {id}: {mattered}"));
    }
}

impl TaskLog<Token, Token> for Core {
    fn accept(&self, tasks: &[(TaskId, &Task<Token>)]) -> Result<(), Error> {
        let mut books = self.books();
        if books.fails(4) {
            return Err(Error::new(ErrorKind::Io, "a simulated disk"));
        }
        if books.fails(1) {
            drop(books);
            quiet_panic();
        }
        for (id, task) in tasks {
            books.accept(*id, task.payload().code);
        }
        Ok(())
    }

    fn settle(
        &self,
        id: TaskId,
        attempt: Attempt,
        task: &Task<Token>,
        outcome: &Outcome<Token>,
    ) -> Result<Option<LogPosition>, Error> {
        let now = self.clock.now();
        let mut books = self.books();
        match books.settle(id, attempt, task.payload().code, outcome, now) {
            Some(position) => Ok(Some(position)),
            None if books.random.percent(20) => {
                drop(books);
                quiet_panic()
            }
            None => Err(Error::new(ErrorKind::Io, "a simulated disk")),
        }
    }
}

impl Verifier<Token, Token> for Core {
    fn verify(
        &self,
        task: &Task<Token>,
        attempt: Attempt,
        output: &Token,
    ) -> Result<(), TaskError> {
        let now = self.clock.now();
        let mut books = self.books();
        let code = task.payload().code;
        books.must(output.code == code, || format!("{} for {code} is verified", output.code));
        if books.fails(4) {
            books.reject(code, attempt, true, now);
            return Err(TaskError::retryable("not so"));
        }
        if books.fails(1) {
            books.reject(code, attempt, false, now);
            return Err(TaskError::permanent("not at all"));
        }
        Ok(())
    }
}

impl Observer for Core {
    fn notice(&self, event: &FleetEvent) {
        let mut books = self.books();
        match event {
            FleetEvent::TaskSettled { task, outcome, .. } => books.told(*task, *outcome),
            FleetEvent::BudgetWarning { .. } => {
                books.warned += 1;
                books.totals.count("budget warning");
            }
            FleetEvent::AgentStopped { agent, .. }
                if books.agents.get(agent).is_some_and(|body| body.is_doomed) =>
            {
                books.bury(*agent);
                books.totals.count("agent stopped by its supervisor");
            }
            // It could not be made, and an autoscaler has another come in its place.
            FleetEvent::AgentStopped { agent, .. }
                if books.agents.get(agent).is_some_and(|body| {
                    body.cold && body.condition == Condition::Failed && body.guard.is_none()
                }) =>
            {
                let is_asked = books.is_asked(*agent);
                books.must(!is_asked, || format!("{agent} was replaced over its work"));
                books.bury(*agent);
                books.totals.count("agent replaced");
            }
            event => books.notice_wards(event, self.clock.now()),
        }
        if books.fails(2) {
            drop(books);
            quiet_panic();
        }
    }
}

impl Returned<Token> for Core {
    fn returned(&self, agent: AgentId, _reason: ReturnReason, payloads: Vec<Token>) {
        let mut books = self.books();
        for token in &payloads {
            books.return_letter(token.code, agent);
        }
        if books.fails(5) {
            drop(books);
            quiet_panic();
        }
    }
}

/// The host's executor, which does not take everything.
pub(super) fn spawner(core: &Arc<Core>) -> impl Spawner + 'static {
    let core = Arc::clone(core);
    move |future: SpawnedFuture| {
        if core.books().fails(4) {
            core.books().totals.count("future refused");
            drop(future);
            if core.books().random.percent(30) {
                quiet_panic();
            }
            return;
        }
        let bell = Arc::new(Bell::default());
        bell.rung.store(true, Ordering::Relaxed);
        core.executor.lock().unwrap_or_else(PoisonError::into_inner).push((future, bell));
    }
}

/// The handler of agents that run futures.
pub(super) fn handler_async(
    core: &Arc<Core>,
) -> impl Fn(Arc<Task<Token>>, AsyncContext) -> HandlerFuture + Send + Sync + 'static {
    let core = Arc::clone(core);
    move |task, cx| {
        let trip = core.take_off(task.payload().code, cx.task_id(), cx.attempt(), cx.agent());
        if core.books().fails(3) {
            quiet_panic();
        }
        Box::pin(Core::fly(trip, cx))
    }
}

/// The handler of an agent that is ready once it was made.
struct Made(Arc<Core>);

impl Agent<Token, Token> for Made {
    fn handle(&mut self, task: &Task<Token>, cx: &mut TaskContext<'_>) -> Result<Token, TaskError> {
        self.0.handle(task, cx)
    }
}

/// What makes the handlers of such agents, of this kind.
pub(super) fn factory(
    core: &Arc<Core>,
    kind: &'static str,
) -> impl Fn() -> Box<dyn Agent<Token, Token>> + Send + Sync + 'static {
    let core = Arc::clone(core);
    move || {
        if core.books().fails_to_make(kind) {
            quiet_panic();
        }
        Box::new(Made(Arc::clone(&core)))
    }
}

/// The handler of all others.
pub(super) fn handler(
    core: &Arc<Core>,
) -> impl Fn(&Task<Token>, &mut TaskContext<'_>) -> Result<Token, TaskError> + Send + Sync + 'static
{
    let core = Arc::clone(core);
    move |task, cx| core.handle(task, cx)
}
