//! The tables of a grammar, shared by all its trees: the names of node kinds and of fields.

use std::collections::HashSet;

use super::analysis::Analysis;
use super::error::AstError;
use super::language::Language;

/// A kind of node: its name, and whether the grammar names it or it stands for a literal token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct KindInfo {
    /// The name, such as `function_item` or `+`.
    pub name: String,
    /// Whether it is a rule of the grammar (`function_item`), not a literal token (`+`).
    pub named: bool,
}

impl KindInfo {
    /// A rule of the grammar.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), named: true }
    }

    /// A literal token.
    #[must_use]
    pub fn anonymous(name: impl Into<String>) -> Self {
        Self { name: name.into(), named: false }
    }
}

/// What the numbers in the records of a tree stand for. Made once a language, shared by all its trees.
#[derive(Debug)]
pub struct Grammar {
    language: Language,
    kinds: Vec<KindInfo>,
    fields: Vec<String>,
    analysis: Option<Analysis>,
}

impl Grammar {
    /// Makes the tables: kind `k` of a record is `kinds[k]`, field `f` (from 1) is `fields[f - 1]`.
    ///
    /// The names of kinds may repeat, as they do in generated grammars; those of fields may not.
    ///
    /// # Errors
    ///
    /// [`InvalidTree`](super::AstErrorKind::InvalidTree) when there are no kinds, more than 65,535 kinds or fields,
    /// or two fields of one name.
    pub fn new(
        language: Language,
        kinds: Vec<KindInfo>,
        fields: Vec<String>,
    ) -> Result<Self, AstError> {
        let most = usize::from(u16::MAX);
        if kinds.is_empty() || kinds.len() > most || fields.len() > most {
            return Err(AstError::invalid_tree(format!(
                "expected 1 to {most} kinds and at most {most} fields, found {} and {}",
                kinds.len(),
                fields.len()
            )));
        }
        let mut seen = HashSet::new();
        if let Some(field) = fields.iter().find(|field| !seen.insert(field.as_str())) {
            return Err(AstError::invalid_tree(format!(
                "expected each field once, found {field:?} twice"
            )));
        }
        let analysis = Analysis::of(language, &kinds);
        Ok(Self { language, kinds, fields, analysis })
    }

    /// The language.
    #[must_use]
    pub fn language(&self) -> Language {
        self.language
    }

    /// The kinds of nodes.
    #[must_use]
    pub fn kinds(&self) -> &[KindInfo] {
        &self.kinds
    }

    /// The names of fields; the first one is number 1.
    #[must_use]
    pub fn fields(&self) -> &[String] {
        &self.fields
    }

    /// The number of the first kind with this name that is (or is not) named; O(kinds).
    #[must_use]
    pub fn kind_id(&self, name: &str, named: bool) -> Option<u16> {
        let at = self.kinds.iter().position(|kind| kind.named == named && kind.name == name)?;
        u16::try_from(at).ok()
    }

    /// The number of the field with this name, from 1; O(fields).
    #[must_use]
    pub fn field_id(&self, name: &str) -> Option<u16> {
        let at = self.fields.iter().position(|field| field == name)?;
        u16::try_from(at + 1).ok()
    }

    pub(super) fn analysis(&self) -> Option<&Analysis> {
        self.analysis.as_ref()
    }

    /// The name of a field number; `None` for 0, which stands for none.
    pub(super) fn field_name(&self, field: u16) -> Option<&str> {
        let at = usize::from(field).checked_sub(1)?;
        self.fields.get(at).map(String::as_str)
    }
}
