//! What the state machine does to a pool.

use std::sync::Arc;

use proptest::prelude::{Just, Strategy, any, prop, prop_oneof};

use super::super::Strategy as Choice;
use super::model::Asked;
use crate::fleet::agent::Condition;
use crate::fleet::request::Fit;

#[derive(Clone, Debug)]
pub(super) enum Step {
    Spawn {
        capabilities: u8,
        priority: u8,
        limit: u16,
        count: usize,
        condition: Condition,
    },
    SetCondition {
        agent: usize,
        condition: Condition,
    },
    Kill {
        agent: usize,
    },
    TryAllocate {
        asked: Asked,
        elsewhere: bool,
    },
    Wait {
        asked: Asked,
    },
    Collect {
        waiter: usize,
    },
    GiveUp {
        waiter: usize,
    },
    Release {
        lease: usize,
        succeeded: bool,
    },
    ReleaseStale {
        lease: usize,
    },
    TryBatch {
        asked: Asked,
        count: usize,
        whole: bool,
    },
    /// On to the moment at which the next lease is due, or some time on.
    Advance {
        ticks: u64,
    },
    Tick,
    Renew {
        lease: usize,
        ticks: u64,
    },
    Expect {
        capabilities: u8,
    },
    ExpectNoMore {
        promise: usize,
    },
}

#[cfg(feature = "test-util")]
impl Step {
    /// What is asked for, if that is anything.
    pub(super) fn asked_mut(&mut self) -> Option<&mut Asked> {
        match self {
            Self::TryAllocate { asked, .. }
            | Self::Wait { asked }
            | Self::TryBatch { asked, .. } => Some(asked),
            _ => None,
        }
    }

    /// Has it be one of a fleet whose agents are all alike, so that the strategy decides alone.
    pub(super) fn make_alike(&mut self) {
        match self {
            Self::Spawn { capabilities, condition, .. } => {
                (*capabilities, *condition) = (0, Condition::Fit);
            }
            Self::SetCondition { .. } => *self = Self::Tick,
            _ => {}
        }
        if let Some(asked) = self.asked_mut() {
            asked.capabilities = 0;
        }
    }
}

pub(super) fn asked() -> impl Strategy<Value = Asked> {
    let fit =
        prop_oneof![4 => Just(Fit::All), 1 => Just(Fit::Tightest), 1 => Just(Fit::BestFraction)];
    let strategy = prop::sample::select(Choice::ALL.to_vec());
    let named = prop_oneof![6 => Just(None), 1 => any::<usize>().prop_map(Some)];
    let ttl = prop_oneof![2 => Just(None), 1 => (1..5000_u64).prop_map(Some)];
    (0_u8..8, 0_u8..3, fit, strategy, named, ttl).prop_map(
        |(capabilities, priority, fit, strategy, named, ttl)| Asked {
            capabilities,
            priority,
            fit,
            strategy,
            named,
            ttl: ttl.filter(|_| cfg!(feature = "test-util")),
        },
    )
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        8 => Just(Condition::Fit),
        2 => Just(Condition::Degraded),
        1 => Just(Condition::Draining),
        1 => Just(Condition::Failed),
        1 => Just(Condition::Starting),
    ]
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0_u8..8, any::<u8>(), 1_u16..4, 1_usize..4, condition()).prop_map(
            |(capabilities, priority, limit, count, condition)| {
                Step::Spawn { capabilities, priority, limit, count, condition }
            }
        ),
        2 => (any::<usize>(), condition())
            .prop_map(|(agent, condition)| Step::SetCondition { agent, condition }),
        2 => any::<usize>().prop_map(|agent| Step::Kill { agent }),
        6 => (asked(), prop::bool::weighted(0.3))
            .prop_map(|(asked, elsewhere)| Step::TryAllocate { asked, elsewhere }),
        6 => asked().prop_map(|asked| Step::Wait { asked }),
        3 => any::<usize>().prop_map(|waiter| Step::Collect { waiter }),
        2 => any::<usize>().prop_map(|waiter| Step::GiveUp { waiter }),
        7 => (any::<usize>(), any::<bool>())
            .prop_map(|(lease, succeeded)| Step::Release { lease, succeeded }),
        2 => (asked(), 0_usize..4, any::<bool>())
            .prop_map(|(asked, count, whole)| Step::TryBatch { asked, count, whole }),
        2 => (0..100_u64).prop_map(|ticks| Step::Advance { ticks }),
        1 => Just(Step::Tick),
        1 => (any::<usize>(), 1..5000_u64).prop_map(|(lease, ticks)| Step::Renew { lease, ticks }),
        1 => any::<usize>().prop_map(|lease| Step::ReleaseStale { lease }),
        1 => (0_u8..8).prop_map(|capabilities| Step::Expect { capabilities }),
        1 => any::<usize>().prop_map(|promise| Step::ExpectNoMore { promise }),
    ]
}

pub(super) fn names(capabilities: u8) -> Vec<Arc<str>> {
    let all = ["rust", "python", "network"];
    (0..3).filter(|bit| capabilities >> bit & 1 == 1).map(|bit| Arc::from(all[bit])).collect()
}
