//! The sandboxed engine beside native parsers. CPU time, without a result cache.

use std::path::{Path, PathBuf};

use phalanx::ast::wasm::WasmEngine;
use phalanx::ast::{AstEngine, Language, Limits, Source};
use serde_json::{Map, Value, json};

use crate::measure::{Contestant, Sample, measure, now};
use crate::row::{OURS, Row, Spec, Time, Unit};
use crate::{RowFn, Settings};

pub const ROWS: &[(&str, RowFn)] = &[("native-rust", native_rust)];

/// The least length of what is parsed.
const BYTES: usize = 100_000;

/// This crate's own source files one after the other, in the order of their names, until there is enough.
fn own_source() -> Result<(String, usize), String> {
    fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                walk(&path, files)?;
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
        Ok(())
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../src");
    let mut files = Vec::new();
    walk(&root, &mut files).map_err(|error| format!("{}: {error}", root.display()))?;
    files.sort();
    let mut text = String::new();
    for (count, file) in files.iter().enumerate() {
        if text.len() >= BYTES {
            return Ok((text, count));
        }
        text += &std::fs::read_to_string(file)
            .map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Err(format!("the sources are shorter than {BYTES} bytes"))
}

/// A node as both sides know it, folded into what was received before it.
fn fold(sum: u64, kind: &str, start: usize, end: usize) -> u64 {
    let kind =
        kind.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    sum.wrapping_mul(0x0100_0000_01b3) ^ kind ^ ((start as u64) << 32) ^ end as u64
}

/// Every node of a native tree, parents first.
fn native_checksum(tree: &tree_sitter::Tree) -> u64 {
    let mut sum = 0;
    let mut cursor = tree.walk();
    loop {
        let node = cursor.node();
        sum = fold(sum, node.kind(), node.start_byte(), node.end_byte());
        if cursor.goto_first_child() || cursor.goto_next_sibling() {
            continue;
        }
        loop {
            if !cursor.goto_parent() {
                return sum;
            }
            if cursor.goto_next_sibling() {
                break;
            }
        }
    }
}

/// Parses `units` times and times that alone; what the last parse gave is looked at afterwards.
fn parsing<T>(parse: impl Fn() -> T, checksum: impl Fn(&T) -> u64) -> impl FnMut(u64) -> Sample {
    move |units| {
        let start = now(Time::Cpu);
        let mut last = parse();
        for _ in 1..units {
            last = parse();
        }
        Sample::new(now(Time::Cpu) - start, units, Some(checksum(&last)))
    }
}

fn native_rust(settings: &Settings) -> Row {
    let mut spec = Spec {
        part: "ast",
        id: "native-rust",
        what: "parsing 100 KB of Rust, this crate's own sources, into a tree (ns a parse)",
        unit: Unit::Nanoseconds,
        time: Time::Cpu,
        work: Map::new(),
        targets: &[("native", 0.69)],
    };
    let (text, files) = match own_source() {
        Ok(source) => source,
        Err(reason) => return Row::not_run(spec, reason),
    };
    let engine = match WasmEngine::builder().build() {
        Ok(engine) => engine,
        Err(error) => return Row::not_run(spec, format!("the engine was not built: {error}")),
    };
    let Value::Object(work) = json!({ "bytes": text.len(), "files": files, "language": "rust" })
    else {
        return Row::not_run(spec, "the description of the work is no object");
    };
    spec.work = work;
    let source = Source::new(Language::RUST, &text);
    let limits = Limits::default();
    let parser = std::cell::RefCell::new(tree_sitter::Parser::new());
    if let Err(error) = parser.borrow_mut().set_language(&tree_sitter_rust::LANGUAGE.into()) {
        return Row::not_run(spec, format!("the native grammar does not fit: {error}"));
    }
    measure(
        settings,
        spec,
        vec![
            Contestant::timed(
                OURS,
                parsing(
                    || engine.parse(&source, &limits).expect("the source parses"),
                    |tree| {
                        let root = tree.root();
                        std::iter::once(root).chain(root.descendants()).fold(0, |sum, node| {
                            let range = node.byte_range();
                            fold(sum, node.kind(), range.start, range.end)
                        })
                    },
                ),
            ),
            Contestant::timed(
                "native",
                parsing(
                    || parser.borrow_mut().parse(&text, None).expect("the source parses"),
                    native_checksum,
                ),
            ),
        ],
    )
}
