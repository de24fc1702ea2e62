//! From stored blocks to the newest state: the checkpoint, then the deltas after it.
//!
//! Rules that hold here:
//!
//! 1. Versions have no gap: a checkpoint is whole, and every group starts right after what lies before it.
//!    Whatever is missing in between is an error, never a state.
//! 2. What the checkpoint covers and what belongs to an unfinished one counts no more: it is only there until
//!    somebody has removed it. Only the last group of it is looked at, which must not go beyond the checkpoint.
//! 3. A block is copied only after it was verified, once; its rows are places in the copy.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::RecoveryReport;
use super::Version;
use super::block::{self, Kind, Reader, corrupt};
use super::codec::Codec;
use super::store::{Leftovers, Load, Progress};
use super::stored::StoredRows;
use super::transaction::{PUT, REMOVE};
use crate::{Error, ErrorKind};

/// Builds the newest state from the blocks of a store.
#[derive(Debug)]
pub(super) struct Recovery {
    codec: Codec,
    version: Version,
    chunks: Option<Chunks>,
    pub(super) collections: HashMap<String, StoredRows>,
    pub(super) report: RecoveryReport,
    pub(super) progress: Progress,
}

#[derive(Debug)]
struct Chunks {
    version: Version,
    next: u64,
    complete: bool,
}

impl Recovery {
    pub(super) fn new(codec: Codec) -> Self {
        Self {
            codec,
            version: Version::ZERO,
            chunks: None,
            collections: HashMap::new(),
            report: RecoveryReport::default(),
            progress: Progress::default(),
        }
    }

    /// Checks that nothing is missing at the end.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        self.end_checkpoint()?;
        self.collections.values_mut().try_for_each(StoredRows::finish)?;
        self.report.version = self.version;
        let sizes = self.collections.iter();
        self.report.collections =
            sizes.map(|(name, rows)| (name.clone(), rows.len() as u64)).collect();
        self.report.collections.sort();
        Ok(())
    }

    fn open<'b>(&mut self, kind: Kind, block: &'b [u8]) -> Result<&'b [u8], Error> {
        let (codec, payload) = block::open(kind, block)?;
        if codec != self.codec {
            return Err(corrupt(format!(
                "a block was written with codec {}, the store with {}",
                codec.name(),
                self.codec.name()
            )));
        }
        self.report.bytes += block.len() as u64;
        Ok(payload)
    }

    fn end_checkpoint(&self) -> Result<(), Error> {
        match &self.chunks {
            Some(Chunks { complete: false, version, next }) => Err(corrupt(format!(
                "the checkpoint of {version} ends after {next} chunks without its last"
            ))),
            _ => Ok(()),
        }
    }

    fn rows(&mut self, name: &str) -> &mut StoredRows {
        if !self.collections.contains_key(name) {
            self.collections.insert(name.to_owned(), StoredRows::default());
        }
        self.collections.get_mut(name).expect("the collection was put there above")
    }

    fn delta(&mut self, block: &Arc<[u8]>, reader: &mut Reader<'_>) -> Result<(), Error> {
        for _ in 0..reader.len()? {
            let name = reader.str()?;
            let writes = reader.len()?;
            let rows = self.rows(name);
            for _ in 0..writes {
                match reader.u8()? {
                    PUT => {
                        let key = range(reader)?;
                        rows.change(block, key, Some(range(reader)?));
                    }
                    REMOVE => rows.change(block, range(reader)?, None),
                    tag => return Err(corrupt(format!("a write has the unknown tag {tag}"))),
                }
            }
        }
        end(reader)
    }
}

impl Load for Recovery {
    fn chunk(&mut self, version: Version, index: u64, block: &[u8]) -> Result<(), Error> {
        let payload: Arc<[u8]> = self.open(Kind::Chunk, block)?.into();
        let mut reader = Reader::new(&payload);
        let said = (reader.version()?, reader.u64()?);
        let last = reader.u8()? != 0;
        let total = reader.u64()?;
        let expected = match &self.chunks {
            None => (version, 0),
            Some(chunks) if !chunks.complete => (chunks.version, chunks.next),
            Some(_) => return Err(corrupt("a checkpoint goes on after its last chunk")),
        };
        if !said.0.is_possible() {
            return Err(corrupt(format!("a checkpoint is of the impossible version {}", said.0)));
        }
        if said != (version, index) || said != expected {
            return Err(corrupt(format!(
                "chunk {} of {} stands where chunk {} of {} belongs",
                said.1, said.0, expected.1, expected.0
            )));
        }
        while !reader.is_empty() {
            let name = reader.str()?;
            let count = reader.len()?;
            self.rows(name).add_section(&payload, &mut reader, count)?;
            self.report.checkpoint_rows += count as u64;
        }
        if self.report.checkpoint_rows != total {
            return Err(corrupt(format!(
                "a checkpoint has {} rows up to here where it says {total}",
                self.report.checkpoint_rows
            )));
        }
        self.progress.checkpoint_bytes += block.len() as u64;
        self.chunks = Some(Chunks { version, next: index + 1, complete: last });
        if last {
            for (name, rows) in &mut self.collections {
                if rows.end_checkpoint()? {
                    return Err(corrupt(format!(
                        "a checkpoint has two rows of one key in {name:?}"
                    )));
                }
            }
            self.version = version;
            self.report.checkpoint = Some(version);
            self.progress.checkpointed = version;
        }
        Ok(())
    }

    fn group(&mut self, first: Version, block: &[u8]) -> Result<(), Error> {
        self.end_checkpoint()?;
        let payload: Arc<[u8]> = self.open(Kind::Group, block)?.into();
        let mut reader = Reader::new(&payload);
        let said = reader.version()?;
        let expected = self.version.next();
        if said != first || said != expected {
            return Err(corrupt(format!(
                "a group that starts at {said} stands where {expected} belongs"
            )));
        }
        if reader.is_empty() {
            return Err(corrupt(format!("the group at {said} is empty")));
        }
        while !reader.is_empty() {
            let mut delta = reader.part()?;
            self.version = self.version.next();
            self.delta(&payload, &mut delta).map_err(|error| {
                let message = format!("the delta of {} is damaged: {error}", self.version);
                Error::with_source(ErrorKind::Corrupt, message, error)
            })?;
            self.report.commits += 1;
            self.progress.delta.commits += 1;
        }
        self.report.groups += 1;
        self.progress.delta.bytes += block.len() as u64;
        Ok(())
    }

    fn covered(&mut self, first: Version, block: &[u8]) -> Result<(), Error> {
        self.end_checkpoint()?;
        let mut reader = Reader::new(self.open(Kind::Group, block)?);
        let said = reader.version()?;
        if said != first {
            return Err(corrupt(format!("a group that starts at {said} stands at {first}")));
        }
        let mut next = first;
        while !reader.is_empty() {
            reader.part()?;
            next = next.next();
        }
        if next > self.version.next() {
            return Err(corrupt(format!(
                "the group at {first} goes beyond the checkpoint of {}",
                self.version
            )));
        }
        Ok(())
    }

    fn leftovers(&mut self, leftovers: Leftovers) {
        self.report.unfinished_checkpoint = leftovers.unfinished;
        self.report.covered_groups = leftovers.covered;
        self.progress.leftovers = leftovers.any;
    }
}

/// Where the bytes lie that the reader has next.
fn range(reader: &mut Reader<'_>) -> Result<Range<usize>, Error> {
    let len = reader.bytes()?.len();
    Ok(reader.at() - len..reader.at())
}

fn end(reader: &Reader<'_>) -> Result<(), Error> {
    if reader.is_empty() { Ok(()) } else { Err(corrupt("bytes are left over at its end")) }
}

#[cfg(all(test, feature = "bincode", not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;
    use crate::state::block::seal;

    const CODEC: Codec = Codec::Bincode;

    fn group(first: u64, deltas: &[&[u8]]) -> Vec<u8> {
        let mut payload = first.to_le_bytes().to_vec();
        for delta in deltas {
            block::put_bytes(&mut payload, delta);
        }
        seal(Kind::Group, CODEC, &payload).expect("it is small")
    }

    fn chunk(version: u64, index: u64, last: bool, total: u64, rows: &[u8]) -> Vec<u8> {
        let mut payload = version.to_le_bytes().to_vec();
        payload.extend_from_slice(&index.to_le_bytes());
        payload.push(u8::from(last));
        payload.extend_from_slice(&total.to_le_bytes());
        payload.extend_from_slice(rows);
        seal(Kind::Chunk, CODEC, &payload).expect("it is small")
    }

    fn v(number: u64) -> Version {
        Version::from_u64(number)
    }

    #[track_caller]
    fn is_corrupt(result: Result<(), Error>) {
        assert_eq!(result.map_err(|error| error.kind()), Err(ErrorKind::Corrupt));
    }

    /// No collections, and one with one row: `a`, key 1, value 2.
    const NOTHING: &[u8] = &[0];
    const ONE_ROW: &[u8] = &[1, b'a', 1, 1, 1, 1, 2];

    fn rows(recovery: &Recovery, name: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut rows = Vec::new();
        let each = recovery.collections[name].each(|key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            Ok(())
        });
        each.expect("they were read before");
        assert_eq!(rows.len(), recovery.collections[name].len());
        rows.sort();
        rows
    }

    #[test]
    fn the_last_write_of_a_key_counts_whatever_the_checkpoint_has() {
        let mut recovery = Recovery::new(CODEC);
        // Keys 1 to 4 in two chunks.
        let first = &[1, b'a', 2, 1, 1, 1, 10, 1, 2, 1, 20];
        let second = &[1, b'a', 2, 1, 3, 1, 30, 1, 4, 1, 40];
        recovery.chunk(v(7), 0, &chunk(7, 0, false, 2, first)).expect("it is the first");
        recovery.chunk(v(7), 1, &chunk(7, 1, true, 4, second)).expect("it is the last");
        // Over a row, away and back, away, and away what was not there; a new one, and one that goes again.
        let deltas: [&[u8]; 3] = [
            &[1, 1, b'a', 3, PUT, 1, 1, 1, 11, REMOVE, 1, 2, REMOVE, 1, 9],
            &[1, 1, b'a', 3, PUT, 1, 2, 1, 22, REMOVE, 1, 3, PUT, 1, 5, 1, 50],
            &[1, 1, b'a', 2, PUT, 1, 6, 1, 60, PUT, 1, 1, 1, 12],
        ];
        recovery.group(v(8), &group(8, &deltas[..2])).expect("it is the next");
        recovery.group(v(10), &group(10, &deltas[2..])).expect("it is the next");
        recovery
            .group(v(11), &group(11, &[&[1, 1, b'a', 1, REMOVE, 1, 6]]))
            .expect("it is the next");
        recovery.finish().expect("nothing is missing");
        let expected = [(1, 12), (2, 22), (4, 40), (5, 50)];
        assert_eq!(rows(&recovery, "a"), expected.map(|(key, value)| (vec![key], vec![value])));
        assert_eq!(recovery.report.collections, [("a".to_owned(), 4)]);
    }

    #[test]
    fn two_rows_of_one_key_in_a_checkpoint_are_never_a_state() {
        for split in [false, true] {
            let mut recovery = Recovery::new(CODEC);
            let end = if split {
                recovery.chunk(v(5), 0, &chunk(5, 0, false, 1, ONE_ROW)).expect("it is the first");
                recovery.chunk(v(5), 1, &chunk(5, 1, true, 2, ONE_ROW))
            } else {
                recovery.chunk(
                    v(5),
                    0,
                    &chunk(5, 0, true, 2, &[1, b'a', 2, 1, 1, 1, 2, 1, 1, 1, 3]),
                )
            };
            is_corrupt(end);
        }
        // The same key in another collection is another row.
        let mut recovery = Recovery::new(CODEC);
        let two = &[1, b'a', 1, 1, 1, 1, 2, 1, b'b', 1, 1, 1, 1, 2];
        recovery.chunk(v(5), 0, &chunk(5, 0, true, 2, two)).expect("they are two rows");
    }

    #[test]
    fn a_gap_between_groups_is_never_a_state() {
        let mut recovery = Recovery::new(CODEC);
        recovery.group(v(1), &group(1, &[NOTHING, NOTHING])).expect("it starts at the start");
        is_corrupt(recovery.group(v(4), &group(4, &[NOTHING])));
        is_corrupt(recovery.group(v(2), &group(2, &[NOTHING])));
        is_corrupt(recovery.group(v(3), &group(4, &[NOTHING])));
        is_corrupt(recovery.group(v(3), &group(3, &[])));
        recovery.group(v(3), &group(3, &[NOTHING])).expect("it is the next");
        recovery.finish().expect("nothing is missing");
        assert_eq!(recovery.report.version, v(3));
    }

    #[test]
    fn a_checkpoint_without_a_chunk_or_with_another_is_never_a_state() {
        let mut recovery = Recovery::new(CODEC);
        is_corrupt(recovery.chunk(v(u64::MAX), 0, &chunk(u64::MAX, 0, true, 1, ONE_ROW)));
        is_corrupt(recovery.chunk(v(5), 1, &chunk(5, 1, true, 1, ONE_ROW)));
        is_corrupt(recovery.chunk(v(5), 0, &chunk(5, 0, true, 2, ONE_ROW)));

        let mut recovery = Recovery::new(CODEC);
        recovery.chunk(v(5), 0, &chunk(5, 0, false, 1, ONE_ROW)).expect("it is the first");
        is_corrupt(recovery.finish());
        is_corrupt(recovery.group(v(6), &group(6, &[NOTHING])));
        is_corrupt(recovery.chunk(v(6), 1, &chunk(6, 1, true, 1, &[])));
        recovery.chunk(v(5), 1, &chunk(5, 1, true, 1, &[])).expect("it is the last");
        is_corrupt(recovery.chunk(v(5), 2, &chunk(5, 2, true, 1, &[])));
        recovery.group(v(6), &group(6, &[NOTHING])).expect("it is the next");
        assert_eq!((recovery.version, recovery.report.checkpoint_rows), (v(6), 1));
    }

    #[test]
    fn a_group_that_the_checkpoint_covers_in_part_is_never_a_state() {
        let checkpointed = || {
            let mut recovery = Recovery::new(CODEC);
            recovery.chunk(v(5), 0, &chunk(5, 0, true, 1, ONE_ROW)).expect("it is whole");
            recovery
        };
        let two: &[&[u8]] = &[NOTHING, NOTHING];
        checkpointed().covered(v(3), &group(3, two)).expect("a later one is gone already");
        let mut recovery = checkpointed();
        recovery.covered(v(4), &group(4, two)).expect("it ends with the checkpoint");
        recovery.finish().expect("nothing is missing");
        assert_eq!((recovery.version, recovery.report.commits), (v(5), 0));
        assert_eq!(rows(&recovery, "a").len(), 1);
        is_corrupt(checkpointed().covered(v(5), &group(5, two)));
        is_corrupt(checkpointed().covered(v(5), &group(4, &[NOTHING])));
        let mut damaged = group(4, two);
        damaged[20] ^= 1;
        is_corrupt(checkpointed().covered(v(4), &damaged));
    }

    #[test]
    fn a_payload_that_does_not_add_up_is_an_error_wherever_it_is_cut() {
        let good: &[u8] = &[1, 1, b'a', 2, PUT, 1, 7, 1, 8, REMOVE, 1, 9];
        let mut recovery = Recovery::new(CODEC);
        recovery.group(v(1), &group(1, &[good])).expect("it is whole");
        recovery.finish().expect("nothing is missing");
        assert_eq!(rows(&recovery, "a"), [(vec![7], vec![8])]);
        for len in 0..good.len() {
            let mut recovery = Recovery::new(CODEC);
            is_corrupt(recovery.group(v(1), &group(1, &[&good[..len]])));
        }
        // Left over, an unknown tag, and lengths beyond all there is.
        is_corrupt(recovery.group(v(2), &group(2, &[&[0, 0]])));
        is_corrupt(Recovery::new(CODEC).group(v(1), &group(1, &[&[1, 1, b'a', 1, 7, 1, 1]])));
        let long = [0xff; 9];
        is_corrupt(Recovery::new(CODEC).group(v(1), &group(1, &[&[&long[..], &[1]].concat()])));
        is_corrupt(Recovery::new(CODEC).group(v(1), &group(1, &[&[&long[..], &[2]].concat()])));
    }

    #[test]
    fn a_block_of_another_kind_or_codec_is_an_error() {
        let mut recovery = Recovery::new(CODEC);
        is_corrupt(recovery.group(v(1), &chunk(1, 0, true, 0, &[])));
        is_corrupt(recovery.chunk(v(1), 0, &group(1, &[NOTHING])));
        #[cfg(feature = "postcard")]
        {
            let other = seal(Kind::Group, Codec::Postcard, &[1, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
            is_corrupt(recovery.group(v(1), &other.expect("it is small")));
        }
    }
}
