//! Languages: a name that compares in two words, and what an engine can do with it.

use std::fmt;
use std::path::Path;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest id of a language, in bytes.
const MAX_ID_BYTES: usize = 16;

/// A programming language (or any other), named by a short id.
///
/// It is `Copy` and 16 bytes wide; comparing and hashing cost no more than that of two words. The set is
/// open: a host names its own with [`Language::new`].
///
/// ```
/// use phalanx::ast::Language;
/// use std::path::Path;
///
/// const INI: Language = Language::new("ini").expect("the id is short and plain");
/// assert_ne!(INI, Language::RUST);
/// assert_eq!(Language::from_path(Path::new("src/main.rs")), Some(Language::RUST));
/// assert_eq!(Language::from_path(Path::new("Makefile")), None);
/// ```
// The id padded with NUL, which no id contains: equal ids are equal arrays.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Language([u8; MAX_ID_BYTES]);

impl Language {
    /// Rust.
    pub const RUST: Self = Self::new("rust").expect("a valid id");
    /// JavaScript, JSX included.
    pub const JAVASCRIPT: Self = Self::new("javascript").expect("a valid id");
    /// TypeScript without JSX.
    pub const TYPESCRIPT: Self = Self::new("typescript").expect("a valid id");
    /// TypeScript with JSX.
    pub const TSX: Self = Self::new("tsx").expect("a valid id");
    /// Python.
    pub const PYTHON: Self = Self::new("python").expect("a valid id");

    /// Names a language: 1 to 16 bytes of `a-z`, `0-9`, `-`, `_`, `+`, `#` and `.`, otherwise `None`.
    #[must_use]
    pub const fn new(id: &str) -> Option<Self> {
        let id = id.as_bytes();
        if id.is_empty() || id.len() > MAX_ID_BYTES {
            return None;
        }
        let mut padded = [0; MAX_ID_BYTES];
        let mut at = 0;
        while at < id.len() {
            match id[at] {
                b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'+' | b'#' | b'.' => padded[at] = id[at],
                _ => return None,
            }
            at += 1;
        }
        Some(Self(padded))
    }

    /// The id it was named by.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|&byte| byte == 0).unwrap_or(MAX_ID_BYTES);
        str::from_utf8(&self.0[..end]).expect("an id is ASCII")
    }

    /// The language that a file name's extension stands for, among the built-in ones.
    ///
    /// The comparison ignores case. The file is not read, and need not exist.
    #[must_use]
    pub fn from_path(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        Some(match extension.as_str() {
            "rs" => Self::RUST,
            "js" | "mjs" | "cjs" | "jsx" => Self::JAVASCRIPT,
            "ts" | "mts" | "cts" => Self::TYPESCRIPT,
            "tsx" => Self::TSX,
            "py" | "pyi" | "pyw" => Self::PYTHON,
            _ => return None,
        })
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Language").field(&self.as_str()).finish()
    }
}

impl Serialize for Language {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Language {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let id = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::new(&id).ok_or_else(|| {
            D::Error::custom(format_args!(
                "expected the id of a language (1 to 16 bytes of a-z 0-9 - _ + # .), found {id:?}"
            ))
        })
    }
}

/// What can be asked of the trees of a language.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Capabilities {
    /// [`SyntaxTree::outline`](super::SyntaxTree::outline) answers.
    pub outline: bool,
    /// [`SyntaxTree::imports`](super::SyntaxTree::imports) answers.
    pub imports: bool,
    /// [`SyntaxTree::references`](super::SyntaxTree::references) answers.
    pub references: bool,
}

/// A language that an engine parses, and what it can do with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LanguageInfo {
    language: Language,
    name: String,
    version: String,
    capabilities: Capabilities,
}

impl LanguageInfo {
    /// Describes a language: its id, its name for people, and the version of the grammar.
    ///
    /// The capabilities are those that this crate has for the language; a language of the host's own has
    /// none.
    #[must_use]
    pub fn new(language: Language, name: impl Into<String>, version: impl Into<String>) -> Self {
        Self {
            language,
            name: name.into(),
            version: version.into(),
            capabilities: super::analysis::capabilities(language),
        }
    }

    /// The id.
    #[must_use]
    pub fn language(&self) -> Language {
        self.language
    }

    /// The name for people, such as `JavaScript`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version of the grammar, as its author numbers it.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What can be asked of its trees.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_is_empty_long_or_not_plain_is_refused() {
        for id in ["", "seventeen-bytes-x", "Rust", "ru st", "r\0", "r\u{fc}st"] {
            assert_eq!(Language::new(id), None, "{id:?}");
        }
        let longest = Language::new("sixteen-bytes-xy").expect("sixteen bytes are allowed");
        assert_eq!(longest.as_str(), "sixteen-bytes-xy");
    }

    #[test]
    fn a_language_survives_serialisation_and_a_bad_one_is_refused() {
        let text = serde_json::to_string(&Language::TSX).expect("a string");
        assert_eq!(text, "\"tsx\"");
        assert_eq!(serde_json::from_str::<Language>(&text).ok(), Some(Language::TSX));
        assert!(serde_json::from_str::<Language>("\"T S X\"").is_err());
    }

    #[test]
    fn an_extension_decides_whatever_its_case() {
        for (path, language) in [
            ("a/b.RS", Some(Language::RUST)),
            ("x.test.mjs", Some(Language::JAVASCRIPT)),
            ("types.d.ts", Some(Language::TYPESCRIPT)),
            ("View.tsx", Some(Language::TSX)),
            ("stub.pyi", Some(Language::PYTHON)),
            (".rs", None),
            ("rs", None),
        ] {
            assert_eq!(Language::from_path(Path::new(path)), language, "{path}");
        }
    }
}
