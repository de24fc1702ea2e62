//! Whole runs over an engine of the test's own, which fails where a source tells it to.

use super::*;
use phalanx::ast::{
    AstError, AstErrorKind, ContentHash, Grammar, KindInfo, LanguageInfo, Source, TreeBuilder,
};
use phalanx::fleet::{AgentSpec, TaskContext, TaskError};
use std::collections::BTreeMap;
use std::fs;
use std::sync::Mutex;

/// Parses Rust into a bare root, unless the text says `trap`, `deep`, `memory`, `slow` or `slow once`.
#[derive(Debug)]
struct Moody {
    languages: Vec<LanguageInfo>,
    grammar: Arc<Grammar>,
    parses: Mutex<BTreeMap<String, u32>>,
}

impl Moody {
    fn new(version: &str) -> Arc<Self> {
        let kinds = vec![KindInfo::named("source_file")];
        Arc::new(Self {
            languages: vec![LanguageInfo::new(Language::RUST, "Rust", version)],
            grammar: Arc::new(Grammar::new(Language::RUST, kinds, Vec::new()).expect("kinds")),
            parses: Mutex::default(),
        })
    }

    /// How often the file was parsed.
    fn parses(&self, name: &str) -> u32 {
        self.parses.lock().expect("no panic").get(name).copied().unwrap_or(0)
    }
}

impl AstEngine for Moody {
    fn languages(&self) -> &[LanguageInfo] {
        &self.languages
    }

    fn parse(&self, source: &Source<'_>, limits: &Limits) -> Result<Arc<SyntaxTree>, AstError> {
        let name = source.name().unwrap_or("").to_owned();
        let times = {
            let mut parses = self.parses.lock().expect("no panic");
            let times = parses.entry(name).or_default();
            *times += 1;
            *times
        };
        let kind = match source.text().trim() {
            "trap" => Some(AstErrorKind::GuestTrapped),
            "lie" => Some(AstErrorKind::GuestMisbehaved),
            "deep" => Some(AstErrorKind::TooDeep),
            "memory" => Some(AstErrorKind::MemoryExceeded),
            "slow" => Some(AstErrorKind::DeadlineExceeded),
            "slow once" if times == 1 => Some(AstErrorKind::DeadlineExceeded),
            "panic" => panic!("the engine panics"),
            _ => None,
        };
        if let Some(kind) = kind {
            return Err(AstError::new(kind, "as asked"));
        }
        let mut builder = TreeBuilder::new(Arc::clone(&self.grammar), source.text(), limits)?;
        builder.leaf(0, 0..source.text().len())?;
        Ok(Arc::new(builder.finish()?))
    }
}

struct Tree {
    root: tempfile::TempDir,
    state: tempfile::TempDir,
}

impl Tree {
    fn of(files: &[(&str, &str)]) -> Self {
        let folder = || tempfile::tempdir().expect("a folder");
        let tree = Self { root: folder(), state: folder() };
        for (name, text) in files {
            tree.write(name, text);
        }
        tree
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.root.path().join(name), text).expect("written");
    }

    fn options(&self) -> Options {
        Options {
            root: self.root.path().canonicalize().expect("it exists"),
            agents: NonZeroUsize::new(8).expect("not zero"),
            kill: 0,
            state: Some(self.state.path().to_owned()),
            json: None,
            print_acks: false,
            quiet: true,
        }
    }

    fn run(&self, engine: &Arc<Moody>) -> Summary {
        self.run_with(&self.options(), engine)
    }

    fn run_with(&self, options: &Options, engine: &Arc<Moody>) -> Summary {
        run(options, Arc::clone(engine) as Arc<dyn AstEngine>).expect("a run")
    }
}

#[test]
fn what_the_engine_fails_at_is_counted_under_its_reason_in_every_run() {
    let tree = Tree::of(&[
        ("good.rs", "fn f() {}"),
        ("trap.rs", "trap"),
        ("lie.rs", "lie"),
        ("deep.rs", "deep"),
        ("memory.rs", "memory"),
        ("panic.rs", "panic"),
    ]);
    let engine = Moody::new("1");
    let expected =
        BTreeMap::from([("trap", 1), ("guest", 1), ("too_deep", 1), ("memory", 1), ("agent", 1)]);
    let first = tree.run(&engine);
    assert_eq!((first.files.seen, first.files.indexed), (6, 1));
    assert_eq!(first.files.failed, expected);
    assert_eq!((first.tasks.accepted, first.tasks.completed, first.tasks.failed), (6, 1, 5));
    // A panic may be worth another attempt; the other reasons are not.
    assert_eq!((engine.parses("trap.rs"), engine.parses("panic.rs")), (1, 3));
    assert_eq!(first.tasks.rerun, 2);

    let second = tree.run(&engine);
    assert_eq!((second.files.indexed, second.files.unchanged), (0, 1));
    assert_eq!(second.files.failed, expected);
    assert_eq!(second.state_digest, first.state_digest);
}

#[test]
fn a_parse_that_hits_its_deadline_is_tried_again_once_and_then_counts() {
    let tree = Tree::of(&[("once.rs", "slow once"), ("always.rs", "slow"), ("good.rs", "x")]);
    let engine = Moody::new("1");
    let summary = tree.run(&engine);
    assert_eq!((summary.files.seen, summary.files.indexed), (3, 2));
    assert_eq!(summary.files.failed, BTreeMap::from([("deadline", 1)]));
    assert_eq!((engine.parses("once.rs"), engine.parses("always.rs")), (2, 2));
    assert_eq!(engine.parses("good.rs"), 1);
}

#[test]
fn a_file_that_can_no_longer_be_parsed_leaves_the_index() {
    let tree = Tree::of(&[("a.rs", "fn a() {}"), ("b.rs", "fn b() {}")]);
    let engine = Moody::new("1");
    tree.run(&engine);
    tree.write("b.rs", "trap");
    let broken = tree.run(&engine);
    assert_eq!((broken.files.unchanged, broken.files.failed_total()), (1, 1));
    let alone = Tree::of(&[("a.rs", "fn a() {}")]).run(&engine);
    assert_eq!(broken.state_digest, alone.state_digest);
}

#[test]
fn an_index_made_by_another_grammar_is_made_anew() {
    let tree = Tree::of(&[("a.rs", "fn a() {}")]);
    tree.run(&Moody::new("1"));
    let (same, other) = (Moody::new("1"), Moody::new("2"));
    assert_eq!(tree.run(&same).files.unchanged, 1);
    assert_eq!(tree.run(&other).files.indexed, 1);
    assert_eq!((same.parses("a.rs"), other.parses("a.rs")), (0, 1));
}

#[test]
fn all_agents_but_one_can_be_struck_and_the_index_is_the_same() {
    let texts: Vec<(String, String)> =
        (0..40).map(|n| (format!("f{n}.rs"), format!("fn f{n}() {{}}"))).collect();
    let files: Vec<(&str, &str)> =
        texts.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let (calm, struck) = (Tree::of(&files), Tree::of(&files));
    let engine = Moody::new("1");
    let undisturbed = calm.run(&engine);
    let disturbed = struck.run_with(&Options { kill: 7, ..struck.options() }, &engine);
    assert_eq!(disturbed.agents, AgentCounts { spawned: 8, killed: 7 });
    assert_eq!((disturbed.tasks.rerun, disturbed.tasks.late_completions_refused), (7, 7));
    assert_eq!((disturbed.files.indexed, disturbed.tasks.completed), (40, 40));
    assert_eq!(disturbed.state_digest, undisturbed.state_digest);
    assert_eq!(undisturbed.tasks.rerun, 0);
}

/// An engine that does something to the tree while it parses the first file, before any other is parsed.
struct Meddler {
    moody: Arc<Moody>,
    first: Once,
    meddle: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Meddler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meddler").finish_non_exhaustive()
    }
}

impl AstEngine for Meddler {
    fn languages(&self) -> &[LanguageInfo] {
        self.moody.languages()
    }

    fn parse(&self, source: &Source<'_>, limits: &Limits) -> Result<Arc<SyntaxTree>, AstError> {
        // Once the walk has come to its end: it reads every file of so small a tree before any is parsed.
        self.first.call_once(&self.meddle);
        self.moody.parse(source, limits)
    }
}

#[test]
fn a_file_that_vanishes_or_changes_under_the_run_is_counted_as_that() {
    let names: Vec<String> = (0..20).map(|n| format!("f{n:02}.rs")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "fn f() {}")).collect();
    let tree = Tree::of(&files);
    // Equal files are parsed once, so they would not be read again.
    tree.write("z1.rs", "fn gone() {}");
    tree.write("z2.rs", "fn before() {}");
    let root = tree.root.path().to_owned();
    let meddler = Meddler {
        moody: Moody::new("1"),
        first: Once::new(),
        meddle: Box::new(move || {
            fs::remove_file(root.join("z1.rs")).expect("removed");
            fs::write(root.join("z2.rs"), "fn after() {}").expect("written");
        }),
    };
    let summary = run(&tree.options(), Arc::new(meddler)).expect("a run");
    assert_eq!((summary.files.seen, summary.files.indexed), (22, 20));
    assert_eq!(summary.files.failed, BTreeMap::from([("changed", 1), ("vanished", 1)]));
    // The next run finds what there is.
    let next = tree.run(&Moody::new("1"));
    assert_eq!((next.files.seen, next.files.indexed, next.files.unchanged), (21, 1, 20));
}

#[test]
fn tasks_of_an_interrupted_run_are_run_if_they_still_fit_and_cancelled_if_not() {
    let tree = Tree::of(&[("a.rs", "fn a() {}"), ("b.rs", "fn b() {}")]);
    let engine = Moody::new("1");
    let index = |path: &str, text: &str| Job::Index {
        path: path.to_owned(),
        content: ContentHash::of(Language::RUST, text.as_bytes()),
        language: Language::RUST,
    };
    let resolve = Job::Resolve {
        path: "a.rs".to_owned(),
        content: ContentHash::of(Language::RUST, b"fn a() {}"),
        language: Language::RUST,
        inputs: [0; 32],
        bindings: Vec::new(),
    };
    // A run that accepts three tasks, and whose only agent finishes none.
    let left_over = {
        let (store, _) = Store::open(tree.state.path(), engine.languages()).expect("opened");
        let coordinator = coordinator(&store, engine.clone()).expect("put together");
        let stuck = |_: &Task<Job>, cx: &mut TaskContext<'_>| {
            while !cx.is_revoked() {
                thread::yield_now();
            }
            Err(TaskError::permanent("struck"))
        };
        coordinator.fleet().spawn(AgentSpec::new("stuck").handler_fn(stuck)).expect("spawned");
        let jobs = [index("a.rs", "fn a() {}"), index("b.rs", "what it was then"), resolve];
        let handles = coordinator.fleet().submit_batch(jobs.map(Task::new).into()).expect("room");
        coordinator.shutdown(Duration::ZERO).expect("stopped");
        handles.len()
    };
    assert_eq!(left_over, 3);

    let next = tree.run(&engine);
    assert_eq!((next.files.seen, next.files.indexed), (2, 2));
    let TaskCounts { accepted, completed, cancelled, .. } = next.tasks;
    assert_eq!((accepted, completed, cancelled), (4, 2, 2));
    let last = tree.run(&engine);
    assert_eq!((last.tasks.accepted, last.files.unchanged), (0, 2));
}
