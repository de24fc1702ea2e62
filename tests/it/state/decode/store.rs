//! A store of any blocks: the engine's file is sound, what lies in it is not.
//!
//! The input is a row of entries: `what | key | index | length (2) | bytes`. The bytes are the payload of a block, to
//! which its head and checksum are added, unless `what` says that the head or all of it is in the input.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use phalanx::ErrorKind;
use phalanx::state::{FaultDisk, StateManager};
use redb::{Database, StorageBackend, TableDefinition};

use super::export::expected;
use super::rows::Stored;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const DELTAS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("deltas");
const CHECKPOINT: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("checkpoint");

/// In `what`: the identity; a group; a chunk.
pub(crate) const IDENTITY: u8 = 0;
pub(crate) const GROUP: u8 = 1;
pub(crate) const CHUNK: u8 = 2;
/// The head is in the input; its checksum too; another codec than the store's.
pub(crate) const RAW_HEAD: u8 = 4;
const RAW: u8 = 8;
const POSTCARD: u8 = 16;

/// A file of the engine in memory.
#[derive(Clone, Debug, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().expect("nobody panics while it is held")
    }
}

impl StorageBackend for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let from = offset as usize;
        let bytes = self.bytes();
        let there = bytes.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(there);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes().resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let from = offset as usize;
        self.bytes()[from..from + data.len()].copy_from_slice(data);
        Ok(())
    }
}

/// Panics where a decoder does what it must not; whether the store was opened.
pub(crate) fn check(input: &[u8]) -> bool {
    let disk = FaultDisk::with_bytes(built(input).expect("the engine takes any blocks"));
    let open = || StateManager::builder().fault_disk(&disk).open();
    let state = match open() {
        Ok(state) => state,
        Err(error) => {
            // The engine's file is sound, so a panic was one of the decoders.
            assert!(!error.to_string().contains("panicked"), "{error}");
            assert_ne!(error.kind(), ErrorKind::LimitReached, "{error}");
            expected(error.kind());
            assert_eq!(disk.calls(), 0, "a refused open changed the disk: {error}");
            return false;
        }
    };
    let (version, sizes) = (state.version(), state.recovery().collections);
    let rows: u64 = sizes.iter().map(|(_, rows)| rows).sum();
    assert_eq!(state.snapshot().total_len() as u64, rows);
    let typed = [
        state.collection::<u64, Stored>("agents").map(|agents| agents.len()),
        state.collection::<String, u64>("leaders").map(|leaders| leaders.len()),
    ];
    for found in typed.into_iter().filter_map(Result::err) {
        expected(found.kind());
    }
    state.checkpoint().expect("what was recovered can be written");
    state.close().expect("the disk works");
    let again = open().expect("what was written can be recovered");
    assert_eq!(again.version(), version);
    let sizes = |sizes: &[(String, u64)]| -> Vec<(String, u64)> {
        sizes.iter().filter(|(_, rows)| *rows > 0).cloned().collect()
    };
    assert_eq!(sizes(&again.recovery().collections), sizes(&state.recovery().collections));
    true
}

/// The file of the engine that holds these entries.
pub(crate) fn built(mut input: &[u8]) -> Result<Vec<u8>, redb::Error> {
    let memory = Memory::default();
    let db = Database::builder().create_with_backend(memory.clone())?;
    let tx = db.begin_write()?;
    {
        let mut meta = tx.open_table(META)?;
        let mut deltas = tx.open_table(DELTAS)?;
        let mut chunks = tx.open_table(CHECKPOINT)?;
        meta.insert("identity", &block(IDENTITY, b"bincode")[..])?;
        while let [what, key, index, l0, l1, rest @ ..] = input {
            let len = usize::from(u16::from_le_bytes([*l0, *l1])).min(rest.len());
            let (bytes, after) = rest.split_at(len);
            input = after;
            let block = block(*what, bytes);
            match what & 3 {
                IDENTITY => drop(meta.insert("identity", &block[..])?),
                GROUP => drop(deltas.insert(u64::from(*key), &block[..])?),
                _ => drop(chunks.insert((u64::from(*key), u64::from(*index)), &block[..])?),
            }
        }
    }
    tx.commit()?;
    drop(db);
    let bytes = memory.bytes().clone();
    Ok(bytes)
}

fn block(what: u8, bytes: &[u8]) -> Vec<u8> {
    if what & RAW != 0 {
        return bytes.to_vec();
    }
    let mut block = Vec::new();
    if what & RAW_HEAD == 0 {
        let kind = (what & 3).min(CHUNK) + 1;
        block.extend_from_slice(b"PHXS");
        block.extend_from_slice(&[1, 0, if what & POSTCARD == 0 { 1 } else { 2 }, kind]);
        block.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    }
    block.extend_from_slice(bytes);
    let sum = blake3::hash(&block);
    block.extend_from_slice(sum.as_bytes());
    block
}
