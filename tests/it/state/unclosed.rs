//! A store that was not closed, damaged: an error or a version that was, and never wrong data.
//!
//! There damage to what was written last cannot be told from a write that a crash cut off, so an older version
//! may be what is found. With the variable `PHALANX_LONG_TESTS` set, every length is tried, and every bit of the pages
//! that are not all zero.

use phalanx::ErrorKind;
use phalanx::state::{FaultDisk, StateManager, Version};

use super::script::{Tables, check, commit_next};

/// The bytes of a store with a checkpoint and deltas after it, as a crash leaves them, and its version.
fn unclosed() -> (Vec<u8>, Version) {
    let disk = FaultDisk::new();
    let builder = || StateManager::builder().fault_disk(&disk).checkpoint_step_bytes(20);
    let open = || builder().checkpoint_every_commits(4).open();
    open().expect("the disk works").close().expect("the disk works");
    let state = open().expect("the disk works");
    let tables = Tables::open(&state).expect("they have one type each");
    for _ in 0..7 {
        let version = commit_next(&state, &tables).expect("nothing refuses it");
        state.wait_durable(version).expect("the disk works");
    }
    (disk.bytes(), state.version())
}

#[derive(Debug, Default)]
struct Counts {
    refused: u64,
    older: u64,
    newest: u64,
}

impl Counts {
    fn open(&mut self, bytes: Vec<u8>, newest: Version, what: &str) {
        let disk = FaultDisk::with_bytes(bytes);
        match StateManager::builder().fault_disk(&disk).open() {
            Ok(state) => {
                let found = check(&state, Version::ZERO, newest);
                self.older += u64::from(found < newest);
                self.newest += u64::from(found == newest);
            }
            Err(error) => {
                let kind = error.kind();
                let expected = matches!(kind, ErrorKind::Corrupt | ErrorKind::UnsupportedVersion);
                assert!(expected, "{what}: {error:?}");
                assert_eq!(disk.calls(), 0, "{what}: a refused open changed the disk: {error}");
                self.refused += 1;
            }
        }
    }
}

fn long() -> bool {
    std::env::var_os("PHALANX_LONG_TESTS").is_some()
}

#[test]
fn an_unclosed_store_that_is_cut_anywhere_is_refused_or_shows_what_was() {
    let (good, newest) = unclosed();
    let mut counts = Counts::default();
    for len in (1..good.len()).step_by(if long() { 1 } else { 4861 }) {
        counts.open(good[..len].to_vec(), newest, &format!("cut to {len}"));
    }
    println!("{counts:?} of {} bytes", good.len());
    assert!(counts.refused > 0, "{counts:?}");
}

#[test]
fn an_unclosed_store_with_any_bit_flipped_is_refused_or_shows_what_was() {
    let (good, newest) = unclosed();
    let mut counts = Counts::default();
    let pages = good.chunks(4096).enumerate();
    let used = pages.filter(|(_, page)| page.iter().any(|byte| *byte != 0));
    let bits = used.flat_map(|(number, page)| number * 4096 * 8..(number * 4096 + page.len()) * 8);
    for bit in bits.step_by(if long() { 1 } else { 1999 }) {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        counts.open(bad, newest, &format!("bit {bit}"));
    }
    println!("{counts:?} of {} bits", good.len() * 8);
    assert!(counts.refused > 0 && counts.newest > 0, "{counts:?}");
}
