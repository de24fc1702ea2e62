//! What each imported name refers to, worked out from the index alone.
//!
//! A name is followed in two steps: the language says which file of the tree its module is
//! ([`javascript`], [`python`], [`rust`]), and then the symbols of that file are searched for it; a file
//! that only passes the name on (`pub use`, `export .. from`, an `__init__.py`) is looked through. What is
//! not found that way, packages from elsewhere included, is unresolved and listed as such.
//!
//! 1. Only the set of indexed files, their symbols and their imports enter; no file is read.
//! 2. The answer for a file is a function of the index: neither order nor time has a part in it.

mod javascript;
mod python;
mod rust;

use crate::model::{Binding, Digest, FileEntry, ImportRow, ImportedName, SymbolRow, Target};
use phalanx::ast::Language;
use std::collections::{BTreeMap, BTreeSet};

/// A name may be passed on by this many files before the search gives up.
const HOPS_MAX: usize = 16;

/// The files of the tree and what is in them.
pub type Files<'a> = BTreeMap<&'a str, &'a FileEntry>;

/// A whole index, made ready for the questions of phase two.
pub struct Index<'a> {
    files: Files<'a>,
    modules: rust::Modules,
}

/// Where one import points before re-exports are looked through.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    file: String,
    /// The way from the top of the file to the symbol; empty means the file as a whole.
    path: Vec<String>,
}

impl Place {
    fn whole(file: String) -> Self {
        Self { file, path: Vec::new() }
    }
}

impl<'a> Index<'a> {
    /// Prepares an index.
    pub fn new(files: Files<'a>) -> Self {
        let modules = rust::Modules::new(&files);
        Self { files, modules }
    }

    /// The files.
    pub fn files(&self) -> &Files<'a> {
        &self.files
    }

    /// What each name refers to that the file at `path` imports.
    pub fn bindings(&self, path: &str) -> Vec<Binding> {
        let Some(entry) = self.files.get(path) else { return Vec::new() };
        let mut bindings = Vec::new();
        for import in &entry.imports {
            for name in names_of(import) {
                let target = self
                    .place(path, entry, import, &name.name)
                    .and_then(|place| self.follow(place, &mut BTreeSet::new()));
                let module = import.module.clone();
                bindings.push(Binding { module, name: name.name, local: name.local, target });
            }
        }
        bindings
    }

    /// A digest of all that the references of the file at `path` depend on: its own bytes, what its
    /// imports mean, and the bytes of the files they refer to.
    pub fn inputs(&self, path: &str, bindings: &[Binding]) -> Digest {
        let mut hasher = blake3::Hasher::new();
        let mut add = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        let content =
            |path: &str| self.files.get(path).map_or(&[][..], |entry| entry.content.as_bytes());
        add(content(path));
        for binding in bindings {
            add(binding.module.as_bytes());
            add(binding.name.as_bytes());
            add(binding.local.as_bytes());
            let Some(target) = &binding.target else {
                add(b"unresolved");
                continue;
            };
            add(target.file.as_bytes());
            add(target.symbol.as_deref().unwrap_or("").as_bytes());
            add(content(&target.file));
        }
        hasher.finalize().into()
    }

    /// Where `import` in the file at `from` takes `name` from, as far as paths tell.
    fn place(
        &self,
        from: &str,
        entry: &FileEntry,
        import: &ImportRow,
        name: &str,
    ) -> Option<Place> {
        match entry.language {
            Language::RUST => self.modules.place(from, entry, import, name),
            Language::PYTHON => python::place(&self.files, from, import, name),
            Language::JAVASCRIPT | Language::TYPESCRIPT | Language::TSX => {
                javascript::place(&self.files, from, import, name)
            }
            _ => None,
        }
    }

    /// Finds the symbol at `place`, in the file itself or in one that it passes on from.
    fn follow(&self, place: Place, seen: &mut BTreeSet<(String, String)>) -> Option<Target> {
        let entry = self.files.get(place.file.as_str())?;
        let Some(first) = place.path.first() else {
            return Some(Target { file: place.file, symbol: None });
        };
        if let Some(symbol) = defined(&entry.symbols, &place.path) {
            return Some(Target { file: place.file, symbol: Some(symbol) });
        }
        if seen.len() >= HOPS_MAX || !seen.insert((place.file.clone(), first.clone())) {
            return None;
        }
        let passed_on = self.passed_on(&place, entry, seen);
        // A default export without a name of its own is the file as a whole.
        let is_default =
            matches!(entry.language, Language::JAVASCRIPT | Language::TYPESCRIPT | Language::TSX)
                && first == "default";
        match passed_on {
            None if is_default => Some(Target { file: place.file, symbol: None }),
            found => found,
        }
    }

    fn passed_on(
        &self,
        place: &Place,
        entry: &FileEntry,
        seen: &mut BTreeSet<(String, String)>,
    ) -> Option<Target> {
        let first = place.path.first()?;
        for import in entry.imports.iter().filter(|import| !import.declares) {
            for name in names_of(import) {
                let wanted = if name.name == "*" {
                    first
                } else if name.local == *first {
                    &name.name
                } else {
                    continue;
                };
                let Some(mut next) = self.place(&place.file, entry, import, wanted) else {
                    continue;
                };
                next.path.extend(place.path.iter().skip(1).cloned());
                if let Some(target) = self.follow(next, seen) {
                    return Some(target);
                }
            }
        }
        None
    }
}

/// What an import brings in, each as one name; everything is `*`, the module itself is empty.
fn names_of(import: &ImportRow) -> Vec<ImportedName> {
    let mut names = Vec::new();
    if import.alias.is_some() || (import.names.is_empty() && !import.wildcard) {
        let local = import.alias.clone().unwrap_or_default();
        names.push(ImportedName { name: String::new(), local });
    }
    names.extend(import.names.iter().cloned());
    if import.wildcard {
        names.push(ImportedName { name: "*".to_owned(), local: String::new() });
    }
    names
}

/// The part of `path` that leads to a symbol, joined by dots; at least its first name must be one.
fn defined(symbols: &[SymbolRow], path: &[String]) -> Option<String> {
    let mut parents: Vec<Option<u32>> = vec![None];
    let mut found: Vec<&str> = Vec::new();
    for name in path {
        let matching: Vec<Option<u32>> = (0..)
            .zip(symbols)
            .filter(|(_, symbol)| {
                let called = symbol.name == *name || symbol.export.as_ref() == Some(name);
                called && parents.contains(&symbol.parent)
            })
            .map(|(place, _)| Some(place))
            .collect();
        if matching.is_empty() {
            break;
        }
        found.push(name);
        parents = matching;
    }
    (!found.is_empty()).then(|| found.join("."))
}

/// The folder of a path: all before the last `/`.
fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// `folder` and `name` as one path.
fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// The first of `candidates` that is an indexed file.
fn first_of(files: &Files<'_>, candidates: impl IntoIterator<Item = String>) -> Option<String> {
    candidates.into_iter().find(|path| files.contains_key(path.as_str()))
}

#[cfg(test)]
mod tests;
