//! JavaScript and TypeScript: relative specifiers, with the extension left out or naming what the file
//! is compiled to, and `index` files of folders.
//!
//! Not known here, and so unresolved: packages, `paths` of a tsconfig, `imports` of a package.json.

use super::{Files, Place, first_of, folder, join};
use crate::model::ImportRow;

/// What a specifier may leave out, in the order in which it is tried.
const EXTENSIONS: [&str; 9] = ["ts", "tsx", "mts", "cts", "d.ts", "js", "mjs", "cjs", "jsx"];

/// What TypeScript calls its output, and what the source of that is called.
const COMPILED: [(&str, &str); 5] =
    [(".js", ".ts"), (".js", ".tsx"), (".mjs", ".mts"), (".cjs", ".cts"), (".js", ".d.ts")];

pub(super) fn place(
    files: &Files<'_>,
    from: &str,
    import: &ImportRow,
    name: &str,
) -> Option<Place> {
    let file = target(files, from, &import.module)?;
    let path = match name {
        "" | "*" => Vec::new(),
        name => vec![name.to_owned()],
    };
    Some(Place { file, path })
}

fn target(files: &Files<'_>, from: &str, specifier: &str) -> Option<String> {
    let relative = specifier == "."
        || specifier == ".."
        || specifier.starts_with("./")
        || specifier.starts_with("../");
    if !relative {
        return None;
    }
    let base = normal(folder(from), specifier)?;
    let compiled = COMPILED.iter().filter_map(|(compiled, source)| {
        base.strip_suffix(compiled).map(|stem| format!("{stem}{source}"))
    });
    let with_extension = EXTENSIONS.iter().map(|extension| format!("{base}.{extension}"));
    let index = EXTENSIONS.iter().map(|extension| join(&base, &format!("index.{extension}")));
    let exact = (!specifier.ends_with('/')).then(|| base.clone());
    first_of(files, exact.into_iter().chain(compiled).chain(with_extension).chain(index))
}

/// `specifier` as seen from `folder`, without dots; none if it leaves the tree.
fn normal(folder: &str, specifier: &str) -> Option<String> {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in specifier.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}
