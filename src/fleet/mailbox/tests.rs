//! Lanes, the run flag and generations by example, and against plain queues.

use std::collections::VecDeque;
use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;

/// Every third message is one of the seldom sorts.
impl Letter for u32 {
    type Payload = Self;

    fn open(self) -> Result<Self, Self> {
        if self.is_multiple_of(3) { Err(self) } else { Ok(self) }
    }

    fn with(payload: Self) -> Self {
        payload
    }

    /// Some of the seldom ones are not.
    fn counts(&self) -> bool {
        !self.is_multiple_of(9)
    }
}

const ROOM: NonZeroU32 = NonZeroU32::new(4).expect("not zero");

fn open() -> Mailbox<u32> {
    let mut mailbox = Mailbox::closed();
    mailbox.open(7, ROOM);
    mailbox
}

#[test]
fn the_first_message_tells_somebody_and_the_second_does_not() {
    let mut mailbox = open();
    assert_eq!(mailbox.push(7, Lane::Work, 1), Ok(Told::Schedule));
    assert_eq!(mailbox.push(7, Lane::Work, 2), Ok(Told::Already));
}

#[test]
fn a_full_lane_hands_the_message_back_and_the_other_lane_still_takes_one() {
    let mut mailbox = open();
    for message in 0..4 {
        assert!(mailbox.push(7, Lane::Work, message).is_ok());
    }
    assert_eq!(mailbox.push(7, Lane::Work, 9), Err((Refusal::Full, 9)));
    assert_eq!(mailbox.push(7, Lane::Control, 8), Ok(Told::Already));
    assert!(mailbox.begin(7, 0));
    let mut claimed = VecDeque::new();
    mailbox.claim(2, &mut claimed);
    assert_eq!(claimed, [8, 0], "control goes first");
}

#[test]
fn an_agent_that_has_the_place_later_gets_nothing_of_the_one_before() {
    let mut mailbox = open();
    assert!(mailbox.push(7, Lane::Work, 1).is_ok());
    assert!(mailbox.begin(7, 3));
    assert_eq!((mailbox.worker(7), mailbox.worker(6)), (Some(3), None));
    let leftovers = mailbox.close(7).expect("it is open");
    assert_eq!(mailbox.worker(7), None);
    assert!(leftovers.messages.into_messages().eq([1]));
    mailbox.open(8, ROOM);
    assert_eq!(mailbox.push(7, Lane::Work, 2), Err((Refusal::Gone, 2)));
    assert_eq!(mailbox.put_back(7, 2), Err(2));
    assert!(mailbox.close(7).is_none());
    assert_eq!(mailbox.push(8, Lane::Work, 3), Ok(Told::Schedule));
    // The worker of the agent before comes to the end of its turn only now.
    assert_eq!(mailbox.rest(7, 3), Rest::Closed);
    assert!(mailbox.begin(8, 3));
}

#[test]
fn a_mailbox_gives_back_the_room_of_a_burst_by_and_by() {
    let mut mailbox = Mailbox::closed();
    mailbox.open(1, NonZeroU32::new(10_000).expect("not zero"));
    for message in 0..5_000 {
        assert!(mailbox.push(1, Lane::Work, message).is_ok());
    }
    assert!(mailbox.begin(1, 0));
    let mut claimed = VecDeque::new();
    while !mailbox.is_empty() {
        mailbox.claim(64, &mut claimed);
    }
    assert_eq!(mailbox.rest(1, 0), Rest::Idle);
    assert!(claimed.into_iter().eq(0..5_000));
    assert!(mailbox.lanes.room() >= 5_000, "the next burst finds it");
    for _ in 0..10 {
        assert_eq!(mailbox.push(1, Lane::Work, 0), Ok(Told::Schedule));
        assert!(mailbox.begin(1, 0));
        mailbox.claim(1, &mut VecDeque::new());
        assert_eq!(mailbox.rest(1, 0), Rest::Idle);
    }
    assert!(mailbox.lanes.room() <= 2 * KEPT_ROOM, "the payloads' and the others'");
}

#[test]
fn what_lies_in_a_mailbox_is_handed_over_as_it_lies_when_it_is_closed() {
    let mut mailbox = Mailbox::closed();
    mailbox.open(1, NonZeroU32::new(10_000).expect("not zero"));
    for message in 0..5_000 {
        assert!(mailbox.push(1, Lane::Work, message).is_ok());
    }
    let lies = mailbox.lanes.lies();
    let leftovers = mailbox.close(1).expect("it is open");
    assert_eq!(
        leftovers.messages.lies(),
        lies,
        "nothing is moved under the locks of who closes it"
    );
    assert!(mailbox.lanes.lies().is_none());
    assert!(leftovers.messages.into_messages().eq(0..5_000));
}

#[test]
fn what_is_put_back_goes_before_what_came_meanwhile_to_its_lane() {
    let mut mailbox = open();
    for (lane, message) in [(Lane::Work, 3), (Lane::Control, 1), (Lane::Control, 2)] {
        assert!(mailbox.push(7, lane, message).is_ok());
    }
    assert!(mailbox.begin(7, 0));
    let mut claimed = VecDeque::new();
    assert_eq!(mailbox.claim(64, &mut claimed), 2);
    assert_eq!(claimed.pop_front(), Some(1));
    assert!(mailbox.push(7, Lane::Control, 8).is_ok());
    assert!(mailbox.push(7, Lane::Work, 4).is_ok());
    mailbox.restore(1, claimed);
    let mut claimed = VecDeque::new();
    assert_eq!(mailbox.claim(64, &mut claimed), 2);
    assert_eq!(claimed, [2, 8, 3, 4]);
}

#[test]
fn an_idle_mailbox_fits_in_a_cache_line_with_its_lock() {
    assert!(size_of::<crate::sync::Mutex<Mailbox<u32>>>() <= 64);
}

#[derive(Clone, Debug)]
enum Step {
    Push { generation: u32, control: bool },
    PutBack,
    Begin { generation: u32, worker: u16 },
    Claim { most: usize, payloads: bool },
    Restore { most: usize, begun: usize, meanwhile: bool },
    Withdraw { which: prop::sample::Index },
    Rest,
    Close,
    Open,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..3_u32, any::<bool>())
            .prop_map(|(generation, control)| Step::Push { generation, control }),
        1 => Just(Step::PutBack),
        3 => (0..3_u32, 0..2_u16)
            .prop_map(|(generation, worker)| Step::Begin { generation, worker }),
        3 => (0..5_usize, any::<bool>())
            .prop_map(|(most, payloads)| Step::Claim { most, payloads }),
        2 => (0..5_usize, 0..3_usize, any::<bool>())
            .prop_map(|(most, begun, meanwhile)| Step::Restore { most, begun, meanwhile }),
        2 => any::<prop::sample::Index>().prop_map(|which| Step::Withdraw { which }),
        3 => Just(Step::Rest),
        1 => Just(Step::Close),
        1 => Just(Step::Open),
    ]
}

/// What a mailbox should do, said with plain queues.
#[derive(Default)]
struct Oracle {
    generation: u32,
    open: bool,
    told: bool,
    worker: Option<u16>,
    control: VecDeque<u32>,
    work: VecDeque<u32>,
}

impl Oracle {
    /// For its own generation, while it is open.
    fn push(&mut self, lane: Lane, message: u32) -> Result<Told, (Refusal, u32)> {
        let (queue, room) = match lane {
            Lane::Work => (&mut self.work, 4),
            Lane::Control => (&mut self.control, CONTROL_CAPACITY),
        };
        if queue.len() >= room {
            return Err((Refusal::Full, message));
        }
        queue.push_back(message);
        let told = std::mem::replace(&mut self.told, true);
        Ok(if told { Told::Already } else { Told::Schedule })
    }

    /// The first so many, by their lanes.
    fn claim(&mut self, most: usize) -> (Vec<u32>, Vec<u32>) {
        let control = self.control.len().min(most);
        let work = self.work.len().min(most - control);
        (self.control.drain(..control).collect(), self.work.drain(..work).collect())
    }
}

/// A message of the control lane, which are all counted.
const fn control_of(number: u32) -> u32 {
    9 * (number + 1_000) + 1
}

proptest! {
    #[test]
    fn a_mailbox_does_what_two_plain_queues_do(steps in prop::collection::vec(step(), 0..200)) {
        let mut mailbox = Mailbox::closed();
        let mut oracle = Oracle::default();
        for (number, step) in (0_u32..).zip(steps) {
            match step {
                Step::Push { generation, control } => {
                    let (lane, message) = if control {
                        (Lane::Control, control_of(number))
                    } else {
                        (Lane::Work, number)
                    };
                    let expected = if oracle.open && generation == oracle.generation {
                        oracle.push(lane, message)
                    } else {
                        Err((Refusal::Gone, message))
                    };
                    prop_assert_eq!(mailbox.push(generation, lane, message), expected);
                }
                Step::PutBack if oracle.open => {
                    oracle.work.push_back(number);
                    let told = std::mem::replace(&mut oracle.told, true);
                    let expected = if told { Told::Already } else { Told::Schedule };
                    prop_assert_eq!(mailbox.put_back(oracle.generation, number), Ok(expected));
                }
                Step::PutBack => prop_assert_eq!(mailbox.put_back(oracle.generation, 1), Err(1)),
                Step::Begin { generation, worker } => {
                    let may = oracle.open
                        && generation == oracle.generation
                        && oracle.told
                        && oracle.worker.is_none();
                    if may {
                        oracle.worker = Some(worker);
                    }
                    prop_assert_eq!(mailbox.begin(generation, worker), may);
                }
                Step::Claim { most, payloads: true } => {
                    if oracle.worker.is_some() {
                        let claimed: Vec<_> = mailbox.claim_payloads(most).collect();
                        let count = if oracle.control.is_empty() { most } else { 0 };
                        let expected: Vec<_> = std::iter::from_fn(|| {
                            oracle.work.pop_front_if(|number| *number % 3 != 0)
                        })
                        .take(count)
                        .collect();
                        prop_assert_eq!(claimed, expected);
                    }
                }
                Step::Restore { most, begun, meanwhile } => {
                    if oracle.worker.is_some() {
                        let mut claimed = VecDeque::new();
                        let control = mailbox.claim(most, &mut claimed);
                        let (mut first, mut then) = oracle.claim(most);
                        prop_assert_eq!(control, first.len());
                        // Some are begun, and others come before the rest is put back.
                        let begun = begun.min(claimed.len());
                        claimed.drain(..begun);
                        let of_control = begun.min(control);
                        first.drain(..of_control);
                        then.drain(..begun - of_control);
                        if meanwhile {
                            let both = [(Lane::Control, control_of(number)), (Lane::Work, number)];
                            for (lane, message) in both {
                                let expected = oracle.push(lane, message);
                                let told = mailbox.push(oracle.generation, lane, message);
                                prop_assert_eq!(told, expected);
                            }
                        }
                        mailbox.restore(control - of_control, claimed);
                        for (lane, queue) in
                            [(first, &mut oracle.control), (then, &mut oracle.work)]
                        {
                            lane.into_iter().rev().for_each(|message| queue.push_front(message));
                        }
                    }
                }
                Step::Claim { most, payloads: false } => {
                    if oracle.worker.is_some() {
                        let mut claimed = VecDeque::new();
                        mailbox.claim(most, &mut claimed);
                        let (mut expected, then) = oracle.claim(most);
                        expected.extend(then);
                        prop_assert_eq!(Vec::from(claimed), expected);
                    }
                }
                Step::Withdraw { which } => {
                    let others = oracle.work.iter().copied().filter(|other| other % 3 == 0);
                    let others: Vec<_> = others.collect();
                    let is_it = |of| move |message: &u32| *message == of;
                    if others.is_empty() {
                        let none = mailbox.withdraw(oracle.generation, |_| true);
                        prop_assert_eq!(none, None);
                        continue;
                    }
                    let other = *which.get(&others);
                    let late = mailbox.withdraw(oracle.generation + 1, is_it(other));
                    prop_assert_eq!(late, None, "it is another agent's");
                    oracle.work.retain(|message| *message != other);
                    let is_empty = oracle.work.is_empty() && oracle.control.is_empty();
                    let idles = is_empty && oracle.worker.is_none();
                    oracle.told &= !idles;
                    let out = mailbox.withdraw(oracle.generation, is_it(other));
                    prop_assert_eq!(out, Some((other, idles)));
                }
                Step::Rest => {
                    let Some(worker) = oracle.worker.take() else { continue };
                    let left = oracle.control.len() + oracle.work.len() > 0;
                    oracle.told = left;
                    let expected = if left { Rest::Again } else { Rest::Idle };
                    prop_assert_eq!(mailbox.rest(oracle.generation, worker), expected);
                }
                Step::Close => {
                    let closed = mailbox.close(oracle.generation);
                    prop_assert_eq!(closed.is_some(), oracle.open);
                    let Some(leftovers) = closed else { continue };
                    let expected: Vec<_> =
                        oracle.control.drain(..).chain(oracle.work.drain(..)).collect();
                    let counted = expected.iter().filter(|message| message.counts()).count();
                    prop_assert_eq!(leftovers.messages.counted(), counted);
                    prop_assert_eq!(leftovers.messages.len(), expected.len());
                    prop_assert!(leftovers.messages.into_messages().eq(expected));
                    oracle.worker = None;
                    prop_assert_eq!(leftovers.active, oracle.told);
                    oracle.open = false;
                    oracle.told = false;
                }
                Step::Open => {
                    if !oracle.open {
                        oracle.generation = (oracle.generation + 1) % 3;
                        oracle.open = true;
                        mailbox.open(oracle.generation, ROOM);
                    }
                }
            }
            mailbox.validate();
            prop_assert_eq!(mailbox.len(), oracle.control.len() + oracle.work.len());
            prop_assert_eq!(mailbox.is_open(oracle.generation), oracle.open);
            prop_assert_eq!(mailbox.worker(oracle.generation), oracle.worker);
        }
    }
}
