//! How much memory the process takes over a minute of work: what the soaks share.

use std::thread;
use std::time::{Duration, Instant};

const WARM_UP: Duration = Duration::from_secs(5);
const SOAK: Duration = Duration::from_secs(60);
/// What an allocator may keep for itself.
pub(crate) const GROWTH_MAX_BYTES: u64 = 8 << 20;

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux tells");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.expect("the second number is what is resident") * 4096
}

/// By how many bytes the process grew at most over a minute in which others work.
pub(crate) fn growth_of_a_minute() -> u64 {
    thread::sleep(WARM_UP);
    let before = resident_bytes();
    let end = Instant::now() + SOAK;
    let mut largest = 0;
    while Instant::now() < end {
        thread::sleep(Duration::from_secs(1));
        largest = resident_bytes().max(largest);
    }
    largest.saturating_sub(before)
}
