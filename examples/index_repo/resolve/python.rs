//! Python: relative imports, and absolute ones from any folder above the file that is not itself a
//! package, the nearest first (where a script or its tests would put it on the path).
//!
//! Not known here, and so unresolved: installed packages, changes to `sys.path`.

use super::{Files, Place, defined, first_of, folder, join};
use crate::model::ImportRow;

pub(super) fn place(
    files: &Files<'_>,
    from: &str,
    import: &ImportRow,
    name: &str,
) -> Option<Place> {
    bases(files, from, &import.module).into_iter().find_map(|base| within(files, &base, name))
}

/// Where `name` of the module whose path without an ending is `base` lies.
fn within(files: &Files<'_>, base: &str, name: &str) -> Option<Place> {
    let module = module(files, base);
    if name.is_empty() || name == "*" {
        return module.map(Place::whole);
    }
    let path = vec![name.to_owned()];
    // A package's own name comes before a module of it that is called the same.
    if let Some(file) = &module
        && files.get(file.as_str()).is_some_and(|entry| defined(&entry.symbols, &path).is_some())
    {
        return Some(Place { file: file.clone(), path });
    }
    if let Some(file) = self::module(files, &join(base, name)) {
        return Some(Place::whole(file));
    }
    module.map(|file| Place { file, path })
}

/// The file of a module whose path without an ending is `base`.
fn module(files: &Files<'_>, base: &str) -> Option<String> {
    let package = ["__init__.py", "__init__.pyi"].map(|name| join(base, name));
    let plain = ["py", "pyi"].map(|ending| format!("{base}.{ending}"));
    first_of(files, package.into_iter().chain(plain))
}

/// The paths without an ending that `module`, as written in the file at `from`, may mean.
fn bases(files: &Files<'_>, from: &str, module: &str) -> Vec<String> {
    let rest = module.trim_start_matches('.');
    let dots = module.len() - rest.len();
    let under = |root: &str| {
        rest.split('.')
            .filter(|part| !part.is_empty())
            .fold(root.to_owned(), |base, part| join(&base, part))
    };
    if dots > 0 {
        let above = ancestors(folder(from)).nth(dots - 1);
        return above.map(under).into_iter().collect();
    }
    if rest.is_empty() {
        return Vec::new();
    }
    ancestors(folder(from)).filter(|root| !is_package(files, root)).map(under).collect()
}

fn is_package(files: &Files<'_>, folder: &str) -> bool {
    files.contains_key(join(folder, "__init__.py").as_str())
}

/// A folder and all above it, the root of the tree (an empty path) last.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| (!path.is_empty()).then(|| folder(path)))
}
