//! A disk that is a file.
//!
//! A sync of bytes that the file system has no place for yet has to write down where it put them as well,
//! which takes as long as the bytes themselves and more. Rules that hold here:
//!
//! 1. The first write to a block of [`BLOCK_BYTES`] that came to the file since it was opened writes all of
//!    the block, with zeros, before it. So only the sync after that one has places to write down.
//! 2. Zeros are written only where nothing was since the file grew, which reads as zeros already, and not
//!    beyond its end. What was in the file when it was opened is written by nobody but the engine. So no crash
//!    in between leaves anything else than one without them would.
//! 3. Where there is no room for the zeros, the rest of them is left out, and whether the bytes find room is seen when
//!    they are written. Any other error of theirs goes up, as that of any write.

use std::fs::File;
use std::io;
use std::ops::Range;

use super::Disk;
use crate::sync::Mutex;

/// What is written ahead at once, at most.
const BLOCK_BYTES: u64 = 256 << 10;
/// They are written in such pieces: a system may keep in its cache as one what came by one call, and hold, and
/// count, each later write to any of it for one to all of it.
static ZEROS: [u8; 4096] = [0; 4096];

#[derive(Debug)]
pub(in crate::state) struct FileDisk {
    file: File,
    blank: Mutex<Blank>,
}

/// Which blocks nothing was written to (rule 2).
#[derive(Debug)]
struct Blank {
    len: u64,
    /// The first block that the file may have grown by.
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
        let before = self.len;
        // A write past the end makes the file longer; there nothing is written ahead, now or later.
        self.len = before.max(offset + len);
        (offset / BLOCK_BYTES..(offset + len).div_ceil(BLOCK_BYTES))
            .filter(|block| self.take(*block))
            .map(move |block| block * BLOCK_BYTES..before.min((block + 1) * BLOCK_BYTES))
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

/// Writes zeros there, in pieces; how many, and whether there was room for all (rule 3).
fn put_zeros(
    range: Range<u64>,
    mut write: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<(u64, bool)> {
    for start in range.clone().step_by(ZEROS.len()) {
        let bytes = ZEROS.len().min((range.end - start) as usize);
        match write(start, &ZEROS[..bytes]) {
            Ok(()) => {}
            Err(error) if is_full(&error) => return Ok((start - range.start, false)),
            Err(error) => return Err(error),
        }
    }
    Ok((range.end - range.start, true))
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl FileDisk {
    pub(in crate::state) fn new(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self { file, blank: Mutex::new(Blank::new(len)) })
    }

    /// Rule 1; returns how many zeros that were.
    fn write_ahead(&self, offset: u64, len: u64) -> io::Result<u64> {
        let mut zeros = 0;
        // Held meanwhile: zeros go nowhere where another write has been already.
        let mut blank = self.blank.lock();
        for range in blank.ahead_of(offset, len) {
            let (bytes, room) = put_zeros(range, |start, piece| self.write_at(start, piece))?;
            zeros += bytes;
            if !room {
                break;
            }
        }
        Ok(zeros)
    }

    #[cfg(unix)]
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.file, data, offset)
    }

    #[cfg(not(unix))]
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        use std::io::{Seek as _, Write as _};
        let _turn = CURSOR.lock();
        (&self.file).seek(io::SeekFrom::Start(offset))?;
        (&self.file).write_all(data)
    }
}

impl Disk for FileDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    #[cfg(unix)]
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, out, offset)
    }

    #[cfg(not(unix))]
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        use std::io::{Read as _, Seek as _};
        // One cursor for all, so one thread at a time.
        let _turn = CURSOR.lock();
        (&self.file).seek(io::SeekFrom::Start(offset))?;
        (&self.file).read_exact(out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut blank = self.blank.lock();
        self.file.set_len(len)?;
        blank.set_len(len);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_ahead(offset, data.len() as u64)?;
        self.write_at(offset, data)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(not(unix))]
static CURSOR: Mutex<()> = Mutex::new(());

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;

    /// A disk on a new file, and a handle to open that file again.
    fn disk() -> (FileDisk, File) {
        let file = tempfile::tempfile().expect("the folder can be written");
        let again = file.try_clone().expect("there are handles left");
        (FileDisk::new(file).expect("the file is open"), again)
    }

    fn content(disk: &FileDisk) -> Vec<u8> {
        let mut bytes = vec![7; disk.len().expect("the file is open") as usize];
        disk.read(0, &mut bytes).expect("so long is the file");
        bytes
    }

    #[test]
    fn zeros_that_find_no_room_are_left_out_and_other_errors_go_up() {
        let piece = ZEROS.len() as u64;
        let put = |kind: io::ErrorKind| {
            put_zeros(piece..4 * piece + 9, |start, zeros| {
                assert!(zeros.len() == ZEROS.len() || start == 4 * piece && zeros.len() == 9);
                if start == 3 * piece { Err(kind.into()) } else { Ok(()) }
            })
        };
        for full in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            assert!(matches!(put(full), Ok((bytes, false)) if bytes == 2 * piece));
        }
        assert_eq!(put(io::ErrorKind::Other).map_err(|e| e.kind()), Err(io::ErrorKind::Other));
        let all = put_zeros(piece..4 * piece + 9, |_, _| Ok(()));
        assert!(matches!(all, Ok((bytes, true)) if bytes == 3 * piece + 9));
    }

    #[test]
    fn the_first_write_to_a_block_writes_all_of_it_and_no_other_does() {
        let (disk, again) = disk();
        disk.set_len(5 * BLOCK_BYTES / 2).expect("there is room");
        let ahead = |disk: &FileDisk, offset| disk.write_ahead(offset, 100).expect("there is room");
        assert_eq!(ahead(&disk, 10), BLOCK_BYTES);
        assert_eq!(ahead(&disk, BLOCK_BYTES - 100), 0);
        assert_eq!(
            ahead(&disk, 2 * BLOCK_BYTES - 50),
            BLOCK_BYTES + BLOCK_BYTES / 2,
            "of two blocks"
        );
        // What was cut off is new again.
        disk.set_len(BLOCK_BYTES).expect("a file can be cut");
        disk.set_len(2 * BLOCK_BYTES).expect("there is room");
        assert_eq!(ahead(&disk, 0), 0);
        assert_eq!(ahead(&disk, BLOCK_BYTES), BLOCK_BYTES);
        // A write past the end makes the file longer, and what it wrote stays.
        assert_eq!(ahead(&disk, 5 * BLOCK_BYTES / 2), 0);
        disk.write(5 * BLOCK_BYTES / 2, &[7; 100]).expect("there is room");
        disk.set_len(3 * BLOCK_BYTES).expect("there is room");
        assert_eq!(ahead(&disk, 11 * BLOCK_BYTES / 4), 0);
        disk.set_len(2 * BLOCK_BYTES).expect("a file can be cut");
        // What was there when the file was opened is left alone.
        let disk = FileDisk::new(again).expect("the file is open");
        assert_eq!(ahead(&disk, BLOCK_BYTES), 0);
        disk.set_len(4 * BLOCK_BYTES).expect("there is room");
        assert_eq!(ahead(&disk, BLOCK_BYTES), 0);
        assert_eq!(ahead(&disk, 3 * BLOCK_BYTES), BLOCK_BYTES);
    }

    #[test]
    fn a_file_has_what_was_written_to_it_and_zeros_elsewhere() {
        let (mut disk, again) = disk();
        let mut model = Vec::new();
        let mut word = 7_u64;
        let mut random = |below: u64| {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (word >> 33) % below
        };
        for round in 0..600 {
            match random(20) {
                0 => {
                    let again = again.try_clone().expect("there are handles left");
                    disk = FileDisk::new(again).expect("the file is open");
                }
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
}
