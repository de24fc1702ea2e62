//! A disk that is a file.

use std::fs::File;
use std::io;

use super::Disk;

#[derive(Debug)]
pub(in crate::state) struct FileDisk(File);

impl FileDisk {
    pub(in crate::state) fn new(file: File) -> Self {
        Self(file)
    }
}

impl Disk for FileDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    #[cfg(unix)]
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.0, out, offset)
    }

    #[cfg(not(unix))]
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        use std::io::{Read as _, Seek as _};
        // One cursor for all, so one thread at a time.
        let _turn = CURSOR.lock();
        (&self.0).seek(io::SeekFrom::Start(offset))?;
        (&self.0).read_exact(out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    #[cfg(unix)]
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.0, data, offset)
    }

    #[cfg(not(unix))]
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        use std::io::{Seek as _, Write as _};
        let _turn = CURSOR.lock();
        (&self.0).seek(io::SeekFrom::Start(offset))?;
        (&self.0).write_all(data)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[cfg(not(unix))]
static CURSOR: crate::sync::Mutex<()> = crate::sync::Mutex::new(());
