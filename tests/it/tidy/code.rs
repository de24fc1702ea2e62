//! The rules for Rust files.

use super::source::Source;

/// The most lines a file may have.
const LINES_MAX: usize = 700;

/// Who may import what: a part and the top-level modules it may name.
const ARROWS: [(&str, &[&str]); 10] = [
    ("sync", &[]),
    ("error", &[]),
    ("docs", &[]),
    ("clock", &["sync"]),
    ("bus", &["clock", "error", "sync"]),
    ("cache", &["clock", "error", "sync"]),
    ("state", &["clock", "error", "sync"]),
    ("fleet", &["clock", "error", "sync"]),
    ("ast", &["cache", "clock", "error", "sync"]),
    ("coordinator", &["ast", "bus", "cache", "clock", "error", "fleet", "state", "sync"]),
];

/// The files that may hold unsafe code.
const UNSAFE_FILES: [&str; 14] = [
    "src/bus/reader.rs",
    "src/bus/ring.rs",
    "src/bus/ring/claim.rs",
    "src/bus/ring/exclusive.rs",
    "src/bus/ring/view.rs",
    "src/bus/slots.rs",
    "src/fleet/hand.rs",
    "src/fleet/handle.rs",
    "src/fleet/pool/returns.rs",
    "src/state/loom_tests.rs",
    "src/sync/biased.rs",
    "src/sync/brief.rs",
    "src/sync/prefetch.rs",
    "src/sync/shared.rs",
];

/// Paths that only `sync.rs` and the files below it may name.
const SYNC_ONLY: [&str; 16] = [
    "loom",
    "shuttle",
    "parking_lot",
    "std::thread",
    "std::hint::spin_loop",
    "std::cell::UnsafeCell",
    "std::sync::atomic",
    "std::sync::Barrier",
    "std::sync::Condvar",
    "std::sync::LazyLock",
    "std::sync::Mutex",
    "std::sync::Once",
    "std::sync::OnceLock",
    "std::sync::RwLock",
    "std::sync::mpsc",
    "std::sync::*",
];

fn complaint(source: &Source, line: usize, what: &str) -> String {
    format!("{}:{line}: {what}", source.path)
}

/// The module path of a file under `src`: `src/bus/ring.rs` is `["bus", "ring"]`.
fn module(source: &Source) -> Option<Vec<&str>> {
    let path = source.path.strip_prefix("src/")?.strip_suffix(".rs")?;
    Some(path.split('/').collect())
}

/// Imports of modules that the file's part may not know.
pub(super) fn imports_upward(source: &Source) -> Vec<String> {
    let Some(module) = module(source).filter(|module| module[0] != "lib") else {
        return Vec::new();
    };
    let Some((_, allowed)) = ARROWS.iter().find(|(part, _)| *part == module[0]) else {
        return vec![complaint(source, 1, "the tidy test has no rule for this part's imports")];
    };
    let mut complaints = Vec::new();
    for (line, path) in source.paths() {
        let supers = path.split("::").take_while(|segment| *segment == "super").count();
        // An inline module adds a level, so this may see the root where there is only the file: then the
        // name that follows is not one of a part.
        let name = match path.strip_prefix("crate::") {
            Some(rest) => rest.split("::").next(),
            None if supers >= module.len() => path.split("::").nth(supers),
            None => None,
        };
        let Some(name) = name else { continue };
        let known = name == module[0] || allowed.contains(&name);
        if ARROWS.iter().any(|(part, _)| *part == name) && !known {
            complaints.push(complaint(
                source,
                line,
                &format!("`{}` must not know `{name}`", module[0]),
            ));
        }
    }
    complaints
}

/// Atomics, locks and threads named outside of the one part that may. Unit tests may: what observes a
/// model from outside must not be part of it.
pub(super) fn foreign_sync(source: &Source) -> Vec<String> {
    let sync = source.path == "src/sync.rs" || source.path.starts_with("src/sync/");
    if source.is_test() || sync {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    for (line, path) in source.paths().into_iter().filter(|(line, _)| *line <= source.tests_from) {
        let path = path.replacen("core::", "std::", 1);
        let whole = path == "std::sync" || path == "std::sync::self";
        let named = SYNC_ONLY.iter().any(|banned| {
            path.strip_prefix(banned).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        });
        if whole || named {
            complaints.push(complaint(source, line, &format!("`{path}` belongs in src/sync")));
        }
    }
    complaints
}

/// Files past the limit.
pub(super) fn too_long(source: &Source) -> Vec<String> {
    let lines = source.code.len();
    if lines > LINES_MAX {
        vec![complaint(source, lines, &format!("{lines} lines, at most {LINES_MAX}: split it"))]
    } else {
        Vec::new()
    }
}

/// Files that do not open with what they hold.
pub(super) fn no_header(source: &Source) -> Vec<String> {
    if source.text.starts_with("//! ") {
        Vec::new()
    } else {
        vec![complaint(source, 1, "a file opens with `//!` and what it holds")]
    }
}

/// Modules in the old layout.
pub(super) fn mod_rs(source: &Source) -> Vec<String> {
    if source.path.ends_with("/mod.rs") {
        vec![complaint(source, 1, "a module is `name.rs` beside its folder, not `mod.rs`")]
    } else {
        Vec::new()
    }
}

/// Items in the crate's root.
pub(super) fn root_with_code(source: &Source) -> Vec<String> {
    if source.path != "src/lib.rs" {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    let code = source.code.iter().filter(|line| !line.trim().is_empty()).count();
    if code > 150 {
        complaints.push(complaint(source, 1, &format!("{code} lines of code, at most 150")));
    }
    for (line, code) in source.shipped() {
        let words: Vec<&str> = code.split_whitespace().collect();
        let items = ["fn", "struct", "enum", "trait", "impl", "macro_rules!", "static", "const"];
        if words.iter().take(3).any(|word| items.contains(word)) {
            complaints.push(complaint(source, line, "the root holds modules and re-exports only"));
        }
    }
    complaints
}

/// Characters beyond ASCII.
pub(super) fn not_ascii(path: &str, text: &str) -> Vec<String> {
    text.lines()
        .enumerate()
        .filter_map(|(index, line)| {
            let found = line.chars().find(|found| !found.is_ascii())?;
            Some(format!(
                "{path}:{}: {:?} is not ASCII",
                index + 1,
                found.escape_unicode().to_string()
            ))
        })
        .collect()
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|next: char| !(next.is_alphanumeric() || next == '_'))
}

/// Unsafe code allowed in a file that is not on the list, or a file on the list that needs it no more.
pub(super) fn unexpected_unsafe(source: &Source) -> Vec<String> {
    if !source.path.starts_with("src/") {
        return Vec::new();
    }
    let listed = UNSAFE_FILES.contains(&source.path.as_str());
    let allowed = |line: &str| {
        let line: String = line.split_whitespace().collect();
        line.contains("allow(unsafe_code") || line.contains("expect(unsafe_code")
    };
    let found = source.code.iter().position(|line| allowed(line));
    match found {
        Some(index) if !listed => {
            vec![complaint(
                source,
                index + 1,
                "this file is not on the list of those with unsafe code",
            )]
        }
        None if listed => {
            vec![complaint(source, 1, "this file needs its place on the list no more")]
        }
        _ => Vec::new(),
    }
}

/// Unsafe code that does not say why it is sound.
pub(super) fn unsafe_without_reason(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    for (index, line) in source.code.iter().enumerate() {
        if !words(line).any(|word| word == "unsafe") {
            continue;
        }
        // A contract that callers must keep is written in the docs, which attributes may follow.
        let contract = line.contains("unsafe fn") || line.contains("unsafe trait");
        let explained = source.explained(index + 1, "SAFETY:")
            || contract
                && source.comments[index.saturating_sub(30)..index]
                    .iter()
                    .any(|comment| comment.contains("# Safety"));
        if !explained {
            complaints.push(complaint(source, index + 1, "unsafe without `// SAFETY:` above it"));
        }
    }
    complaints
}

/// Whether a line passes an ordering stronger than relaxed: by its path, or bare as an argument.
fn strong(code: &str) -> bool {
    ["Acquire", "Release", "AcqRel", "SeqCst"].iter().any(|name| {
        code.match_indices(name).any(|(at, _)| {
            let before = code[..at].trim_end();
            let after = code[at + name.len()..].trim_start();
            let ends = after.is_empty() || after.starts_with([')', ',', ';']);
            let import = before.contains("use ");
            !import && ends && (before.ends_with("Ordering::") || before.ends_with(['(', ',']))
        })
    })
}

/// Orderings stronger than relaxed that do not name their partner.
pub(super) fn ordering_without_reason(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    for (line, code) in source.shipped() {
        // A site whose answer is compared is a switch for a loom test, not an access.
        let switch = code.contains("site(") && code.contains("Ordering::Relaxed");
        if strong(code) && !switch && !source.explained(line, "Ordering:") {
            complaints.push(complaint(
                source,
                line,
                "a strong ordering without `// Ordering:` above it",
            ));
        }
    }
    complaints
}

/// What was left for later.
pub(super) fn unfinished(source: &Source) -> Vec<String> {
    // Spelt in two halves, so that this file does not complain about itself.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let macros = [concat!("to", "do!"), concat!("un", "implemented!"), concat!("db", "g!")];
    let mut complaints = Vec::new();
    for (index, (code, comment)) in source.code.iter().zip(&source.comments).enumerate() {
        let marked = words(comment).chain(words(code)).any(|word| marks.contains(&word));
        if marked || macros.iter().any(|name| code.contains(name)) {
            complaints.push(complaint(source, index + 1, "something is left to do here"));
        }
    }
    complaints
}

/// A library that prints.
pub(super) fn prints(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    for (line, code) in source.shipped() {
        if ["println!", "print!", "eprintln!", "eprint!"].iter().any(|name| code.contains(name)) {
            complaints.push(complaint(source, line, "a library never prints"));
        }
    }
    complaints
}
