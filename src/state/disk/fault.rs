//! A disk in memory that fails when told to.
//!
//! Rules that hold here:
//!
//! 1. Every write, sync and change of length is one call, counted from 1.
//! 2. A crash ends the disk: every later call fails, and what the machine finds afterwards is what had been
//!    synced, plus those of the later writes that the test lets survive.
//! 3. A failed write may have left any part of itself behind; this one leaves nothing. A failed sync makes
//!    nothing durable, and what was written stays readable, as a page cache does it.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::Disk;
use crate::sync::Mutex;

/// How a call of a [`FaultDisk`] fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The call reports an input/output error; later ones work.
    Io,
    /// The call reports that the device is full; later ones work.
    NoSpace,
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
    unsynced: Vec<Change>,
    calls: u64,
    fail: Option<(u64, Fault)>,
    crashed: bool,
}

#[derive(Clone)]
enum Change {
    SetLen(u64),
    Write(u64, Vec<u8>),
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

    /// How many changes a power loss now would put at risk.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.0.lock().unsynced.len()
    }

    /// The disk that a machine finds after a power loss now: what was synced, and those of the later changes
    /// for which `keep` returns how many of their bytes made it (a change of length counts as one byte).
    ///
    /// Changes are asked for in the order in which they were made; `keep` gets the number and the size.
    #[must_use]
    pub fn after_power_loss(&self, mut keep: impl FnMut(usize, usize) -> usize) -> Self {
        let state = self.0.lock().clone();
        let mut bytes = state.synced;
        for (index, change) in state.unsynced.iter().enumerate() {
            match change {
                Change::SetLen(len) => {
                    if keep(index, 1) > 0 {
                        bytes.resize(*len as usize, 0);
                    }
                }
                Change::Write(offset, data) => {
                    let kept = keep(index, data.len()).min(data.len());
                    if kept > 0 {
                        put(&mut bytes, *offset, &data[..kept]);
                    }
                }
            }
        }
        Self::with_bytes(bytes)
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

fn put(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let end = offset as usize + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset as usize..end].copy_from_slice(data);
}

impl State {
    fn call(&mut self) -> io::Result<()> {
        self.alive()?;
        self.calls += 1;
        match self.fail {
            Some((call, fault)) if call == self.calls => {
                self.fail = None;
                match fault {
                    Fault::Io => Err(io::Error::other("injected input/output error")),
                    Fault::NoSpace => Err(io::ErrorKind::StorageFull.into()),
                    Fault::Crash => {
                        self.crashed = true;
                        self.alive()
                    }
                }
            }
            _ => Ok(()),
        }
    }

    fn alive(&self) -> io::Result<()> {
        if self.crashed { Err(io::Error::other("injected power loss")) } else { Ok(()) }
    }
}

impl Disk for FaultDisk {
    fn len(&self) -> io::Result<u64> {
        let state = self.0.lock();
        state.alive()?;
        Ok(state.bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.lock();
        state.alive()?;
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let there = from.checked_add(out.len()).and_then(|end| state.bytes.get(from..end));
        out.copy_from_slice(there.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.0.lock();
        state.call()?;
        state.bytes.resize(len as usize, 0);
        state.unsynced.push(Change::SetLen(len));
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.0.lock();
        state.call()?;
        put(&mut state.bytes, offset, data);
        state.unsynced.push(Change::Write(offset, data.to_vec()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        state.call()?;
        state.synced = state.bytes.clone();
        state.unsynced.clear();
        Ok(())
    }
}
