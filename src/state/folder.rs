//! The folder of a store: its lock, its header, and the name of the engine's file.
//!
//! Rules that hold here:
//!
//! 1. The lock is held before anything in the folder is read, and until the store is closed.
//! 2. Nothing is written before everything in the folder has been verified.
//! 3. A file comes into being under a name with `.new` and is renamed when it is whole and synced: the
//!    data first, then the header. So data without a header is a creation that was cut short, and holds
//!    nothing that was ever acknowledged; a header without data is damage.
//! 4. Whoever made a name may have ended before it was synced. So a name that is found is synced before another one comes
//!    after it, and before anything is acknowledged: those in the folder, and until there is a header, which comes
//!    last, that of the folder and those of the folders above it, as far up as they can be opened.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::transfer::sync_folder;
use crate::{Error, ErrorKind};

const HEADER: &str = "state.header";
const DATA: &str = "state.redb";
/// No header is longer; a longer file is not one.
const HEADER_BYTES_MAX: u64 = 4096;

/// A folder that this handle alone holds (rule 1).
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    lock: File,
}

/// What lies in a folder.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) header: Option<Vec<u8>>,
    pub(super) data: Option<File>,
}

impl Folder {
    pub(super) fn lock(path: &Path) -> Result<Self, Error> {
        make(path).map_err(|error| failed("make the folder", path, error))?;
        let lock = lock_file(path).map_err(|error| failed("open the folder", path, error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), lock }),
            Err(TryLockError::WouldBlock) => Err(Error::new(
                ErrorKind::InUse,
                format!("another handle or process holds the state folder {}", path.display()),
            )),
            Err(TryLockError::Error(error)) => Err(failed("lock the folder", path, error)),
        }
    }

    pub(super) fn look(&self) -> Result<Found, Error> {
        Ok(Found { header: self.read_header()?, data: self.open_data()? })
    }

    fn read_header(&self) -> Result<Option<Vec<u8>>, Error> {
        let path = self.path.join(HEADER);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("open", &path, error)),
        };
        let mut header = Vec::new();
        file.take(HEADER_BYTES_MAX + 1)
            .read_to_end(&mut header)
            .map_err(|error| failed("read", &path, error))?;
        Ok(Some(header))
    }

    fn open_data(&self) -> Result<Option<File>, Error> {
        let path = self.path.join(DATA);
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("open", &path, error)),
        }
    }

    /// A file for the engine that is not there under its name yet. What an earlier creation left is gone.
    pub(super) fn new_data(&self) -> Result<File, Error> {
        let path = self.unfinished(DATA);
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(|error| failed("make", &path, error))
    }

    /// Gives the new, synced data its name.
    pub(super) fn name_data(&self) -> Result<(), Error> {
        self.rename(DATA)
    }

    /// Rule 4, of the names in the folder.
    pub(super) fn sync_names(&self) -> Result<(), Error> {
        sync_folder(&self.path).map_err(|error| failed("sync", &self.path, error))
    }

    /// Rule 4, of the names that lead to the folder.
    pub(super) fn sync_path(&self) -> Result<(), Error> {
        let path =
            fs::canonicalize(&self.path).map_err(|error| failed("find", &self.path, error))?;
        for parent in path.ancestors().skip(1) {
            match sync_folder(parent) {
                Ok(()) => {}
                // One that only its owner may open, or that is not of a file system that is written to.
                Err(error) if leads_no_further(&error) => break,
                Err(error) => return Err(failed("sync", parent, error)),
            }
        }
        Ok(())
    }

    pub(super) fn write_header(&self, header: &[u8]) -> Result<(), Error> {
        let path = self.unfinished(HEADER);
        File::create(&path)
            .and_then(|mut file| {
                file.write_all(header)?;
                file.sync_all()
            })
            .map_err(|error| failed("write", &path, error))?;
        self.rename(HEADER)
    }

    fn unfinished(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.new"))
    }

    fn rename(&self, name: &str) -> Result<(), Error> {
        let path = self.path.join(name);
        fs::rename(self.unfinished(name), &path)
            .and_then(|()| sync_folder(&self.path))
            .map_err(|error| failed("name", &path, error))
    }
}

fn failed(what: &str, path: &Path, error: io::Error) -> Error {
    let message = format!("could not {what} {}: {error}", path.display());
    Error::with_source(ErrorKind::Io, message, error)
}

fn leads_no_further(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    matches!(error.kind(), InvalidInput | PermissionDenied | ReadOnlyFilesystem | Unsupported)
}

/// Makes the folder and those above it that are missing. Their names are synced later on (rule 4).
fn make(path: &Path) -> io::Result<()> {
    match fs::create_dir_all(path) {
        // Somebody else was faster, or may see what is above it and this process not.
        Err(_) if path.is_dir() => Ok(()),
        made => made,
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Closing the file would not do: a process that another thread is just forking off has it open as
        // well, until it executes its program, and would hold the lock for as long.
        let _ = self.lock.unlock();
    }
}

/// On Unix the folder itself takes the lock, so that no file has to be written for it.
#[cfg(unix)]
fn lock_file(path: &Path) -> io::Result<File> {
    File::open(path)
}

#[cfg(not(unix))]
fn lock_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path.join("state.lock"))
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_free_once_it_is_let_go_even_if_a_child_still_has_it_open() {
        let path = tempfile::tempdir().expect("a folder");
        let folder = Folder::lock(path.path()).expect("it is free");
        // What a fork does to an open file.
        let inherited = folder.lock.try_clone().expect("one more descriptor");
        let held = Folder::lock(path.path()).expect_err("it is held");
        assert_eq!(held.kind(), ErrorKind::InUse);
        drop(folder);
        Folder::lock(path.path()).expect("it was let go");
        drop(inherited);
    }
}
