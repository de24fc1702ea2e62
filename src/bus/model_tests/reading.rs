//! What one subscription has before it, and what it may be given next.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::super::{
    Filter, Overflow, RecvError, Source, Start, Subscriber, SubscriberStats, TryRecvError,
};
use super::{Payload, Published};

/// What a subscription asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asks {
    pub(super) topic: Option<usize>,
    pub(super) source: Option<u32>,
    /// Only payloads whose number is a multiple of three.
    pub(super) thirds: bool,
}

impl Asks {
    pub(super) fn filter(self) -> Filter<Payload> {
        let filter = match self.topic {
            None => Filter::all(),
            Some(topic) => Filter::topics([format!("t/{topic}")]).expect("valid"),
        };
        let filter = match self.source {
            None => filter,
            Some(source) => filter.from_sources([Source::new(source)]),
        };
        match self.thirds {
            false => filter,
            true => filter.matching(|payload: &Payload| payload.number.is_multiple_of(3)),
        }
    }

    fn matches(self, published: Published) -> bool {
        published.number.is_some_and(|number| {
            self.topic.is_none_or(|topic| topic == published.topic)
                && self.source.is_none_or(|source| source == published.source)
                && (!self.thirds || number.is_multiple_of(3))
        })
    }
}

pub(super) struct Reading {
    subscriber: Subscriber<Payload>,
    asks: Asks,
    /// For each lane, all that was published since it began and not yet passed.
    pending: Vec<VecDeque<Published>>,
    /// What it is to be told first.
    gap: Option<(u64, u64)>,
    delivered: u64,
    lagged: u64,
    /// All that was published since it began.
    published: u64,
}

impl Reading {
    pub(super) fn begin<'a>(
        subscriber: Subscriber<Payload>,
        asks: Asks,
        start: Start,
        lanes: impl Iterator<Item = &'a [Published]>,
        (capacity, least): (u64, u64),
    ) -> Self {
        let depths = subscriber.depths();
        let mut gap = None;
        let pending: Vec<VecDeque<_>> = lanes
            .zip(&depths)
            .map(|(published, &depth)| {
                let there = published.len() as u64;
                let kept = there.min(least)..=there.min(capacity);
                let before = |sequence: u64| {
                    let next = super::SEQUENCE_MASK - super::BEFORE_WRAP + 1 + there;
                    next.wrapping_sub(sequence) & super::SEQUENCE_MASK
                };
                match start {
                    Start::Now => assert_eq!(depth, 0),
                    Start::Oldest => assert!(kept.contains(&depth), "{depth} of {kept:?}"),
                    Start::Sequence(from) => {
                        let missed = before(from) - depth;
                        assert!(missed == 0 || kept.contains(&depth), "{depth} of {kept:?}");
                        gap = (missed > 0).then_some((missed, from));
                    }
                }
                published[published.len() - depth as usize..].iter().copied().collect()
            })
            .collect();
        let lagged = gap.map_or(0, |(missed, _)| missed);
        let published = lagged + depths.iter().sum::<u64>();
        Self { subscriber, asks, pending, gap, delivered: 0, lagged, published }
    }

    pub(super) fn overflow(&self) -> Overflow {
        self.subscriber.overflow()
    }

    pub(super) fn depth(&self, lane: usize) -> u64 {
        self.pending[lane].len() as u64
    }

    /// All that must be in one of the counters by now.
    pub(super) fn accounted(&self) -> u64 {
        self.published
    }

    pub(super) fn published(&mut self, lane: usize, published: Published) {
        self.pending[lane].push_back(published);
        self.published += 1;
    }

    fn pass(&mut self, lane: usize) -> Published {
        self.pending[lane].pop_front().expect("the bus delivers only what was published")
    }

    /// The next event of a lane that matches, those before it passed.
    fn next_that_matches(&mut self, lane: usize) -> Published {
        loop {
            let next = self.pass(lane);
            if self.asks.matches(next) {
                return next;
            }
        }
    }

    /// How much of what does not match is passed in a step is the bus's own affair; the counters say.
    fn pass_what_was_passed(&mut self) {
        for (lane, depth) in self.subscriber.depths().into_iter().enumerate() {
            while self.depth(lane) > depth {
                let passed = self.pass(lane);
                assert!(!self.asks.matches(passed), "a matching event was skipped");
            }
        }
    }

    fn see(&mut self, lane: usize, sequence: u64, number: u64, source: Source) {
        let expected = self.next_that_matches(lane);
        assert_eq!((sequence, Some(number)), (expected.sequence, expected.number));
        assert_eq!(source, Source::new(expected.source));
        self.delivered += 1;
    }

    /// The losses that the policy allows: all beyond a ring, none of the newest.
    fn lose(&mut self, lane: usize, missed: u64, from: u64, (capacity, least): (u64, u64)) {
        assert!(missed > 0);
        if let Some(gap) = self.gap.take() {
            assert_eq!((missed, from, lane), (gap.0, gap.1, 0));
            return;
        }
        assert_eq!(self.overflow(), Overflow::DropOldest);
        assert_eq!(from, self.pending[lane].front().expect("something to lose").sequence);
        for _ in 0..missed {
            self.pass(lane);
        }
        self.lagged += missed;
        let left = self.depth(lane);
        assert!((least..=capacity).contains(&left), "{left} of {capacity} are left");
    }

    pub(super) fn receive(&mut self, (capacity, least): (u64, u64), closed: bool) {
        let due = self.gap;
        match self.subscriber.try_recv() {
            Ok(event) => {
                assert_eq!(due, None, "the gap comes first");
                self.see(event.lane.into(), event.sequence, event.payload.number, event.source);
            }
            Err(TryRecvError::Lagged { missed, from, lane }) => {
                self.lose(lane.into(), missed, from, (capacity, least));
            }
            Err(end) => {
                let had_some = self.pending.iter().any(|pending| !pending.is_empty());
                for pending in &self.pending {
                    assert!(pending.len() as u64 <= capacity, "a loss was not reported");
                    let withheld = pending.iter().any(|&event| self.asks.matches(event));
                    // A drop-oldest one says so after each clone that it did not want.
                    assert!(!withheld || self.asks.thirds, "an event was withheld");
                }
                match end {
                    TryRecvError::Closed => assert!(closed && !had_some),
                    TryRecvError::Empty => assert!(!closed || had_some),
                    end => panic!("{end}"),
                }
            }
        }
        self.pass_what_was_passed();
    }

    /// Handles a batch; whether the handler panicked, which ends the subscription.
    pub(super) fn handle(&mut self, panics_at: Option<usize>) -> bool {
        let mut seen = Vec::new();
        let handled = catch_unwind(AssertUnwindSafe(|| {
            self.subscriber.try_for_each_batch(|event| {
                seen.push((event.lane, event.sequence, event.payload.number, event.source));
                assert!(Some(seen.len() - 1) != panics_at, "a hostile handler");
            })
        }));
        let panicked = handled.is_err();
        match handled {
            Ok(Ok(handled)) => assert_eq!(handled, seen.len() as u64),
            Ok(Err(TryRecvError::Lagged { missed, lane, .. })) => {
                if self.gap.take().is_none() {
                    for _ in 0..missed {
                        self.pass(lane.into());
                    }
                    self.lagged += missed;
                }
            }
            Ok(Err(_)) | Err(_) => {}
        }
        for (lane, sequence, number, source) in seen {
            self.see(lane.into(), sequence, number, source);
        }
        if panicked {
            let stats = self.subscriber.stats();
            assert_eq!((stats.delivered, stats.lagged), (self.delivered, self.lagged));
            let all = stats.delivered + stats.skipped + stats.lagged + stats.dropped;
            assert_eq!((all, stats.depth), (self.published, 0));
            assert_eq!(self.subscriber.recv().err(), Some(RecvError::HandlerPanicked));
        } else {
            self.pass_what_was_passed();
        }
        panicked
    }

    pub(super) fn validate(&self) {
        let stats: SubscriberStats = self.subscriber.stats();
        assert_eq!((stats.delivered, stats.lagged), (self.delivered, self.lagged));
        let depth = self.pending.iter().map(|pending| pending.len() as u64).sum::<u64>();
        assert_eq!((stats.depth, stats.dropped), (depth, 0));
        assert_eq!(stats.delivered + stats.skipped + stats.lagged + depth, self.published);
    }
}
