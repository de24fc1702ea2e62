//! An export of any bytes. The input is one byte of flags and an export, by default without its checksums.

use phalanx::ErrorKind;
use phalanx::state::{Compression, ExportHeader, Import, StateManager};

use super::rows::Stored;

/// The checksums are in the input.
pub(crate) const RAW: u8 = 1;
/// What the end says of all blocks is in the input, not counted.
pub(crate) const RAW_TOTALS: u8 = 2;
/// The most that an import may come to here.
const MAX_BYTES: u64 = 1 << 20;
const HEAD: usize = 16;

/// Panics where a decoder does what it must not; whether the export was read.
pub(crate) fn check(input: &[u8]) -> bool {
    let Some((flags, body)) = input.split_first() else { return false };
    let bytes =
        if flags & RAW != 0 { body.to_vec() } else { mended(body, flags & RAW_TOTALS == 0) };
    let header = ExportHeader::read(&bytes[..]);
    let import = match Import::options().max_bytes(MAX_BYTES).read(&bytes[..]) {
        Ok(import) => import,
        Err(error) => {
            expected(error.kind());
            return false;
        }
    };
    assert_eq!(Some(import.header()), header.as_ref().ok(), "the header is read alike by itself");
    let rows = import.header().rows();
    assert!(rows * 64 <= MAX_BYTES, "{rows} rows were read");
    let builder = StateManager::builder().schema_version(import.header().schema_version());
    let state = builder.in_memory().import(import).open();
    let state = state.expect("an export that was read makes a state");
    assert_eq!(state.snapshot().total_len() as u64, rows);
    let typed = [
        state.collection::<u64, Stored>("agents").map(|agents| agents.len()),
        state.collection::<String, u64>("leaders").map(|leaders| leaders.len()),
    ];
    for found in typed.into_iter().filter_map(Result::err) {
        expected(found.kind());
    }
    let mut again = Vec::new();
    let written = state.snapshot().export_to(&mut again, Compression::None);
    written.expect("what was read can be written");
    let again = Import::read(&again[..]).expect("what was written can be read");
    assert_eq!(again.header().rows(), rows);
    true
}

/// What bytes may be refused with.
pub(crate) fn expected(kind: ErrorKind) {
    let kinds = [
        ErrorKind::Corrupt,
        ErrorKind::UnsupportedVersion,
        ErrorKind::LimitReached,
        ErrorKind::Codec,
    ];
    assert!(kinds.contains(&kind), "refused with {kind:?}");
}

/// Puts the checksums in, and lengths right that go beyond the end.
fn mended(body: &[u8], totals: bool) -> Vec<u8> {
    let (mut bytes, mut sums) = (Vec::new(), Vec::new());
    let mut frame = |bytes: &mut Vec<u8>, frame: &[u8]| {
        let sum = blake3::hash(frame);
        sums.extend_from_slice(sum.as_bytes());
        bytes.extend_from_slice(frame);
        bytes.extend_from_slice(sum.as_bytes());
        blake3::hash(&sums)
    };
    let Some((head, mut rest)) = body.split_first_chunk::<HEAD>() else { return body.to_vec() };
    let payload = take(&mut rest, number(&head[12..]));
    let mut header = head[..12].to_vec();
    header.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    header.extend_from_slice(payload);
    let mut all = frame(&mut bytes, &header);
    let (mut blocks, mut raw_bytes) = (0u64, 0u64);
    while let Some((mark, after)) = rest.split_first() {
        rest = after;
        let lengths = take(&mut rest, 8);
        if *mark != b'R' || lengths.len() < 8 {
            let mut end = vec![*mark];
            end.extend_from_slice(lengths);
            end.extend_from_slice(take(&mut rest, 24 - lengths.len()));
            if totals && end.len() == 25 {
                // A schema version stands before the collections in all formats but the first.
                let before = if head[8..10] == [1, 0] { 8 } else { 12 };
                let rows = announced(payload.get(before..).unwrap_or_default());
                let found = [blocks, rows, raw_bytes].map(u64::to_le_bytes);
                end.truncate(1);
                end.extend_from_slice(found.as_flattened());
            }
            end.extend_from_slice(all.as_bytes());
            frame(&mut bytes, &end);
            bytes.extend_from_slice(rest);
            break;
        }
        let stored = take(&mut rest, number(&lengths[4..]));
        // Not packed before stays so.
        let same = lengths[..4] == lengths[4..];
        let raw = if same { stored.len() } else { number(lengths) };
        let mut block = vec![b'R'];
        block.extend_from_slice(&(raw as u32).to_le_bytes());
        block.extend_from_slice(&(stored.len() as u32).to_le_bytes());
        block.extend_from_slice(stored);
        all = frame(&mut bytes, &block);
        blocks += 1;
        raw_bytes += raw as u64;
    }
    bytes
}

fn number(bytes: &[u8]) -> usize {
    bytes.first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize)
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (taken, left) = rest.split_at(len.min(rest.len()));
    *rest = left;
    taken
}

/// How many rows a header announces, as far as it can be read.
fn announced(mut rest: &[u8]) -> u64 {
    let Some(collections) = length(&mut rest) else { return 0 };
    let mut rows = 0u64;
    for _ in 0..collections.min(4096) {
        let Some(name) = length(&mut rest) else { break };
        take(&mut rest, name as usize);
        rows = rows.wrapping_add(length(&mut rest).unwrap_or(0));
    }
    rows
}

fn length(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let byte = *take(rest, 1).first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
