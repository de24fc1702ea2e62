//! One stored row of any bytes, decoded to several types by either codec.
//!
//! The input is `codec | types | length of the key | key | value`.

use std::collections::BTreeMap;

use phalanx::state::{Compression, Import, Key, StateManager, Value};
use serde::{Deserialize, Serialize};

use super::export::expected;

/// As in the golden files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Stored {
    V1 { name: String, score: f64, tags: Vec<String> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Mixed {
    Unit,
    Numbers(Vec<u128>, Vec<[u64; 4]>, i64),
    Texts(Vec<(Option<String>, char)>, Box<Option<bool>>),
    Map { by_name: BTreeMap<String, Vec<u8>>, ratio: f32 },
}

/// The types that the second byte chooses among.
pub(crate) const TYPES: u8 = 5;

/// Panics where a decoder does what it must not; whether the row was decoded.
pub(crate) fn check(input: &[u8]) -> bool {
    let [codec, types, key_len, row @ ..] = input else { return false };
    let (key, value) = row.split_at((*key_len as usize).min(row.len()));
    let export = export(1 + codec % 2, key, value);
    match types % TYPES {
        0 => decoded::<u64, Stored>(&export),
        1 => decoded::<String, u64>(&export),
        2 => decoded::<Vec<u8>, Mixed>(&export),
        3 => decoded::<(i32, Option<char>), Vec<String>>(&export),
        _ => decoded::<u8, BTreeMap<u64, Option<Vec<u32>>>>(&export),
    }
}

fn decoded<K: Key, V: Value>(export: &[u8]) -> bool {
    let (first, len) = match typed::<K, V>(export) {
        Ok(written) => written,
        Err(kind) => {
            expected(kind);
            return false;
        }
    };
    assert_eq!(len, 1);
    // What was decoded and encoded again is decoded to the same: values without an equality, such as not-a-number,
    // are compared by their bytes.
    let (second, _) = typed::<K, V>(&first).expect("what was written can be read");
    assert!(first == second, "a row changed as it was written again");
    true
}

/// Opens the row with its types, and writes it again.
fn typed<K: Key, V: Value>(export: &[u8]) -> Result<(Vec<u8>, usize), phalanx::ErrorKind> {
    let import = Import::read(export).map_err(|error| error.kind())?;
    let state = StateManager::builder().in_memory().import(import).open();
    let state = state.expect("an export that was read makes a state");
    let rows = state.collection::<K, V>("a").map_err(|error| error.kind())?;
    let mut written = Vec::new();
    let export = state.snapshot().export_to(&mut written, Compression::None);
    export.expect("what was decoded can be encoded");
    Ok((written, rows.len()))
}

/// An export of one row, made by hand.
fn export(codec: u8, key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut block = vec![0, 1];
    for part in [key, value] {
        let mut len = part.len();
        while len >= 0x80 {
            block.push(len as u8 | 0x80);
            len >>= 7;
        }
        block.push(len as u8);
        block.extend_from_slice(part);
    }
    let (mut bytes, mut sums) = (Vec::new(), Vec::new());
    let mut frame = |parts: &[&[u8]]| {
        let frame = parts.concat();
        let sum = blake3::hash(&frame);
        sums.extend_from_slice(sum.as_bytes());
        bytes.extend_from_slice(&frame);
        bytes.extend_from_slice(sum.as_bytes());
        blake3::hash(&sums)
    };
    let payload = [1, 0, 0, 0, 0, 0, 0, 0, 1, 1, b'a', 1];
    frame(&[b"\x89PHXE\r\n\x1a", &[1, 0, codec, 0], &12u32.to_le_bytes(), &payload]);
    let len = (block.len() as u32).to_le_bytes();
    let all = frame(&[b"R", &len, &len, &block]);
    let totals = [1, 1, block.len() as u64].map(u64::to_le_bytes);
    frame(&[b"E", totals.as_flattened(), all.as_bytes()]);
    bytes
}
