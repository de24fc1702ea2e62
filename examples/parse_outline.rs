//! Parse a file in the sandbox and show what it declares, what it imports and what is wrong with it.
//!
//! `cargo run --features wasm --example parse_outline -- [FILE]` (default: a snippet with a mistake in it)

use std::error::Error;
use std::iter::successors;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use phalanx::ast::wasm::WasmEngine;
use phalanx::ast::{AstEngine, Import, Language, Limits, Source, SyntaxTree};

const SNIPPET: &str = r#"
from dataclasses import dataclass
from .shapes import Shape, area as area_of

LIMIT = 10

@dataclass
class Canvas(Shape):
    width: int = 80

    def draw(self, shape: Shape, *, times: int = 1) -> float:
        return area_of(shape) * times

def broken(:
    pass
"#;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let file = arguments.next().map(PathBuf::from);
    if arguments.next().is_some() {
        eprintln!("usage: parse_outline [FILE]");
        return ExitCode::from(2);
    }
    match run(file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("parse_outline: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(file: Option<PathBuf>) -> Result<(), Box<dyn Error>> {
    let (name, language, bytes) = match file {
        None => ("a snippet".to_owned(), Language::PYTHON, SNIPPET.into()),
        Some(file) => {
            let name = file.display().to_string();
            let Some(language) = Language::from_path(&file) else {
                return Err(format!("{name}: no language goes by this extension").into());
            };
            let bytes = std::fs::read(&file).map_err(|error| format!("{name}: {error}"))?;
            (name, language, bytes)
        }
    };

    let engine = WasmEngine::builder().build()?;
    let source = Source::from_bytes(language, &bytes)?.named(&name);
    let started = Instant::now();
    engine.parse(&source, &Limits::default())?;
    let first = started.elapsed();
    let started = Instant::now();
    let tree = engine.parse(&source, &Limits::default())?;

    println!("{name}: {language}, {} bytes, {} nodes", bytes.len(), tree.node_count());
    println!("first parse {first:.1?} (the grammar is compiled), then {:.1?}", started.elapsed());
    show(&tree)?;
    Ok(())
}

fn show(tree: &SyntaxTree) -> Result<(), Box<dyn Error>> {
    let line_of = |byte| tree.point_at(byte).row + 1;

    println!("\nSymbols");
    let outline = tree.outline()?;
    for symbol in &outline {
        let depth = successors(symbol.parent, |&parent| outline[parent].parent).count();
        let (line, indent) = (line_of(symbol.name_range.start), "  ".repeat(depth));
        println!("{line:>6}  {:<10}  {indent}{}", symbol.kind, symbol.signature);
    }

    println!("\nImports");
    for import in tree.imports()? {
        println!("{:>6}  {}", line_of(import.range.start), what_it_takes(&import));
    }

    let errors = tree.syntax_errors();
    println!("\nSyntax errors: {}", errors.len());
    for error in errors {
        println!("        {error}");
    }
    Ok(())
}

fn what_it_takes(import: &Import) -> String {
    let mut names: Vec<&str> = import.bindings().collect();
    if import.glob {
        names.push("everything");
    }
    match names.is_empty() {
        true => import.path.clone(),
        false => format!("{}: {}", import.path, names.join(", ")),
    }
}
