//! The rows of what durable commits ask of the disk: syncs and bytes, which no time depends on. Each
//! contestant is a process of its own, watched from outside or by the system.

use std::fs;
use std::path::Path;
use std::process::Command;

use phalanx::state::StateManager;
use serde_json::json;

use super::engines::{Fjall, Redb, Sqlite};
use super::folder::{Folder, file_system, not_a_disk};
use super::process::{self, run, this};
use super::record::{TEXT_BYTES, text};
use super::rows_durable::{Durable, Ours, Single, update};
use super::{Lineup, spec};
use crate::Settings;
use crate::measure::{Contestant, Sample};
use crate::row::{OURS, Row, Time, Unit};

const ROWS: u64 = 10_000;
/// Where it is, in the folder of the process.
const STORE: &str = "store";

// Syncs.

const WRITERS: u64 = 8;
const UNITS: u64 = 8;
/// What of the system's calls counts.
const SYNCS: [&str; 4] = ["fsync", "fdatasync", "sync_file_range", "msync"];

pub fn sync_count(settings: &Settings) -> Row {
    const TARGETS: super::Targets = &[("limit-one", 1.0)];
    let (id, unit) = ("sync-count", (Unit::Syncs, Time::None));
    let what =
        "syncs (fsync, fdatasync, sync_file_range, msync) a group of durable commits: exactly 1";
    let work = json!({
        "rows": ROWS, "row_bytes": TEXT_BYTES, "file_system": file_system(&settings.folder),
        "ours": { "writers": WRITERS, "updates": WRITERS * UNITS * 8 },
        "peers": "one writer, 64 updates, a transaction for each",
        "measured": "by strace, less a process that opens, fills and closes without the updates",
    });
    let not_run = |reason| Row::not_run(spec(unit, id, what, work.clone(), TARGETS), reason);
    if let Some(reason) = not_a_disk(settings) {
        return not_run(reason);
    }
    let strace = Command::new("strace").arg("-V").output();
    if !strace.is_ok_and(|strace| strace.status.success()) {
        return not_run("strace is not installed".to_owned());
    }
    let folder = Folder::new(settings, id);
    let count = |name: &'static str, idle: &'static str| {
        let folder = folder.path();
        Contestant::timeless(name, move || {
            let (busy, groups, seen) = syncs(name, folder);
            let (around, _, _) = syncs(idle, folder);
            assert!(groups > 0, "{name} committed nothing");
            let each = (busy as f64 - around as f64) / groups as f64;
            // Less than one is not few syncs, but commits that are not durable.
            assert!(each >= 1.0, "{name} synced {each} times for each of {groups} groups");
            let sample = Sample::new(std::time::Duration::ZERO, 1, Some(seen));
            Sample { value: Some(each), ..sample }
        })
    };
    Lineup::of(settings, count(OURS, "ours-idle"))
        .and(Contestant::limit("limit-one", 1.0))
        .beside(|| count("redb", "redb-idle"))
        .beside(|| count("fjall", "fjall-idle"))
        .beside(|| count("sqlite-full", "sqlite-full-idle"))
        .measure(unit, id, what, work, TARGETS)
}

/// How often a contestant synced in all, how many groups it says that it committed, and what it saw.
fn syncs(name: &str, folder: &Path) -> (usize, u64, u64) {
    let log = folder.join("strace.log");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", &format!("trace={}", SYNCS.join(",")), "-o"]).arg(&log);
    let (groups, seen) = run(&mut this("sync-count", name, Some(strace)), folder);
    (calls(&fs::read_to_string(log).expect("strace wrote it")), groups, seen)
}

/// The calls in a log of strace; one that was interrupted by another thread's has a second line.
fn calls(log: &str) -> usize {
    let is_call = |line: &&str| {
        let call = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        SYNCS.iter().any(|name| call.strip_prefix(name).is_some_and(|rest| rest.starts_with('(')))
    };
    log.lines().filter(is_call).count()
}

/// The groups that a contestant committed durably, and what it sees in the end.
pub fn synced(name: &str) -> Option<(u64, u64)> {
    let (name, units) = match name.strip_suffix("-idle") {
        Some(name) => (name, 0),
        None => (name, UNITS),
    };
    let path = Path::new(STORE);
    match name {
        OURS => {
            let ours = Ours::filled(path, ROWS);
            let before = ours.state.stats().groups;
            update(&ours, WRITERS, ROWS, units);
            let groups = ours.state.stats().groups - before;
            let seen = ours.content();
            ours.state.close().expect("the disk works");
            Some((groups, seen))
        }
        "redb" => Some(synced_each(&Single::<Redb>::filled(path, ROWS), units)),
        "fjall" => Some(synced_each(&Single::<Fjall>::filled(path, ROWS), units)),
        "sqlite-full" => Some(synced_each(&Single::<Sqlite>::filled(path, ROWS), units)),
        _ => None,
    }
}

fn synced_each(engine: &dyn Durable, units: u64) -> (u64, u64) {
    // The same rows as those of all writers, by one.
    let mut groups = 0;
    for at in 0..if units == 0 { 0 } else { 8 * WRITERS } {
        let key = at * 7919 % ROWS;
        engine.update(key, text(key, 1));
        groups += 1;
    }
    (groups, engine.content())
}

// Bytes.

/// Updates of which the bytes are counted, each durable before the next.
const UPDATES: u64 = 256;
/// How many bytes of deltas, and how many commits, come between two checkpoints by default.
const CHECKPOINT_EVERY: (u64, u64) = (16 << 20, 100_000);

pub fn delta_bytes(settings: &Settings) -> Row {
    const TARGETS: super::Targets = &[("redb-in-place", 1.0)];
    let (id, unit) = ("delta-bytes", (Unit::Bytes, Time::None));
    let what = "bytes to disk for one durable update of 200 bytes";
    let work = json!({
        "rows": ROWS, "row_bytes": TEXT_BYTES, "updates": UPDATES,
        "file_system": file_system(&settings.folder),
        "measured": "write_bytes of /proc/self/io, in a process of its own",
        "ours": "with its share of a checkpoint",
        "self-deltas": "without",
        "peers": "without what they tidy up later",
    });
    let not_run = |reason| Row::not_run(spec(unit, id, what, work.clone(), TARGETS), reason);
    if let Some(reason) = not_a_disk(settings) {
        return not_run(reason);
    }
    if written_bytes().is_none() {
        return not_run("the system does not say what was written in /proc/self/io".to_owned());
    }
    let folder = Folder::new(settings, id);
    let own = |name| process::measured(id, name, UPDATES as f64, folder.path());
    Lineup::of(settings, own(OURS))
        .and(own("self-deltas"))
        .and(own("redb-in-place"))
        .beside(|| own("fjall"))
        .beside(|| own("sqlite-full"))
        .measure(unit, id, what, work, TARGETS)
}

/// What this process has caused to be written to disks, if the system says so.
fn written_bytes() -> Option<u64> {
    let io = fs::read_to_string("/proc/self/io").ok()?;
    io.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.parse().ok()
}

/// The bytes that a contestant wrote for the updates, and what it sees in the end.
pub fn written(name: &str) -> Option<(u64, u64)> {
    let path = Path::new(STORE);
    match name {
        OURS => {
            let ours = Ours::filled(path, ROWS);
            let (bytes, seen) = updated(&ours);
            Some((bytes + UPDATES * checkpoint_share(&ours.state), seen))
        }
        "self-deltas" => Some(updated(&Ours::filled(path, ROWS))),
        "redb-in-place" => Some(updated(&Single::<Redb>::filled(path, ROWS))),
        "fjall" => Some(updated(&Single::<Fjall>::filled(path, ROWS))),
        "sqlite-full" => Some(updated(&Single::<Sqlite>::filled(path, ROWS))),
        _ => None,
    }
}

fn updated(to: &dyn Durable) -> (u64, u64) {
    let before = written_bytes().expect("the system says it");
    for update in 0..UPDATES {
        let key = update * 7919 % ROWS;
        to.update(key, text(key, 1));
    }
    let after = written_bytes().expect("the system says it");
    (after - before, to.content())
}

/// What a checkpoint writes for each of the updates between it and the one before.
fn checkpoint_share(state: &StateManager) -> u64 {
    let rows = state.collection::<u64, String>("rows").expect("the types are the same");
    rows.insert(0, text(0, 1)).expect("the store is open");
    let delta_bytes = state.stats().pending_bytes;
    let state_bytes = state.snapshot().encoded_size_bytes().expect("every row encodes");
    let before = written_bytes().expect("the system says it");
    state.checkpoint().expect("the disk works");
    let bytes = written_bytes().expect("the system says it") - before;
    let (every_bytes, every_commits) = CHECKPOINT_EVERY;
    bytes.div_ceil((every_bytes.max(state_bytes) / delta_bytes).min(every_commits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_counted_once_and_nothing_else_is() {
        let log = "812  fdatasync(5)                     = 0\n\
                   813  fsync(7 <unfinished ...>\n\
                   812  fdatasync(5)                     = 0\n\
                   813  <... fsync resumed>)              = 0\n\
                   812  msync(0x7f, 4096, MS_SYNC)        = 0\n\
                   812  sync_file_range(5, 0, 0, 2)       = 0\n\
                   812  --- SIGCHLD {si_signo=SIGCHLD} ---\n";
        assert_eq!(calls(log), 5);
    }
}
