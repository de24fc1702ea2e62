//! Rust: the module tree as `mod` declarations make it, and `use` paths along it.
//!
//! No manifest is read: a file that nothing declares is the root of a crate, whatever it is called. Not
//! known here, and so unresolved: other crates (those in the same tree included), `#[path]`, macros.

use super::{Files, Place, folder, join};
use crate::model::{FileEntry, ImportRow};
use phalanx::ast::{Language, SymbolKind};
use std::collections::BTreeMap;

/// Which file declares which.
pub(super) struct Modules {
    /// The modules that a file declares, by name.
    children: BTreeMap<String, BTreeMap<String, String>>,
    /// The file that declares a file; the first in order if there are several.
    parent: BTreeMap<String, String>,
}

/// A module: a file and the way to a module written inside it.
struct Spot {
    file: String,
    inline: Vec<String>,
}

impl Modules {
    pub(super) fn new(files: &Files<'_>) -> Self {
        let mut modules = Self { children: BTreeMap::new(), parent: BTreeMap::new() };
        for (&path, &entry) in files.iter().filter(|(_, entry)| entry.language == Language::RUST) {
            for import in entry.imports.iter().filter(|import| import.declares) {
                let Some(child) =
                    declared(files, path, &inline_at(entry, import.start), &import.module)
                else {
                    continue;
                };
                if child == path {
                    continue;
                }
                modules.parent.entry(child.clone()).or_insert_with(|| path.to_owned());
                modules
                    .children
                    .entry(path.to_owned())
                    .or_default()
                    .insert(import.module.clone(), child);
            }
        }
        modules
    }

    pub(super) fn place(
        &self,
        from: &str,
        entry: &FileEntry,
        import: &ImportRow,
        name: &str,
    ) -> Option<Place> {
        if import.declares {
            return self.child(from, &import.module).map(Place::whole);
        }
        if import.module.starts_with("::") {
            return None;
        }
        let mut segments: Vec<&str> =
            import.module.split("::").map(str::trim).filter(|part| !part.is_empty()).collect();
        if !matches!(name, "" | "*" | "self") {
            segments.push(name);
        }
        let here = Spot { file: from.to_owned(), inline: inline_at(entry, import.start) };
        self.walk(here, &segments)
    }

    fn walk(&self, here: Spot, segments: &[&str]) -> Option<Place> {
        let (&first, mut rest) = segments.split_first()?;
        let mut spot = match first {
            "crate" => Spot { file: self.root(&here.file), inline: Vec::new() },
            "self" => here,
            "super" => self.above(here)?,
            name if self.child(&here.file, name).is_some() => {
                rest = segments;
                here
            }
            _ => return None,
        };
        while let Some((&"super", after)) = rest.split_first() {
            spot = self.above(spot)?;
            rest = after;
        }
        while spot.inline.is_empty()
            && let Some((&name, after)) = rest.split_first()
            && let Some(child) = self.child(&spot.file, name)
        {
            spot.file = child;
            rest = after;
        }
        let mut path = spot.inline;
        path.extend(rest.iter().map(|&name| name.to_owned()));
        Some(Place { file: spot.file, path })
    }

    fn child(&self, file: &str, name: &str) -> Option<String> {
        self.children.get(file)?.get(name).cloned()
    }

    fn above(&self, mut spot: Spot) -> Option<Spot> {
        if spot.inline.pop().is_none() {
            spot.file = self.parent.get(&spot.file)?.clone();
        }
        Some(spot)
    }

    /// The file at the top of the crate.
    fn root(&self, file: &str) -> String {
        let mut root = file;
        // Declarations that go round in a circle have no top; the count of files bounds the climb.
        for _ in 0..self.parent.len() {
            match self.parent.get(root) {
                Some(parent) => root = parent,
                None => break,
            }
        }
        root.to_owned()
    }
}

/// The file that `mod name;` in the file at `path` means.
fn declared(files: &Files<'_>, path: &str, inline: &[String], name: &str) -> Option<String> {
    let file = path.rsplit('/').next().unwrap_or(path);
    let beside = folder(path).to_owned();
    let below = path.strip_suffix(".rs").unwrap_or(path).to_owned();
    // `mod.rs` and the roots of crates look beside themselves; others below their own name. A root may be
    // called anything, so both are tried where the name does not tell.
    let folders = match file {
        "mod.rs" | "lib.rs" | "main.rs" => vec![beside],
        _ => vec![below, beside],
    };
    folders.into_iter().find_map(|start| {
        let folder = inline.iter().fold(start, |folder, part| join(&folder, part));
        super::first_of(
            files,
            [join(&folder, &format!("{name}.rs")), join(&folder, &format!("{name}/mod.rs"))],
        )
    })
}

/// The modules written inside the file that enclose the byte at `start`, the outermost first.
fn inline_at(entry: &FileEntry, start: u32) -> Vec<String> {
    entry
        .symbols
        .iter()
        .filter(|symbol| {
            symbol.kind == SymbolKind::Module && symbol.start < start && start < symbol.end
        })
        .map(|symbol| symbol.name.clone())
        .collect()
}
