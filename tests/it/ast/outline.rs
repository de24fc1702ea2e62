//! What files declare, as the sandboxed engine parses them.

use phalanx::ast::{AstErrorKind, Import, Language, Symbol, SymbolKind, Visibility};

use super::parse;

/// One line a symbol, indented by depth: kind, name, signature, visibility, exported name.
fn shown(language: Language, text: &str) -> Vec<String> {
    let tree = parse(language, text);
    let outline = tree.outline().expect("the language has an outline");
    for (at, symbol) in outline.iter().enumerate() {
        let (range, name) = (&symbol.range, &symbol.name_range);
        assert!(range.start <= name.start && name.end <= range.end, "{symbol:?}");
        assert!(text[name.clone()].contains(symbol.name.as_str()) || symbol.name == "default");
        assert!(!symbol.signature.contains('\n'), "{symbol:?}");
        if let Some(parent) = symbol.parent {
            assert!(parent < at, "a parent comes first");
            let outer = &outline[parent].range;
            assert!(outer.start <= range.start && range.end <= outer.end, "{symbol:?}");
        }
    }
    outline.iter().map(|symbol| line(&outline, symbol)).collect()
}

fn line(outline: &[Symbol], symbol: &Symbol) -> String {
    let depth = std::iter::successors(symbol.parent, |&at| outline[at].parent).count();
    let visibility = match symbol.visibility {
        Some(Visibility::Public) => " +",
        Some(Visibility::Restricted) => " ~",
        Some(Visibility::Private) => " -",
        _ => "",
    };
    let export = symbol.export.as_ref().map(|name| format!(" as {name}")).unwrap_or_default();
    let Symbol { kind, name, signature, .. } = symbol;
    format!("{}{kind} {name}: {signature}{visibility}{export}", "  ".repeat(depth))
}

fn assert_outline(language: Language, text: &str, expected: &[&str]) {
    let found = shown(language, text);
    assert_eq!(found, expected, "\n{}", found.join("\n"));
}

#[test]
fn rust_items_are_outlined_with_what_they_are_inside_of() {
    assert_outline(
        Language::RUST,
        r#"
//! A crate.
use std::fmt;

/// Longest name.
pub const LIMIT: usize = 1 << 10;
static mut COUNTER: u64 = 0;
pub const TABLE: &[&str] = &[
    "one",
    "two",
];
const _: () = assert!(LIMIT > 0);

#[derive(Debug)]
pub struct Ring<T, const N: usize> {
    /// Slots.
    pub(crate) slots: [T; N],
    head: u32,
}
pub struct Pair(pub u8, u16);
pub(super) enum Shape { Dot, Circle { radius: f64 }, Line(f64, f64) }
union Bits { float: f32, int: u32 }
type Result<T> = std::result::Result<T, Error>;

pub trait Draw: Send {
    type Canvas: Default;
    const SIDES: u8;
    fn draw(&self, canvas: &mut Self::Canvas) -> fmt::Result;
    fn twice(&self) { }
}

impl<T: Clone, const N: usize> Ring<T, N> {
    pub async unsafe fn push(
        &mut self,
        value: T, // the value
        /* and */ times: usize,
    ) -> Result<()>
    where
        T: Send,
    {
        fn inner() {}
        let closure = || { struct Local; };
    }
    fn pop(&mut self) -> Option<T> { None }
}

impl<T> Draw for Ring<T, 0> {
    type Canvas = String;
    const SIDES: u8 = 0;
    fn draw(&self, canvas: &mut String) -> fmt::Result { Ok(()) }
}

mod imp;
pub mod tools {
    #[macro_export]
    macro_rules! square { ($x:expr) => { $x * $x }; }
    extern "C" { pub fn abs(x: i32) -> i32; static errno: i32; }
}
"#,
        &[
            "constant LIMIT: pub const LIMIT: usize = 1 << 10 +",
            "variable COUNTER: static mut COUNTER: u64 = 0 -",
            "constant TABLE: pub const TABLE: &[&str] +",
            "struct Ring: pub struct Ring<T, const N: usize> +",
            "  field slots: pub(crate) slots: [T; N] ~",
            "  field head: head: u32 -",
            "struct Pair: pub struct Pair(pub u8, u16) +",
            "enum Shape: pub(super) enum Shape ~",
            "  variant Dot: Dot",
            "  variant Circle: Circle",
            "    field radius: radius: f64",
            "  variant Line: Line(f64, f64)",
            "union Bits: union Bits -",
            "  field float: float: f32 -",
            "  field int: int: u32 -",
            "type_alias Result: type Result<T> = std::result::Result<T, Error> -",
            "trait Draw: pub trait Draw: Send +",
            "  type_alias Canvas: type Canvas: Default",
            "  constant SIDES: const SIDES: u8",
            "  method draw: fn draw(&self, canvas: &mut Self::Canvas) -> fmt::Result",
            "  method twice: fn twice(&self)",
            "impl Ring<T, N>: impl<T: Clone, const N: usize> Ring<T, N>",
            "  method push: pub async unsafe fn push( &mut self, value: T, times: usize, ) -> Result<()> where T: Send +",
            "    function inner: fn inner() -",
            "    struct Local: struct Local -",
            "  method pop: fn pop(&mut self) -> Option<T> -",
            "impl Ring<T, 0>: impl<T> Draw for Ring<T, 0>",
            "  type_alias Canvas: type Canvas = String",
            "  constant SIDES: const SIDES: u8 = 0",
            "  method draw: fn draw(&self, canvas: &mut String) -> fmt::Result",
            "module imp: mod imp -",
            "module tools: pub mod tools +",
            "  macro square: macro_rules! square",
            "  function abs: pub fn abs(x: i32) -> i32 +",
            "  variable errno: static errno: i32 -",
        ],
    );
}

#[test]
fn javascript_declarations_classes_and_exports_are_outlined() {
    assert_outline(
        Language::JAVASCRIPT,
        r#"
import { h } from './h.js';
export const VERSION = '1.0', LIMITS = {
  depth: 3,
};
let counter = 0;
var [first, { second, third: renamed = 1, ...rest }] = setup();
const load = async (path) => { const inner = 1; function deep() {} };
const fs = require('fs');
export default class Store extends Base {
  static #secret = 1;
  size = 0;
  onClick = (event) => { this.size++; };
  constructor(path) { super(path); }
  get path() { return 1; }
  async *walk() { yield 1; }
  #hidden() {}
  'quoted name'() {}
  static { const scoped = 1; }
}
function helper(a, /* b, */ c = {}) { let local; }
function* numbers() { yield 1; }
const Shape = class { area() {} };
const config = { method() {}, arrow: () => 1 };
for (let i = 0; i < 3; i++) { const looped = i; }
if (counter) { var hoisted = 1; }
export { helper as assist, numbers as numbers };
const View = () => <div onClick={() => counter}>text</div>;
"#,
        &[
            "constant VERSION: VERSION = '1.0' +",
            "constant LIMITS: LIMITS +",
            "variable counter: let counter = 0 -",
            "variable first: var [first, { second, third: renamed = 1, ...rest }] = setup() -",
            "variable second: var [first, { second, third: renamed = 1, ...rest }] = setup() -",
            "variable renamed: var [first, { second, third: renamed = 1, ...rest }] = setup() -",
            "variable rest: var [first, { second, third: renamed = 1, ...rest }] = setup() -",
            "function load: const load = async (path) -",
            "  function deep: function deep()",
            "class Store: export default class Store extends Base + as default",
            "  field #secret: static #secret = 1 -",
            "  field size: size = 0 +",
            "  method onClick: onClick = (event) +",
            "  method constructor: constructor(path) +",
            "  method path: get path() +",
            "  method walk: async *walk() +",
            "  method #hidden: #hidden() -",
            "  method quoted name: 'quoted name'() +",
            "function helper: function helper(a, c = {}) + as assist",
            "function numbers: function* numbers() +",
            "class Shape: const Shape = class -",
            "  method area: area() +",
            "constant config: const config = { method() {}, arrow: () => 1 } -",
            "function View: const View = () -",
        ],
    );
}

#[test]
fn a_script_says_nothing_about_visibility_but_for_its_commonjs_exports() {
    assert_outline(
        Language::JAVASCRIPT,
        r#"
'use strict';
const { join } = require('path');
function Person(name) { this.name = name; }
Person.prototype.greet = function (other) { return other; };
exports.create = (name) => new Person(name);
module.exports.LIMIT = 10;
module.exports = Person;
window.onload = function () {};
"#,
        &[
            "function Person: function Person(name)",
            "method greet: Person.prototype.greet = function (other) +",
            "function create: exports.create = (name) +",
            "constant LIMIT: module.exports.LIMIT = 10 +",
        ],
    );
}

#[test]
fn an_anonymous_default_export_is_named_default() {
    assert_outline(
        Language::JAVASCRIPT,
        "export default function (a, b) { return a; }\n",
        &["function default: export default function (a, b) + as default"],
    );
    assert_outline(
        Language::JAVASCRIPT,
        "const app = 1;\nexport default app;\n",
        &["constant app: const app = 1 + as default"],
    );
}

#[test]
fn typescript_types_namespaces_and_overloads_are_outlined() {
    assert_outline(
        Language::TYPESCRIPT,
        r#"
import type { Base } from './base';
export interface Shape<T> extends Base {
  readonly name: string;
  area(scale?: number): number;
  (call: string): void;
  [key: string]: unknown;
}
export type Point = { x: number; move(by: number): void };
type Either<L, R> = L | R;
export enum Color { Red, Green = 'green', 'dark blue' = 1, "grey" }
declare const enum Flag { On = 1 }
export abstract class Store<T> extends Base implements Shape<T> {
  private cache?: Map<string, T>;
  protected static limit: number = 3;
  constructor(private readonly path: string) { super(); }
  abstract load(key: string): Promise<T>;
  public get size(): number { return 0; }
  @memo() compute(): void {}
}
@Injectable()
export class Service {}
function parse(text: string): number;
function parse(text: string, radix: number): number;
function parse(text: any, radix?: any) { return 0; }
namespace Geo.Util { export const ORIGIN = 0; const hidden = 1; export function dist() {} }
declare module 'virtual' { export function run(): void; }
declare function fetchAll(urls: string[]): Promise<void>;
declare let ambient: string;
export default interface Options { verbose: boolean }
"#,
        &[
            "interface Shape: export interface Shape<T> extends Base +",
            "  field name: readonly name: string",
            "  method area: area(scale?: number): number",
            "type_alias Point: export type Point = { x: number; move(by: number): void } +",
            "  field x: x: number",
            "  method move: move(by: number): void",
            "type_alias Either: type Either<L, R> = L | R -",
            "enum Color: export enum Color +",
            "  variant Red: Red",
            "  variant Green: Green = 'green'",
            "  variant dark blue: 'dark blue' = 1",
            "  variant grey: \"grey\"",
            "enum Flag: declare const enum Flag -",
            "  variant On: On = 1",
            "class Store: export abstract class Store<T> extends Base implements Shape<T> +",
            "  field cache: private cache?: Map<string, T> -",
            "  field limit: protected static limit: number = 3 ~",
            "  method constructor: constructor(private readonly path: string) +",
            "  method load: abstract load(key: string): Promise<T> +",
            "  method size: public get size(): number +",
            "  method compute: compute(): void +",
            "class Service: export class Service +",
            "function parse: function parse(text: string): number -",
            "function parse: function parse(text: string, radix: number): number -",
            "function parse: function parse(text: any, radix?: any) -",
            "module Geo.Util: namespace Geo.Util -",
            "  constant ORIGIN: export const ORIGIN = 0 +",
            "  constant hidden: const hidden = 1 -",
            "  function dist: export function dist() +",
            "module virtual: declare module 'virtual' -",
            "  function run: export function run(): void +",
            "function fetchAll: declare function fetchAll(urls: string[]): Promise<void> -",
            "variable ambient: declare let ambient: string -",
            "interface Options: export default interface Options + as default",
            "  field verbose: verbose: boolean",
        ],
    );
}

#[test]
fn tsx_components_are_outlined() {
    assert_outline(
        Language::TSX,
        r#"
interface Props { title: string }
export function Card({ title }: Props): JSX.Element {
  const [open, setOpen] = useState(false);
  return <section onClick={() => setOpen(!open)}>{title}</section>;
}
export const List = <T,>(props: { items: T[] }) => <ul>{props.items.map((i) => <li/>)}</ul>;
"#,
        &[
            "interface Props: interface Props -",
            "  field title: title: string",
            "function Card: export function Card({ title }: Props): JSX.Element +",
            "function List: export const List = <T,>(props: { items: T[] }) +",
        ],
    );
}

#[test]
fn python_definitions_and_bindings_are_outlined() {
    assert_outline(
        Language::PYTHON,
        r#"
"""A module."""
import os
from typing import TYPE_CHECKING

MAX_SIZE: int = 10
_cache = {}
a, (b, c) = 1, (2, 3)
x = y = 0
x = 1
os.environ["A"] = "b"
__all__ = ["Store"]
try:
    fast = True
except ImportError:
    fast = False
type Alias[T] = list[T]

@decorator(arg=1)
@other
class Store(Base, metaclass=Meta):
    """Doc."""
    limit = 3
    name: str

    def __init__(self, path: str, *args, **kwargs) -> None:
        self.path = path
        def helper(): ...

    @property
    def size(self) -> int:
        return 0

    async def _load(self): pass

    class Inner:
        flag = True

def long(
    first,  # the first
    second=None,
):
    local = 1
    class Nested: pass

if TYPE_CHECKING:
    def conditional(): pass

square = lambda n: n * n
for index in range(3): pass
"#,
        &[
            "constant MAX_SIZE: MAX_SIZE: int = 10 +",
            "variable _cache: _cache = {} -",
            "variable a: a, (b, c) = 1, (2, 3) +",
            "variable b: a, (b, c) = 1, (2, 3) +",
            "variable c: a, (b, c) = 1, (2, 3) +",
            "variable x: x = y = 0 +",
            "variable y: y = 0 +",
            "variable __all__: __all__ = [\"Store\"] +",
            "variable fast: fast = True +",
            "type_alias Alias: type Alias[T] = list[T] +",
            "class Store: class Store(Base, metaclass=Meta) +",
            "  field limit: limit = 3 +",
            "  field name: name: str +",
            "  method __init__: def __init__(self, path: str, *args, **kwargs) -> None +",
            "    function helper: def helper()",
            "  method size: def size(self) -> int +",
            "  method _load: async def _load(self) -",
            "  class Inner: class Inner +",
            "    field flag: flag = True +",
            "function long: def long( first, second=None, ) +",
            "  class Nested: class Nested",
            "function conditional: def conditional() +",
            "variable square: square = lambda n: n * n +",
        ],
    );
}

#[test]
fn broken_code_keeps_the_symbols_that_can_be_made_out() {
    let names = |language, text: &str| -> Vec<(SymbolKind, String)> {
        let tree = parse(language, text);
        assert!(!tree.syntax_errors().is_empty(), "it is broken");
        let outline = tree.outline().expect("the language has an outline");
        outline.into_iter().map(|symbol| (symbol.kind, symbol.name)).collect()
    };
    let found = names(Language::RUST, "fn before() {}\nfn broken( {\nstruct After { x: u8 }\n");
    assert!(found.contains(&(SymbolKind::Function, "before".to_owned())), "{found:?}");
    let found =
        names(Language::PYTHON, "def before(): pass\ndef broken(:\n  pass\nclass After: pass\n");
    assert!(found.contains(&(SymbolKind::Function, "before".to_owned())), "{found:?}");
    assert!(found.contains(&(SymbolKind::Class, "After".to_owned())), "{found:?}");
    let found = names(Language::TYPESCRIPT, "class A { m( { } }\nfunction after() {}\n");
    assert!(found.iter().any(|(_, name)| name == "after"), "{found:?}");
    // Names that the parser made up are none.
    let found = names(Language::JAVASCRIPT, "function () {}\nclass {}\nconst = 1;\n");
    assert!(found.iter().all(|(_, name)| !name.is_empty()), "{found:?}");
}

#[test]
fn garbage_has_an_outline_imports_and_references_of_some_kind() {
    let pieces = [
        "",
        "\0",
        "\u{feff}",
        "((((",
        "}}}}",
        "use",
        "import {",
        "from . import",
        "export {",
        "mod",
        "impl for",
        "\"",
        "'''",
        "`${",
        "class :",
        "fn fn fn",
        "= = =",
        "\u{1f980}",
        "@",
        "#[",
    ];
    let languages = [
        Language::RUST,
        Language::JAVASCRIPT,
        Language::TYPESCRIPT,
        Language::TSX,
        Language::PYTHON,
    ];
    for first in pieces {
        for second in pieces {
            let text = format!("{first} {second}\n{first}");
            for language in languages {
                let tree = parse(language, &text);
                let outline = tree.outline().expect("the language has an outline");
                assert!(outline.iter().all(|symbol| !symbol.name.is_empty()), "{text:?}");
                tree.imports().expect("the language has imports");
                assert!(tree.references().expect("and references").count() <= text.len());
            }
        }
    }
}

#[test]
fn the_widest_declarations_are_outlined_completely() {
    let many = |text: &str, count: usize| text.repeat(count);
    let outline = |language, text: &str| {
        parse(language, text).outline().expect("the language has an outline").len()
    };
    let text = format!("enum E {{ {} }}", many("A, ", 20_000));
    assert_eq!(outline(Language::TYPESCRIPT, &text), 20_001);
    assert_eq!(outline(Language::RUST, &text), 20_001);
    let text = format!("let {} a;", many("a, ", 20_000));
    assert_eq!(outline(Language::JAVASCRIPT, &text), 20_001);
    // What `var` declares stands in a node without the field that `let` and `const` have.
    let text = format!("var {} a;", many("a, ", 100_000));
    assert_eq!(outline(Language::JAVASCRIPT, &text), 100_001);
    let text = format!("const {{ {} }} = f;", many("a, ", 20_000));
    assert_eq!(outline(Language::JAVASCRIPT, &text), 20_000);
    let functions = many("function a() {}\n", 20_000);
    let text = format!("{functions}export {{ {} }};", many("a, ", 20_000));
    assert_eq!(outline(Language::JAVASCRIPT, &text), 20_000);
    let text = format!("{}0", many("a = ", 2_000));
    assert_eq!(outline(Language::PYTHON, &text), 1, "one name, bound first by the first");
}

#[test]
fn a_source_that_makes_much_of_little_is_refused_and_not_paid_for() {
    let text = format!("const {{ {} }} = f;", "a, ".repeat(150_000));
    let error = parse(Language::JAVASCRIPT, &text).outline().expect_err("35 MB of signatures");
    assert_eq!(error.kind(), AstErrorKind::OutputTooLarge);
    assert_eq!(error.limit(), Some(32 << 20));

    let long = "x".repeat(1 << 20);
    let wide = format!("use {long}::{{{}}};", "a::b, ".repeat(1_000));
    let deep = format!("use {long}::{}z{};", "{a::".repeat(100), "}".repeat(100));
    for text in [wide, deep] {
        let error = parse(Language::RUST, &text).imports().expect_err("100 MiB of paths and more");
        assert_eq!(error.kind(), AstErrorKind::OutputTooLarge);
    }
}

#[test]
fn a_long_signature_is_cut_where_it_says_so() {
    let text = format!("fn f({}) {{}}", "argument_\u{e9}: Type, ".repeat(40));
    let outline = parse(Language::RUST, &text).outline().expect("the language has an outline");
    let signature = &outline[0].signature;
    assert!(signature.ends_with("...") && signature.len() <= 240, "{signature}");
    assert!(signature.starts_with("fn f(argument_\u{e9}: Type, argument_"), "{signature}");

    let text = format!("fn f(a: u8, /* {} */ b: u8) {{}}", "long ".repeat(1_000));
    let outline = parse(Language::RUST, &text).outline().expect("the language has an outline");
    assert_eq!(outline[0].signature, "fn f(a: u8,...", "all that was looked at is a comment");
}

#[test]
fn a_symbol_survives_serialisation() {
    let tree = parse(Language::RUST, "pub struct A { pub b: u8 }\nuse a::{b as c, d::*};");
    let outline = tree.outline().expect("the language has an outline");
    let text = serde_json::to_string(&outline).expect("plain data");
    assert_eq!(serde_json::from_str::<Vec<Symbol>>(&text).expect("the same data"), outline);
    let imports = tree.imports().expect("the language has imports");
    let text = serde_json::to_string(&imports).expect("plain data");
    let read: Vec<Import> = serde_json::from_str(&text).expect("the same data");
    assert_eq!(read, imports);
}
