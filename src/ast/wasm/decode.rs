//! What a guest hands over, turned into values of the host.
//!
//! Rules that hold here:
//!
//! 1. No number of the guest is believed: a length or a place is compared with the size of the memory and
//!    with the caller's limit before anything of that size is allocated or read.
//! 2. What does not check is [`GuestMisbehaved`](AstErrorKind::GuestMisbehaved), and names what it was.

use wasmer::MemoryView;

use crate::ast::error::{AstError, AstErrorKind};
use crate::ast::grammar::KindInfo;
use crate::ast::record::NodeRecord;

/// The bytes of one record in the memory of the guest.
const RECORD_BYTES: usize = 20;
/// How many records are copied at a time.
const RECORDS_A_COPY: usize = 2048;
/// The most bytes that the tables of a grammar may take.
const MAX_TABLE_BYTES: u32 = 1 << 20;

pub(super) fn misbehaved(what: impl std::fmt::Display) -> AstError {
    AstError::new(AstErrorKind::GuestMisbehaved, format!("the guest {what}"))
}

/// Checks that `len` bytes at `at` lie inside the memory.
fn check_range(view: &MemoryView<'_>, at: u32, len: u32) -> Result<(), AstError> {
    let size = view.data_size();
    if u64::from(at) + u64::from(len) > size {
        return Err(misbehaved(format_args!(
            "named {len} bytes at {at}, outside its memory of {size} bytes"
        )));
    }
    Ok(())
}

fn copy(view: &MemoryView<'_>, at: u64, bytes: &mut [u8]) -> Result<(), AstError> {
    view.read(at, bytes).map_err(|error| misbehaved(format_args!("named a bad place: {error}")))
}

/// Reads a tree of at most `max_nodes` records.
pub(super) fn records(
    view: &MemoryView<'_>,
    at: u32,
    len: u32,
    max_nodes: u32,
) -> Result<Vec<NodeRecord>, AstError> {
    check_range(view, at, len)?;
    let len = len as usize;
    if !len.is_multiple_of(RECORD_BYTES) {
        return Err(misbehaved(format_args!("wrote a tree of {len} bytes, not whole records")));
    }
    let count = len / RECORD_BYTES;
    if count > max_nodes as usize {
        return Err(misbehaved(format_args!(
            "wrote {count} nodes though {max_nodes} were allowed"
        )));
    }
    // Bounded: the bytes of the guest lie inside its memory, and these are no larger.
    let mut records = Vec::with_capacity(count);
    let mut chunk = [0_u8; RECORD_BYTES * RECORDS_A_COPY];
    let mut done = 0;
    while done < len {
        let bytes = &mut chunk[..(len - done).min(RECORD_BYTES * RECORDS_A_COPY)];
        copy(view, u64::from(at) + done as u64, bytes)?;
        done += bytes.len();
        let (whole, _) = bytes.as_chunks::<RECORD_BYTES>();
        for bytes in whole {
            records.push(record(bytes)?);
        }
    }
    Ok(records)
}

fn record(bytes: &[u8; RECORD_BYTES]) -> Result<NodeRecord, AstError> {
    let [k0, k1, f0, f1, g0, g1, g2, g3, s0, s1, s2, s3, e0, e1, e2, e3, d0, d1, d2, d3] = *bytes;
    let flags = u32::from_le_bytes([g0, g1, g2, g3]);
    let flags = u8::try_from(flags)
        .map_err(|_| misbehaved(format_args!("wrote a node with unknown flags {flags:#x}")))?;
    Ok(NodeRecord {
        start: u32::from_le_bytes([s0, s1, s2, s3]),
        end: u32::from_le_bytes([e0, e1, e2, e3]),
        descendants: u32::from_le_bytes([d0, d1, d2, d3]),
        kind: u16::from_le_bytes([k0, k1]),
        field: u16::from_le_bytes([f0, f1]),
        flags,
    })
}

/// Reads the names of a grammar: its kinds and its fields.
pub(super) fn tables(
    view: &MemoryView<'_>,
    at: u32,
    len: u32,
) -> Result<(Vec<KindInfo>, Vec<String>), AstError> {
    if len > MAX_TABLE_BYTES {
        return Err(misbehaved(format_args!("wrote {len} bytes of names, over {MAX_TABLE_BYTES}")));
    }
    check_range(view, at, len)?;
    let mut bytes = vec![0; len as usize];
    copy(view, u64::from(at), &mut bytes)?;

    let mut rest = bytes.as_slice();
    let kinds = take_u32(&mut rest)?;
    let fields = take_u32(&mut rest)?;
    // Counts are not trusted with an allocation: each name has to be there first.
    let mut kind_names = Vec::new();
    for _ in 0..kinds {
        let (class, name) = take_name(&mut rest)?;
        kind_names.push(match class {
            REGULAR | SUPERTYPE => KindInfo::named(name),
            ANONYMOUS | AUXILIARY => KindInfo::anonymous(name),
            _ => return Err(misbehaved(format_args!("named a kind of unknown class {class}"))),
        });
    }
    let mut field_names = Vec::new();
    for _ in 0..fields {
        field_names.push(take_name(&mut rest)?.1);
    }
    if !rest.is_empty() {
        return Err(misbehaved(format_args!("wrote {} bytes after its names", rest.len())));
    }
    Ok((kind_names, field_names))
}

// How tree-sitter classes the symbols of a grammar.
const REGULAR: u8 = 0;
const ANONYMOUS: u8 = 1;
const SUPERTYPE: u8 = 2;
const AUXILIARY: u8 = 3;

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], AstError> {
    rest.split_off(..len).ok_or_else(|| misbehaved("wrote names that end too early"))
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, AstError> {
    let bytes = take(rest, 4)?;
    Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

fn take_name(rest: &mut &[u8]) -> Result<(u8, String), AstError> {
    let head = take(rest, 3)?;
    let (class, len) = (head[0], u16::from_le_bytes([head[1], head[2]]));
    let name = take(rest, usize::from(len))?;
    let name = str::from_utf8(name).map_err(|_| misbehaved("wrote a name that is not UTF-8"))?;
    Ok((class, name.to_owned()))
}
