//! Behaviour of the sandboxed engine.

mod limits;
mod pool;

use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use phalanx::ast::wasm::WasmEngine;
use phalanx::ast::{AstEngine, AstError, Language, Limits, Source, SyntaxTree};

/// The one engine of the tests that need no particular one: compiling the grammars takes a while.
fn shared_engine() -> &'static WasmEngine {
    static ENGINE: OnceLock<WasmEngine> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let workers = NonZeroUsize::new(2).expect("two");
        WasmEngine::builder().workers(workers).build().expect("the engine starts")
    })
}

/// Limits without a deadline: what comes out must not depend on how busy the machine is.
fn patient() -> Limits {
    Limits::default().deadline(Duration::MAX)
}

fn parse(language: Language, text: &str) -> Result<Arc<SyntaxTree>, AstError> {
    shared_engine().parse(&Source::new(language, text), &patient())
}

fn sexp(language: Language, text: &str) -> String {
    parse(language, text).expect("a small source parses").to_sexp()
}

#[test]
fn each_language_parses_its_own_sources_into_the_tree_of_its_grammar() {
    assert_eq!(
        sexp(Language::RUST, "fn f(x: u8) -> u8 { x }"),
        "(source_file (function_item name: (identifier) parameters: (parameters (parameter pattern: \
         (identifier) type: (primitive_type))) return_type: (primitive_type) body: (block (identifier))))"
    );
    assert_eq!(
        sexp(Language::JAVASCRIPT, "const a = <b c={1}/>;"),
        "(program (lexical_declaration (variable_declarator name: (identifier) value: \
         (jsx_self_closing_element name: (identifier) attribute: (jsx_attribute (property_identifier) \
         (jsx_expression (number)))))))"
    );
    assert_eq!(
        sexp(Language::TYPESCRIPT, "let a: string = <string>b;"),
        "(program (lexical_declaration (variable_declarator name: (identifier) type: (type_annotation \
         (predefined_type)) value: (type_assertion (type_arguments (predefined_type)) (identifier)))))"
    );
    assert_eq!(
        sexp(Language::TSX, "let a: string = <b/>;"),
        "(program (lexical_declaration (variable_declarator name: (identifier) type: (type_annotation \
         (predefined_type)) value: (jsx_self_closing_element name: (identifier)))))"
    );
    assert_eq!(
        sexp(Language::PYTHON, "if x:\n    y()\n"),
        "(module (if_statement condition: (identifier) consequence: (block (expression_statement (call \
         function: (identifier) arguments: (argument_list))))))"
    );
}

#[test]
fn what_the_parser_could_not_understand_is_marked_as_error_or_missing() {
    let tree = parse(Language::JAVASCRIPT, "let a = ;").expect("broken code is no error");
    assert!(tree.has_error());
    let tree = parse(Language::RUST, "fn f( {").expect("broken code is no error");
    assert!(tree.has_error());
    let sexp = sexp(Language::RUST, "fn f() { a( }");
    assert!(sexp.contains("(MISSING \")\")") || sexp.contains("(ERROR"), "{sexp}");
    assert!(!parse(Language::RUST, "fn f() {}").expect("it parses").has_error());
}

#[test]
fn ranges_are_bytes_of_the_source_even_where_characters_are_wide() {
    let text = "s = '\u{fc}\u{1f980}'; t = 1";
    let tree = parse(Language::PYTHON, text).expect("it parses");
    let number = tree
        .root()
        .descendants()
        .find(|node| node.kind() == "integer")
        .expect("the number is there");
    assert_eq!(&text[number.byte_range()], "1");
}

#[test]
fn an_empty_source_is_a_tree_of_its_root() {
    for info in shared_engine().languages() {
        let tree = parse(info.language(), "").expect("nothing parses");
        assert_eq!(tree.node_count(), 1, "{info:?}");
        assert!(!tree.has_error(), "{info:?}");
    }
}

#[test]
fn garbage_becomes_a_tree_with_errors() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for info in shared_engine().languages() {
        let text: String = (0..3_000)
            .map(|_| char::from_u32(noise() as u32 % 0x11_0000).unwrap_or('\0'))
            .chain("\0\0\u{feff}\r\n\t".chars())
            .collect();
        let tree = parse(info.language(), &text).expect("garbage has a tree");
        assert!(tree.has_error(), "{info:?}");
        let bytes: String = (0..3_000).map(|_| char::from(noise() as u8 & 0x7f)).collect();
        parse(info.language(), &bytes).expect("garbage has a tree");
    }
}

#[test]
fn a_language_that_it_does_not_have_is_refused() {
    let error =
        parse(Language::new("cobol").expect("a valid id"), "").expect_err("no such grammar");
    assert_eq!(error.kind(), phalanx::ast::AstErrorKind::UnsupportedLanguage);
}

#[test]
fn a_tree_does_not_depend_on_what_was_parsed_before_it() {
    let engine = WasmEngine::builder().workers(NonZeroUsize::MIN).build().expect("it starts");
    let text = "const a = [1, {b: `c${d}`}];\nfunction f() { return /x/g }\n";
    let source = Source::new(Language::JAVASCRIPT, text);
    let fresh = engine.parse(&source, &patient()).expect("it parses").to_sexp();
    for before in ["`${`${`", "/* ", "<a><b>", "\0", &"(".repeat(5_000)] {
        let _ = engine.parse(&Source::new(Language::JAVASCRIPT, before), &patient());
        let again = engine.parse(&source, &patient()).expect("it parses").to_sexp();
        assert_eq!(again, fresh, "after {before:?}");
    }
}
