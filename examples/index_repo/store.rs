//! The index on disk: three collections of one state manager.
//!
//! 1. Opening fails before anything is written if the folder is held by another process, damaged, or
//!    written by another version of the state's format or of this program's.
//! 2. An index whose trees other grammars made is emptied, never mixed.

use crate::digest::IndexDigest;
use crate::model::{FileEntry, FileReferences, INDEX_VERSION};
use crate::summary::Summary;
use phalanx::ast::LanguageInfo;
use phalanx::state::{Collection, Snapshot, StateManager};
use phalanx::{Error, ErrorKind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Rows removed in one transaction at most.
const REMOVALS_MAX: usize = 1024;

/// What an index was made by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Origin {
    version: u32,
    grammars: String,
}

/// The open index.
#[derive(Clone, Debug)]
pub struct Store {
    state: StateManager,
    files: Collection<String, FileEntry>,
    references: Collection<String, FileReferences>,
}

impl Store {
    /// Opens the index in a folder, or makes one. The second value says whether an old one was emptied.
    pub fn open(folder: &Path, languages: &[LanguageInfo]) -> Result<(Self, bool), Error> {
        Self::open_as(folder, languages, INDEX_VERSION)
    }

    /// As [`Self::open`], for a program that writes this version.
    fn open_as(
        folder: &Path,
        languages: &[LanguageInfo],
        version: u32,
    ) -> Result<(Self, bool), Error> {
        let state = StateManager::builder().path(folder).open()?;
        let origin = state.collection::<u8, Origin>("index_repo.origin")?;
        let current = Origin { version, grammars: grammars(languages) };
        let found = origin.get(&0);
        if let Some(found) = found.as_ref().filter(|found| found.version != current.version) {
            let (found, known) = (found.version, current.version);
            let message = format!("the index is of version {found}, this program knows {known}");
            return Err(Error::new(ErrorKind::UnsupportedVersion, message));
        }
        let store = Self {
            files: state.collection("index_repo.files")?,
            references: state.collection("index_repo.references")?,
            state,
        };
        let emptied = found.as_ref().is_some_and(|found| *found != current);
        if emptied {
            store.retain(|_| false)?;
        }
        if found.as_ref() != Some(&current) {
            let version = origin.insert(0, current)?;
            store.state.wait_durable(version)?;
        }
        Ok((store, emptied))
    }

    /// The state manager underneath.
    pub fn state(&self) -> &StateManager {
        &self.state
    }

    /// What phase one says of each file.
    pub fn files(&self) -> &Collection<String, FileEntry> {
        &self.files
    }

    /// What phase two says of each file.
    pub fn references(&self) -> &Collection<String, FileReferences> {
        &self.references
    }

    /// Removes the files that `keep` does not want, and says how many those were.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) -> Result<u64, Error> {
        let snapshot = self.state.snapshot();
        let files = snapshot.iter(&self.files).map(|(path, _)| path);
        let gone: Vec<&String> = files.filter(|path| !keep(path)).collect();
        for paths in gone.chunks(REMOVALS_MAX) {
            self.state.transaction(|tx| {
                for &path in paths {
                    let _ = tx.remove(&self.files, path);
                    let _ = tx.remove(&self.references, path);
                }
                Ok(())
            })?;
        }
        Ok(gone.len() as u64)
    }

    /// Removes the references of these files.
    pub fn remove_references(&self, paths: &[String]) -> Result<(), Error> {
        for paths in paths.chunks(REMOVALS_MAX) {
            self.state.transaction(|tx| {
                for path in paths {
                    let _ = tx.remove(&self.references, path);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Writes what the index holds into the summary.
    pub fn describe(&self, snapshot: &Snapshot, summary: &mut Summary) {
        let mut digest = IndexDigest::default();
        let files: BTreeMap<&String, &FileEntry> = snapshot.iter(&self.files).collect();
        for (path, entry) in files {
            let references = snapshot.get_ref(&self.references, path);
            digest.add(path, entry, references);
            summary.symbols += entry.symbols.len() as u64;
            summary.syntax_errors += entry.errors.len() as u64;
            for reference in references.iter().flat_map(|found| &found.references) {
                match reference.binding.target {
                    Some(_) => summary.references.resolved += 1,
                    None => summary.references.unresolved += 1,
                }
            }
        }
        summary.state_digest = digest.finish();
    }
}

/// The grammars that trees are made by, in one line.
fn grammars(languages: &[LanguageInfo]) -> String {
    let mut names: Vec<String> =
        languages.iter().map(|info| format!("{} {}", info.language(), info.version())).collect();
    names.sort_unstable();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_of_another_version_of_this_program_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        drop(Store::open_as(folder.path(), &[], INDEX_VERSION + 1).expect("made"));
        let error = Store::open(folder.path(), &[]).expect_err("of another version");
        assert_eq!(error.kind(), ErrorKind::UnsupportedVersion);
        assert!(error.to_string().contains("is of version 2"), "{error}");
        drop(Store::open_as(folder.path(), &[], INDEX_VERSION + 1).expect("as it was"));
    }
}
