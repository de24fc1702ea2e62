//! From a tree to what the index keeps of it.

use crate::model::{
    Binding, Digest, FileEntry, FileReferences, ImportRow, ImportedName, Reference, SymbolRow,
    SyntaxErrorRow,
};
use phalanx::ast::{
    AstError, ContentHash, Import, ImportKind, Language, Symbol, SyntaxErrorKind, SyntaxTree,
};
use std::collections::BTreeMap;

/// Phase one: what is in the file.
pub fn entry(content: ContentHash, tree: &SyntaxTree) -> Result<FileEntry, AstError> {
    let language = tree.language();
    let errors = tree.syntax_errors().into_iter().map(|error| SyntaxErrorRow {
        start: offset(error.range.start),
        end: offset(error.range.end),
        missing: matches!(error.kind, SyntaxErrorKind::Missing { .. }),
    });
    Ok(FileEntry {
        content,
        language,
        symbols: tree.outline()?.into_iter().map(symbol).collect(),
        imports: tree.imports()?.into_iter().map(|found| import(language, found)).collect(),
        errors: errors.collect(),
    })
}

/// Phase two: where the file uses what it imports.
pub fn references(
    inputs: Digest,
    bindings: Vec<Binding>,
    tree: &SyntaxTree,
) -> Result<FileReferences, AstError> {
    let mut uses: BTreeMap<String, Vec<u32>> = bindings
        .iter()
        .filter(|binding| !binding.local.is_empty())
        .map(|binding| (binding.local.clone(), Vec::new()))
        .collect();
    for reference in tree.references()? {
        if let Some(uses) = uses.get_mut(reference.name) {
            uses.push(offset(reference.range.start));
        }
    }
    let references = bindings.into_iter().map(|binding| Reference {
        uses: uses.get(&binding.local).cloned().unwrap_or_default(),
        binding,
    });
    Ok(FileReferences { inputs, references: references.collect() })
}

fn symbol(symbol: Symbol) -> SymbolRow {
    SymbolRow {
        name: symbol.name,
        kind: symbol.kind,
        start: offset(symbol.range.start),
        end: offset(symbol.range.end),
        parent: symbol.parent.map(offset),
        export: symbol.export,
    }
}

fn import(language: Language, import: Import) -> ImportRow {
    // `import a.b` and `use a::b` call the module by its last part; JavaScript calls it nothing.
    let last = match language {
        Language::PYTHON => import.path.rsplit('.').next(),
        Language::RUST => import.path.rsplit("::").next(),
        _ => None,
    };
    let is_module = import.names.is_empty() && !import.glob;
    let names = import.names.into_iter().map(|name| ImportedName {
        local: match (name.alias, name.name.as_str(), last) {
            (Some(alias), ..) => alias,
            (None, "self", Some(last)) => last.to_owned(),
            (None, name, _) => name.to_owned(),
        },
        name: name.name,
    });
    ImportRow {
        names: names.collect(),
        alias: import.alias.or_else(|| last.filter(|_| is_module).map(str::to_owned)),
        wildcard: import.glob,
        declares: import.kind == ImportKind::ModDeclaration,
        start: offset(import.range.start),
        module: import.path,
    }
}

/// The engine takes no source that 32 bits cannot number.
fn offset(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}
