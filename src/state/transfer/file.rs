//! A file that is there whole or not at all.
//!
//! It is written under a name of its own beside the one that it will have, synced, and renamed; then the
//! folder is synced. So whoever opens the name finds what was there before or all of the new, also after a
//! power loss. What a crash leaves behind has `.new` at the end of its name and can be deleted.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::sync::unique;
use crate::{Error, ErrorKind};

/// How many names are tried: those that are taken were left by crashes.
const NAMES_MAX: u32 = 100;

/// Gives `path` what `write` writes.
pub(super) fn replace<R>(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<R, Error>,
) -> Result<R, Error> {
    let Some(name) = path.file_name() else {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("{} does not name a file", path.display()),
        ));
    };
    // The parent of a bare name is the empty path, which stands for the current folder.
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| Path::new("."));
    let (file, mut unfinished) = unfinished(folder, name)?;
    let mut writer = BufWriter::with_capacity(1 << 16, file);
    let result = write(&mut writer)?;
    let broken = |error| failed("write", &unfinished.path, error);
    let file = writer.into_inner().map_err(|error| broken(error.into_error()))?;
    file.sync_all().map_err(broken)?;
    fs::rename(&unfinished.path, path).map_err(|error| failed("name", path, error))?;
    unfinished.named = true;
    sync_folder(folder).map_err(|error| failed("sync the folder of", path, error))?;
    Ok(result)
}

/// A file that goes again unless it gets its name, also where code of the host panics while it is written.
struct Unfinished {
    path: PathBuf,
    named: bool,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.named {
            // What went wrong before is what is told.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A new file that nobody else has.
fn unfinished(folder: &Path, name: &OsStr) -> Result<(File, Unfinished), Error> {
    let mut tries = 0;
    loop {
        let mut own = name.to_owned();
        own.push(format!(".{}-{}.new", std::process::id(), unique()));
        let path = folder.join(own);
        tries += 1;
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((file, Unfinished { path, named: false })),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < NAMES_MAX => {}
            Err(error) => return Err(failed("make", &path, error)),
        }
    }
}

pub(super) fn failed(what: &str, path: &Path, error: io::Error) -> Error {
    let message = format!("could not {what} {}: {error}", path.display());
    Error::with_source(ErrorKind::Io, message, error)
}

/// Makes a rename survive a power loss.
#[cfg(unix)]
pub(in crate::state) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(not(unix))]
pub(in crate::state) fn sync_folder(_path: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("it is there");
        let names = entries.map(|entry| entry.expect("it can be listed").file_name());
        names.map(|name| name.into_string().expect("it is ASCII")).collect()
    }

    fn put(path: &Path, bytes: &[u8]) {
        let put = replace(path, |writer| {
            writer.write_all(bytes).expect("it is on a disk");
            Ok(())
        });
        put.expect("nothing fails");
        assert_eq!(fs::read(path).expect("it is there"), bytes);
        assert_eq!(names(path.parent().expect("a folder")), ["export"]);
    }

    #[test]
    fn a_writer_that_fails_or_panics_leaves_what_was_there_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("export");
        put(&path, b"first");
        for panics in [false, true] {
            let failing = catch_unwind(AssertUnwindSafe(|| {
                replace(&path, |writer| -> Result<(), Error> {
                    writer.write_all(&[0; 1 << 17]).expect("it is on a disk");
                    let now = fs::read(&path).expect("it is there");
                    assert_eq!(now, b"first", "it has no part of the new one");
                    assert_eq!(names(folder.path()).len(), 2);
                    assert!(!panics, "as the values of the host may");
                    Err(Error::new(ErrorKind::Codec, "no"))
                })
            }));
            assert_eq!(failing.is_err(), panics);
            assert!(failing.is_err() || matches!(failing, Ok(Err(_))));
            assert_eq!(fs::read(&path).expect("it is there"), b"first");
            assert_eq!(names(folder.path()), ["export"]);
        }
        put(&path, b"second");
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let missing = folder.path().join("no such folder").join("export");
        let error = replace(&missing, |_| Ok(())).expect_err("there is no such folder");
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains("no such folder"), "{error}");
        let error = replace(Path::new("/"), |_| Ok(())).expect_err("it is a folder");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
}
