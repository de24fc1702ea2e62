//! The modules that come with the crate: one grammar each, built by `guests/build.sh`.

use crate::ast::language::{Language, LanguageInfo};

/// A grammar and the WebAssembly module that parses by it.
#[derive(Clone)]
pub(super) struct Guest {
    pub(super) info: LanguageInfo,
    pub(super) module: std::borrow::Cow<'static, [u8]>,
}

impl Guest {
    pub(super) fn language(&self) -> Language {
        self.info.language()
    }
}

/// Every guest of this build.
pub(super) fn built_in() -> Vec<Guest> {
    macro_rules! guest {
        ($language:ident, $name:literal, $version:literal, $file:literal) => {
            Guest {
                info: LanguageInfo::new(Language::$language, $name, $version),
                module: include_bytes!(concat!("guests/", $file, ".wasm")).as_slice().into(),
            }
        };
    }
    vec![
        guest!(RUST, "Rust", "0.24.2", "rust"),
        guest!(JAVASCRIPT, "JavaScript", "0.25.0", "javascript"),
        guest!(TYPESCRIPT, "TypeScript", "0.23.2", "typescript"),
        guest!(TSX, "TSX", "0.23.2", "tsx"),
        guest!(PYTHON, "Python", "0.25.0", "python"),
    ]
}
