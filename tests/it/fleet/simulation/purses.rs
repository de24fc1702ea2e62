//! The budgets of a simulated fleet, and what is known beside them of who holds what on which account.

use std::num::NonZeroUsize;

use super::Random;
use super::books::{Books, Spec};
use super::world::World;
use phalanx::fleet::{
    Account, AgentId, Budgets, Exceeded, GroupKey, Limit, Meter, Quota, Scope, Unit, Usage,
};

/// The host's units that tasks cost.
pub(super) fn coin() -> Unit {
    Unit::new(0).expect("it is the first")
}

fn every_meter() -> [Meter; 4] {
    [Meter::Leases, Meter::QueuedTasks, Meter::Launches, Meter::Units(coin())]
}

/// The kinds of agents.
pub(super) const KINDS: [&str; 2] = ["worker", "clerk"];
const GROUPS: u64 = 2;

/// An account that there is or was.
pub(super) struct Purse {
    account: Account,
    /// From which change of the accounts on it pays, and before which it has stopped to.
    pays: (u64, Option<u64>),
    /// What it may use: as it was set, as it is while the use comes down to that, and the most ever.
    lines: Vec<Line>,
    /// What agents that were launched have used up.
    launched: u64,
    /// What was spent and is forgotten.
    forgotten: u64,
}

struct Line {
    meter: Meter,
    hard: u64,
    ceiling: u64,
    greatest: u64,
}

/// What holds a lease, and when it was granted: between these two changes of the accounts.
pub(super) struct Holding {
    pub(super) agent: AgentId,
    pub(super) group: Option<GroupKey>,
    pub(super) granted: (u64, u64),
    /// Whether it holds the lease for certain.
    pub(super) sure: bool,
}

impl Purse {
    const fn is_open(&self) -> bool {
        self.pays.1.is_none()
    }

    fn usage(&self, meter: Meter) -> Option<Usage> {
        self.account.usage(meter)
    }

    fn has_room(&self, meter: Meter, amount: u64) -> bool {
        self.usage(meter).is_none_or(|usage| usage.used + amount <= usage.hard)
    }

    /// Whether it pays for what was granted then: for certain, and perhaps.
    fn pays_for(&self, granted: (u64, u64)) -> (bool, bool) {
        let (from, until) = (self.pays.0, self.pays.1.unwrap_or(u64::MAX));
        (from <= granted.0 && granted.1 < until, from <= granted.1 && granted.0 < until)
    }
}

impl Random {
    pub(super) fn group(&mut self) -> Option<GroupKey> {
        let number = self.next() % (2 * GROUPS);
        (number < GROUPS).then(|| GroupKey::new(number))
    }

    /// Limits for these meters. They are low, so that they matter.
    fn quota(&mut self, meters: &[Meter]) -> Quota {
        let mut quota = Quota::new();
        for meter in meters {
            let most = match meter {
                Meter::Leases => self.below(6),
                Meter::QueuedTasks => self.below(20),
                Meter::Launches => 4 + self.below(30),
                _ => self.below(120),
            } as u64;
            let mut limit = Limit::hard(most);
            if most > 0 && self.percent(50) {
                limit = limit.warn_at(1 + self.next() % most);
            }
            quota = quota.limit(*meter, limit);
        }
        quota
    }
}

impl Books {
    /// Whether what belongs there is on the account of this scope.
    fn is_covered(&self, scope: &Scope, agent: Option<AgentId>, group: Option<GroupKey>) -> bool {
        match scope {
            Scope::Fleet => true,
            Scope::Group(of) => group == Some(*of),
            Scope::Type(name) => agent
                .and_then(|agent| self.agents.get(&agent))
                .is_some_and(|body| *body.kind == **name),
            Scope::Agent(of) => agent == Some(*of),
            _ => false,
        }
    }

    /// The accounts that a task is charged to as it is submitted now.
    pub(super) fn payers(&self, spec: &Spec) -> Vec<usize> {
        let covered =
            |purse: &Purse| self.is_covered(purse.account.scope(), spec.agent, spec.group);
        let purses = self.purses.iter().enumerate();
        let open = purses.filter(|(_, purse)| purse.is_open() && covered(purse));
        open.map(|(place, _)| place).collect()
    }

    /// Whether a lease on that agent could be paid for.
    pub(super) fn can_pay(&self, agent: AgentId, group: Option<GroupKey>) -> bool {
        let mut purses = self.purses.iter().filter(|purse| purse.is_open());
        purses.all(|purse| {
            !self.is_covered(purse.account.scope(), Some(agent), group)
                || purse.has_room(Meter::Leases, 1)
        })
    }

    /// A task was refused for want of this.
    pub(super) fn check_refusal(&mut self, spec: &Spec, exceeded: &Exceeded) {
        let amount = match exceeded.meter {
            Meter::QueuedTasks => 1,
            _ => spec.cost,
        };
        let scope = |purse: &Purse| *purse.account.scope() == exceeded.scope;
        let payers = self.payers(spec);
        let payer = payers.iter().map(|place| &self.purses[*place]).find(|purse| scope(purse));
        let rightly = exceeded.requested == amount
            && payer.is_some_and(|purse| !purse.has_room(exceeded.meter, amount));
        self.must(rightly, || format!("{spec:?} was refused: {exceeded}"));
        self.totals.count("task over budget");
    }

    /// How many agents of a kind may be launched.
    fn launches_left(&self, kind: &str) -> u64 {
        let of = |purse: &Purse| match purse.account.scope() {
            Scope::Fleet => true,
            Scope::Type(name) => **name == *kind,
            _ => false,
        };
        let purses = self.purses.iter().filter(|purse| purse.is_open() && of(purse));
        let left = purses.filter_map(|purse| purse.usage(Meter::Launches));
        left.map(|usage| usage.hard.saturating_sub(usage.used)).min().unwrap_or(u64::MAX)
    }

    /// So many agents are launched, if there is room; whether there is.
    pub(super) fn launch(&mut self, kind: &str, count: usize) -> bool {
        let count = count as u64;
        if self.launches_left(kind) < count {
            self.totals.count("launch over budget");
            return false;
        }
        for purse in self.purses.iter_mut().filter(|purse| purse.is_open()) {
            if matches!(purse.account.scope(), Scope::Fleet)
                || matches!(purse.account.scope(), Scope::Type(name) if **name == *kind)
            {
                purse.launched += count;
            }
        }
        true
    }

    /// What an account is known to hold of what is not a lease, and what of that was spent.
    fn expected(&self, place: usize, meter: Meter) -> (u64, u64) {
        let purse = &self.purses[place];
        let charged = || self.specs.values().filter(|spec| spec.paid_by.contains(&place));
        match meter {
            Meter::QueuedTasks => (charged().filter(|spec| spec.is_pending()).count() as u64, 0),
            Meter::Launches => (purse.launched - purse.forgotten, purse.launched - purse.forgotten),
            _ => {
                let spent: u64 = charged()
                    .filter(|spec| spec.ended.is_some() && spec.begun > 0)
                    .map(|spec| spec.cost)
                    .sum();
                let pending: u64 =
                    charged().filter(|spec| spec.is_pending()).map(|spec| spec.cost).sum();
                (pending + spent - purse.forgotten, spent - purse.forgotten)
            }
        }
    }

    /// After each step: what the accounts say is what is known, and no line was overshot.
    pub(super) fn check_purses(&mut self) {
        let mut warnings = 0;
        for place in 0..self.purses.len() {
            for meter in every_meter() {
                let scope = self.purses[place].account.scope();
                let Some(usage) = self.purses[place].usage(meter) else { continue };
                warnings += usage.warnings;
                if meter != Meter::Leases {
                    let expected = self.expected(place, meter);
                    assert_eq!((usage.used, usage.spent), expected, "{meter} of {scope}");
                }
                let at = format!("{meter} of {scope}: {usage:?}");
                let lines = &mut self.purses[place].lines;
                let line =
                    lines.iter_mut().find(|line| line.meter == meter).expect("it is metered");
                assert_eq!(usage.hard, line.hard, "{at}");
                assert!(usage.used <= line.ceiling, "{at}, and it may be {}", line.ceiling);
                assert!(usage.peak <= line.greatest, "{at}, and it was {} at most", line.greatest);
                if line.ceiling > line.hard {
                    self.totals.count("budget below its use");
                }
                line.ceiling = line.hard.max(usage.used);
            }
        }
        assert_eq!(warnings, self.warned, "crossings of soft lines");
    }

    /// When nothing is ready: the leases that are paid for are those that are held.
    fn check_paid_leases(&mut self, holdings: &[Holding], gathered: u64) {
        for purse in &self.purses {
            let Some(usage) = purse.usage(Meter::Leases) else { continue };
            let scope = purse.account.scope();
            let (mut sure, mut perhaps) = (0, 0);
            for held in holdings {
                let (surely_paid, perhaps_paid) = purse.pays_for(held.granted);
                if self.is_covered(scope, Some(held.agent), held.group) {
                    sure += u64::from(held.sure && surely_paid);
                    perhaps += u64::from(perhaps_paid);
                }
            }
            assert!(
                (sure..=perhaps + gathered).contains(&usage.used),
                "{scope} pays for {} leases, and {sure} to {perhaps} are held",
                usage.used
            );
            let line = purse.lines.iter().find(|line| line.meter == Meter::Leases);
            assert!(line.is_some_and(|line| sure <= line.ceiling), "{sure} leases of {scope}");
            if sure > 0 && sure == usage.hard {
                self.totals.count("budget used up");
            }
        }
    }
}

impl World {
    /// Budgets for some fleets.
    pub(super) fn purse_strings(random: &mut Random) -> Option<Budgets> {
        let many = NonZeroUsize::new(1000).expect("it is not zero");
        random.percent(50).then(|| Budgets::new(many))
    }

    /// An account comes, goes, or gets other limits.
    pub(super) fn change_budget(&mut self) {
        let Some(budgets) = self.fleet.budgets().cloned() else { return };
        let agent = self.any_agent();
        let scope = match (self.random.below(6), agent) {
            (0, _) => Scope::Fleet,
            (1..=2, _) => Scope::Group(GroupKey::new(self.random.next() % GROUPS)),
            (3, Some(agent)) => Scope::Agent(agent),
            _ => Scope::Type(KINDS[self.random.below(KINDS.len())].into()),
        };
        match (budgets.account(&scope), self.random.below(4)) {
            (None, _) => self.open_account(&budgets, scope),
            (Some(_), 0) => self.close_account(&budgets, &scope),
            (Some(account), 1) => self.forget_spent(&account),
            (Some(account), _) => {
                let metered =
                    every_meter().into_iter().filter(|meter| account.usage(*meter).is_some());
                let quota = self.random.quota(&metered.collect::<Vec<_>>());
                self.set_limits(&budgets, &scope, quota);
            }
        }
    }

    fn open_account(&mut self, budgets: &Budgets, scope: Scope) {
        let meters: Vec<_> =
            every_meter().into_iter().filter(|_| self.random.percent(60)).collect();
        let quota = self.random.quota(&meters);
        let account = budgets.set(scope, quota).expect("there is room for accounts");
        let line = |meter| {
            let hard = account.usage(meter)?.hard;
            Some(Line { meter, hard, ceiling: hard, greatest: hard })
        };
        let lines = every_meter().into_iter().filter_map(line).collect();
        let mut books = self.core.books();
        books.turn += 1;
        let pays = (books.turn, None);
        books.purses.push(Purse { account, pays, lines, launched: 0, forgotten: 0 });
        books.totals.count("budget set");
    }

    fn close_account(&self, budgets: &Budgets, scope: &Scope) {
        {
            let mut books = self.core.books();
            books.turn += 1;
            let turn = books.turn;
            let mut purses = books.purses.iter_mut();
            let purse = purses.find(|purse| purse.is_open() && purse.account.scope() == scope);
            purse.expect("every account has one").pays.1 = Some(turn);
            books.totals.count("budget removed");
        }
        // Whoever waits for room is told, and may begin at once.
        assert!(budgets.remove(scope).is_some());
    }

    fn forget_spent(&self, account: &Account) {
        let mut books = self.core.books();
        let of = |purse: &Purse| purse.is_open() && purse.account.scope() == account.scope();
        let place = books.purses.iter().position(of).expect("every account has one");
        let meter = Meter::Units(coin());
        let spent = books.expected(place, meter).1;
        if account.usage(Meter::Launches).is_none() && account.usage(meter).is_some() {
            assert_eq!(account.reset_spent(meter), spent);
            books.purses[place].forgotten += spent;
            books.totals.count("budget reset");
        }
    }

    fn set_limits(&self, budgets: &Budgets, scope: &Scope, quota: Quota) {
        // Whoever waits for room may begin before this returns.
        let account = budgets.set(scope.clone(), quota).expect("the meters are the same");
        let mut books = self.core.books();
        let mut purses = books.purses.iter_mut();
        let purse = purses.find(|purse| purse.is_open() && purse.account.scope() == scope);
        for line in &mut purse.expect("every account has one").lines {
            let usage = account.usage(line.meter).expect("it is metered");
            line.hard = usage.hard;
            line.greatest = line.greatest.max(usage.hard);
            line.ceiling = usage.hard.max(usage.used.min(line.ceiling));
        }
        books.totals.count("budget changed");
    }

    /// No budget keeps everybody out for ever.
    pub(super) fn relax_budgets(&self) {
        let Some(budgets) = self.fleet.budgets() else { return };
        for account in budgets.accounts() {
            let mut quota = Quota::new();
            for meter in every_meter() {
                if let Some(usage) = account.usage(meter) {
                    quota = quota.limit(meter, Limit::hard(usage.hard.max(1)));
                }
            }
            self.set_limits(budgets, account.scope(), quota);
        }
    }

    /// See [`Books::check_paid_leases`].
    pub(super) fn check_paid_leases(&self) {
        let (now, most_gathered) = (self.now(), self.most_gathered());
        let mut books = self.core.books();
        let held = self.leases.iter().filter(|held| books.agents.contains_key(&held.agent));
        let mut holdings: Vec<_> = held
            .filter(|held| held.expires.is_none_or(|(_, latest)| now < latest))
            .map(|held| Holding {
                agent: held.agent,
                group: held.group,
                granted: held.granted,
                sure: held.expires.is_none_or(|(earliest, _)| now < earliest),
            })
            .collect();
        let flights = books.flights.values();
        let flying = flights.filter(|flight| books.agents.contains_key(&flight.agent));
        holdings.extend(flying.map(|flight| Holding {
            agent: flight.agent,
            group: flight.attempt.and_then(|(code, _)| books.specs[&code].group),
            granted: (flight.granted, flight.granted),
            sure: true,
        }));
        books.check_paid_leases(&holdings, most_gathered);
    }

    /// After the end: all is given back.
    pub(super) fn check_that_all_is_paid_back(&self) {
        let mut books = self.core.books();
        assert!(books.agents.is_empty());
        books.check_purses();
        for purse in &books.purses {
            for usage in every_meter().into_iter().filter_map(|meter| purse.usage(meter)) {
                assert_eq!(usage.used, usage.spent, "{}: {usage:?}", purse.account.scope());
            }
        }
    }
}
