//! What a loss of power may leave of the writes that were not synced.

use std::collections::HashSet;
use std::ops::Range;

use phalanx::state::{AtRisk, FaultDisk};

/// A disk that a machine may find, and how it came about.
pub(in crate::state) struct Survivor {
    pub(in crate::state) disk: FaultDisk,
    pub(in crate::state) what: String,
}

type Piece = (usize, Range<usize>);

/// The same numbers for the same seed.
pub(in crate::state) struct Random(u64);

impl Random {
    pub(in crate::state) fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(in crate::state) fn draw(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) % below.max(1) as u64) as usize
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.draw(last + 1));
        }
    }
}

/// The different disks that may be found; none of them and all of them come first. `effort` is how many more are
/// drawn; from 20 on every prefix is among them, and every change by itself and left out by itself; from 200 on every
/// subset of up to ten changes. There zeros that follow each other are one change.
pub(in crate::state) fn survivors(disk: &FaultDisk, seed: u64, effort: usize) -> Vec<Survivor> {
    let risk = disk.at_risk();
    let whole: Vec<Piece> =
        risk.iter().map(size).enumerate().map(|(n, size)| (n, 0..size)).collect();
    let mut plans =
        vec![("nothing unsynced".to_owned(), vec![]), ("all".to_owned(), whole.clone())];
    if effort >= 20 {
        let all = units(disk, &risk, &whole);
        for n in 0..all.len() {
            plans.push((format!("the first {n} changes"), all[..n].concat()));
            plans.push((format!("change {n} alone"), all[n].to_vec()));
            plans.push((
                format!("all but change {n}"),
                [&all[..n], &all[n + 1..]].concat().concat(),
            ));
        }
        if effort >= 200 && all.len() <= 10 {
            for subset in 0..1_u32 << all.len() {
                let chosen = (0..all.len()).filter(|n| subset >> n & 1 == 1).map(|n| all[n]);
                plans
                    .push((format!("the changes {subset:b}"), chosen.collect::<Vec<_>>().concat()));
            }
        }
    }
    if !whole.is_empty() {
        for round in 0..effort as u64 {
            plans.push(drawn(&risk, &whole, seed.wrapping_mul(1009).wrapping_add(round), round));
        }
    }
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for (what, plan) in plans {
        let survivor = disk.after_power_loss_of(plan);
        if seen.insert(blake3::hash(&survivor.bytes())) {
            found.push(Survivor { disk: survivor, what });
        }
    }
    found
}

/// Whether a change wrote zeros ahead.
pub(in crate::state) fn is_zeros(change: &AtRisk, bytes: &[u8]) -> bool {
    let AtRisk::Write { offset, len } = *change else { return false };
    let from = offset as usize;
    len <= 4096 && bytes.get(from..from + len).is_some_and(|b| b.iter().all(|byte| *byte == 0))
}

/// Whether the last change wrote zeros ahead, and the one before as well: a loss of power now leaves what one before
/// it left.
pub(in crate::state) fn went_on_with_zeros(disk: &FaultDisk) -> bool {
    let (risk, bytes) = (disk.at_risk(), disk.bytes());
    risk.len() >= 2 && risk[risk.len() - 2..].iter().all(|change| is_zeros(change, &bytes))
}

/// The changes, with zeros that follow each other as one.
fn units<'a>(disk: &FaultDisk, risk: &[AtRisk], whole: &'a [Piece]) -> Vec<&'a [Piece]> {
    let bytes = disk.bytes();
    let zeros = |piece: &Piece| is_zeros(&risk[piece.0], &bytes);
    whole.chunk_by(|a, b| zeros(a) && zeros(b)).collect()
}

fn size(change: &AtRisk) -> usize {
    if let AtRisk::Write { len, .. } = change { *len } else { 1 }
}

/// One of: a subset, a subset in another order, and pieces that end at a byte, a sector or a page.
fn drawn(risk: &[AtRisk], whole: &[Piece], seed: u64, round: u64) -> (String, Vec<Piece>) {
    let mut random = Random::new(seed);
    let (what, mut pieces) = match round % 6 {
        0 => ("a subset", whole.to_vec()),
        1 => ("a subset in another order", whole.to_vec()),
        2 => ("a prefix torn at a byte", prefix(whole, &mut random)),
        3 => ("torn at bytes", torn(risk, &mut random, 1)),
        4 => ("torn at sectors", torn(risk, &mut random, 512)),
        _ => ("torn at pages, in another order", torn(risk, &mut random, 4096)),
    };
    if round % 6 != 2 {
        // Few, half, most.
        let share = 1 + random.draw(7);
        pieces.retain(|_| random.draw(8) < share);
    }
    if matches!(round % 6, 1 | 5) {
        random.shuffle(&mut pieces);
    }
    (format!("{what} (seed {seed})"), pieces)
}

fn prefix(whole: &[Piece], random: &mut Random) -> Vec<Piece> {
    let mut pieces = whole[..=random.draw(whole.len())].to_vec();
    if let Some((_, last)) = pieces.last_mut() {
        last.end = random.draw(last.end + 1);
    }
    pieces
}

/// Every write in pieces that end at multiples of so many bytes of the disk; of single bytes, at some of them.
fn torn(risk: &[AtRisk], random: &mut Random, unit: usize) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (number, change) in risk.iter().enumerate() {
        let AtRisk::Write { offset, len } = *change else {
            pieces.push((number, 0..1));
            continue;
        };
        let mut from = 0;
        while from < len {
            let step = if unit == 1 {
                1 + random.draw(len)
            } else {
                unit - (offset as usize + from) % unit
            };
            let end = (from + step).min(len);
            pieces.push((number, from..end));
            from = end;
        }
    }
    pieces
}
