//! What is parsed: a text, its language, and the hash by which results are found again.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::error::{AstError, AstErrorKind};
use super::language::Language;

/// A text to parse, borrowed from the host.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    language: Language,
    text: &'a str,
    name: Option<&'a str>,
}

impl<'a> Source<'a> {
    /// A text in a language.
    #[must_use]
    pub fn new(language: Language, text: &'a str) -> Self {
        Self { language, text, name: None }
    }

    /// Bytes in a language, which have to be UTF-8.
    ///
    /// # Errors
    ///
    /// [`AstErrorKind::NotUtf8`] names the first byte that is not.
    pub fn from_bytes(language: Language, bytes: &'a [u8]) -> Result<Self, AstError> {
        match str::from_utf8(bytes) {
            Ok(text) => Ok(Self::new(language, text)),
            Err(error) => Err(AstError::new(
                AstErrorKind::NotUtf8,
                format!("expected UTF-8, found something else at byte {}", error.valid_up_to()),
            )),
        }
    }

    /// Names the text (a path, usually) for messages; the name has no influence on the result.
    #[must_use]
    pub fn named(mut self, name: &'a str) -> Self {
        self.name = Some(name);
        self
    }

    /// The language.
    #[must_use]
    pub fn language(&self) -> Language {
        self.language
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// The name for messages, where one was given.
    #[must_use]
    pub fn name(&self) -> Option<&'a str> {
        self.name
    }

    /// The hash of language and text; O(bytes), some GB/s.
    #[must_use]
    pub fn content_hash(&self) -> ContentHash {
        ContentHash::of(self.language, self.text.as_bytes())
    }
}

/// The BLAKE3 hash of a language and a text: what a parse depends on, apart from its engine and limits.
///
/// Equal hashes mean equal sources. It displays as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    /// Hashes bytes that stand for a text in `language`; they need not be UTF-8.
    #[must_use]
    pub fn of(language: Language, bytes: &[u8]) -> Self {
        let id = language.as_str().as_bytes();
        let mut hasher = blake3::Hasher::new();
        // A NUL ends the id, which contains none: no two pairs feed the hasher the same bytes.
        hasher.update(id).update(&[0]).update(bytes);
        Self(*hasher.finalize().as_bytes())
    }

    /// The hash as bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentHash({self})")
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn the_hash_tells_languages_and_texts_apart_but_not_names() {
        let rust = Source::new(Language::RUST, "fn f() {}");
        assert_eq!(rust.content_hash(), rust.named("a.rs").content_hash());
        let python = Source::new(Language::PYTHON, "fn f() {}");
        assert_ne!(rust.content_hash(), python.content_hash());
        assert_ne!(rust.content_hash(), Source::new(Language::RUST, "fn g() {}").content_hash());
        let (ts, tsx) = (Language::new("ts"), Language::new("tsx"));
        let (ts, tsx) = (ts.expect("a valid id"), tsx.expect("a valid id"));
        assert_ne!(ContentHash::of(ts, b"x"), ContentHash::of(tsx, b""));
    }

    #[test]
    fn bytes_that_are_not_utf8_are_refused_with_the_place() {
        let error = Source::from_bytes(Language::RUST, b"fn \xff").expect_err("not UTF-8");
        assert_eq!(error.kind(), AstErrorKind::NotUtf8);
        assert!(error.message().contains("byte 3"), "{error}");
    }

    #[test]
    fn a_hash_displays_as_hexadecimal() {
        let text = ContentHash::of(Language::RUST, b"").to_string();
        assert_eq!(text.len(), 64);
        assert!(text.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}
