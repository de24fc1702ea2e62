//! Writing new parts of a disk ahead with zeros.
//!
//! A sync of bytes that the file system has no place for yet has to write down where it put them as well,
//! which takes as long as the bytes themselves and more. Rules that hold here:
//!
//! 1. The first write to a block of [`BLOCK_BYTES`] that came to the disk since it was opened writes the rest of
//!    the block, with zeros, before it. So only the sync after that one has places to write down.
//! 2. Zeros are written only where nothing was since the disk grew, which reads as zeros already, not where the
//!    write itself goes, and not beyond the end. What was there when the disk was opened is written by nobody but
//!    the engine. So no crash in between leaves anything else than one without them would. A block counts as written
//!    from the first write to it on, whether its zeros were written or left out.
//! 3. Where there is no room for the zeros, the rest of them is left out, and whether the bytes find room is seen when
//!    they are written. Any other error of theirs goes up, as that of any write.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::{Counters, Disk, PAGE};
use crate::sync::Mutex;
use crate::sync::atomic::Ordering;

/// What is written ahead at once, at most.
const BLOCK_BYTES: u64 = 256 << 10;
/// They are written page by page: a system may keep in its cache as one what came by one call, and hold, and
/// count, each later write to any of it for one to all of it.
static ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];

/// A disk whose new parts are written ahead.
#[derive(Debug)]
pub(super) struct Ahead {
    disk: Box<dyn Disk>,
    counters: Arc<Counters>,
    blank: Mutex<Blank>,
}

/// Which blocks nothing was written to (rule 2).
#[derive(Debug)]
struct Blank {
    len: u64,
    /// The first block that the disk may have grown by.
    from: u64,
    /// Of those behind it, which were written.
    written: Vec<bool>,
}

impl Blank {
    fn new(len: u64) -> Self {
        Self { len, from: len.div_ceil(BLOCK_BYTES), written: Vec::new() }
    }

    fn set_len(&mut self, len: u64) {
        self.len = len;
        let blocks = len.div_ceil(BLOCK_BYTES);
        self.from = self.from.min(blocks);
        self.written.truncate((blocks - self.from) as usize);
    }

    /// What has to be written ahead of `len` bytes at `offset`, which is marked as written.
    fn ahead_of(&mut self, offset: u64, len: u64) -> impl Iterator<Item = Range<u64>> {
        let (before, end) = (self.len, offset + len);
        // A write past the end makes the disk longer; there nothing is written ahead, now or later.
        self.len = before.max(end);
        (offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES))
            .filter(|block| self.take(*block))
            .flat_map(move |block| {
                let block = block * BLOCK_BYTES..before.min((block + 1) * BLOCK_BYTES);
                [block.start..block.end.min(offset), block.start.max(end)..block.end]
            })
            .filter(|zeros| !zeros.is_empty())
    }

    /// Marks a block as written; whether it was not.
    fn take(&mut self, block: u64) -> bool {
        let Some(at) = block.checked_sub(self.from) else { return false };
        let at = at as usize;
        if self.written.len() <= at {
            self.written.resize(at + 1, false);
        }
        !std::mem::replace(&mut self.written[at], true)
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl Ahead {
    /// Of a disk that is so long.
    pub(super) fn new(disk: Box<dyn Disk>, len: u64, counters: Arc<Counters>) -> Self {
        Self { disk, counters, blank: Mutex::new(Blank::new(len)) }
    }

    /// Rules 1 and 3.
    fn write_ahead(&self, offset: u64, len: u64) -> io::Result<()> {
        // Held meanwhile: zeros go nowhere where another write has been already.
        let mut blank = self.blank.lock();
        // All blocks are marked before the first zeros: where these find no room the bytes go to the others all the same.
        let ranges: Vec<_> = blank.ahead_of(offset, len).collect();
        for range in ranges {
            match self.put_zeros(range) {
                Ok(()) => {}
                Err(error) if is_full(&error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn put_zeros(&self, range: Range<u64>) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min((at / PAGE + 1) * PAGE);
            self.disk.write(at, &ZEROS[..(end - at) as usize])?;
            self.counters.zeros_written.fetch_add(end - at, Ordering::Relaxed);
            at = end;
        }
        Ok(())
    }
}

impl Disk for Ahead {
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut blank = self.blank.lock();
        self.disk.set_len(len)?;
        blank.set_len(len);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_ahead(offset, data.len() as u64)?;
        self.disk.write(offset, data)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.sync()
    }
}

#[cfg(all(test, feature = "test-util", not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::super::FileDisk;
    use super::super::fault::{AtRisk, Fault, FaultDisk};
    use super::*;

    fn over(disk: impl Disk) -> Ahead {
        let len = disk.len().expect("the disk works");
        Ahead::new(Box::new(disk), len, Arc::default())
    }

    /// Writes 100 bytes there; how many zeros went ahead of them. What lies on the disk of those blocks was written
    /// once, and the bytes at the end.
    fn zeros(ahead: &Ahead, disk: &FaultDisk, offset: u64) -> u64 {
        disk.sync().expect("the disk works");
        let before = ahead.counters.zeros_written();
        ahead.write(offset, &[7; 100]).expect("the disk works");
        let writes = disk.at_risk().into_iter().map(|change| match change {
            AtRisk::Write { offset, len } => offset..offset + len as u64,
            AtRisk::SetLen { .. } => panic!("a write changes no length"),
        });
        let mut writes: Vec<_> = writes.collect();
        assert_eq!(writes.last(), Some(&(offset..offset + 100)), "what was to be written is last");
        let whole = |piece: &Range<u64>| piece.start / PAGE == (piece.end - 1) / PAGE;
        assert!(writes[..writes.len() - 1].iter().all(whole), "no piece is of two pages");
        writes.sort_by_key(|piece| piece.start);
        let gapless = |pair: &[Range<u64>]| pair[0].end == pair[1].start;
        assert!(writes.windows(2).all(gapless), "without gaps, and nothing twice: {writes:?}");
        let written: u64 = writes.iter().map(|piece| piece.end - piece.start).sum();
        assert_eq!(written - 100, ahead.counters.zeros_written() - before);
        written - 100
    }

    #[test]
    fn the_first_write_to_a_block_writes_the_rest_of_it_and_no_other_does() {
        let disk = FaultDisk::new();
        let opened = over(disk.clone());
        let set_len = |len| opened.set_len(len).expect("the disk works");
        let zeros_at = |offset| zeros(&opened, &disk, offset);
        set_len(5 * BLOCK_BYTES / 2);
        assert_eq!(zeros_at(10), BLOCK_BYTES - 100);
        assert_eq!(zeros_at(BLOCK_BYTES - 100), 0);
        let of_two = BLOCK_BYTES + BLOCK_BYTES / 2 - 100;
        assert_eq!(zeros_at(2 * BLOCK_BYTES - 50), of_two, "the last block is a half");
        // What was cut off is new again.
        set_len(BLOCK_BYTES);
        set_len(2 * BLOCK_BYTES);
        assert_eq!(zeros_at(0), 0);
        assert_eq!(zeros_at(2 * BLOCK_BYTES - 100), BLOCK_BYTES - 100);
        // A write past the end makes the disk longer, and what it wrote stays.
        assert_eq!(zeros_at(5 * BLOCK_BYTES / 2), 0);
        set_len(3 * BLOCK_BYTES);
        assert_eq!(zeros_at(11 * BLOCK_BYTES / 4), 0);
        set_len(3 * BLOCK_BYTES / 2);
        // What was there when the disk was opened is left alone, also the block of which it was a part.
        let opened = over(disk.clone());
        assert_eq!(zeros(&opened, &disk, BLOCK_BYTES), 0);
        opened.set_len(4 * BLOCK_BYTES).expect("the disk works");
        assert_eq!(zeros(&opened, &disk, 2 * BLOCK_BYTES - 100), 0);
        assert_eq!(zeros(&opened, &disk, 3 * BLOCK_BYTES), BLOCK_BYTES - 100);
    }

    #[test]
    fn zeros_that_find_no_room_are_left_out_and_other_errors_go_up() {
        let pages = (BLOCK_BYTES / PAGE) as usize;
        for (fault, fails) in [
            (Fault::NoSpace, false),
            (Fault::NoSpaceAfter(100), false),
            (Fault::Io, true),
            (Fault::IoAfter(100), true),
        ] {
            for nth in [1, 2, pages as u64 - 1] {
                let disk = FaultDisk::new();
                let opened = over(disk.clone());
                opened.set_len(2 * BLOCK_BYTES).expect("the disk works");
                disk.fail_at(disk.calls() + nth, fault);
                let written = opened.write(BLOCK_BYTES + PAGE, &[7; PAGE as usize]);
                assert_eq!(written.is_err(), fails, "{fault:?} at zeros {nth}");
                assert_eq!(opened.counters.zeros_written(), (nth - 1) * PAGE);
                let page = if fails { 0 } else { 7 };
                let mut bytes = vec![0; 2 * BLOCK_BYTES as usize];
                let start = (BLOCK_BYTES + PAGE) as usize;
                bytes[start..start + PAGE as usize].fill(page);
                assert!(disk.bytes() == bytes, "{fault:?} at zeros {nth}");
            }
            // Where the bytes themselves find no room, that goes up.
            let disk = FaultDisk::new();
            let opened = over(disk.clone());
            opened.set_len(BLOCK_BYTES).expect("the disk works");
            disk.fail_at(disk.calls() + pages as u64, fault);
            assert!(opened.write(0, &[7; PAGE as usize]).is_err());
        }
    }

    #[test]
    fn a_write_whose_zeros_find_no_room_is_not_written_over_with_later_ones() {
        let disk = FaultDisk::new();
        let opened = over(disk.clone());
        opened.set_len(4 * BLOCK_BYTES).expect("the disk works");
        disk.fail_at(disk.calls() + 1, Fault::NoSpace);
        // Over three blocks, of which the first has zeros before it and the last behind it.
        let long = vec![7; 2 * BLOCK_BYTES as usize];
        opened.write(BLOCK_BYTES / 2, &long).expect("there is room for what counts");
        for at in [9, 11, 4] {
            opened.write(at * BLOCK_BYTES / 4, &[8; 100]).expect("the disk works");
        }
        let mut bytes = vec![0; 4 * BLOCK_BYTES as usize];
        bytes[BLOCK_BYTES as usize / 2..5 * BLOCK_BYTES as usize / 2].fill(7);
        for at in [9, 11, 4] {
            let start = at * BLOCK_BYTES as usize / 4;
            bytes[start..start + 100].fill(8);
        }
        assert!(disk.bytes() == bytes);
    }

    fn content(disk: &Ahead) -> Vec<u8> {
        let mut bytes = vec![7; disk.len().expect("the disk works") as usize];
        disk.read(0, &mut bytes).expect("so long is the disk");
        bytes
    }

    /// Anything that may happen to a disk, `open` opening the same one anew.
    fn has_what_was_written<D: Disk>(open: impl Fn() -> D) {
        let mut disk = over(open());
        let mut model = Vec::new();
        let mut word = 7_u64;
        let mut random = |below: u64| {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (word >> 33) % below
        };
        for round in 0..600 {
            match random(20) {
                0 => disk = over(open()),
                1 | 2 => {
                    let len = random(6 * BLOCK_BYTES);
                    disk.set_len(len).expect("there is room");
                    model.resize(len as usize, 0);
                }
                _ => {
                    let offset = random(model.len() as u64 + 5000) as usize;
                    let len = random(9000) as usize;
                    model.resize(model.len().max(offset + len), 0);
                    let data = vec![round as u8 | 1; len];
                    disk.write(offset as u64, &data).expect("there is room");
                    model[offset..offset + len].copy_from_slice(&data);
                }
            }
            if round % 20 == 0 {
                assert!(content(&disk) == model, "in round {round}");
            }
        }
        assert!(content(&disk) == model);
    }

    #[test]
    fn a_disk_has_what_was_written_to_it_and_zeros_elsewhere() {
        let disk = FaultDisk::new();
        has_what_was_written(|| disk.clone());
        let file = tempfile::tempfile().expect("the folder can be written");
        has_what_was_written(|| FileDisk::new(file.try_clone().expect("there are handles left")));
    }
}
