//! Names that files use, as the sandboxed engine parses them.

use phalanx::ast::Language;

use super::parse;

fn names(language: Language, text: &str) -> Vec<String> {
    let tree = parse(language, text);
    let references = tree.references().expect("the language has references");
    let mut last = 0;
    references
        .map(|reference| {
            assert_eq!(&text[reference.range.clone()], reference.name);
            assert!(reference.range.start >= last, "in order of the text");
            last = reference.range.end;
            reference.name.to_owned()
        })
        .collect()
}

#[test]
fn rust_names_are_references_where_they_are_used() {
    let found = names(
        Language::RUST,
        r#"
use other::Thing;
const LIMIT: usize = OTHER;
fn run<T: Bound>(first: Kind, (second, third): Pair) -> Output {
    let local = helper(first);
    let Some(inner) = local else { return };
    match inner { Shape::Dot(x) => x, NONE => 1, rest => rest.field }
    println!("{}", Thing::new(LIMIT));
    Built { named: value, short }
}
"#,
    );
    let expected = "OTHER Bound Kind Pair Output helper first Some local inner Shape Dot x NONE rest \
                    field println Thing new LIMIT Built named value short";
    assert_eq!(found.join(" "), expected);
}

#[test]
fn javascript_and_typescript_names_are_references_where_they_are_used() {
    let found = names(
        Language::TSX,
        r#"
import { Card } from './card';
export { gone } from './gone';
const limit: Size = other;
function run(first: Kind, { second, third: renamed } = defaults, ...rest) {
    const item = (value) => value.method(limit);
    for (const entry of list) use(entry);
    try { f(); } catch (error) { g(error); }
    return <Card title={first}>{{ key: item, short }}</Card>;
}
class Own extends Base { field = start; method() { return this.field; } }
export { run as exported };
"#,
    );
    let expected = "Size other Kind defaults value method limit list use entry f g error Card title \
                    first item short Card Base start field run";
    assert_eq!(found.join(" "), expected);
}

#[test]
fn python_names_are_references_where_they_are_used() {
    let found = names(
        Language::PYTHON,
        r#"
from other import Thing
LIMIT: Size = source
@decorate
def run(first: Kind, second=default, *args, **kwargs) -> Output:
    local = Thing(first, key=second)
    for item, index in pairs(local):
        item.method(LIMIT)
    with open(path) as handle:
        return [each for each in handle]
class Own(Base): pass
"#,
    );
    let expected = "Size source decorate Kind default Output Thing first second pairs local item \
                    method LIMIT open path each handle Base";
    assert_eq!(found.join(" "), expected);
}
