//! What this crate can tell about the trees of a language beyond their nodes.

use super::language::{Capabilities, Language};

/// The analyses that exist for a language.
pub(super) fn capabilities(language: Language) -> Capabilities {
    let _ = language;
    Capabilities::default()
}
