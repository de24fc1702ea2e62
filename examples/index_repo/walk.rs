//! The walk: what lies under the root, as ripgrep would see it.
//!
//! Hidden and ignored files are not yielded; symbolic links are yielded and never followed, so a loop of
//! them is harmless. The order is that of the file names, the same in every run.

use crate::model::{Failure, Skip};
use ignore::{DirEntry, WalkBuilder};
use std::path::{Path, PathBuf};

/// One thing that the walk yields; each counts as one file seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A regular file.
    File {
        /// Where it is.
        path: PathBuf,
        /// Its path under the root, `/` between the parts.
        relative: String,
    },
    /// Something that is not indexed.
    Skipped(PathBuf, Skip),
    /// Something that the walk could not look at.
    Failed(PathBuf, Failure),
}

/// Walks the tree under `root`.
pub fn walk(root: &Path) -> impl Iterator<Item = Found> {
    let root = root.to_owned();
    WalkBuilder::new(&root)
        .follow_links(false)
        .sort_by_file_name(std::ffi::OsStr::cmp)
        .build()
        .filter_map(move |item| match item {
            Ok(entry) => look(&root, entry),
            Err(error) => Some(failed(&root, &error)),
        })
}

fn look(root: &Path, entry: DirEntry) -> Option<Found> {
    let kind = entry.file_type()?;
    if kind.is_dir() {
        return None;
    }
    let path = entry.into_path();
    let found = if kind.is_symlink() {
        Found::Skipped(path, Skip::Symlink)
    } else if !kind.is_file() {
        Found::Skipped(path, Skip::NotRegular)
    } else {
        match relative(root, &path) {
            Some(relative) => Found::File { path, relative },
            None => Found::Skipped(path, Skip::NameNotUtf8),
        }
    };
    Some(found)
}

fn relative(root: &Path, path: &Path) -> Option<String> {
    let under = path.strip_prefix(root).ok()?;
    let parts: Option<Vec<&str>> = under.iter().map(|part| part.to_str()).collect();
    Some(parts?.join("/"))
}

/// A folder that cannot be listed, or an entry that was gone before it could be looked at.
fn failed(root: &Path, error: &ignore::Error) -> Found {
    let vanished =
        error.io_error().is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound);
    let reason = if vanished { Failure::Vanished } else { Failure::Unreadable };
    Found::Failed(place(error).unwrap_or(root).to_owned(), reason)
}

fn place(error: &ignore::Error) -> Option<&Path> {
    match error {
        ignore::Error::WithPath { path, .. } => Some(path),
        ignore::Error::WithDepth { err, .. } | ignore::Error::WithLineNumber { err, .. } => {
            place(err)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn names(root: &Path) -> Vec<String> {
        walk(root)
            .map(|found| match found {
                Found::File { relative, .. } => relative,
                Found::Skipped(path, skip) => {
                    format!(
                        "{}: {}",
                        path.strip_prefix(root).expect("under").display(),
                        skip.name()
                    )
                }
                Found::Failed(path, failure) => format!("{}: {failure}", path.display()),
            })
            .collect()
    }

    #[test]
    fn files_come_in_the_order_of_their_names_without_the_hidden_and_the_ignored() {
        let tree = tempfile::tempdir().expect("a folder");
        let root = tree.path();
        for path in ["b.rs", "a/z.rs", "a/b/c.rs", ".hidden.rs", "target/x.rs"] {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, "x").expect("written");
        }
        fs::write(root.join(".ignore"), "target\n").expect("written");
        assert_eq!(names(root), ["a/b/c.rs", "a/z.rs", "b.rs"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_and_pipes_are_seen_and_not_followed() {
        let tree = tempfile::tempdir().expect("a folder");
        let root = tree.path();
        fs::create_dir(root.join("a")).expect("made");
        std::os::unix::fs::symlink("..", root.join("a/loop")).expect("linked");
        std::os::unix::fs::symlink("nowhere", root.join("dangling.rs")).expect("linked");
        let _socket =
            std::os::unix::net::UnixListener::bind(root.join("socket.rs")).expect("bound");
        assert_eq!(
            names(root),
            ["a/loop: symlink", "dangling.rs: symlink", "socket.rs: not_regular"]
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_name_that_is_not_utf8_is_counted_and_not_guessed_at() {
        use std::os::unix::ffi::OsStrExt;
        let tree = tempfile::tempdir().expect("a folder");
        let name = std::ffi::OsStr::from_bytes(b"caf\xe9.rs");
        if fs::write(tree.path().join(name), "x").is_err() {
            return; // a file system that only takes UTF-8
        }
        let found: Vec<Found> = walk(tree.path()).collect();
        assert_eq!(found, [Found::Skipped(tree.path().join(name), Skip::NameNotUtf8)]);
    }
}
