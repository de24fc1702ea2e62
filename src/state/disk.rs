//! Bytes under the engine: the seam where faults are injected, and where an open is rehearsed.
//!
//! Rules that hold here:
//!
//! 1. Until [`Stage::go_live`] nothing reaches the bytes underneath: what the engine writes stays in
//!    memory, over what is there, in the order in which it was written.
//! 2. Going live replays those writes and syncs in their order, so underneath it looks as if the engine had
//!    opened directly: a crash in between is one that the engine knows how to recover from.
//! 3. What was rehearsed has been synced when going live returns, whether or not the engine ended with a sync.
//! 4. Nothing is retried. An error goes up as it came, but for that of zeros that found no room (`disk/ahead.rs`).
//! 5. What is read of a file that was not closed need not be on the disk: where a sync has failed, for whomever, a system
//!    may keep what it could not write and take it for written. So going live first writes again all that the engine
//!    read, as it read it, and syncs that, before the first write of its own. Until that sync has returned it is as if
//!    the last group was being written still; after it what was judged is what is there. Where something reads
//!    otherwise than it was judged, it is an error. It is synced piece by piece, so that a system that writes
//!    elsewhere can give back the places of what was replaced; nothing relies on any of these syncs but the last.

mod ahead;
#[cfg(feature = "test-util")]
pub(super) mod fault;
mod file;

use std::collections::BTreeMap;
use std::fmt;
use std::hash::BuildHasher;
use std::io;
use std::sync::Arc;

use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, site};

/// A file, as the engine needs it.
pub(super) trait Disk: fmt::Debug + Send + Sync + 'static {
    fn len(&self) -> io::Result<u64>;
    /// Fills `out` from `offset` on, or fails.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    /// New bytes are zero.
    fn set_len(&self, len: u64) -> io::Result<()>;
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Returns when all before it would survive a power loss.
    fn sync(&self) -> io::Result<()>;
    /// After so many bytes that are written again they are synced (rule 5).
    fn again_bytes_max(&self) -> u64 {
        64 << 20
    }
}

use ahead::Ahead;
pub(super) use file::FileDisk;

/// What went through a disk.
#[derive(Debug, Default)]
pub(super) struct Counters {
    syncs: AtomicU64,
    bytes_written: AtomicU64,
    zeros_written: AtomicU64,
}

impl Counters {
    pub(super) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    pub(super) fn bytes_written(&self) -> u64 {
        self.bytes_written.load(Ordering::Relaxed)
    }

    pub(super) fn zeros_written(&self) -> u64 {
        self.zeros_written.load(Ordering::Relaxed)
    }
}

/// A disk on which an opening is first rehearsed (rules 1 and 2). Clones are the same disk.
#[derive(Clone, Debug)]
pub(super) struct Stage(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    disk: Ahead,
    again_bytes_max: u64,
    counters: Arc<Counters>,
    live: AtomicBool,
    rehearsal: Mutex<Rehearsal>,
}

const PAGE: u64 = 4096;

#[derive(Debug)]
struct Rehearsal {
    len: u64,
    /// How much of the bytes underneath still shows: what a shrink cut off reads as zero when it grows.
    shown: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
    script: Vec<Step>,
    /// How long it is underneath.
    under: u64,
    /// Where the engine read and how many bytes, with a print of what was there underneath; none where it was closed
    /// (rule 5).
    reads: Option<BTreeMap<(u64, usize), u64>>,
    hasher: foldhash::quality::RandomState,
}

#[derive(Debug)]
enum Step {
    SetLen(u64),
    Write(u64, Vec<u8>),
    Sync,
}

impl Stage {
    pub(super) fn new(disk: Box<dyn Disk>) -> io::Result<Self> {
        let len = disk.len()?;
        let rehearsal = Rehearsal {
            len,
            shown: len,
            pages: BTreeMap::new(),
            script: Vec::new(),
            under: len,
            reads: Some(BTreeMap::new()),
            hasher: foldhash::quality::RandomState::default(),
        };
        let counters = Arc::<Counters>::default();
        let again_bytes_max = disk.again_bytes_max();
        let disk = Ahead::new(disk, len, Arc::clone(&counters));
        Ok(Self(Arc::new(Inner {
            disk,
            again_bytes_max,
            counters,
            live: AtomicBool::new(false),
            rehearsal: Mutex::new(rehearsal),
        })))
    }

    pub(super) fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.0.counters)
    }

    /// The engine has found it new, or without a commit since it was closed, after which all was synced: nothing is
    /// written again.
    pub(super) fn was_closed(&self) {
        self.0.rehearsal.lock().reads = None;
    }

    /// Does underneath what was rehearsed, and from here on goes straight to the disk. How many bytes it wrote again.
    pub(super) fn go_live(&self) -> io::Result<u64> {
        let mut rehearsal = self.0.rehearsal.lock();
        let again = match rehearsal.reads.take() {
            Some(reads) => self.0.write_again(rehearsal.under, &reads, &rehearsal.hasher)?,
            None => 0,
        };
        let mut synced = true;
        for step in rehearsal.script.drain(..) {
            synced = matches!(step, Step::Sync);
            match step {
                Step::SetLen(len) => self.0.set_len(len)?,
                Step::Write(offset, data) => self.0.write(offset, &data)?,
                Step::Sync => self.0.sync()?,
            }
        }
        // Rule 3.
        if !synced {
            self.0.sync()?;
        }
        rehearsal.pages.clear();
        // Ordering: Release, pairs with the Acquire load in `is_live`: whoever goes straight to the disk
        // finds the rehearsed writes there. It changes under the lock that every rehearsed call takes.
        self.0.live.store(true, site("state.disk.live.store", Ordering::Release));
        Ok(again)
    }
}

impl Inner {
    fn is_live(&self) -> bool {
        // Ordering: Acquire, pairs with the Release store in `go_live`; see there.
        self.live.load(site("state.disk.live.load", Ordering::Acquire))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.set_len(len)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.counters.bytes_written.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.disk.write(offset, data)
    }

    /// Rule 5. How many bytes it wrote.
    fn write_again(
        &self,
        len: u64,
        reads: &BTreeMap<(u64, usize), u64>,
        hasher: &impl BuildHasher,
    ) -> io::Result<u64> {
        if reads.is_empty() {
            return Ok(0);
        }
        self.set_len(len)?;
        let (mut bytes, mut written, mut synced) = (Vec::new(), 0, 0);
        for (&(offset, len), print) in reads {
            bytes.resize(len, 0);
            self.disk.read(offset, &mut bytes)?;
            if hasher.hash_one(&bytes[..]) != *print {
                return Err(changed());
            }
            if written - synced >= self.again_bytes_max {
                self.sync()?;
                synced = written;
            }
            self.write(offset, &bytes)?;
            written += len as u64;
        }
        self.sync()?;
        Ok(written)
    }

    fn sync(&self) -> io::Result<()> {
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        self.disk.sync()
    }
}

impl Rehearsal {
    fn page(&mut self, disk: &dyn Disk, number: u64) -> io::Result<&mut Box<[u8]>> {
        if !self.pages.contains_key(&number) {
            let mut page = vec![0; PAGE as usize].into_boxed_slice();
            read_shown(disk, self.shown, number * PAGE, &mut page)?;
            self.pages.insert(number, page);
        }
        Ok(self.pages.get_mut(&number).expect("the page was put there above"))
    }

    fn read(&mut self, disk: &dyn Disk, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let there = read_shown(disk, self.shown, offset, out)?;
        self.note(offset, &out[..there])?;
        let end = offset + out.len() as u64;
        for (number, page) in self.pages.range(offset / PAGE..end.div_ceil(PAGE)) {
            let start = number * PAGE;
            let (from, to) = (offset.max(start), end.min(start + PAGE));
            out[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&page[(from - start) as usize..(to - start) as usize]);
        }
        Ok(())
    }

    /// Keeps where something was read, and what, until it is known to be on the disk.
    fn note(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let Some(reads) = self.reads.as_mut().filter(|_| !bytes.is_empty()) else { return Ok(()) };
        let print = self.hasher.hash_one(bytes);
        let first = *reads.entry((offset, bytes.len())).or_insert(print);
        if first == print { Ok(()) } else { Err(changed()) }
    }

    fn write(&mut self, disk: &dyn Disk, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let within = (at % PAGE) as usize;
            let len = (PAGE as usize - within).min(data.len() - done);
            let page = self.page(disk, at / PAGE)?;
            page[within..within + len].copy_from_slice(&data[done..done + len]);
            done += len;
        }
        self.len = self.len.max(offset + data.len() as u64);
        self.script.push(Step::Write(offset, data.to_vec()));
        Ok(())
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.shown = self.shown.min(len);
            self.pages.split_off(&len.div_ceil(PAGE));
            if let Some(page) = self.pages.get_mut(&(len / PAGE)) {
                page[(len % PAGE) as usize..].fill(0);
            }
        }
        self.len = len;
        self.script.push(Step::SetLen(len));
    }
}

/// Reads what lies below `shown`, and zeros beyond it; how many bytes lie below.
fn read_shown(disk: &dyn Disk, shown: u64, offset: u64, out: &mut [u8]) -> io::Result<usize> {
    let there = shown.saturating_sub(offset).min(out.len() as u64) as usize;
    let (real, zero) = out.split_at_mut(there);
    zero.fill(0);
    if !real.is_empty() {
        disk.read(offset, real)?;
    }
    Ok(there)
}

fn changed() -> io::Error {
    io::Error::other(
        "the file reads otherwise than a moment ago: a part of it was not on the disk; open it again",
    )
}

impl redb::StorageBackend for Stage {
    fn len(&self) -> Result<u64, io::Error> {
        if self.0.is_live() { self.0.disk.len() } else { Ok(self.0.rehearsal.lock().len) }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        if self.0.is_live() {
            return self.0.disk.read(offset, out);
        }
        self.0.rehearsal.lock().read(&self.0.disk, offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        if self.0.is_live() {
            return self.0.set_len(len);
        }
        self.0.rehearsal.lock().set_len(len);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        if self.0.is_live() {
            return self.0.sync();
        }
        self.0.rehearsal.lock().script.push(Step::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        if self.0.is_live() {
            return self.0.write(offset, data);
        }
        self.0.rehearsal.lock().write(&self.0.disk, offset, data)
    }
}

#[cfg(all(test, feature = "test-util", not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use redb::StorageBackend;

    use super::fault::{AtRisk, Fault, FaultDisk};
    use super::*;

    #[test]
    fn what_was_rehearsed_reaches_the_disk_by_going_live_alone_and_is_synced_once() {
        for synced in [false, true] {
            let disk = FaultDisk::with_bytes(vec![1; 100]);
            let stage = Stage::new(Box::new(disk.clone())).expect("the disk works");
            stage.was_closed();
            stage.write(10, &[2; 10]).expect("it stays in memory");
            stage.set_len(50).expect("it stays in memory");
            if synced {
                stage.sync_data().expect("it stays in memory");
            }
            let mut seen = [0; 50];
            stage.read(0, &mut seen).expect("so long it is");
            assert_eq!(disk.calls(), 0, "nothing before");
            assert_eq!(stage.go_live().expect("the disk works"), 0);
            assert_eq!((disk.bytes(), disk.unsynced()), (seen.to_vec(), 0));
            assert_eq!((disk.calls(), disk.syncs()), (3, 1), "and nothing twice");
            stage.write(0, &[3]).expect("the disk works");
            assert_eq!(disk.unsynced(), 1, "from here on it goes straight there");
        }
        let disk = FaultDisk::new();
        Stage::new(Box::new(disk.clone())).and_then(|stage| stage.go_live()).expect("it works");
        assert_eq!(disk.calls(), 0, "there is nothing to sync");
    }

    #[test]
    fn what_was_read_of_an_unclosed_file_is_written_again_and_synced_before_anything_else() {
        let disk = FaultDisk::with_bytes((0..100).collect());
        disk.write(20, &[7; 10]).expect("the disk works");
        disk.fail_at(2, Fault::LostSync);
        disk.sync().expect_err("it is to fail");
        assert_eq!(disk.unsynced(), 0, "it is taken for written");
        let lost = disk.after_power_loss(|_, size| size);
        assert_eq!(lost.bytes(), (0..100).collect::<Vec<u8>>());

        let stage = Stage::new(Box::new(disk.clone())).expect("the disk works");
        let mut seen = [0; 50];
        stage.read(10, &mut seen).expect("so long it is");
        stage.write(0, &[1; 15]).expect("it stays in memory");
        // The script lies over it, and is none of what is there underneath.
        stage.read(10, &mut seen).expect("so long it is");
        assert_eq!((seen[0], seen[10]), (1, 7));
        disk.record();
        assert_eq!(stage.go_live().expect("the disk works"), 50);
        let first = disk.rewound(5, |_| false);
        assert_eq!((first.unsynced(), first.syncs()), (0, 1), "length, write, sync");
        let mut expected: Vec<u8> = (0..100).collect();
        expected[20..30].fill(7);
        assert_eq!(first.after_power_loss(|_, _| 0).bytes(), expected);
        expected[..15].fill(1);
        assert_eq!(disk.after_power_loss(|_, _| 0).bytes(), expected);
    }

    #[test]
    fn what_is_written_again_is_synced_piece_by_piece() {
        let piece = FaultDisk::new().again_bytes_max();
        let disk = FaultDisk::with_bytes(vec![1; 4 * piece as usize]);
        let stage = Stage::new(Box::new(disk.clone())).expect("the disk works");
        for page in 0..3 * piece / PAGE {
            stage.read(page * PAGE, &mut [0; PAGE as usize]).expect("so long it is");
        }
        disk.record();
        assert_eq!(stage.go_live().expect("the disk works"), 3 * piece);
        assert_eq!((disk.syncs(), disk.unsynced()), (3, 0), "one each, and none of nothing");
        for calls in 1..=disk.calls() {
            let at_risk = disk.rewound(calls, |_| false).at_risk();
            let sizes = at_risk.iter().map(|change| match change {
                AtRisk::SetLen { .. } => 0,
                AtRisk::Write { len, .. } => *len as u64,
            });
            assert!(sizes.sum::<u64>() <= piece, "after {calls} calls: {at_risk:?}");
        }
    }

    #[test]
    fn what_reads_otherwise_than_it_was_judged_is_an_error() {
        for again in [false, true] {
            let disk = FaultDisk::with_bytes(vec![1; 100]);
            let stage = Stage::new(Box::new(disk.clone())).expect("the disk works");
            stage.read(10, &mut [0; 50]).expect("so long it is");
            // As where the system has given up what it could not write.
            disk.write(59, &[2]).expect("the disk works");
            if again {
                stage.read(10, &mut [0; 50]).expect_err("it reads otherwise");
            }
            stage.go_live().expect_err("it reads otherwise");
            assert_eq!(disk.syncs(), 0);
        }
    }
}
