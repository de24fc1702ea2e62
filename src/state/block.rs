//! What a stored block looks like, and the bounds on reading one.
//!
//! A block is `magic (4) | format (2) | codec (1) | kind (1) | payload length (4) | payload | blake3 (32)`,
//! all numbers little-endian. Inside a payload lengths are LEB128. Rules that hold here:
//!
//! 1. The first twelve bytes and the checksum at the end keep their places in every format to come, so
//!    that an older build can tell a newer block from a damaged one.
//! 2. The checksum is verified before anything else of a block is believed.
//! 3. A reader never reserves memory for a length that it has not compared with the bytes that are left.

#[cfg(feature = "durable")]
use super::Version;
#[cfg(feature = "durable")]
use super::codec::Codec;
use crate::{Error, ErrorKind};

#[cfg(feature = "durable")]
const MAGIC: [u8; 4] = *b"PHXS";
#[cfg(feature = "durable")]
const HEAD: usize = 12;
#[cfg(feature = "durable")]
const CHECKSUM: usize = 32;

#[cfg(feature = "durable")]
/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The identity of the store.
    Store = 1,
    /// The deltas of one group of commits.
    Group = 2,
    /// A part of a checkpoint.
    Chunk = 3,
}

#[cfg(feature = "durable")]
impl Kind {
    fn of(id: u8) -> Option<Self> {
        [Self::Store, Self::Group, Self::Chunk].into_iter().find(|kind| *kind as u8 == id)
    }

    /// The newest format of such blocks, which this build writes. It reads this one and those before it.
    ///
    /// Beside the chunks of a checkpoint of format 2 there may be groups that it covers, which are skipped. A
    /// build that expects none refuses them by their format, rather than as damage. An identity of format 2 names
    /// the version of the host's schema; where that is zero the format stays 1.
    fn format(self) -> u16 {
        match self {
            Self::Group => 1,
            Self::Store | Self::Chunk => 2,
        }
    }
}

#[cfg(feature = "durable")]
/// Closes a payload into a block of the newest format.
pub(super) fn seal(kind: Kind, codec: Codec, payload: &[u8]) -> Result<Vec<u8>, Error> {
    seal_as(kind, kind.format(), codec, payload)
}

#[cfg(feature = "durable")]
/// Closes a payload into a block.
pub(super) fn seal_as(
    kind: Kind,
    format: u16,
    codec: Codec,
    payload: &[u8],
) -> Result<Vec<u8>, Error> {
    let len = u32::try_from(payload.len()).map_err(|_| {
        Error::new(
            ErrorKind::LimitReached,
            format!("a block of {} bytes cannot be stored; the most is 4 GiB", payload.len()),
        )
    })?;
    let mut block = Vec::with_capacity(HEAD + payload.len() + CHECKSUM);
    block.extend_from_slice(&MAGIC);
    block.extend_from_slice(&format.to_le_bytes());
    block.push(codec.id());
    block.push(kind as u8);
    block.extend_from_slice(&len.to_le_bytes());
    block.extend_from_slice(payload);
    let checksum = blake3::hash(&block);
    block.extend_from_slice(checksum.as_bytes());
    Ok(block)
}

/// Opens a block: its codec and payload.
#[cfg(feature = "durable")]
pub(super) fn open(kind: Kind, block: &[u8]) -> Result<(Codec, &[u8]), Error> {
    let (_, codec, payload) = open_of_format(kind, block)?;
    Ok((codec, payload))
}

/// Opens a block: its format, codec and payload.
#[cfg(feature = "durable")]
pub(super) fn open_of_format(kind: Kind, block: &[u8]) -> Result<(u16, Codec, &[u8]), Error> {
    let Some((body, checksum)) = block.split_last_chunk::<CHECKSUM>() else {
        return Err(corrupt(format!("a block of {} bytes is too short", block.len())));
    };
    // Rule 2 of the file.
    if blake3::hash(body) != *checksum {
        return Err(corrupt("the checksum of a block does not match its bytes"));
    }
    let Some((head, payload)) = body.split_first_chunk::<HEAD>() else {
        return Err(corrupt("a block has no head"));
    };
    let [m0, m1, m2, m3, f0, f1, codec, found, l0, l1, l2, l3] = *head;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(corrupt("a block does not start with the mark of this crate"));
    }
    // What it is comes before whether it belongs there: a newer build may have put something else there.
    let Some(found) = Kind::of(found) else {
        return Err(Error::new(
            ErrorKind::UnsupportedVersion,
            format!("a block of the store is of kind {found}; this build knows kinds 1 to 3"),
        ));
    };
    let format = u16::from_le_bytes([f0, f1]);
    if format == 0 || format > found.format() {
        return Err(Error::new(
            ErrorKind::UnsupportedVersion,
            format!(
                "a {found:?} of the store has format {format}; this build reads formats 1 to {}",
                found.format()
            ),
        ));
    }
    if found != kind {
        return Err(corrupt(format!("a {found:?} stands where a {kind:?} belongs")));
    }
    let codec = Codec::from_id(codec)?;
    if u32::from_le_bytes([l0, l1, l2, l3]) as usize != payload.len() {
        return Err(corrupt("the length of a block does not match its bytes"));
    }
    Ok((format, codec, payload))
}

pub(super) fn corrupt(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

/// Appends a length.
pub(super) fn put_len(out: &mut Vec<u8>, len: usize) {
    let mut rest = len as u64;
    while rest >= 0x80 {
        // The mask keeps seven bits: the cast loses nothing.
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Appends bytes behind their length.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Appends what `write` appends, behind its length; `width` is how many bytes that length is likely to have.
/// Returns how many it has.
pub(super) fn put_written(
    out: &mut Vec<u8>,
    width: usize,
    write: impl FnOnce(&mut Vec<u8>) -> Result<usize, Error>,
) -> Result<usize, Error> {
    let at = out.len();
    out.extend_from_slice(&[0; LEN_WIDTH_MAX][..width]);
    let len = write(out)?;
    let needed = len_width(len);
    if needed != width {
        if needed > width {
            out.extend_from_slice(&[0; LEN_WIDTH_MAX][..needed - width]);
        }
        out.copy_within(at + width..at + width + len, at + needed);
        out.truncate(at + needed + len);
    }
    patch_len(&mut out[at..at + needed], len);
    Ok(needed)
}

/// The most bytes of a length.
pub(super) const LEN_WIDTH_MAX: usize = 10;

/// How many bytes a length has.
pub(super) fn len_width(len: usize) -> usize {
    let bits = usize::BITS - (len | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// Fills `out` with a length that is as wide.
pub(super) fn patch_len(out: &mut [u8], len: usize) {
    let mut rest = len as u64;
    for byte in &mut *out {
        *byte = (rest & 0x7f) as u8 | 0x80;
        rest >>= 7;
    }
    if let Some(last) = out.last_mut() {
        *last &= 0x7f;
    }
}

/// Reads a payload from its front; every step checks what is left (rule 3).
#[derive(Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    /// How many bytes of the whole payload lie in front of the rest.
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload, at: 0 }
    }

    /// How many bytes of the payload lie in front of what comes next, also for a reader of a part of it.
    #[cfg_attr(not(feature = "durable"), expect(dead_code, reason = "only a store recovers rows"))]
    pub(super) fn at(&self) -> usize {
        self.at
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&'a [u8], Error> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or_else(short)?;
        self.rest = rest;
        self.at += len;
        Ok(bytes)
    }

    /// A reader of what [`Self::bytes`] would return.
    #[cfg_attr(not(feature = "durable"), expect(dead_code, reason = "only a store recovers rows"))]
    pub(super) fn part(&mut self) -> Result<Self, Error> {
        let rest = self.bytes()?;
        Ok(Self { rest, at: self.at - rest.len() })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn u8(&mut self) -> Result<u8, Error> {
        let (&first, rest) = self.rest.split_first().ok_or_else(short)?;
        self.rest = rest;
        self.at += 1;
        Ok(first)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Error> {
        let bytes = self.take(4)?.first_chunk().ok_or_else(short)?;
        Ok(u32::from_le_bytes(*bytes))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Error> {
        let (bytes, rest) = self.rest.split_first_chunk::<8>().ok_or_else(short)?;
        self.rest = rest;
        self.at += 8;
        Ok(u64::from_le_bytes(*bytes))
    }

    #[cfg(feature = "durable")]
    pub(super) fn version(&mut self) -> Result<Version, Error> {
        self.u64().map(Version::from_u64)
    }

    pub(super) fn len(&mut self) -> Result<usize, Error> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit only.
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return usize::try_from(value).map_err(|_| corrupt("a length is out of range"));
            }
        }
        Err(corrupt("a length is out of range"))
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Error> {
        let len = self.len()?;
        self.take(len)
    }

    pub(super) fn str(&mut self) -> Result<&'a str, Error> {
        std::str::from_utf8(self.bytes()?).map_err(|_| corrupt("a name is not UTF-8"))
    }
}

fn short() -> Error {
    corrupt("a block ends before what it announces")
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_as_wide_as_it_is_said_to_be_however_long() {
        let powers = (0..usize::BITS).map(|bits| 1_usize << bits);
        let around = powers.flat_map(|power| [power - 1, power, power + 1]);
        for len in around.chain([usize::MAX - 1, usize::MAX]) {
            let mut put = Vec::new();
            put_len(&mut put, len);
            assert_eq!(len_width(len), put.len(), "of {len}");
            let mut patched = vec![0xaa; put.len()];
            patch_len(&mut patched, len);
            assert_eq!(patched, put, "of {len}");
            let mut reader = Reader::new(&put);
            assert_eq!(reader.len().expect("it is one"), len);
            assert!(reader.is_empty());
        }
        assert_eq!([(1 << 28) - 1, 1 << 28].map(len_width), [4, 5]);
        #[cfg(target_pointer_width = "64")]
        assert_eq!([(1 << 35) - 1, 1 << 35, usize::MAX].map(len_width), [5, 6, LEN_WIDTH_MAX]);
    }

    #[test]
    fn a_length_that_is_filled_in_afterwards_is_as_one_that_was_known() {
        for len in [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152] {
            let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            let mut known = vec![9];
            put_bytes(&mut known, &bytes);
            for guess in 1..=LEN_WIDTH_MAX {
                let mut out = vec![9];
                let write = |out: &mut Vec<u8>| {
                    out.extend_from_slice(&bytes);
                    Ok(bytes.len())
                };
                let width = put_written(&mut out, guess, write).expect("it writes");
                assert!(out == known, "{len} bytes, a length of {guess} bytes guessed");
                assert_eq!(width, known.len() - 1 - len);
            }
        }
    }

    /// A block with this format and kind in its head.
    #[cfg(feature = "durable")]
    fn block(format: u16, kind: u8) -> Vec<u8> {
        let codec = Codec::preferred().expect("this build has one");
        let mut block = seal(Kind::Store, codec, b"what").expect("it is small");
        block.truncate(block.len() - CHECKSUM);
        block[4..6].copy_from_slice(&format.to_le_bytes());
        block[7] = kind;
        let checksum = blake3::hash(&block);
        block.extend_from_slice(checksum.as_bytes());
        block
    }

    #[cfg(feature = "durable")]
    #[test]
    fn what_a_newer_build_wrote_is_told_from_damage_wherever_it_stands() {
        let opened = |expected, format, kind| {
            open(expected, &block(format, kind)).map(|_| ()).map_err(|error| error.kind())
        };
        let (newer, damage) = (Err(ErrorKind::UnsupportedVersion), Err(ErrorKind::Corrupt));
        for expected in [Kind::Store, Kind::Group, Kind::Chunk] {
            for found in [Kind::Store, Kind::Group, Kind::Chunk] {
                let newest = found.format();
                for format in 1..=newest {
                    let read = if found == expected { Ok(()) } else { damage };
                    assert_eq!(opened(expected, format, found as u8), read);
                }
                assert_eq!(opened(expected, newest + 1, found as u8), newer);
                assert_eq!(opened(expected, 0, found as u8), newer);
            }
            for kind in [0, 4, u8::MAX] {
                assert_eq!(opened(expected, 1, kind), newer);
            }
        }
        let error = open(Kind::Group, &block(2, Kind::Group as u8)).expect_err("it is newer");
        assert!(error.to_string().contains("a Group of the store has format 2"), "{error}");
    }
}
