//! Small trees, and what their names must mean.

use super::*;
use phalanx::ast::{ContentHash, SymbolKind};

/// A file with these top-level symbols and imports; an import is written `module: name, name as local`,
/// a declaration `mod name`.
fn file(language: Language, symbols: &[&str], imports: &[&str]) -> FileEntry {
    let symbols =
        (1..).zip(symbols).map(|(place, name)| symbol(name, SymbolKind::Function, place, None));
    let imports = imports.iter().map(|text| import(text));
    FileEntry {
        content: ContentHash::of(language, b""),
        language,
        symbols: symbols.collect(),
        imports: imports.collect(),
        errors: Vec::new(),
    }
}

fn symbol(name: &str, kind: SymbolKind, start: u32, parent: Option<u32>) -> SymbolRow {
    SymbolRow { name: name.to_owned(), kind, start, end: start + 1, parent, export: None }
}

fn import(text: &str) -> ImportRow {
    if let Some(name) = text.strip_prefix("mod ") {
        return ImportRow {
            module: name.to_owned(),
            alias: Some(name.to_owned()),
            names: Vec::new(),
            wildcard: false,
            declares: true,
            start: 0,
        };
    }
    let (module, names) = text.rsplit_once(": ").unwrap_or((text, ""));
    // A module without names is called by its last part, as Python and Rust do.
    let alias = names
        .is_empty()
        .then(|| module.rsplit(['/', '.', ':']).next().unwrap_or(module).to_owned());
    let mut wildcard = false;
    let mut list = Vec::new();
    for name in names.split(", ").filter(|name| !name.is_empty()) {
        let (name, local) = name.split_once(" as ").unwrap_or((name, name));
        if name == "*" {
            wildcard = true;
        } else {
            list.push(ImportedName { name: name.to_owned(), local: local.to_owned() });
        }
    }
    ImportRow { module: module.to_owned(), alias, names: list, wildcard, declares: false, start: 0 }
}

type Tree = BTreeMap<&'static str, FileEntry>;

fn index(tree: &Tree) -> Index<'_> {
    Index::new(tree.iter().map(|(path, entry)| (*path, entry)).collect())
}

/// The bindings of a file, each as `local -> file symbol`; what has no local name goes by the name there.
fn meanings(tree: &Tree, path: &str) -> Vec<String> {
    let bindings = index(tree).bindings(path);
    let called = |binding: &Binding| {
        let names = [&binding.local, &binding.name, &binding.module];
        names.into_iter().find(|name| !name.is_empty()).cloned().unwrap_or_default()
    };
    bindings
        .into_iter()
        .map(|binding| match &binding.target {
            None => format!("{} -> ?", called(&binding)),
            Some(Target { file, symbol: None }) => format!("{} -> {file}", called(&binding)),
            Some(Target { file, symbol: Some(symbol) }) => {
                format!("{} -> {file} {symbol}", called(&binding))
            }
        })
        .collect()
}

#[test]
fn a_relative_specifier_finds_the_file_it_leaves_the_ending_of() {
    let js = |symbols: &[&str], imports: &[&str]| file(Language::JAVASCRIPT, symbols, imports);
    let tree = Tree::from([
        (
            "app/main.js",
            js(
                &[],
                &[
                    "./a: f, gone, default as A",
                    "../lib: g as h",
                    "./b.js: k",
                    "react: useState",
                    "../../outside: x",
                    "./a: *",
                    "./style.css",
                ],
            ),
        ),
        ("app/a.js", js(&["f"], &[])),
        ("app/b.ts", file(Language::TYPESCRIPT, &["k"], &[])),
        ("lib/index.ts", file(Language::TYPESCRIPT, &[], &["./deep: g"])),
        ("lib/deep.ts", file(Language::TYPESCRIPT, &["g"], &[])),
    ]);
    assert_eq!(
        meanings(&tree, "app/main.js"),
        [
            "f -> app/a.js f",
            "gone -> ?",
            "A -> app/a.js",
            "h -> lib/deep.ts g",
            "k -> app/b.ts k",
            "useState -> ?",
            "x -> ?",
            "* -> app/a.js",
            "css -> ?",
        ]
    );
}

#[test]
fn python_finds_relative_modules_packages_and_modules_from_folders_above() {
    let py = |symbols: &[&str], imports: &[&str]| file(Language::PYTHON, symbols, imports);
    let tree = Tree::from([
        ("src/pkg/__init__.py", py(&["top"], &[".core: Engine", ".other: *"])),
        ("src/pkg/core.py", py(&["Engine"], &["..pkg: top", "...: x", "os: path"])),
        ("src/pkg/other.py", py(&["helper"], &["pkg.core: Engine as E", ".: core, top"])),
        ("src/run.py", py(&[], &["pkg: Engine, helper, core, nothing", "pkg.core", "core"])),
    ]);
    assert_eq!(
        meanings(&tree, "src/pkg/core.py"),
        ["top -> src/pkg/__init__.py top", "x -> ?", "path -> ?",]
    );
    assert_eq!(
        meanings(&tree, "src/pkg/other.py"),
        [
            "E -> src/pkg/core.py Engine",
            "core -> src/pkg/core.py",
            "top -> src/pkg/__init__.py top",
        ]
    );
    assert_eq!(
        meanings(&tree, "src/run.py"),
        [
            "Engine -> src/pkg/core.py Engine",
            "helper -> src/pkg/other.py helper",
            "core -> src/pkg/core.py",
            "nothing -> ?",
            "core -> src/pkg/core.py",
            "core -> ?",
        ]
    );
}

#[test]
fn rust_paths_follow_the_module_tree_and_its_re_exports() {
    let rs = |symbols: &[&str], imports: &[&str]| file(Language::RUST, symbols, imports);
    let tree = Tree::from([
        ("src/lib.rs", rs(&["Top"], &["mod bus", "mod cache", "bus: Event", "std::fmt: Display"])),
        (
            "src/bus.rs",
            rs(&[], &["mod ring", "self::ring: Ring as Event", "crate: Top", "mod gone"]),
        ),
        (
            "src/bus/ring.rs",
            rs(&["Ring"], &["super::super::cache: *", "crate: Event", "crate::bus: Event"]),
        ),
        ("src/cache/mod.rs", rs(&["Cache"], &["crate::bus::ring: self, Ring, Nothing"])),
        ("tests/it.rs", rs(&[], &["mod common", "common: Helper", "phalanx: Top"])),
        ("tests/common/mod.rs", rs(&["Helper"], &[])),
    ]);
    assert_eq!(
        meanings(&tree, "src/lib.rs"),
        [
            "bus -> src/bus.rs",
            "cache -> src/cache/mod.rs",
            "Event -> src/bus/ring.rs Ring",
            "Display -> ?",
        ]
    );
    assert_eq!(
        meanings(&tree, "src/bus.rs"),
        [
            "ring -> src/bus/ring.rs",
            "Event -> src/bus/ring.rs Ring",
            "Top -> src/lib.rs Top",
            "gone -> ?",
        ]
    );
    assert_eq!(
        meanings(&tree, "src/bus/ring.rs"),
        ["* -> src/cache/mod.rs", "Event -> src/bus/ring.rs Ring", "Event -> src/bus/ring.rs Ring",]
    );
    assert_eq!(
        meanings(&tree, "src/cache/mod.rs"),
        ["self -> src/bus/ring.rs", "Ring -> src/bus/ring.rs Ring", "Nothing -> ?",]
    );
    assert_eq!(
        meanings(&tree, "tests/it.rs"),
        ["common -> tests/common/mod.rs", "Helper -> tests/common/mod.rs Helper", "Top -> ?",]
    );
}

#[test]
fn super_in_a_module_written_inside_a_file_is_that_file() {
    let mut entry = file(Language::RUST, &["f"], &[]);
    entry.symbols.push(SymbolRow { end: 100, ..symbol("tests", SymbolKind::Module, 10, None) });
    entry.symbols.push(symbol("Inner", SymbolKind::Struct, 20, Some(1)));
    entry.imports = ["super: f", "super: *", "crate::tests: Inner", "self: Inner"]
        .map(|text| ImportRow { start: 50, ..import(text) })
        .to_vec();
    let tree = Tree::from([("src/lib.rs", entry)]);
    assert_eq!(
        meanings(&tree, "src/lib.rs"),
        [
            "f -> src/lib.rs f",
            "* -> src/lib.rs",
            "Inner -> src/lib.rs tests.Inner",
            "Inner -> src/lib.rs tests.Inner",
        ]
    );
}

#[test]
fn a_declaration_is_not_inside_the_module_that_it_declares() {
    let mut root = file(Language::RUST, &[], &["mod bus"]);
    root.symbols.push(SymbolRow { end: 8, ..symbol("bus", SymbolKind::Module, 0, None) });
    let tree = Tree::from([("src/lib.rs", root), ("src/bus.rs", file(Language::RUST, &[], &[]))]);
    assert_eq!(meanings(&tree, "src/lib.rs"), ["bus -> src/bus.rs"]);
}

#[test]
fn files_that_pass_a_name_round_in_a_circle_do_not_hang_the_search() {
    let js = |imports: &[&str]| file(Language::JAVASCRIPT, &[], imports);
    let looped = Tree::from([
        ("a.js", js(&["./b: *"])),
        ("b.js", js(&["./a: *"])),
        ("c.js", js(&["./a: x"])),
    ]);
    assert_eq!(meanings(&looped, "c.js"), ["x -> ?"]);
    let rs = |imports: &[&str]| file(Language::RUST, &[], imports);
    let looped =
        Tree::from([("a.rs", rs(&["mod b", "crate: x"])), ("b.rs", rs(&["mod a", "crate::y: z"]))]);
    assert_eq!(meanings(&looped, "a.rs").last().map(String::as_str), Some("x -> ?"));
}

#[test]
fn the_inputs_change_with_what_a_name_means_and_with_the_bytes_it_comes_from() {
    let user = file(Language::JAVASCRIPT, &[], &["./a: f"]);
    let inputs = |a: FileEntry| {
        let tree = Tree::from([
            ("user.js", user.clone()),
            ("a.js", a),
            ("b.js", file(Language::JAVASCRIPT, &[], &[])),
        ]);
        let index = index(&tree);
        index.inputs("user.js", &index.bindings("user.js"))
    };
    let before = inputs(file(Language::JAVASCRIPT, &["f"], &[]));
    assert_eq!(before, inputs(file(Language::JAVASCRIPT, &["f"], &[])));
    assert_ne!(before, inputs(file(Language::JAVASCRIPT, &["g"], &[])));
    let mut touched = file(Language::JAVASCRIPT, &["f"], &[]);
    touched.content = ContentHash::of(Language::JAVASCRIPT, b"touched");
    assert_ne!(before, inputs(touched));
}
