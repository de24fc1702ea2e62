//! The cheap rules of the house, checked over the repository's own files.
//!
//! Each rule is a function from sources to complaints. It is run over the repository here, and in
//! `tidy/samples.rs` over a bad sample that it must complain about: a rule that cannot fail is a defect.

use self::source::Source;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

mod code;
mod pages;
mod samples;
mod source;

/// What the rules read.
struct Repository {
    /// Every Rust file under `src`, `tests`, `benches` and `examples`.
    rust: Vec<Source>,
    /// Every other text that people read or that runs: pages, manifests, scripts, the guests' shims.
    texts: Vec<(String, String)>,
    /// The names directly under `src`.
    top: Vec<String>,
    /// The names of the programs under `examples`.
    examples: Vec<String>,
}

static REPOSITORY: LazyLock<Repository> = LazyLock::new(Repository::read);

impl Repository {
    fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files = Vec::new();
        for folder in ["src", "tests", "benches", "examples", ".ci"] {
            walk(&root.join(folder), &mut files);
        }
        for name in ["README.md", "CHANGELOG.md", "Cargo.toml", "deny.toml", "rustfmt.toml"] {
            files.push(root.join(name));
        }
        files.sort();
        let mut repository =
            Self { rust: Vec::new(), texts: Vec::new(), top: Vec::new(), examples: Vec::new() };
        for file in files {
            let path = file.strip_prefix(root).expect("the walk starts at the root");
            let path = path.to_str().expect("the names of the repository are ASCII").to_owned();
            let extension = file.extension().and_then(|extension| extension.to_str());
            let text = match extension {
                Some("rs" | "md" | "toml" | "py" | "sh" | "c" | "h") => fs::read_to_string(&file),
                None if path.starts_with(".ci/") => fs::read_to_string(&file),
                _ => continue,
            };
            let text = text.unwrap_or_else(|error| panic!("{path}: {error}"));
            if extension == Some("rs") {
                repository.rust.push(Source::new(&path, &text));
            } else {
                repository.texts.push((path, text));
            }
        }
        source::mark_tests(&mut repository.rust);
        repository.top = names(&root.join("src"));
        repository.examples = names(&root.join("examples"))
            .iter()
            .map(|name| name.trim_end_matches(".rs").to_owned())
            .collect();
        repository
    }

    fn text(&self, path: &str) -> &str {
        let found = self.texts.iter().find(|(name, _)| name == path);
        &found.unwrap_or_else(|| panic!("{path} is missing")).1
    }
}

/// Files below a folder, but for test data and what is built.
fn walk(folder: &Path, files: &mut Vec<std::path::PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("a folder of the repository can be listed").path();
        if !path.is_dir() {
            files.push(path);
        } else if !["target", "data"].iter().any(|skipped| path.ends_with(skipped)) {
            walk(&path, files);
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("a folder of the repository can be listed").file_name())
        .map(|name| name.to_str().expect("the names of the repository are ASCII").to_owned())
        .collect();
    names.sort();
    names
}

fn assert_clean(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// Runs a rule over every Rust file.
fn assert_each(rule: impl Fn(&Source) -> Vec<String>) {
    assert_clean(REPOSITORY.rust.iter().flat_map(rule).collect());
}

#[test]
fn the_repository_is_found() {
    let repository = &*REPOSITORY;
    assert!(repository.rust.iter().any(|source| source.path == "src/lib.rs"));
    assert!(repository.rust.iter().any(|source| source.path == "tests/it/tidy.rs"));
    assert!(repository.top.iter().any(|name| name == "sync.rs"));
}

#[test]
fn imports_point_one_way() {
    assert_each(code::imports_upward);
}

#[test]
fn only_the_sync_file_names_atomics_locks_and_threads() {
    assert_each(code::foreign_sync);
}

#[test]
fn files_are_short() {
    assert_each(code::too_long);
}

#[test]
fn files_open_with_what_they_hold() {
    assert_each(code::no_header);
}

#[test]
fn modules_are_files_beside_their_folders() {
    assert_each(code::mod_rs);
}

#[test]
fn the_root_holds_only_modules_and_re_exports() {
    assert_each(code::root_with_code);
}

#[test]
fn code_and_pages_are_ascii() {
    let repository = &*REPOSITORY;
    let rust = repository.rust.iter().map(|source| (source.path.as_str(), source.text.as_str()));
    let texts = repository.texts.iter().map(|(path, text)| (path.as_str(), text.as_str()));
    assert_clean(rust.chain(texts).flat_map(|(path, text)| code::not_ascii(path, text)).collect());
}

#[test]
fn unsafe_code_lives_in_named_files_and_says_why_it_is_sound() {
    assert_each(code::unexpected_unsafe);
    assert_each(code::unsafe_without_reason);
}

#[test]
fn every_strong_ordering_names_its_partner() {
    assert_each(code::ordering_without_reason);
}

#[test]
fn nothing_is_left_to_do() {
    assert_each(code::unfinished);
}

#[test]
fn the_library_never_prints() {
    assert_each(code::prints);
}

#[test]
fn the_architecture_page_matches_the_source_folder() {
    let repository = &*REPOSITORY;
    let page = repository.text("src/docs/architecture.md");
    let exists = |path: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists();
    assert_clean(pages::code_map(page, &repository.top, exists));
}

#[test]
fn every_promise_names_a_test_that_exists() {
    let repository = &*REPOSITORY;
    let page = repository.text("src/docs/guarantees.md");
    assert_clean(pages::promises(page, &repository.rust));
}

#[test]
fn the_readme_matches_the_manifest() {
    let repository = &*REPOSITORY;
    assert_clean(pages::readme(repository.text("README.md"), repository.text("Cargo.toml")));
}

#[test]
fn the_readme_lists_the_examples() {
    let repository = &*REPOSITORY;
    assert_clean(pages::examples(repository.text("README.md"), &repository.examples));
}

#[test]
fn the_changelog_knows_this_version() {
    let repository = &*REPOSITORY;
    assert_clean(pages::changelog(repository.text("CHANGELOG.md"), repository.text("Cargo.toml")));
}

#[test]
fn every_dependency_has_its_reason() {
    assert_clean(pages::dependencies(REPOSITORY.text("Cargo.toml")));
}

#[test]
fn every_dependency_is_used() {
    assert_clean(pages::unused(REPOSITORY.text("Cargo.toml"), &REPOSITORY.rust));
}
