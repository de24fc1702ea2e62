//! The folder of a store: its lock, its header, and the name of the engine's file.
//!
//! Rules that hold here:
//!
//! 1. The lock is held before anything in the folder is read, and until the store is closed.
//! 2. Nothing is written before everything in the folder has been verified.
//! 3. A file comes into being under a name with `.new` and is renamed when it is whole and synced: the
//!    data first, then the header. So data without a header is a creation that was cut short, and holds
//!    nothing that was ever acknowledged; a header without data is damage.
//! 4. Whoever made a name, or wrote the header, may have ended before it was synced, and may have been the host, which
//!    copies, moves and links stores. So what is found is synced before another name comes after it, and before anything
//!    is acknowledged: the names in the folder, the header, and the names on the way to the folder, both of the path
//!    that was given and of the one that it stands for.
//! 5. A folder on that way that refuses is passed over: the host may have no right to it. Only the one that the folder
//!    lies in, and those in which this opening has made one, have to be synced, as far as that can be done at all.

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
    /// How many folders there were to make, this one included.
    made: usize,
}

/// What lies in a folder.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) header: Option<Vec<u8>>,
    /// The file that the header is read from.
    pub(super) header_file: Option<File>,
    pub(super) data: Option<File>,
}

impl Folder {
    pub(super) fn lock(path: &Path) -> Result<Self, Error> {
        let made = make(path).map_err(|error| failed("make the folder", path, error))?;
        let lock = lock_file(path).map_err(|error| failed("open the folder", path, error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), lock, made }),
            Err(TryLockError::WouldBlock) => Err(Error::new(
                ErrorKind::InUse,
                format!("another handle or process holds the state folder {}", path.display()),
            )),
            Err(TryLockError::Error(error)) => Err(failed("lock the folder", path, error)),
        }
    }

    pub(super) fn look(&self) -> Result<Found, Error> {
        let (header, header_file) = self.read_header()?.unzip();
        Ok(Found { header, header_file, data: self.open_data()? })
    }

    fn read_header(&self) -> Result<Option<(Vec<u8>, File)>, Error> {
        let path = self.path.join(HEADER);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("open", &path, error)),
        };
        let mut header = Vec::new();
        (&file)
            .take(HEADER_BYTES_MAX + 1)
            .read_to_end(&mut header)
            .map_err(|error| failed("read", &path, error))?;
        Ok(Some((header, file)))
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

    /// Rule 4, of what was found in the folder.
    pub(super) fn sync_found(&self, header: Option<&File>) -> Result<(), Error> {
        let checked = |result, path: &Path| match result {
            Err(error) if !knows_no_sync(&error) => Err(failed("sync", path, error)),
            _ => Ok(()),
        };
        // Elsewhere a file is synced only by who may write to it.
        if cfg!(unix)
            && let Some(file) = header
        {
            checked(file.sync_all(), &self.path.join(HEADER))?;
        }
        checked(sync_folder(&self.path), &self.path)
    }

    /// Rule 4, of the names on the way to the folder.
    pub(super) fn sync_path(&self) -> Result<(), Error> {
        // Elsewhere no name is synced.
        if cfg!(unix) { self.sync_path_by(sync_folder) } else { Ok(()) }
    }

    fn sync_path_by(&self, mut sync: impl FnMut(&Path) -> io::Result<()>) -> Result<(), Error> {
        let found =
            |path: io::Result<PathBuf>| path.map_err(|error| failed("find", &self.path, error));
        let real = found(fs::canonicalize(&self.path))?;
        let given = found(std::path::absolute(&self.path))?;
        let strict = self.made.max(1);
        let mut done = Vec::new();
        for path in [&real, &given] {
            for (number, parent) in path.ancestors().skip(1).enumerate() {
                if done.contains(&parent) {
                    continue;
                }
                done.push(parent);
                // Rule 5.
                match sync(parent) {
                    Err(error) if number < strict && !may_refuse(&error) => {
                        return Err(failed("sync", parent, error));
                    }
                    _ => {}
                }
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

/// Of a folder whose file system has no sync of folders, or of a header that is no file.
fn knows_no_sync(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

/// Rule 5: only its owner may open it, or this process may not see it, or it is not of a file system that is written to.
fn may_refuse(error: &io::Error) -> bool {
    use io::ErrorKind::{NotFound, PermissionDenied, ReadOnlyFilesystem};
    knows_no_sync(error) || matches!(error.kind(), NotFound | PermissionDenied | ReadOnlyFilesystem)
}

/// Makes the folder and those above it that are missing; how many. Their names are synced later on (rule 4).
fn make(path: &Path) -> io::Result<usize> {
    let missing = path.ancestors().take_while(|path| {
        // The parent of a bare name stands for the current folder.
        !path.as_os_str().is_empty() && !path.exists()
    });
    let missing = missing.count();
    match fs::create_dir_all(path) {
        // Somebody else was faster, or may see what is above it and this process not.
        Err(_) if path.is_dir() => Ok(missing),
        made => made.map(|()| missing),
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

    /// The folders above it that were to be synced, where the one with this name says this error.
    #[cfg(unix)]
    fn synced(
        folder: &Folder,
        refusing: &str,
        kind: io::ErrorKind,
    ) -> (Result<(), Error>, Vec<PathBuf>) {
        let mut asked = Vec::new();
        let result = folder.sync_path_by(|path| {
            asked.push(path.to_owned());
            if path.ends_with(refusing) { Err(kind.into()) } else { Ok(()) }
        });
        (result, asked)
    }

    #[cfg(unix)]
    #[test]
    fn every_folder_on_the_way_is_synced_also_behind_one_that_refuses() {
        use io::ErrorKind::{
            InvalidInput, NotFound, Other, PermissionDenied, ReadOnlyFilesystem, Unsupported,
        };
        let scratch = tempfile::tempdir().expect("a folder");
        let root = scratch.path().canonicalize().expect("it is there");
        let path = root.join("above").join("within").join("store");
        let all: Vec<_> = path.ancestors().skip(1).map(Path::to_owned).collect();
        // New: those that were made, and the one that they were made in, have to be.
        let new = Folder::lock(&path).expect("it is new");
        assert_eq!(new.made, 3);
        let below = root.file_name().and_then(|name| name.to_str()).expect("it has a name");
        for (made, strict) in [(3, vec!["above", "within", below]), (0, vec!["within"])] {
            let folder =
                Folder { made, path: path.clone(), lock: new.lock.try_clone().expect("one") };
            for kind in [InvalidInput, NotFound, PermissionDenied, ReadOnlyFilesystem, Unsupported]
            {
                for name in ["above", "within", below] {
                    let (result, asked) = synced(&folder, name, kind);
                    assert!(result.is_ok() && asked == all, "{name}: {kind:?}: {asked:?}");
                }
            }
            for name in ["above", "within", below] {
                let (result, asked) = synced(&folder, name, Other);
                let refused = strict.contains(&name);
                assert_eq!(result.is_err(), refused, "{made} made: {name}: {result:?}");
                assert!(refused || asked == all, "{asked:?}");
                let told = result.err().map(|error| (error.kind(), error.to_string()));
                assert!(
                    told.is_none_or(|(kind, text)| kind == ErrorKind::Io && text.contains(name))
                );
            }
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_folders_of_a_link_and_of_what_it_stands_for_are_synced() {
        let scratch = tempfile::tempdir().expect("a folder");
        let root = scratch.path().canonicalize().expect("it is there");
        let store = root.join("data").join("store");
        fs::create_dir_all(&store).expect("the disk works");
        fs::create_dir(root.join("links")).expect("the disk works");
        let link = root.join("links").join("current");
        std::os::unix::fs::symlink(&store, &link).expect("the disk works");
        let folder = Folder::lock(&link).expect("it is free");
        assert_eq!(folder.made, 0);
        let (result, asked) = synced(&folder, "nothing", io::ErrorKind::Other);
        result.expect("nothing fails");
        let above = root.ancestors().map(Path::to_owned);
        let mut expected = vec![root.join("data")];
        expected.extend(above);
        expected.push(root.join("links"));
        assert_eq!(asked, expected, "each once");
        // The link itself lies in one of the two.
        for name in ["data", "links"] {
            synced(&folder, name, io::ErrorKind::Other).0.expect_err("it has to be synced");
        }
    }
}
