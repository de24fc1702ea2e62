//! An engine of the host's own behind the trait: lists in brackets, `(a (b c))`, with comments.

use std::sync::Arc;
use std::time::Duration;

use phalanx::Clock;
use phalanx::ast::{
    AstEngine, AstError, AstErrorKind, ContentHash, Grammar, KindInfo, Language, LanguageInfo,
    Limits, Node, NodeSpec, Source, SyntaxErrorKind, SyntaxTree, TreeBuilder,
};

const LISTS: Language = Language::new("lists").expect("a valid id");

const PROGRAM: u16 = 0;
const LIST: u16 = 1;
const WORD: u16 = 2;
const COMMENT: u16 = 3;
const ERROR: u16 = 4;
const OPEN: u16 = 5;
const CLOSE: u16 = 6;
const HEAD: u16 = 1;

#[derive(Debug)]
struct ListEngine {
    languages: Vec<LanguageInfo>,
    grammar: Arc<Grammar>,
    clock: Clock,
}

impl ListEngine {
    fn new() -> Result<Self, AstError> {
        let kinds = vec![
            KindInfo::named("program"),
            KindInfo::named("list"),
            KindInfo::named("word"),
            KindInfo::named("comment"),
            KindInfo::named("ERROR"),
            KindInfo::anonymous("("),
            KindInfo::anonymous(")"),
        ];
        Ok(Self {
            languages: vec![LanguageInfo::new(LISTS, "Lists in brackets", "1")],
            grammar: Arc::new(Grammar::new(LISTS, kinds, vec!["head".to_owned()])?),
            clock: Clock::real(),
        })
    }
}

impl AstEngine for ListEngine {
    fn languages(&self) -> &[LanguageInfo] {
        &self.languages
    }

    fn parse(&self, source: &Source<'_>, limits: &Limits) -> Result<Arc<SyntaxTree>, AstError> {
        if source.language() != LISTS {
            return Err(AstError::unsupported_language(source.language()));
        }
        limits.check_source(source)?;
        let started = self.clock.now();
        let text = source.text();
        let mut builder = TreeBuilder::new(Arc::clone(&self.grammar), text, limits)?;
        builder.open(PROGRAM, 0)?;
        let mut at = 0;
        let mut at_head = false;
        while let Some(next) = text[at..].chars().next() {
            let elapsed = self.clock.now() - started;
            if elapsed >= limits.deadline_limit() {
                return Err(AstError::deadline_exceeded(limits.deadline_limit(), elapsed));
            }
            let is_word = |c: char| !c.is_whitespace() && !matches!(c, '(' | ')' | ';');
            let length = match next {
                '(' | ')' => 1,
                ';' => text[at..].find('\n').unwrap_or(text.len() - at),
                c if is_word(c) => text[at..].find(|c| !is_word(c)).unwrap_or(text.len() - at),
                c => c.len_utf8(),
            };
            let end = at + length;
            let place = |kind| NodeSpec::new(kind).in_field(if at_head { HEAD } else { 0 });
            match next {
                '(' => {
                    builder.open(place(LIST), at)?;
                    builder.leaf(OPEN, at..end)?;
                    at_head = true;
                }
                ')' if builder.depth() > 1 => {
                    builder.leaf(CLOSE, at..end)?;
                    builder.close(end)?;
                    at_head = false;
                }
                ')' => builder.leaf(NodeSpec::new(ERROR).error(), at..end)?,
                ';' => builder.leaf(NodeSpec::new(COMMENT).extra(), at..end)?,
                c if is_word(c) => {
                    builder.leaf(place(WORD), at..end)?;
                    at_head = false;
                }
                _ => {}
            }
            at = end;
        }
        while builder.depth() > 1 {
            builder.leaf(NodeSpec::new(CLOSE).missing(), at..at)?;
            builder.close(at)?;
        }
        builder.close(at)?;
        Ok(Arc::new(builder.finish()?))
    }
}

fn engine() -> Arc<dyn AstEngine> {
    Arc::new(ListEngine::new().expect("the tables are small"))
}

fn parse(text: &str) -> Arc<SyntaxTree> {
    engine().parse(&Source::new(LISTS, text), &Limits::default()).expect("any text is parsed")
}

#[test]
fn a_hosts_engine_parses_its_own_language_behind_the_trait() {
    let engine = engine();
    let languages: Vec<Language> = engine.languages().iter().map(LanguageInfo::language).collect();
    assert_eq!(languages, [LISTS]);

    let tree = parse("(add 1 ; one\n  (neg \u{e9})) tail");
    assert_eq!(
        tree.to_sexp(),
        "(program (list head: (word) (word) (comment) (list head: (word) (word))) (word))"
    );
    assert!(!tree.has_error());
    let list = tree.root().named_children().next().expect("the outer list");
    assert_eq!(list.child_by_field("head").map(Node::text), Some("add"));
    let neg = list.named_children().last().expect("the inner list");
    assert_eq!(neg.text(), "(neg \u{e9})");
    assert_eq!((neg.start_point().row, neg.start_point().column), (1, 2));
    assert_eq!(neg.parent(), Some(list));
    super::assert_walks_agree(&tree);
}

#[test]
fn what_the_parser_had_to_guess_is_reported_in_order() {
    let tree = parse("a )\n(b (c");
    let errors = tree.syntax_errors();
    let shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["1:3: unexpected \")\"", "2:6: expected \")\"", "2:6: expected \")\""]);
    assert_eq!(errors[0].range, 2..3);
    assert_eq!(errors[1].range, 9..9);
    assert_eq!(errors[1].kind, SyntaxErrorKind::Missing { expected: ")".to_owned() });
    assert!(parse("(a (b))").syntax_errors().is_empty());
}

#[test]
fn each_limit_is_an_error_that_names_it_and_only_the_deadline_is_worth_a_retry() {
    let nested = "(((())))";
    let limits = Limits::default();
    let cases = [
        (limits.max_source_bytes(7), AstErrorKind::SourceTooLarge, 7, Some(8)),
        // The program, and of each list the brackets: five levels, and one more for a bracket.
        (limits.max_depth(5), AstErrorKind::TooDeep, 5, Some(6)),
        (limits.max_nodes(12), AstErrorKind::OutputTooLarge, 12, Some(13)),
        (limits.deadline(Duration::ZERO), AstErrorKind::DeadlineExceeded, 0, None),
    ];
    for (limits, kind, limit, found) in cases {
        let error = engine().parse(&Source::new(LISTS, nested), &limits).expect_err("past a limit");
        assert_eq!(error.kind(), kind);
        assert_eq!(error.limit(), Some(limit), "{error}");
        assert!(found.is_none() || error.found() == found, "{error}");
        assert_eq!(error.is_retryable(), kind == AstErrorKind::DeadlineExceeded);
    }
    let just_enough = limits.max_source_bytes(8).max_depth(6).max_nodes(13);
    engine().parse(&Source::new(LISTS, nested), &just_enough).expect("just within the limits");
}

#[test]
fn a_hundred_thousand_open_brackets_are_too_deep_or_a_tree_as_the_limit_says() {
    let text = "(".repeat(100_000);
    let source = Source::new(LISTS, &text);
    let error = engine().parse(&source, &Limits::default()).expect_err("past the default");
    assert_eq!(error.kind(), AstErrorKind::TooDeep);
    let tree = engine().parse(&source, &Limits::default().max_depth(100_002)).expect("raised");
    assert_eq!(tree.node_count(), 300_001);
    assert_eq!(tree.syntax_errors().len(), 100_000);
}

#[test]
fn an_unknown_language_is_an_error_that_names_it() {
    let error = engine()
        .parse(&Source::new(Language::PYTHON, "x"), &Limits::default())
        .expect_err("not one of its languages");
    assert_eq!(error.kind(), AstErrorKind::UnsupportedLanguage);
    assert!(error.message().contains("python"), "{error}");
    assert_eq!(phalanx::Error::from(error).kind(), phalanx::ErrorKind::Unsupported);
}

#[test]
fn an_analysis_that_does_not_exist_is_an_error_and_never_an_empty_answer() {
    let tree = parse("(a)");
    let errors = [
        tree.outline().expect_err("there is none"),
        tree.imports().expect_err("there is none"),
        tree.references().map(drop).expect_err("there is none"),
    ];
    for error in errors {
        assert_eq!(error.kind(), AstErrorKind::UnsupportedAnalysis);
        assert!(error.message().contains("lists"), "{error}");
    }
    let engine = engine();
    let capabilities = engine.languages()[0].capabilities();
    assert!(!capabilities.outline && !capabilities.imports && !capabilities.references);
    let rust = LanguageInfo::new(Language::RUST, "Rust", "1").capabilities();
    assert!(rust.outline && rust.imports && rust.references);
}

#[test]
fn a_known_language_with_other_node_kinds_has_no_analysis_either() {
    let kinds = vec![KindInfo::named("crate"), KindInfo::anonymous("source_file")];
    let grammar = Arc::new(Grammar::new(Language::RUST, kinds, Vec::new()).expect("small"));
    let mut builder = TreeBuilder::new(grammar, "fn f() {}", &Limits::default()).expect("small");
    builder.leaf(0, 0..9).expect("a root");
    let tree = builder.finish().expect("sound");
    let error = tree.outline().expect_err("its kinds are not those that the outline knows");
    assert_eq!(error.kind(), AstErrorKind::UnsupportedAnalysis);
}

#[test]
fn equal_sources_give_equal_trees_on_any_thread() {
    let engine = engine();
    let text = "(a (b c) d) (e";
    let shown: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let engine = Arc::clone(&engine);
                scope.spawn(move || {
                    let tree = engine.parse(&Source::new(LISTS, text), &Limits::default());
                    tree.expect("any text is parsed").to_sexp()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert!(shown.iter().all(|sexp| *sexp == shown[0]));
    let hash = Source::new(LISTS, text).content_hash();
    assert_eq!(hash, ContentHash::of(LISTS, text.as_bytes()));
    assert_eq!(Source::new(LISTS, text).named("a.lst").name(), Some("a.lst"));
}
