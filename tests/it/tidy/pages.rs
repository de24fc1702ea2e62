//! The rules for pages and the manifest.

use super::source::Source;
use std::collections::HashSet;

/// What stands between backticks on a page.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The lines of a page below a heading, up to the next of its level.
fn section<'a>(page: &'a str, heading: &str) -> Vec<&'a str> {
    let mut lines = page.lines().skip_while(|line| line.trim_end() != heading);
    lines.next();
    lines.take_while(|line| !line.starts_with("## ")).collect()
}

/// The items of a page's lists, each with its continuation lines.
fn items(page: &str) -> Vec<String> {
    let mut items: Vec<String> = Vec::new();
    let mut open = false;
    for line in page.lines() {
        if line.starts_with("- ") {
            items.push(line.to_owned());
            open = true;
        } else if open && line.starts_with("  ") {
            let item = items.last_mut().expect("an open item was pushed");
            item.push(' ');
            item.push_str(line.trim());
        } else {
            open = false;
        }
    }
    items
}

/// The keys of a table of a manifest, each with the line above it.
fn entries(manifest: &str, table: impl Fn(&str) -> bool) -> Vec<(&str, &str)> {
    let mut inside = false;
    let mut above = "";
    let mut found = Vec::new();
    for line in manifest.lines() {
        if let Some(name) = line.strip_prefix('[') {
            inside = table(name.trim_end_matches(']'));
        } else if inside && line.starts_with(|first: char| first.is_alphanumeric()) {
            found.push((line.split([' ', '=', '.']).next().unwrap_or(line), above));
        }
        above = line;
    }
    found
}

fn value<'a>(manifest: &'a str, key: &str) -> &'a str {
    let line = manifest.lines().find(|line| line.starts_with(&format!("{key} = \"")));
    line.and_then(|line| line.split('"').nth(1)).unwrap_or_default()
}

/// A code map that leaves a part out, or names what is not there.
pub(super) fn code_map(page: &str, top: &[String], exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut complaints = Vec::new();
    let named: Vec<&str> = quoted(page).map(|path| path.trim_end_matches('/')).collect();
    for name in top {
        let stem = name.trim_end_matches(".rs");
        let whole = [format!("src/{stem}"), format!("src/{stem}.rs")];
        if !whole.iter().any(|path| named.contains(&path.as_str())) {
            complaints.push(format!("the architecture page does not name `src/{name}`"));
        }
    }
    let roots = ["src/", "tests/", "benches/", "examples/", ".ci/"];
    for path in named {
        let is_path = roots.iter().any(|root| path.starts_with(root)) && !path.contains(['*', ' ']);
        if is_path && !exists(path) {
            complaints.push(format!("the architecture page names `{path}`, which does not exist"));
        }
    }
    complaints
}

/// The functions of a file that are tests: an attribute above them says so.
fn tests(source: &Source) -> impl Iterator<Item = &str> {
    source.code.iter().enumerate().filter_map(|(index, line)| {
        let name = line.trim().trim_start_matches("async ").strip_prefix("fn ")?;
        let mut above = source.code[..index].iter().rev().map(|line| line.trim());
        let attributes =
            above.by_ref().take_while(|line| line.starts_with("#[") || line.is_empty());
        let is_test =
            attributes.into_iter().any(|line| line == "#[test]" || line.contains("::test"));
        is_test.then(|| name.split(['(', '<']).next().unwrap_or(name))
    })
}

/// Promises without a test, or with one that does not exist.
pub(super) fn promises(page: &str, rust: &[Source]) -> Vec<String> {
    let tests: HashSet<&str> = rust.iter().flat_map(tests).collect();
    let mut complaints = Vec::new();
    let promises = items(page);
    if promises.is_empty() {
        complaints.push("the guarantees page promises nothing".to_owned());
    }
    for promise in promises {
        let Some((_, bearers)) = promise.split_once("Borne by ") else {
            complaints.push(format!("no test bears: {promise}"));
            continue;
        };
        if quoted(bearers).next().is_none() {
            complaints.push(format!("no test bears: {promise}"));
        }
        for bearer in quoted(bearers).filter(|bearer| !tests.contains(bearer)) {
            complaints.push(format!("there is no test `{bearer}`, which is to bear: {promise}"));
        }
    }
    complaints
}

/// Versions and features that the manifest does not know, or that the README leaves out.
pub(super) fn readme(readme: &str, manifest: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let rust = format!("Rust {}", value(manifest, "rust-version"));
    if !readme.contains(&rust) {
        complaints.push(format!("the README does not say `{rust}`"));
    }
    let version = value(manifest, "version");
    for line in readme.lines().filter(|line| line.starts_with("phalanx = ")) {
        let required = line.split('"').nth(1).unwrap_or_default();
        if required.is_empty() || !version.starts_with(required) {
            complaints.push(format!("the README asks for {required}, this is {version}"));
        }
    }
    let features: Vec<&str> = entries(manifest, |table| table == "features")
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| *name != "default")
        .collect();
    let rows: Vec<&str> = section(readme, "## Features")
        .into_iter()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    for feature in features.iter().filter(|feature| !rows.contains(feature)) {
        complaints.push(format!("the README does not list the feature `{feature}`"));
    }
    for row in rows.iter().filter(|row| !features.contains(row)) {
        complaints.push(format!("the README lists the feature `{row}`, which does not exist"));
    }
    complaints
}

/// Examples that are missing from the list, and the reverse.
pub(super) fn examples(readme: &str, examples: &[String]) -> Vec<String> {
    let listed: Vec<&str> = section(readme, "## Examples")
        .into_iter()
        .filter_map(|line| line.strip_prefix("- `")?.split('`').next())
        .collect();
    let missing = examples.iter().filter(|name| !listed.contains(&name.as_str()));
    let gone = listed.iter().filter(|name| !examples.iter().any(|example| example == *name));
    missing
        .map(|name| format!("the README does not list the example `{name}`"))
        .chain(
            gone.map(|name| format!("the README lists the example `{name}`, which does not exist")),
        )
        .collect()
}

/// A changelog that does not know the version.
pub(super) fn changelog(changelog: &str, manifest: &str) -> Vec<String> {
    let heading = format!("## [{}]", value(manifest, "version"));
    if changelog.lines().any(|line| line.starts_with(&heading)) {
        Vec::new()
    } else {
        vec![format!("the changelog has no `{heading}`")]
    }
}

/// Dependencies that do not say why they are there.
pub(super) fn dependencies(manifest: &str) -> Vec<String> {
    entries(manifest, |table| table.ends_with("dependencies"))
        .into_iter()
        .filter(|(_, above)| !above.starts_with("# "))
        .map(|(name, _)| format!("`{name}` does not say why it is a dependency"))
        .collect()
}

/// Dependencies that nothing names: of the library in `src`, of the rest anywhere.
pub(super) fn unused(manifest: &str, rust: &[Source]) -> Vec<String> {
    let used = |name: &str, in_library: bool| {
        let name = name.replace('-', "_");
        let (path, import) = (format!("{name}::"), format!("use {name}"));
        rust.iter()
            .filter(|source| !in_library || source.path.starts_with("src/"))
            .flat_map(|source| &source.code)
            .any(|line| line.contains(&path) || line.contains(&import))
    };
    let named = |table: fn(&str) -> bool, in_library: bool| {
        entries(manifest, table)
            .into_iter()
            .filter(move |(name, _)| !used(name, in_library))
            .map(|(name, _)| format!("nothing uses the dependency `{name}`"))
    };
    let library = |table: &str| table.ends_with("dependencies") && !table.starts_with("dev-");
    named(library, true).chain(named(|table| table == "dev-dependencies", false)).collect()
}
