//! Reading a file and deciding whether it can be indexed.
//!
//! The order of the questions is part of what the summary means: empty, too large (both by the size the
//! system reports, before a byte is read), binary, not UTF-8, and only then the language. So a 50 MB file
//! costs nothing, and an image is counted as binary whatever its name.

use crate::model::{Failure, Skip};
use phalanx::ast::{ContentHash, Language};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// What a regular file turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text in a language that can be parsed.
    Source {
        /// The whole text.
        text: String,
        /// Its language.
        language: Language,
        /// The hash of both.
        content: ContentHash,
    },
    /// Left out by choice.
    Skipped(Skip),
    /// Left out because it could not be read.
    Failed(Failure),
}

/// What the engine takes.
#[derive(Clone, Debug)]
pub struct Taste {
    /// The languages that it parses.
    pub languages: BTreeSet<Language>,
    /// The largest source, in bytes.
    pub bytes_max: u64,
}

/// Reads the file at `path` and judges it, unless it is too large to be read.
pub fn classify(path: &Path, taste: &Taste) -> Kind {
    match read(path, taste.bytes_max) {
        Err(error) => Kind::Failed(failure(&error)),
        Ok(None) => Kind::Skipped(Skip::TooLarge),
        Ok(Some(bytes)) => judge(bytes, path, taste),
    }
}

fn judge(bytes: Vec<u8>, path: &Path, taste: &Taste) -> Kind {
    if bytes.is_empty() {
        return Kind::Skipped(Skip::Empty);
    }
    if bytes.contains(&0) {
        return Kind::Skipped(Skip::Binary);
    }
    let Ok(text) = String::from_utf8(bytes) else {
        return Kind::Skipped(Skip::NotUtf8);
    };
    match Language::from_path(path).filter(|language| taste.languages.contains(language)) {
        None => Kind::Skipped(Skip::UnsupportedLanguage),
        Some(language) => {
            let content = ContentHash::of(language, text.as_bytes());
            Kind::Source { text, language, content }
        }
    }
}

/// The bytes of the file, or none if there are more than `bytes_max`.
fn read(path: &Path, bytes_max: u64) -> std::io::Result<Option<Vec<u8>>> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    if size > bytes_max {
        return Ok(None);
    }
    // It may grow while it is read; one byte more than allowed is enough to know.
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= bytes_max).then_some(bytes))
}

fn failure(error: &std::io::Error) -> Failure {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => Failure::Vanished,
        _ => Failure::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn taste(bytes_max: u64) -> Taste {
        Taste { languages: BTreeSet::from([Language::RUST]), bytes_max }
    }

    fn classify_bytes(name: &str, bytes: &[u8]) -> Kind {
        let tree = tempfile::tempdir().expect("a folder");
        let path = tree.path().join(name);
        fs::write(&path, bytes).expect("written");
        classify(&path, &taste(64))
    }

    #[test]
    fn each_kind_of_file_has_its_reason() {
        assert_eq!(
            classify_bytes("a.rs", b"fn a() {}"),
            Kind::Source {
                text: "fn a() {}".to_owned(),
                language: Language::RUST,
                content: ContentHash::of(Language::RUST, b"fn a() {}"),
            }
        );
        assert_eq!(classify_bytes("a.rs", b""), Kind::Skipped(Skip::Empty));
        assert_eq!(classify_bytes("a.rs", &[b' '; 65]), Kind::Skipped(Skip::TooLarge));
        assert!(matches!(classify_bytes("a.rs", &[b' '; 64]), Kind::Source { .. }));
        assert_eq!(classify_bytes("a.rs", b"a\0b"), Kind::Skipped(Skip::Binary));
        assert_eq!(classify_bytes("a.rs", b"caf\xe9"), Kind::Skipped(Skip::NotUtf8));
        assert_eq!(classify_bytes("a.py", b"a"), Kind::Skipped(Skip::UnsupportedLanguage));
        assert_eq!(classify_bytes("a.md", b"hello"), Kind::Skipped(Skip::UnsupportedLanguage));
        assert_eq!(classify_bytes("a.png", b"\x89PNG\0"), Kind::Skipped(Skip::Binary));
    }

    #[test]
    fn a_file_that_is_gone_is_not_one_that_cannot_be_read() {
        let tree = tempfile::tempdir().expect("a folder");
        let gone = classify(&tree.path().join("gone.rs"), &taste(64));
        assert_eq!(gone, Kind::Failed(Failure::Vanished));
        let folder = classify(tree.path(), &taste(1 << 20));
        assert_eq!(folder, Kind::Failed(Failure::Unreadable));
    }

    #[test]
    fn a_sparse_file_of_50_mb_is_too_large_before_it_is_read() {
        let tree = tempfile::tempdir().expect("a folder");
        let path = tree.path().join("huge.js");
        File::create(&path).expect("made").set_len(50 << 20).expect("grown");
        assert_eq!(classify(&path, &taste(2 << 20)), Kind::Skipped(Skip::TooLarge));
    }
}
