//! A disk in memory that fails when told to.
//!
//! Rules that hold here:
//!
//! 1. Every write, sync and change of length is one call, counted from 1. Reads, and looks at the length, are counted
//!    apart.
//! 2. A crash ends the disk: every later call fails, and what the machine finds afterwards is what had been
//!    synced, plus those of the later writes that the test lets survive.
//! 3. A failed write leaves as much of itself behind as the test says. A failed sync makes nothing durable, and
//!    what was written stays readable, as a page cache does it; a later sync makes up for it, unless the test says that
//!    it was lost: then it stays readable, and only what is written anew ever becomes durable.
//! 4. A sync that is left out reports success and makes nothing durable: so does code from which that sync was
//!    removed. The next sync makes up for it.
//! 5. A recording holds every call that was made since it began, so one run gives the disk after each of them.
//!    What a store does never depends on what a power loss would leave: leaving a sync out afterwards, as
//!    [`FaultDisk::rewound`] does, shows the same as leaving it out at the time.
//! 6. A call that is held waits outside the lock, before it does anything. So does a clock go on that is told how long
//!    calls take, which wakes who waits on it.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::Disk;
use crate::ManualClock;
use crate::sync::{Mutex, Parker};

/// How a call of a [`FaultDisk`] fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The call reports an input/output error; later ones work.
    Io,
    /// The call reports that the device is full; later ones work.
    NoSpace,
    /// As [`Fault::Io`], but if the call is a write, so many of its bytes are written before.
    IoAfter(usize),
    /// As [`Fault::NoSpace`], but if the call is a write, so many of its bytes are written before.
    NoSpaceAfter(usize),
    /// As [`Fault::Io`], but if the call is a sync, what it was to make durable never will be by another sync, unless
    /// it is written again. It can be read until the power goes, as what a system keeps in its cache that it could not
    /// write, and takes for written.
    LostSync,
    /// The power goes: this call and all later ones do nothing.
    Crash,
}

/// A disk in memory under a store, for tests of hosts; see
/// [`StateBuilder::fault_disk`](crate::state::StateBuilder::fault_disk). Clones are the same disk.
#[derive(Clone, Default)]
pub struct FaultDisk(Arc<Mutex<State>>);

#[derive(Clone, Default)]
struct State {
    bytes: Vec<u8>,
    synced: Vec<u8>,
    unsynced: Vec<Arc<Change>>,
    calls: u64,
    syncs: u64,
    reads: u64,
    fail: Option<(u64, Fault)>,
    fail_read: Option<u64>,
    hold: Option<u64>,
    held: Option<Waker>,
    pace: Option<(ManualClock, Duration)>,
    crashed: bool,
    recording: Option<Arc<Recording>>,
}

/// Rule 5.
struct Recording {
    /// The disk as it was when it began.
    start: State,
    calls: Mutex<Vec<Call>>,
}

enum Call {
    Change(Arc<Change>),
    Sync,
    /// A sync that failed and lost what it was to make durable.
    Lost,
    Failed,
}

enum Change {
    SetLen(u64),
    Write(u64, Vec<u8>),
}

/// A change that a power loss would put at risk; see [`FaultDisk::at_risk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AtRisk {
    /// The length of the disk.
    SetLen {
        /// The new one, in bytes.
        len: u64,
    },
    /// A write.
    Write {
        /// Where it begins.
        offset: u64,
        /// How many bytes it has.
        len: usize,
    },
}

impl FaultDisk {
    /// An empty disk that works.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A disk that holds these bytes, all synced.
    #[must_use]
    pub fn with_bytes(bytes: Vec<u8>) -> Self {
        let state = State { synced: bytes.clone(), bytes, ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// What a reader of the disk sees now.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().bytes.clone()
    }

    /// How many writes, syncs and changes of length there were.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.0.lock().calls
    }

    /// Makes one call fail: the next is `calls() + 1`.
    pub fn fail_at(&self, call: u64, fault: Fault) {
        self.0.lock().fail = Some((call, fault));
    }

    /// How many reads, and looks at the length, there were.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.0.lock().reads
    }

    /// Makes one read, or look at the length, report an input/output error: the next is `reads() + 1`.
    pub fn fail_read_at(&self, read: u64) {
        self.0.lock().fail_read = Some(read);
    }

    /// Makes one call wait until [`FaultDisk::let_go`]: the next is `calls() + 1`.
    pub fn hold_at(&self, call: u64) {
        self.0.lock().hold = Some(call);
    }

    /// Whether a call waits at this moment.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.0.lock().held.is_some()
    }

    /// Lets the call go on that waits, or the one that is to wait.
    pub fn let_go(&self) {
        let mut state = self.0.lock();
        state.hold = None;
        let held = state.held.take();
        drop(state);
        held.into_iter().for_each(Waker::wake);
    }

    /// Has every call and every read, failed ones too, take so long on a clock.
    pub fn take_time(&self, hand: &ManualClock, each: Duration) {
        self.0.lock().pace = Some((hand.clone(), each));
    }

    /// Rule 6.
    fn pass(&self) {
        let pace = self.0.lock().pace.clone();
        if let Some((hand, each)) = pace {
            hand.advance(each);
        }
    }

    /// Rule 6.
    fn enter(&self) {
        self.pass();
        let mut state = self.0.lock();
        if state.hold == Some(state.calls + 1) {
            let parker = Parker::new();
            state.hold = None;
            state.held = Some(parker.waker());
            drop(state);
            parker.park();
        }
    }

    /// How many changes a power loss now would put at risk.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.0.lock().unsynced.len()
    }

    /// How many syncs succeeded, those that were left out included.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.0.lock().syncs
    }

    /// The changes that a power loss now would put at risk, in the order in which they were made.
    #[must_use]
    pub fn at_risk(&self) -> Vec<AtRisk> {
        self.0.lock().unsynced.iter().map(|change| change.at_risk()).collect()
    }

    /// Keeps all calls from here on, for [`FaultDisk::rewound`]. They take the memory of what they write.
    pub fn record(&self) {
        let mut state = self.0.lock();
        let start = State {
            recording: None,
            fail: None,
            fail_read: None,
            hold: None,
            held: None,
            pace: None,
            ..state.clone()
        };
        state.recording = Some(Arc::new(Recording { start, calls: Mutex::default() }));
    }

    /// The disk as it was after so many calls, or as it would have been without the syncs for whose number
    /// (counted from 1) `left_out` says so. It works, and is a disk of its own.
    ///
    /// # Panics
    /// Where nothing was recorded, or not from so early on or to so late a call.
    #[must_use]
    pub fn rewound(&self, calls: u64, mut left_out: impl FnMut(u64) -> bool) -> Self {
        let recording = self.0.lock().recording.clone();
        let recording = recording.expect("`FaultDisk::record` was called before");
        let mut state = recording.start.clone();
        let recorded = recording.calls.lock();
        let count = calls.checked_sub(state.calls).and_then(|count| usize::try_from(count).ok());
        let made = count.and_then(|count| recorded.get(..count));
        for call in made.expect("so many calls were recorded") {
            state.calls += 1;
            match call {
                Call::Change(change) => state.change(Arc::clone(change)),
                Call::Sync => {
                    state.syncs += 1;
                    if !left_out(state.syncs) {
                        state.sync();
                    }
                }
                Call::Lost => state.unsynced.clear(),
                Call::Failed => {}
            }
        }
        Self(Arc::new(Mutex::new(state)))
    }

    /// The disk that a machine finds after a power loss now: what was synced, and then these pieces of the later
    /// changes in this order, each the number of a change (of [`FaultDisk::at_risk`], from 0) and which of its
    /// bytes. A change of length took place if its piece is not empty.
    ///
    /// # Panics
    /// Where there is no such change, or no such bytes of it.
    #[must_use]
    pub fn after_power_loss_of(
        &self,
        pieces: impl IntoIterator<Item = (usize, Range<usize>)>,
    ) -> Self {
        self.0.lock().clone().after_power_loss_of(pieces)
    }

    /// The disk that a machine finds after a power loss now: what was synced, and those of the later changes
    /// for which `keep` returns how many of their bytes made it (a change of length counts as one byte).
    ///
    /// Changes are asked for in the order in which they were made; `keep` gets the number and the size.
    #[must_use]
    pub fn after_power_loss(&self, mut keep: impl FnMut(usize, usize) -> usize) -> Self {
        let state = self.0.lock().clone();
        let sizes: Vec<_> = state.unsynced.iter().map(|change| change.size()).collect();
        let each = sizes.into_iter().enumerate();
        state.after_power_loss_of(
            each.map(|(number, size)| (number, 0..keep(number, size).min(size))),
        )
    }
}

impl fmt::Debug for FaultDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock();
        f.debug_struct("FaultDisk")
            .field("len", &state.bytes.len())
            .field("calls", &state.calls)
            .field("unsynced", &state.unsynced.len())
            .field("crashed", &state.crashed)
            .finish_non_exhaustive()
    }
}

fn injected() -> io::Error {
    io::Error::other("injected input/output error")
}

fn put(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let end = offset as usize + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset as usize..end].copy_from_slice(data);
}

impl Change {
    /// In bytes; a change of length counts as one.
    fn size(&self) -> usize {
        if let Self::Write(_, data) = self { data.len() } else { 1 }
    }

    fn make(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::SetLen(len) => bytes.resize(*len as usize, 0),
            Self::Write(offset, data) => put(bytes, *offset, data),
        }
    }

    fn at_risk(&self) -> AtRisk {
        match self {
            Self::SetLen(len) => AtRisk::SetLen { len: *len },
            Self::Write(offset, data) => AtRisk::Write { offset: *offset, len: data.len() },
        }
    }
}

impl State {
    /// Begins a call; `change` is what it is about to do, if it is no sync.
    fn call(&mut self, change: Option<&Change>) -> io::Result<()> {
        self.alive()?;
        self.calls += 1;
        let call = self.calls;
        let Some((_, fault)) = self.fail.take_if(|(at, _)| *at == call) else { return Ok(()) };
        match (fault, change) {
            (
                Fault::IoAfter(bytes @ 1..) | Fault::NoSpaceAfter(bytes @ 1..),
                Some(Change::Write(offset, data)),
            ) => {
                let part = data[..bytes.min(data.len())].to_vec();
                self.make(Change::Write(*offset, part));
            }
            (Fault::LostSync, None) => {
                self.unsynced.clear();
                self.record(Call::Lost);
            }
            _ => self.record(Call::Failed),
        }
        match fault {
            Fault::Io | Fault::IoAfter(_) | Fault::LostSync => Err(injected()),
            Fault::NoSpace | Fault::NoSpaceAfter(_) => Err(io::ErrorKind::StorageFull.into()),
            Fault::Crash => {
                self.crashed = true;
                self.alive()
            }
        }
    }

    fn read(&mut self) -> io::Result<()> {
        self.alive()?;
        self.reads += 1;
        let read = self.reads;
        self.fail_read.take_if(|at| *at == read).map_or(Ok(()), |_| Err(injected()))
    }

    fn make(&mut self, change: Change) {
        let change = Arc::new(change);
        self.record(Call::Change(Arc::clone(&change)));
        self.change(change);
    }

    fn alive(&self) -> io::Result<()> {
        if self.crashed { Err(io::Error::other("injected power loss")) } else { Ok(()) }
    }

    fn change(&mut self, change: Arc<Change>) {
        change.make(&mut self.bytes);
        self.unsynced.push(change);
    }

    fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            change.make(&mut self.synced);
        }
    }

    fn record(&self, call: Call) {
        if let Some(recording) = &self.recording {
            recording.calls.lock().push(call);
        }
    }

    fn after_power_loss_of(
        self,
        pieces: impl IntoIterator<Item = (usize, Range<usize>)>,
    ) -> FaultDisk {
        let mut bytes = self.synced;
        for (number, piece) in pieces.into_iter().filter(|(_, piece)| !piece.is_empty()) {
            match &*self.unsynced[number] {
                Change::SetLen(len) => bytes.resize(*len as usize, 0),
                Change::Write(offset, data) => {
                    put(&mut bytes, *offset + piece.start as u64, &data[piece]);
                }
            }
        }
        FaultDisk::with_bytes(bytes)
    }
}

impl FaultDisk {
    fn apply(&self, change: Change) -> io::Result<()> {
        self.enter();
        let mut state = self.0.lock();
        state.call(Some(&change))?;
        state.make(change);
        Ok(())
    }
}

impl Disk for FaultDisk {
    fn len(&self) -> io::Result<u64> {
        self.pass();
        let mut state = self.0.lock();
        state.read()?;
        Ok(state.bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.pass();
        let mut state = self.0.lock();
        state.read()?;
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let there = from.checked_add(out.len()).and_then(|end| state.bytes.get(from..end));
        out.copy_from_slice(there.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.apply(Change::SetLen(len))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.apply(Change::Write(offset, data.to_vec()))
    }

    fn sync(&self) -> io::Result<()> {
        self.enter();
        let mut state = self.0.lock();
        state.call(None)?;
        state.syncs += 1;
        state.sync();
        state.record(Call::Sync);
        Ok(())
    }

    /// Small, so that tests come between the syncs of small stores.
    fn again_bytes_max(&self) -> u64 {
        16 << 10
    }
}
