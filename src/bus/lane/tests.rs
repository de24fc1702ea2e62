//! What only the real processor shows of a lane: no model has fences that cost one side nothing.

use std::sync::Arc;
use std::task::Wake;

use super::super::registry::Hold;
use super::super::subscriber::Start;
use super::*;
use crate::sync::atomic::AtomicUsize;
use crate::sync::hint;

/// How often two readers let go at the same moment. Only optimized code is fast enough to miss what the other
/// has in its store buffer: without the fence of `wake_publisher`, one round in some thousands fails there.
const ROUNDS: usize = if cfg!(any(debug_assertions, phalanx_tsan)) { 20_000 } else { 300_000 };

#[derive(Default)]
struct Counted(AtomicUsize);

impl Wake for Counted {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn of_two_readers_that_let_go_at_the_same_moment_one_sees_the_room_and_wakes_a_publisher() {
    let lane = Lane::<u64>::new(Shape::new(2), 0, Asymmetric::detect()).expect("valid");
    let cells = [(); 2].map(|()| lane.ring.join(Hold::Waiting, Start::Now).expect("valid").1);
    let publish = || lane.ring.publish(0, 0, 0, &mut None);
    publish().expect("there is room");
    publish().expect("there is room");
    let met = CachePadded::new(AtomicUsize::new(0));
    let meet = |times: usize| {
        met.fetch_add(1, Ordering::SeqCst);
        let mut spins = 0_u32;
        while met.load(Ordering::SeqCst) < times {
            spins += 1;
            if spins.is_multiple_of(1024) {
                thread::yield_now();
            }
            hint::spin_loop();
        }
    };
    let woken = Arc::new(Counted::default());
    let read = |cell: &SharedCell, late: usize, mut between: Box<dyn FnMut(usize) + '_>| {
        for round in 0..ROUNDS {
            meet(4 * round + 2);
            for _ in 0..(round / 7 * late) % 16 {
                hint::spin_loop();
            }
            cell.hold_from(Position::from_sequence(round as u64 + 1), Hold::Waiting);
            lane.notify_released().expect("nothing panics");
            meet(4 * round + 4);
            between(round);
        }
    };
    let wait = || lane.enter_publishers(Arc::clone(&woken).into(), Refusal::Held, false);
    let mut asleep = Some(wait());
    thread::scope(|scope| {
        let other = &cells[1];
        scope.spawn(|| read(other, 3, Box::new(|_| ())));
        let mut missed = 0;
        let between = |round: usize| {
            let ticket = asleep.take().expect("one waits in each round");
            if !lane.forget_publisher(&ticket) {
                missed += 1;
            }
            publish().unwrap_or_else(|_| panic!("both let go in round {round}"));
            asleep = Some(wait());
        };
        read(&cells[0], 5, Box::new(between));
        assert_eq!(missed, 0, "publishers slept beside room, in so many of {ROUNDS} rounds");
    });
}

#[test]
fn who_waits_for_a_writer_is_told_of_it_even_if_a_gate_seems_to_be_in_the_way() {
    let lane = Lane::<u64>::new(Shape::new(2), 0, Asymmetric::detect()).expect("valid");
    let joined = lane.ring.join(Hold::Waiting, Start::Now).expect("valid");
    for _ in 0..2 {
        lane.ring.publish(0, 0, 0, &mut None).expect("there is room");
    }
    let woken = Arc::new(Counted::default());
    let waker = || Arc::clone(&woken).into();
    let held = lane.enter_publishers(waker(), Refusal::Held, false);
    assert!(lane.notify_released().is_ok() && lane.notify_written().is_ok());
    assert_eq!(woken.0.load(Ordering::Relaxed), 0, "the gate is in the way, nobody asked for more");
    assert!(!lane.forget_publisher(&held));
    let unwritten = lane.enter_publishers(waker(), Refusal::Unwritten, false);
    assert!(lane.notify_written().is_ok());
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    assert!(lane.forget_publisher(&unwritten));
    drop(joined);
}
