//! Budgets and quotas: how much a fleet, a group, a type or an agent may hold and use, never overshot.
//!
//! An [`Account`] belongs to one [`Scope`] and meters what its [`Quota`] limits. A [`Payer`] is the
//! accounts that one request pays from. Rules that hold here:
//!
//! 1. The usage of a meter is one word, and it grows only in a step that compares it with the limit as it was
//!    read just before: no reservation that begins after a limit was set goes over it. One that is
//!    on its way while the limit is lowered may still go by the limit before.
//! 2. The usage is exactly what is reserved plus what was spent. Every unit that was taken is given back
//!    once or spent once.
//! 3. A reservation pays from all of its accounts or from none. It looks at all of them before it takes
//!    from the first; when one that had room has none by its turn, what was taken is put back.
//! 4. Whoever moves the usage from below the soft line to the line or over it is told of it; nobody else
//!    is. So every crossing is told once.
//! 5. Nothing waits, and nothing locks on the way of a reservation. Fleets that pay from the accounts watch
//!    them: what is given back while a request waits for it is told to them by whoever gives it back.

mod account;
#[cfg(all(test, phalanx_loom))]
mod loom_tests;
mod reservation;
#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Weak};

use super::id::{AgentId, GroupKey};
use crate::sync::RwLock;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::{Error, ErrorKind};

pub use account::{Account, Payer};
pub(super) use account::{Asking, Refusal};
pub use reservation::Reservation;

/// How many kinds of units a host may define.
pub const UNIT_KINDS: u8 = 4;
/// Leases, queued tasks, launches, and the host's own.
const METERS: usize = 3 + UNIT_KINDS as usize;
/// One per kind of scope.
const MAX_SCOPES: usize = 4;
/// The last bit of the word that counts says whether somebody waits.
const GREATEST_LIMIT: u64 = (1 << 63) - 1;
/// How many types and agents may have a limit on leases. A request looks at those of agents that fit.
const MAX_METERED_KINDS: usize = 4096;

/// Whose budget it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scope {
    /// The whole fleet's.
    Fleet,
    /// A group's.
    Group(GroupKey),
    /// That of all agents of one type.
    Type(Arc<str>),
    /// One agent's.
    Agent(AgentId),
}

impl Scope {
    /// The place among the accounts of a payer.
    const fn place(&self) -> usize {
        match self {
            Self::Fleet => 0,
            Self::Group(_) => 1,
            Self::Type(_) => 2,
            Self::Agent(_) => 3,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fleet => f.write_str("the fleet"),
            Self::Group(group) => write!(f, "group {group}"),
            Self::Type(name) => write!(f, "agents of type {name:?}"),
            Self::Agent(agent) => write!(f, "agent {agent}"),
        }
    }
}

/// What is counted, and what a fleet charges whom with:
///
/// | meter | the fleet, the group | the type, the agent |
/// |---|---|---|
/// | [`Leases`](Self::Leases) | each lease while it is held | so |
/// | [`QueuedTasks`](Self::QueuedTasks) | each task while it has not ended | only a task [for one agent](super::Task::to) |
/// | [`Launches`](Self::Launches) | each agent that is spawned; the group is [that of its spec](super::AgentSpec::group) | the type; never the agent |
/// | [`Units`](Self::Units) | what a task [costs](super::Task::cost), and what its handler [spends](super::TaskContext::spend) | what a task for one agent costs, and what handlers spend |
///
/// A limit on what nobody is charged with is never reached; what a host [reserves](Payer::reserve) by itself counts too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Meter {
    /// Leases held at the same time.
    Leases,
    /// Tasks that were accepted and have not ended, at the same time.
    QueuedTasks,
    /// Agents launched, over the life of the budget.
    Launches,
    /// Something of the host's: tokens, cost in the smallest coin.
    Units(Unit),
}

impl Meter {
    const fn index(self) -> usize {
        match self {
            Self::Leases => 0,
            Self::QueuedTasks => 1,
            Self::Launches => 2,
            Self::Units(unit) => 3 + unit.0 as usize,
        }
    }
}

impl fmt::Display for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leases => f.write_str("leases"),
            Self::QueuedTasks => f.write_str("queued tasks"),
            Self::Launches => f.write_str("launches"),
            Self::Units(unit) => write!(f, "units of kind {}", unit.0),
        }
    }
}

/// Which of the host's kinds of units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Unit(u8);

impl Unit {
    /// The kind of this number; `None` from [`UNIT_KINDS`] on.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        if number < UNIT_KINDS { Some(Self(number)) } else { None }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// How much of one meter there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    hard: u64,
    soft: Option<u64>,
}

impl Limit {
    /// No more than this at any instant. The greatest limit is 2^63 - 1; a greater number is that.
    #[must_use]
    pub const fn hard(most: u64) -> Self {
        Self { hard: if most > GREATEST_LIMIT { GREATEST_LIMIT } else { most }, soft: None }
    }

    /// Metered, and as good as unlimited.
    #[must_use]
    pub const fn metered() -> Self {
        Self::hard(GREATEST_LIMIT)
    }

    /// Warns whoever takes the usage from below this number to it or over it. Default: no warning.
    ///
    /// Valid: 1 to the hard limit; a [`Budgets`] refuses others.
    #[must_use]
    pub const fn warn_at(mut self, soft: u64) -> Self {
        self.soft = Some(soft);
        self
    }

    fn check(self, meter: Meter) -> Result<(), Error> {
        match self.soft {
            Some(soft) if soft == 0 || soft > self.hard => Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "the soft line of {meter} is {soft}, and must lie from 1 to the hard limit {}",
                    self.hard
                ),
            )),
            _ => Ok(()),
        }
    }
}

/// Which meters an account has, and their limits. A meter that it does not have costs nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    limits: [Option<Limit>; METERS],
}

impl Quota {
    /// No meters.
    #[must_use]
    pub const fn new() -> Self {
        Self { limits: [None; METERS] }
    }

    /// Limits one meter. Each reservation on it costs one atomic step when it is taken and one when it
    /// is given back.
    #[must_use]
    pub const fn limit(mut self, meter: Meter, limit: Limit) -> Self {
        self.limits[meter.index()] = Some(limit);
        self
    }

    fn check(&self) -> Result<(), Error> {
        for (meter, limit) in self.meters() {
            limit.check(meter)?;
        }
        Ok(())
    }

    fn meters(&self) -> impl Iterator<Item = (Meter, Limit)> + '_ {
        let fixed = [Meter::Leases, Meter::QueuedTasks, Meter::Launches];
        let own = (0..UNIT_KINDS).map(|kind| Meter::Units(Unit(kind)));
        fixed.into_iter().chain(own).filter_map(|meter| Some((meter, self.limits[meter.index()]?)))
    }
}

/// How a meter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// What is reserved and what was spent, together.
    pub used: u64,
    /// What was spent: it stays used until [`Account::reset_spent`].
    pub spent: u64,
    /// The most that was ever used. It includes what was put back because another account had no room.
    pub peak: u64,
    /// The limit.
    pub hard: u64,
    /// Where it warns.
    pub soft: Option<u64>,
    /// The reservations that this meter refused, and of leases the requests: each of them once, and those too that
    /// waited for room then. Of tasks, those that were not accepted; one that waits for room in the queue was not
    /// refused.
    pub refused: u64,
    /// How often the usage came up to the soft line.
    pub warnings: u64,
    /// The reservations that had taken from this meter and put it back, as another account had no room.
    pub rolled_back: u64,
}

/// The usage of a meter came up to its soft line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Warning {
    /// Whose budget.
    pub scope: Scope,
    /// Which meter.
    pub meter: Meter,
    /// The line.
    pub soft: u64,
}

/// A budget has no room for a reservation; nothing was taken.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{scope} may have {hard} {meter}, has {used} and cannot have {requested} more")]
#[non_exhaustive]
pub struct Exceeded {
    /// Whose budget; the first one, if it is several.
    pub scope: Scope,
    /// Which meter.
    pub meter: Meter,
    /// What was asked for.
    pub requested: u64,
    /// What was in use.
    pub used: u64,
    /// The limit.
    pub hard: u64,
    /// Soft lines that were crossed by what was taken and put back, as the room was gone meanwhile.
    pub warnings: Vec<Warning>,
}

/// The accounts of a fleet, by scope.
///
/// Cheap to clone; clones share the accounts. To look an account up takes a read lock and a hash: a
/// [`Payer`] is made once and used for many reservations.
///
/// ```
/// use phalanx::fleet::{Budgets, GroupKey, Limit, Meter, Quota, Scope};
///
/// let budgets = Budgets::new(1000.try_into()?);
/// let team = GroupKey::new(7);
/// budgets.set(Scope::Fleet, Quota::new().limit(Meter::Leases, Limit::hard(100)))?;
/// budgets.set(Scope::Group(team), Quota::new().limit(Meter::Leases, Limit::hard(1).warn_at(1)))?;
///
/// let payer = budgets.payer(&[Scope::Group(team)]);
/// let mut held = payer.reserve(Meter::Leases, 1)?;
/// assert_eq!(held.take_warnings().len(), 1);
/// let refused = payer.reserve(Meter::Leases, 1).unwrap_err();
/// assert_eq!(refused.scope, Scope::Group(team));
/// drop(held);
/// assert!(payer.reserve(Meter::Leases, 1).is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Budgets {
    shared: Arc<Shared>,
}

struct Shared {
    max_accounts: NonZeroUsize,
    accounts: RwLock<HashMap<Scope, Account>>,
    watchers: Arc<Watchers>,
    /// Changes, under the lock, when there is another account or one less.
    version: AtomicU64,
    /// The same for those of types and agents that meter leases.
    kinds_version: AtomicU64,
}

/// Who is told that there is room which somebody waits for.
pub(super) trait Relief: Send + Sync {
    /// Called outside all locks of the fleet.
    fn relieve(&self);
}

/// The fleets that pay from some accounts.
struct Watchers(RwLock<Vec<Weak<dyn Relief>>>);

impl Watchers {
    #[cold]
    fn tell(&self) {
        let watchers: Vec<_> = self.0.read().iter().filter_map(Weak::upgrade).collect();
        for watcher in watchers {
            watcher.relieve();
        }
    }
}

impl Budgets {
    /// No accounts yet, and so many at most.
    #[must_use]
    pub fn new(max_accounts: NonZeroUsize) -> Self {
        let shared = Shared {
            max_accounts,
            accounts: RwLock::new(HashMap::new()),
            watchers: Arc::new(Watchers(RwLock::new(Vec::new()))),
            version: AtomicU64::new(0),
            kinds_version: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Gives a scope a quota, or changes the limits of the one it has; its account.
    ///
    /// A new limit holds for every reservation that begins after this returned. One that lies below the
    /// usage takes nothing away: there are no more reservations until the usage has come down. To move a
    /// soft line is no crossing.
    ///
    /// A new account knows nothing of what was there before it: leases that are held, those that a batch that waits has
    /// gathered, and the queue's places and the units of tasks that were accepted are not counted in it, and give
    /// nothing back to it. Until they are gone the scope may use as much beside what the account allows.
    ///
    /// # Errors
    /// `InvalidArgument` for a soft line outside 1 to the hard limit, `LimitReached` when there are as
    /// many accounts as there may be or 4,096 types and agents with a limit on leases, `Conflict` if the scope has an account with other meters: what
    /// was not counted so far cannot be limited now; [`remove`](Self::remove) it first.
    pub fn set(&self, scope: Scope, quota: Quota) -> Result<Account, Error> {
        quota.check()?;
        let mut accounts = self.shared.accounts.write();
        if let Some(account) = accounts.get(&scope).cloned() {
            let relieved = account.adjust(&quota)?;
            drop(accounts);
            if relieved {
                self.shared.watchers.tell();
            }
            return Ok(account);
        }
        if accounts.len() >= self.shared.max_accounts.get() {
            return Err(Error::new(
                ErrorKind::LimitReached,
                format!("there are {} budgets, which is as many as there may be", accounts.len()),
            ));
        }
        let account = Account::new(scope.clone(), &quota, Arc::clone(&self.shared.watchers));
        if is_metered_kind(&account) {
            let kinds = accounts.values().filter(|account| is_metered_kind(account)).count();
            if kinds >= MAX_METERED_KINDS {
                return Err(Error::new(
                    ErrorKind::LimitReached,
                    format!("{kinds} types and agents have a limit on leases already"),
                ));
            }
        }
        accounts.insert(scope, account.clone());
        self.changed(&account);
        Ok(account)
    }

    /// Under the lock.
    fn changed(&self, account: &Account) {
        // Relaxed: who reads it and then the accounts takes the lock in between.
        self.shared.version.fetch_add(1, Ordering::Relaxed);
        if is_metered_kind(account) {
            self.shared.kinds_version.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Another number whenever an account came or went. Read before the accounts are.
    #[inline]
    pub(super) fn version(&self) -> u64 {
        self.shared.version.load(Ordering::Relaxed)
    }

    /// Another number whenever an account of a type or an agent that meters leases came or went.
    #[inline]
    pub(super) fn kinds_version(&self) -> u64 {
        self.shared.kinds_version.load(Ordering::Relaxed)
    }

    /// The accounts of types and agents that meter leases.
    pub(super) fn metered_kinds(&self) -> Vec<Account> {
        let accounts = self.shared.accounts.read();
        accounts.values().filter(|account| is_metered_kind(account)).cloned().collect()
    }

    /// How many more leases a scope has room for; `None` if nothing limits it.
    pub(super) fn lease_room(&self, scope: &Scope) -> Option<u64> {
        let usage = self.account(scope)?.usage(Meter::Leases)?;
        Some(usage.hard.saturating_sub(usage.used))
    }

    /// Counts a request that was refused in the end. One whose account was removed meanwhile is counted nowhere.
    #[cold]
    pub(super) fn count_refusal(&self, exceeded: &Exceeded) {
        if let Some(account) = self.account(&exceeded.scope) {
            account.count_refusal(exceeded.meter);
        }
    }

    /// Tells whoever waits for room, outside all locks.
    pub(super) fn tell_watchers(&self) {
        self.shared.watchers.tell();
    }

    /// Has somebody told of room that is waited for, for as long as it lives.
    pub(super) fn watch(&self, watcher: Weak<dyn Relief>) {
        let mut watchers = self.shared.watchers.0.write();
        watchers.retain(|known| known.strong_count() > 0);
        watchers.push(watcher);
    }

    /// Who pays for what a group asks for, or somebody of no group.
    pub(super) fn payer_of(&self, group: Option<GroupKey>) -> Payer {
        match group {
            Some(group) => self.payer(&[Scope::Group(group)]),
            None => self.payer(&[]),
        }
    }

    /// The account of a scope, if it has one.
    #[must_use]
    pub fn account(&self, scope: &Scope) -> Option<Account> {
        self.shared.accounts.read().get(scope).cloned()
    }

    /// Forgets a scope's account; the account. What is reserved on it stays reserved there, and payers
    /// that were made with it go on to pay from it. A new account of that scope knows nothing of them: until
    /// they are gone the scope may use as much as both allow.
    pub fn remove(&self, scope: &Scope) -> Option<Account> {
        let removed = {
            let mut accounts = self.shared.accounts.write();
            let removed = accounts.remove(scope)?;
            self.changed(&removed);
            removed
        };
        // Whoever waits for room there need not any more.
        self.shared.watchers.tell();
        Some(removed)
    }

    /// Who pays from the fleet's account and from those of these scopes, as far as they have one.
    ///
    /// Of two scopes of one kind the later one pays.
    #[must_use]
    pub fn payer(&self, scopes: &[Scope]) -> Payer {
        let accounts = self.shared.accounts.read();
        let scopes = std::iter::once(&Scope::Fleet).chain(scopes);
        Payer::new(scopes.filter_map(|scope| accounts.get(scope)))
    }

    /// All accounts, in no order: what a host shows of its budgets. O(accounts), under the read lock.
    #[must_use]
    pub fn accounts(&self) -> Vec<Account> {
        self.shared.accounts.read().values().cloned().collect()
    }

    /// How many accounts there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.accounts.read().len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn is_metered_kind(account: &Account) -> bool {
    matches!(account.scope(), Scope::Type(_) | Scope::Agent(_)) && account.has(Meter::Leases)
}

impl fmt::Debug for Budgets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budgets")
            .field("accounts", &self.len())
            .field("max_accounts", &self.shared.max_accounts)
            .finish()
    }
}
