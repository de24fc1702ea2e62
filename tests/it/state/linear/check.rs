//! The check of a history; its rules stand at the head of `linear.rs`.

use std::collections::BTreeMap;

use phalanx::state::Version;

use super::record::{Key, Operation};

type Map = BTreeMap<Key, u64>;

/// Whether a history that ended at this version is linearizable, and if not, where.
pub(super) fn check(history: &[Operation], end: Version) -> Result<(), String> {
    let writes = in_order(history, end)?;
    let maps = replay(&writes)?;
    real_time(&writes)?;
    reads(history, &writes, &maps)
}

/// Rule 1. The write of version 1 stands at place 0.
fn in_order(history: &[Operation], end: Version) -> Result<Vec<&Operation>, String> {
    let mut writes: Vec<_> = history.iter().filter(|done| done.wrote()).collect();
    writes.sort_by_key(|done| done.version);
    for (at, done) in writes.iter().enumerate() {
        if done.version != Some(Version::from_u64(at as u64 + 1)) {
            return Err(format!("rule 1: {done:?} stands at place {}", at + 1));
        }
    }
    if writes.len() as u64 != end.as_u64() {
        return Err(format!("rule 1: {} writes, and the state is at {end}", writes.len()));
    }
    Ok(writes)
}

/// Rule 2. Returns the map at each version, from zero on.
fn replay(writes: &[&Operation]) -> Result<Vec<Map>, String> {
    let mut maps = vec![Map::new()];
    for done in writes {
        let mut map = maps[maps.len() - 1].clone();
        if !found(done, &map) {
            return Err(format!("rule 2: a {} where the map is {map:?}: {done:?}", done.what));
        }
        for (key, value) in &done.writes {
            match value {
                Some(value) => map.insert(*key, *value),
                None => map.remove(key),
            };
        }
        maps.push(map);
    }
    Ok(maps)
}

fn found(done: &Operation, map: &Map) -> bool {
    done.found.iter().all(|(key, value)| map.get(key) == value.as_ref())
}

/// Rule 3.
fn real_time(writes: &[&Operation]) -> Result<(), String> {
    let mut earliest_return = u64::MAX;
    for done in writes.iter().rev() {
        if earliest_return < done.invoked {
            return Err(format!(
                "rule 3: {done:?} began after one of a later version had returned"
            ));
        }
        earliest_return = earliest_return.min(done.returned);
    }
    Ok(())
}

/// Rule 4.
fn reads(history: &[Operation], writes: &[&Operation], maps: &[Map]) -> Result<(), String> {
    let mut reads: Vec<_> = history.iter().filter(|done| !done.wrote()).collect();
    reads.sort_by_key(|done| done.invoked);
    // Where the reads so far are, with when they returned.
    let mut seen: Vec<(u64, usize)> = Vec::new();
    for done in reads {
        let before = writes.iter().rposition(|write| write.returned < done.invoked);
        let after = writes.iter().position(|write| write.invoked > done.returned);
        let known = seen.iter().filter(|(returned, _)| *returned < done.invoked);
        let known = known.map(|(_, version)| *version).max().unwrap_or(0);
        let oldest = before.map_or(0, |at| at + 1).max(known);
        let newest = after.unwrap_or(writes.len());
        let told = done.version.map(|version| version.as_u64() as usize);
        let at = (oldest..=newest).find(|version| {
            told.is_none_or(|told| told == *version) && found(done, &maps[*version])
        });
        let Some(at) = at else {
            return Err(format!("rule 4: {done:?} between version {oldest} and {newest}"));
        };
        seen.push((done.returned, at));
    }
    Ok(())
}
