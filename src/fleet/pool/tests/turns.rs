//! Turns against their bound, across shards.

use std::collections::HashMap;

use super::limits::{join, pool_of};
use super::*;

#[derive(Clone, Debug)]
enum Deed {
    Spawn { limit: u16 },
    Take { elsewhere: bool },
    Release(usize),
    Kill(usize),
}

fn deed() -> impl proptest::strategy::Strategy<Value = Deed> {
    use proptest::prelude::{Strategy, any, prop_oneof};

    prop_oneof![
        2 => prop::sample::select(vec![1_u16, 2, 3, 1000]).prop_map(|limit| Deed::Spawn { limit }),
        9 => prop::bool::weighted(0.3).prop_map(|elsewhere| Deed::Take { elsewhere }),
        4 => any::<usize>().prop_map(Deed::Release),
        1 => any::<usize>().prop_map(Deed::Kill),
    ]
}

const AGENTS_MAX: usize = 24;

/// A pool, and by how many turns each agent is ahead of each other one since when both have room.
struct Turns {
    pool: Arc<Pool>,
    limits: HashMap<AgentId, u16>,
    leases: Vec<Lease>,
    ahead: HashMap<(AgentId, AgentId), i32>,
    /// How far one may be.
    bound: i32,
}

impl Turns {
    fn new(shards: usize) -> Self {
        let pool = pool_of(AGENTS_MAX, shards, Strategy::RoundRobin);
        // Of two in one line each comes once between two turns of the other. Where each has a line of its own one may
        // have had its turn in the lap in which they are first compared, and the other one in the last of it.
        let bound = if shards == 1 { 1 } else { 2 };
        let (limits, ahead) = (HashMap::new(), HashMap::new());
        Self { pool, limits, leases: Vec::new(), ahead, bound }
    }

    /// Who is in line for turns.
    fn in_line(&self) -> Vec<AgentId> {
        let has_room = |(agent, limit): (&AgentId, &u16)| {
            let held = self.leases.iter().filter(|lease| lease.agent() == *agent).count();
            (held < usize::from(*limit)).then_some(*agent)
        };
        self.limits.iter().filter_map(has_room).collect()
    }

    fn apply(&mut self, deed: &Deed) {
        let before = self.in_line();
        match *deed {
            Deed::Spawn { limit } if self.limits.len() < AGENTS_MAX => {
                let agents = join(&self.pool, &[], limit, 1).expect("there is room");
                self.limits.insert(agents[0], limit);
            }
            Deed::Take { elsewhere } => {
                let pool = &self.pool;
                let take = || pool.try_allocate(&Request::any());
                // Another thread has another home.
                let result = if elsewhere {
                    std::thread::scope(|scope| scope.spawn(take).join().expect("no panic"))
                } else {
                    take()
                };
                assert_eq!(result.is_ok(), !before.is_empty(), "whoever has room is found");
                if let Ok(lease) = result {
                    let agent = lease.agent();
                    self.leases.push(lease);
                    for other in before.iter().filter(|other| **other != agent) {
                        *self.ahead.entry((agent, *other)).or_default() += 1;
                        *self.ahead.entry((*other, agent)).or_default() -= 1;
                    }
                }
            }
            Deed::Release(lease) if !self.leases.is_empty() => {
                drop(self.leases.swap_remove(lease % self.leases.len()));
            }
            Deed::Kill(agent) if !self.limits.is_empty() => {
                let mut agents: Vec<_> = self.limits.keys().copied().collect();
                agents.sort_unstable();
                let agent = agents[agent % agents.len()];
                self.pool.remove(agent, &mut Vec::new()).expect("it lives");
                self.limits.remove(&agent);
                self.leases.retain(|lease| lease.agent() != agent);
            }
            _ => {}
        }
        let (had, has) = (before, self.in_line());
        // Who has none for a while begins anew.
        self.ahead.retain(|(one, other), _| {
            [one, other].iter().all(|agent| had.contains(agent) && has.contains(agent))
        });
        let furthest = self.ahead.iter().max_by_key(|(_, turns)| **turns);
        if let Some(((one, other), turns)) = furthest {
            assert!(*turns <= self.bound, "{one} is {turns} turns ahead of {other}");
        }
        self.pool.validate();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whoever_comes_goes_or_is_full_for_a_while_turns_keep_their_bound(
        shards in prop::sample::select(vec![1_usize, 2, 4, 16]),
        deeds in prop::collection::vec(deed(), 1..100),
    ) {
        let mut turns = Turns::new(shards);
        for deed in &deeds {
            turns.apply(deed);
        }
        turns.leases.clear();
        turns.pool.close(&mut Vec::new());
    }

    /// Agents that always have room, taken by threads with different homes.
    #[test]
    fn no_agent_that_always_has_room_is_two_turns_behind_another(
        shards in prop::sample::select(vec![1_usize, 2, 4, 8]),
        count in 1..20_usize,
        threads in prop::collection::vec(1..30_usize, 1..6),
    ) {
        let pool = pool_of(64, shards, Strategy::RoundRobin);
        let agents = join(&pool, &[], 1000, count).expect("there is room");
        let mut turns: HashMap<_, u32> = agents.into_iter().map(|agent| (agent, 0)).collect();
        for taken in threads {
            let leases: Vec<_> = std::thread::scope(|scope| {
                let take = || (0..taken).map(|_| pool.try_allocate(&Request::any())).collect();
                scope.spawn(take).join().expect("no panic")
            });
            for lease in leases {
                let agent = lease.expect("there is room").agent();
                *turns.get_mut(&agent).expect("it lives") += 1;
                let most = turns.values().max().expect("there are agents");
                let fewest = turns.values().min().expect("there are agents");
                prop_assert!(most - fewest <= 1, "{turns:?}");
            }
        }
    }
}
