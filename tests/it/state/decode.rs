//! Every decoder on bytes that nobody wrote: an error of the right kind, or a state that holds together.
//!
//! What is checked for an input stands in `decode/`, one file a decoder; the fuzz targets in `tests/fuzz` run the
//! same code. Here the golden files are mutated, with the same seeds in every run. Checksums would keep nearly
//! every mutant from the code behind them, so the checks put right ones around what they are given, unless the
//! input says otherwise.

pub(crate) mod export;
pub(crate) mod rows;
pub(crate) mod seeds;
pub(crate) mod store;

use phalanx::ErrorKind;
use phalanx::state::{FaultDisk, StateManager};

use super::power::loss::Random;

/// How often the check got far enough to have something to compare.
fn mutants(seeds: &[Vec<u8>], rounds: u64, check: impl Fn(&[u8]) -> bool) -> u64 {
    assert!(!seeds.is_empty() && seeds.iter().all(|seed| check(seed)), "every seed is sound");
    let rounds =
        if std::env::var_os("PHALANX_LONG_TESTS").is_some() { 100 * rounds } else { rounds };
    (0..rounds).map(|round| u64::from(check(&mutant(seeds, round)))).sum()
}

fn mutant(seeds: &[Vec<u8>], round: u64) -> Vec<u8> {
    let mut random = Random::new(round);
    let mut bytes = seeds[random.draw(seeds.len())].clone();
    for _ in 0..1 + random.draw(3) {
        let at = random.draw(bytes.len());
        match random.draw(7) {
            0 | 1 => bytes[at] ^= 1 << random.draw(8),
            2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.draw(5)],
            3 => bytes.truncate(at.max(1)),
            4 => bytes.insert(at, random.draw(256) as u8),
            5 => drop(bytes.remove(at)),
            _ => {
                let len = random.draw(64).min(bytes.len() - at);
                let piece = bytes[at..at + len].to_vec();
                let to = random.draw(bytes.len());
                bytes.splice(to..to, piece);
            }
        }
        if bytes.is_empty() {
            bytes.push(0);
        }
    }
    bytes
}

#[test]
fn a_newer_format_or_an_unknown_codec_of_any_block_is_named() {
    for (what, kind) in [(store::IDENTITY, 1), (store::GROUP, 2), (store::CHUNK, 3)] {
        for (format, codec, said) in [(9, 1, "format 9"), (1, 77, "codec number 77")] {
            // All but the checksum.
            let block = [b"PHXS", &[format, 0, codec, kind, 0, 0, 0, 0][..]].concat();
            let entry = [what | store::RAW_HEAD, 1, 0, block.len() as u8, 0];
            let disk = FaultDisk::with_bytes(
                store::built(&[&entry, &block[..]].concat()).expect("the engine takes any blocks"),
            );
            let error = StateManager::builder().fault_disk(&disk).open().expect_err("it is newer");
            assert_eq!(error.kind(), ErrorKind::UnsupportedVersion, "{error}");
            assert!(error.to_string().contains(said), "kind {kind}: {error}");
            assert_eq!(disk.calls(), 0, "a refused open changed the disk: {error}");
        }
    }
}

#[test]
fn mutated_exports_are_refused_or_hold_together() {
    let read = mutants(&seeds::exports(), 2000, export::check);
    assert!(read > 20, "{read} were read");
}

#[test]
fn mutated_stores_are_refused_or_hold_together() {
    let read = mutants(&seeds::stores(), 150, store::check);
    assert!(read > 5, "{read} were read");
}

#[test]
fn mutated_rows_are_refused_or_stay_what_they_are() {
    let read = mutants(&seeds::rows(), 2000, rows::check);
    assert!(read > 100, "{read} were read");
}
