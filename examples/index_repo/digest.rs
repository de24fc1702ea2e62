//! One hash of the whole index.
//!
//! 1. It covers what the index says of each file (symbols, imports, errors, references) under the file's
//!    path, in the order of the paths, and nothing else: not versions, not times, not tasks, not agents.
//!    Two indexes that say the same have the same digest, however they came to be.

use crate::model::{FileEntry, FileReferences};
use serde::Serialize;
use std::io::Write;

/// Takes the files of an index, in the order of their paths, and digests them.
#[derive(Debug, Default)]
pub struct IndexDigest(blake3::Hasher);

impl IndexDigest {
    /// Adds a file.
    pub fn add(&mut self, path: &str, entry: &FileEntry, references: Option<&FileReferences>) {
        self.part(&path);
        self.part(entry);
        self.part(&references);
    }

    /// The digest of all files added, as hexadecimal digits.
    pub fn finish(&self) -> String {
        self.0.finalize().to_hex().to_string()
    }

    /// JSON is one form for each value here (no maps, no floats) and each part ends in a line feed, which
    /// JSON text has only between values; so no two indexes feed the hasher the same bytes.
    fn part(&mut self, value: &impl Serialize) {
        serde_json::to_writer(&mut self.0, value).expect("the model has a JSON form");
        self.0.write_all(b"\n").expect("a hasher takes every byte");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SymbolRow;
    use phalanx::ast::{ContentHash, Language, SymbolKind};

    fn entry(symbols: &[&str]) -> FileEntry {
        let symbols = symbols.iter().map(|name| SymbolRow {
            name: (*name).to_owned(),
            kind: SymbolKind::Function,
            start: 0,
            end: 1,
            parent: None,
            export: None,
        });
        FileEntry {
            content: ContentHash::of(Language::RUST, b""),
            language: Language::RUST,
            symbols: symbols.collect(),
            imports: Vec::new(),
            errors: Vec::new(),
        }
    }

    fn digest(files: &[(&str, &FileEntry)]) -> String {
        let mut digest = IndexDigest::default();
        for (path, entry) in files {
            digest.add(path, entry, None);
        }
        digest.finish()
    }

    #[test]
    fn equal_indexes_have_equal_digests_and_no_others() {
        let (one, two) = (entry(&["a", "b"]), entry(&["a"]));
        let whole = digest(&[("x.rs", &one), ("y.rs", &two)]);
        assert_eq!(whole, digest(&[("x.rs", &one.clone()), ("y.rs", &two.clone())]));
        assert_eq!(whole.len(), 64);
        assert_ne!(whole, digest(&[("x.rs", &two), ("y.rs", &one)]));
        assert_ne!(whole, digest(&[("x.rs", &one)]));
        let mut resolved = IndexDigest::default();
        let references = FileReferences { inputs: [0; 32], references: Vec::new() };
        resolved.add("x.rs", &one, Some(&references));
        assert_ne!(resolved.finish(), digest(&[("x.rs", &one)]));
    }
}
