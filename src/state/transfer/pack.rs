//! How blocks of an export are compressed.
//!
//! Rules that hold here:
//!
//! 1. The identity of a compression is one byte that never changes its meaning.
//! 2. Unpacking is told how many bytes come out and makes no more than that, whatever the packed bytes say. What it
//!    keeps beside them is bounded as well.

use crate::{Error, ErrorKind};

#[cfg(feature = "zstd")]
const ZSTD_LEVEL: i32 = 3;
/// How much of what was unpacked a block may refer back to, as a power of two: what that level does at most.
#[cfg(feature = "zstd")]
const ZSTD_WINDOW_LOG_MAX: u32 = 21;

/// How the rows of an export are compressed; all but the first are features of the crate.
///
/// Rows of an agent's kind (names, labels, numbers) shrink to some 35 % with lz4 and some 21 % with zstd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// As they are.
    #[default]
    None,
    /// LZ4 blocks, by a library that is safe Rust throughout.
    #[cfg(feature = "lz4")]
    Lz4,
    /// Zstandard at its default level, by the reference library, which needs a C compiler to build.
    #[cfg(feature = "zstd")]
    Zstd,
}

impl Compression {
    /// Its name, as headers and errors show it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            #[cfg(feature = "lz4")]
            Self::Lz4 => "lz4",
            #[cfg(feature = "zstd")]
            Self::Zstd => "zstd",
        }
    }

    /// See rule 1 of the file.
    pub(super) const fn id(self) -> u8 {
        match self {
            Self::None => 0,
            #[cfg(feature = "lz4")]
            Self::Lz4 => 1,
            #[cfg(feature = "zstd")]
            Self::Zstd => 2,
        }
    }

    pub(super) fn from_id(id: u8) -> Result<Self, Error> {
        let name = match id {
            0 => return Ok(Self::None),
            #[cfg(feature = "lz4")]
            1 => return Ok(Self::Lz4),
            #[cfg(feature = "zstd")]
            2 => return Ok(Self::Zstd),
            #[cfg(not(feature = "lz4"))]
            1 => "lz4, which this build lacks (enable the feature `lz4`)".to_owned(),
            #[cfg(not(feature = "zstd"))]
            2 => "zstd, which this build lacks (enable the feature `zstd`)".to_owned(),
            other => format!("compression number {other}, which this build does not know"),
        };
        Err(Error::new(
            ErrorKind::UnsupportedVersion,
            format!("the export was compressed with {name}"),
        ))
    }

    /// The name of any identity, those that this build lacks included.
    pub(super) fn name_of(id: u8) -> String {
        match id {
            0 => "none".to_owned(),
            1 => "lz4".to_owned(),
            2 => "zstd".to_owned(),
            other => format!("number {other}"),
        }
    }

    /// The packed form of `raw`, or none where this compresses nothing.
    pub(super) fn pack(self, raw: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match self {
            Self::None => {
                let _ = raw;
                Ok(None)
            }
            #[cfg(feature = "lz4")]
            Self::Lz4 => Ok(Some(lz4_flex::block::compress(raw))),
            #[cfg(feature = "zstd")]
            Self::Zstd => zstd::bulk::compress(raw, ZSTD_LEVEL).map(Some).map_err(|error| {
                Error::with_source(ErrorKind::Internal, "zstd could not compress a block", error)
            }),
        }
    }

    /// Fills `out` with what `packed` holds, exactly (rule 2).
    #[cfg_attr(
        not(any(feature = "lz4", feature = "zstd")),
        expect(
            unused_variables,
            clippy::ptr_arg,
            reason = "without a compression nothing is packed"
        )
    )]
    pub(super) fn unpack(self, packed: &[u8], out: &mut Vec<u8>, len: usize) -> Result<(), Error> {
        #[cfg(any(feature = "lz4", feature = "zstd"))]
        let damaged = |error: &dyn std::fmt::Display| {
            let name = self.name();
            Error::new(ErrorKind::Corrupt, format!("{name} could not unpack a block: {error}"))
        };
        #[cfg(any(feature = "lz4", feature = "zstd"))]
        let checked = |unpacked: usize| {
            if unpacked == len {
                return Ok(());
            }
            Err(damaged(&format_args!("it holds {unpacked} bytes and announces {len}")))
        };
        match self {
            Self::None => Err(Error::new(
                ErrorKind::Corrupt,
                "a block of an export is packed, and its header names no compression",
            )),
            #[cfg(feature = "lz4")]
            Self::Lz4 => {
                // No byte of this format stands for more: what announces more need not be made room for.
                const RATIO_MAX: usize = 255;
                if len / RATIO_MAX > packed.len() {
                    return Err(damaged(&"it announces more than so few bytes can hold"));
                }
                out.clear();
                out.resize(len, 0);
                let unpacked = lz4_flex::block::decompress_into(packed, out);
                checked(unpacked.map_err(|error| damaged(&error))?)
            }
            #[cfg(feature = "zstd")]
            Self::Zstd => {
                use std::io::Read;
                out.clear();
                let decoder = zstd::stream::read::Decoder::with_buffer(packed);
                let bounded = decoder.and_then(|mut decoder| {
                    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                    Ok(decoder)
                });
                // One byte more than there may be, to see it.
                let unpacked =
                    bounded.and_then(|decoder| decoder.take(len as u64 + 1).read_to_end(out));
                checked(unpacked.map_err(|error| damaged(&error))?)
            }
        }
    }
}

#[cfg(all(test, any(feature = "lz4", feature = "zstd"), not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;

    fn all() -> Vec<Compression> {
        vec![
            #[cfg(feature = "lz4")]
            Compression::Lz4,
            #[cfg(feature = "zstd")]
            Compression::Zstd,
        ]
    }

    #[test]
    fn what_was_packed_comes_out_and_never_more_than_was_announced() {
        for compression in all() {
            for len in [0, 1, 100, 1 << 20] {
                let raw: Vec<u8> = (0..len).map(|at| (at / 1000) as u8).collect();
                let packed = compression.pack(&raw).expect("it is in order").expect("it packs");
                let mut out = Vec::new();
                compression.unpack(&packed, &mut out, len).expect("it was packed");
                assert!(out == raw);
                for wrong in [len.wrapping_sub(1), len + 1, len / 2] {
                    if wrong < 1 << 40 && wrong != len {
                        let mut out = Vec::new();
                        compression
                            .unpack(&packed, &mut out, wrong)
                            .expect_err("it has another length");
                        assert!(
                            out.capacity() <= (wrong + 1).max(1 << 17) * 2,
                            "{}",
                            out.capacity()
                        );
                    }
                }
            }
        }
    }

    /// As long as several windows, with what repeats within one and what does not.
    #[test]
    fn what_is_longer_than_a_window_comes_out() {
        let mut word = 7u64;
        let mut raw = Vec::new();
        while raw.len() < 9 << 20 {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let far = (word >> 33) as usize % (4 << 20);
            match raw.len().checked_sub(far) {
                Some(from) if word & (1 << 60) != 0 => raw.extend_from_within(from..from + far / 9),
                _ => raw.extend((0..5000).map(|at| ((word >> (at % 50)) + at) as u8)),
            }
        }
        for compression in all() {
            let packed = compression.pack(&raw).expect("it is in order").expect("it packs");
            assert!(packed.len() < raw.len());
            let mut out = Vec::new();
            compression.unpack(&packed, &mut out, raw.len()).expect("it was packed");
            assert!(out == raw, "{}", compression.name());
        }
    }

    #[cfg(feature = "zstd")]
    #[test]
    fn packed_bytes_that_ask_for_a_larger_window_than_any_that_is_written_are_refused() {
        let frame = |window_log: u8| {
            let mut frame = b"\x28\xb5\x2f\xfd\0".to_vec();
            frame.push((window_log - 10) << 3);
            // The last block, a raw one.
            frame.extend_from_slice(&(100_u32 << 3 | 1).to_le_bytes()[..3]);
            frame.extend_from_slice(&[7; 100]);
            frame
        };
        let unpack = |window_log| {
            let mut out = Vec::new();
            Compression::Zstd.unpack(&frame(window_log), &mut out, 100).map(|()| out)
        };
        assert_eq!(unpack(ZSTD_WINDOW_LOG_MAX as u8).expect("it is in order"), [7; 100]);
        let error = unpack(ZSTD_WINDOW_LOG_MAX as u8 + 1).expect_err("it asks for too much");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn packed_garbage_is_an_error() {
        let mut word = 7u64;
        for round in 0..2000 {
            let garbage: Vec<u8> = (0..round % 90)
                .map(|_| {
                    word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (word >> 33) as u8
                })
                .collect();
            for compression in all() {
                let mut out = Vec::new();
                let _ = compression.unpack(&garbage, &mut out, 4096);
                assert!(out.capacity() <= 1 << 18);
            }
        }
    }
}
