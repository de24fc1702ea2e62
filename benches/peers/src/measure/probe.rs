//! How fast this machine is right now, in a few microseconds.
//!
//! On a machine whose cores are shared with strangers, a neighbour on the other half of a core takes a share of the
//! instructions that it can begin in a cycle. Code that is bound by that becomes up to twice as slow, and code that
//! waits for one instruction after the other, or for locked ones, hardly notices. So what is probed is the former:
//! chains of additions and rotations that do not wait for each other, as many as the core can begin. A chain of
//! dependent additions would not show the neighbour; the test at the end shows that this one is no such chain.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The rounds of a probe: about 25 us on a core of 3 GHz that is left alone.
const ROUNDS: u64 = 15_000;

/// Eight chains, two instructions a round each, which do not wait for each other. Rotations, as the compiler finds no
/// vector instructions of the least processor for them.
#[inline(never)]
fn chains(rounds: u64) -> u64 {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = black_box([1_u64; 8]);
    for round in 0..rounds {
        a = a.wrapping_add(round).rotate_left(5);
        b = b.wrapping_add(round).rotate_left(7);
        c = c.wrapping_add(round).rotate_left(11);
        d = d.wrapping_add(round).rotate_left(13);
        e = e.wrapping_add(round).rotate_left(17);
        f = f.wrapping_add(round).rotate_left(19);
        g = g.wrapping_add(round).rotate_left(23);
        h = h.wrapping_add(round).rotate_left(29);
    }
    a ^ b ^ c ^ d ^ e ^ f ^ g ^ h
}

/// When a probe was.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    start: Instant,
    end: Instant,
}

impl Span {
    /// Probes the core of this thread.
    pub fn here() -> Self {
        let start = Instant::now();
        black_box(chains(black_box(ROUNDS)));
        Self { start, end: Instant::now() }
    }

    /// Nanoseconds a round.
    pub fn read(self) -> f64 {
        (self.end - self.start).as_nanos() as f64 / ROUNDS as f64
    }

    /// The one in which both were. Two that had to take turns on one core are together twice as long as each.
    pub fn with(self, other: Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }
}

/// For how long the thread that opened it could have run and did not, as others had its core: what the system counts.
#[derive(Debug)]
pub struct Waits(Option<File>);

impl Waits {
    /// Those of this thread; none where the system does not say.
    pub fn of_this_thread() -> Self {
        Self(File::open("/proc/thread-self/schedstat").ok())
    }

    /// Since the thread began.
    pub fn total(&self) -> Duration {
        let mut text = [0; 64];
        let read = self.0.as_ref().and_then(|file| file.read_at(&mut text, 0).ok()).unwrap_or(0);
        Duration::from_nanos(waited(&text[..read]).unwrap_or(0))
    }
}

/// The second one of the three numbers: the time on a core, the time in wait for one, and the turns.
fn waited(schedstat: &[u8]) -> Option<u64> {
    std::str::from_utf8(schedstat).ok()?.split_whitespace().nth(1)?.parse().ok()
}

const IDLE: u32 = 0;
const ASKED: u32 = 1;
const READY: u32 = 2;
const GO: u32 = 3;
const DONE: u32 = 4;
const ENDED: u32 = 5;

#[derive(Debug, Default)]
struct Turns {
    turn: AtomicU32,
    /// That of the second thread.
    span: Mutex<Option<Span>>,
}

impl Turns {
    fn wait(&self, turn: u32) {
        // The other thread may have to wait for a core: this one.
        while self.turn.load(Ordering::Acquire) != turn {
            thread::yield_now();
        }
    }
}

/// A second thread, which probes at the same time as this one. It is parked meanwhile.
#[derive(Debug)]
pub struct Second {
    turns: Arc<Turns>,
    thread: Option<JoinHandle<()>>,
}

impl Second {
    pub fn new() -> Self {
        let turns = Arc::new(Turns::default());
        let own = Arc::clone(&turns);
        let thread = thread::spawn(move || {
            loop {
                match own.turn.load(Ordering::Acquire) {
                    ASKED => {
                        own.turn.store(READY, Ordering::Release);
                        own.wait(GO);
                        let span = Span::here();
                        *own.span.lock().expect("nobody panics with it") = Some(span);
                        own.turn.store(DONE, Ordering::Release);
                    }
                    ENDED => return,
                    _ => thread::park(),
                }
            }
        });
        Self { turns, thread: Some(thread) }
    }

    /// From the first begin to the last end of both.
    pub fn both(&self) -> Span {
        let thread = self.thread.as_ref().expect("it is taken by the drop alone");
        self.turns.turn.store(ASKED, Ordering::Release);
        thread.thread().unpark();
        self.turns.wait(READY);
        self.turns.turn.store(GO, Ordering::Release);
        let own = Span::here();
        self.turns.wait(DONE);
        self.turns.turn.store(IDLE, Ordering::Relaxed);
        let other = *self.turns.span.lock().expect("nobody panics with it");
        own.with(other.expect("it is done"))
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        self.turns.turn.store(ENDED, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            thread.join().expect("a probe does not panic");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_threads_probe_one_time_after_the_other() {
        let second = Second::new();
        for _ in 0..3 {
            let read = second.both().read();
            assert!(read.is_finite() && read > 0.0, "{read}");
        }
    }

    #[test]
    fn two_that_take_turns_are_read_as_twice_as_slow() {
        let start = Instant::now();
        let span = |from, to| Span {
            start: start + Duration::from_micros(from),
            end: start + Duration::from_micros(to),
        };
        let (first, second) = (span(0, 30), span(30, 60));
        assert_eq!(first.with(second).read(), 2.0 * first.read());
        assert_eq!(second.with(first).read(), 2.0 * first.read());
        assert_eq!(first.with(span(10, 20)).read(), first.read());
    }

    #[test]
    fn the_time_in_wait_for_a_core_is_the_second_number() {
        assert_eq!(waited(b"123 456 7\n"), Some(456));
        assert_eq!(waited(b""), None);
        let waits = Waits::of_this_thread();
        let before = waits.total();
        assert!(waits.total() >= before, "it only grows");
    }

    #[test]
    fn every_round_of_a_probe_is_worked_off() {
        // Nothing that a compiler could know beforehand: one more round is another result.
        assert_ne!(chains(1), chains(2));
        assert_eq!(chains(0), 0);
        assert_eq!(
            chains(1),
            (0..8).fold(0, |all, at| all ^ (1 << [5, 7, 11, 13, 17, 19, 23, 29][at]))
        );
    }
}
