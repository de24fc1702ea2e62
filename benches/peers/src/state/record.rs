//! What is kept, and how it is known that all of it is there.

use std::collections::HashMap;

use phalanx::state::{Collection, Snapshot, StateManager};
use serde::{Deserialize, Serialize};

/// What is kept of an agent: some 240 bytes encoded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    name: String,
    capabilities: Vec<String>,
    labels: Vec<(String, String)>,
    status: u8,
    tasks: [u64; 4],
    score: f64,
    note: Option<String>,
}

pub fn record(number: u64) -> Record {
    Record {
        name: format!("agent-{number:08}"),
        capabilities: ["rust", "typescript", "review"].map(str::to_owned).to_vec(),
        labels: vec![
            ("zone".to_owned(), format!("zone-{}", number % 7)),
            ("team".to_owned(), format!("a team with a longer name {}", number % 31)),
        ],
        status: (number % 5) as u8,
        tasks: [number, number * 3, number * 7, number * 11].map(|n| n + (1 << 40)),
        score: number as f64 / 3.0,
        note: Some(format!("{:-^70}", number * 1_000_003)),
    }
}

impl Record {
    /// A number that tells it from others.
    fn print(&self) -> u64 {
        let words = [self.name.as_bytes(), self.note.as_deref().unwrap_or("").as_bytes()];
        print(words.into_iter()) ^ self.tasks.iter().sum::<u64>()
    }
}

fn print<'a>(fields: impl Iterator<Item = &'a [u8]>) -> u64 {
    fields.fold(0, |print, field| {
        let (words, rest) = field.as_chunks::<8>();
        let words = words.iter().map(|word| u64::from_le_bytes(*word));
        let rest = rest.iter().map(|byte| u64::from(*byte));
        words.chain(rest).fold(print, |print: u64, word| {
            (print ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
        })
    })
}

/// What is seen in a state, in whatever order its rows come.
pub fn content<'a>(rows: impl Iterator<Item = (&'a u64, &'a Record)>) -> u64 {
    rows.fold(0, |sum: u64, (key, record)| {
        sum.wrapping_add(record.print().wrapping_mul(2 * key + 1))
    })
}

/// What is seen in rows of text.
pub fn text_content<T: AsRef<[u8]>>(rows: impl Iterator<Item = (u64, T)>) -> u64 {
    rows.fold(0, |sum: u64, (key, text)| {
        let print = print(std::iter::once(text.as_ref()));
        sum.wrapping_add(print.wrapping_mul(2 * key + 1))
    })
}

/// A value of 200 bytes which no compression makes much smaller.
pub fn text(key: u64, pass: u64) -> String {
    let mut state = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (pass << 32) ^ 0x5851_f42d;
    let mut text = String::with_capacity(TEXT_BYTES);
    while text.len() < TEXT_BYTES {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Letters and digits, six bits of the state each.
        let digits = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_";
        let bits = (state >> 28).to_le_bytes();
        text.extend(bits[..4].iter().map(|bits| char::from(digits[usize::from(bits & 63)])));
    }
    text
}

pub const TEXT_BYTES: usize = 200;

/// How many rows a transaction has where many are written.
pub const ROWS_A_TRANSACTION: u64 = 10_000;

/// The same rows in a state and in a map.
pub struct Filled {
    pub state: StateManager,
    pub agents: Collection<u64, Record>,
    pub map: HashMap<u64, Record>,
    /// Of the whole state as it is exported.
    pub bytes: u64,
}

/// As many records as are encoded in `bytes`.
pub fn fill(state: StateManager, bytes: u64) -> Filled {
    let mut map = HashMap::new();
    let mut encoded = 0;
    for key in 0.. {
        if encoded >= bytes {
            break;
        }
        let record = record(key);
        encoded += encode(&(key, &record)).len() as u64;
        map.insert(key, record);
    }
    let agents = state.collection::<u64, Record>("agents").expect("the name is new");
    put(&state, &agents, map.len() as u64, record);
    let bytes = state.snapshot().encoded_size_bytes().expect("every record encodes");
    assert_eq!(snapshot_content(&state.snapshot(), &agents), content(map.iter()));
    Filled { state, agents, map, bytes }
}

/// Puts rows of the keys up to `rows` into a collection, some thousands at a time, each time durable if the
/// state is.
pub fn put<V: phalanx::state::Value>(
    state: &StateManager,
    collection: &Collection<u64, V>,
    rows: u64,
    value: impl Fn(u64) -> V,
) {
    for first in (0..rows).step_by(ROWS_A_TRANSACTION as usize) {
        let put = state.transaction(|tx| {
            for key in first..rows.min(first + ROWS_A_TRANSACTION) {
                tx.insert(collection, key, value(key));
            }
            Ok(())
        });
        put.expect("nobody else writes");
        if state.is_durable() {
            state.flush().expect("the disk works");
        }
    }
}

pub fn snapshot_content(snapshot: &Snapshot, agents: &Collection<u64, Record>) -> u64 {
    content(snapshot.iter(agents))
}

/// With the codec that the state has by default.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, bincode::config::standard()).expect("it encodes")
}

pub fn decode<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> T {
    let decoded = bincode::serde::decode_from_slice(bytes, bincode::config::standard());
    decoded.expect("it was encoded so").0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_tells_rows_that_were_changed_or_swapped() {
        let rows = |a, b| [(0, record(a)), (1, record(b))];
        let content = |rows: [(u64, Record); 2]| content(rows.iter().map(|(key, row)| (key, row)));
        assert_ne!(content(rows(5, 6)), content(rows(6, 5)));
        assert_ne!(content(rows(5, 6)), content(rows(5, 7)));
        let texts = |a, b| text_content([(0, text(a, 0)), (1, text(b, 0))].into_iter());
        assert_ne!(texts(5, 6), texts(6, 5));
        assert_ne!(texts(5, 6), texts(5, 7));
    }

    #[test]
    fn a_text_has_its_length_and_differs_between_keys_and_passes() {
        assert_eq!(text(7, 1).len(), TEXT_BYTES);
        assert_ne!(text(7, 1), text(7, 2));
        assert_ne!(text(7, 1), text(8, 1));
    }
}
