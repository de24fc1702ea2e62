//! The command line.
//!
//! Whatever is wrong with it is a [`UsageError`], found before anything is opened or written; `main`
//! turns it into exit code 2.

use std::ffi::OsString;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// One line, shown under every usage error.
pub const USAGE: &str = "usage: index_repo [PATH] [--agents N] [--kill N] [--state DIR] [--json FILE] \
                         [--print-acks] [--quiet]";

/// What `--help` prints.
pub const HELP: &str = "\
Index a source tree with a fleet of agents, and index it again by what changed.

usage: index_repo [OPTIONS] [PATH]

  PATH            the folder to index (default: the repository of this example)

options:
      --agents N    agents in the fleet, 1 to 100000 (default 100)
      --kill N      strike N agents between parse and commit; fewer than --agents (default 0)
      --state DIR   where the index lives; not inside PATH (default: the user's cache folder)
      --json FILE   write the summary for machines
      --print-acks  print the path of each file once its entry is durable
  -q, --quiet       no progress and no summary on the terminal
  -h, --help        this text

exit codes: 0 done, 1 the run could not be carried out, 2 usage";

/// More agents than this is taken for a slip of the hand.
const AGENTS_MAX: usize = 100_000;

/// What the user asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The folder to index, canonical.
    pub root: PathBuf,
    /// How many agents the fleet has.
    pub agents: NonZeroUsize,
    /// How many of them are struck while they hold a lease; less than `agents`.
    pub kill: usize,
    /// Where the index lives, if not in the user's cache folder.
    pub state: Option<PathBuf>,
    /// Where the summary for machines goes.
    pub json: Option<PathBuf>,
    /// Whether the paths of acknowledged files go to stdout.
    pub print_acks: bool,
    /// Whether progress and summary stay away.
    pub quiet: bool,
}

/// What the command line means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Index a tree.
    Run(Options),
    /// Explain yourself.
    Help,
}

/// A command line that means nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageError(pub String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<lexopt::Error> for UsageError {
    fn from(error: lexopt::Error) -> Self {
        Self(error.to_string())
    }
}

/// Reads the arguments, the program's name not among them.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    use lexopt::prelude::{Long, Short, Value, ValueExt};

    let mut parser = lexopt::Parser::from_args(args);
    let mut path: Option<PathBuf> = None;
    let mut agents = 100;
    let mut kill = 0;
    let mut state = None;
    let mut json = None;
    let mut print_acks = false;
    let mut quiet = false;
    while let Some(arg) = parser.next()? {
        match arg {
            Long("agents") => agents = parser.value()?.parse::<usize>()?,
            Long("kill") => kill = parser.value()?.parse::<usize>()?,
            Long("state") => state = Some(PathBuf::from(parser.value()?)),
            Long("json") => json = Some(PathBuf::from(parser.value()?)),
            Long("print-acks") => print_acks = true,
            Long("quiet") | Short('q') => quiet = true,
            Long("help") | Short('h') => return Ok(Command::Help),
            Value(value) if path.is_none() => path = Some(value.into()),
            other => return Err(other.unexpected().into()),
        }
    }

    let agents = NonZeroUsize::new(agents)
        .filter(|agents| agents.get() <= AGENTS_MAX)
        .ok_or_else(|| UsageError(format!("--agents takes 1 to {AGENTS_MAX}, not {agents}")))?;
    if kill >= agents.get() {
        let message =
            format!("--kill {kill} would leave none of {agents} agents to finish the work");
        return Err(UsageError(message));
    }
    let path = path.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    let root = existing_folder(&path)?;
    if let Some(json) = &json {
        writable_place(json)?;
    }
    if let Some(state) = &state {
        outside(state, &root, "--state")?;
    }
    Ok(Command::Run(Options { root, agents, kill, state, json, print_acks, quiet }))
}

fn existing_folder(path: &Path) -> Result<PathBuf, UsageError> {
    let root = path
        .canonicalize()
        .map_err(|error| UsageError(format!("cannot index {}: {error}", path.display())))?;
    if root.is_dir() {
        Ok(root)
    } else {
        Err(UsageError(format!("cannot index {}: not a folder", path.display())))
    }
}

/// A summary that cannot be written should not cost a whole run first.
fn writable_place(json: &Path) -> Result<(), UsageError> {
    let folder = match json.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if json.is_dir() || !folder.is_dir() {
        return Err(UsageError(format!("--json {}: no such place for a file", json.display())));
    }
    Ok(())
}

/// An index inside the tree it describes would index itself. `what` is what the user calls the folder.
pub fn outside(state: &Path, root: &Path, what: &str) -> Result<(), UsageError> {
    let place = resting_place(state)
        .map_err(|error| UsageError(format!("{what} {}: {error}", state.display())))?;
    if place.starts_with(root) {
        let (state, root) = (state.display(), root.display());
        let message =
            format!("{what} {state} lies inside {root}, which is indexed; say another --state DIR");
        return Err(UsageError(message));
    }
    Ok(())
}

/// The canonical path of a folder that may not exist yet.
fn resting_place(path: &Path) -> std::io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let mut missing = Vec::new();
    let mut existing = path.as_path();
    loop {
        match existing.canonicalize() {
            Ok(mut place) => {
                for name in missing.iter().rev() {
                    match name {
                        std::path::Component::ParentDir => drop(place.pop()),
                        name => place.push(name),
                    }
                }
                return Ok(place);
            }
            Err(error) => {
                let (Some(name), Some(parent)) =
                    (existing.components().next_back(), existing.parent())
                else {
                    return Err(error);
                };
                missing.push(name);
                existing = parent;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &[&str]) -> Result<Command, UsageError> {
        parse(words.iter().map(OsString::from))
    }

    fn refused(words: &[&str]) -> String {
        match parse_words(words) {
            Err(error) => error.0,
            Ok(command) => panic!("{words:?} was taken as {command:?}"),
        }
    }

    #[test]
    fn without_arguments_this_repository_is_indexed_by_a_hundred_agents() {
        let Ok(Command::Run(options)) = parse_words(&[]) else { panic!("no run") };
        assert!(options.root.join("Cargo.toml").is_file());
        assert_eq!((options.agents.get(), options.kill), (100, 0));
        assert!(!options.print_acks && !options.quiet);
    }

    #[test]
    fn every_option_is_read() {
        let tree = tempfile::tempdir().expect("a folder");
        let root = tree.path().to_str().expect("ascii");
        let words = ["--agents=7", "--kill", "6", "--print-acks", "-q", "--json", "out.json", root];
        let Ok(Command::Run(options)) = parse_words(&words) else { panic!("no run") };
        assert_eq!((options.agents.get(), options.kill), (7, 6));
        assert!(options.print_acks && options.quiet);
        assert_eq!(options.json, Some("out.json".into()));
    }

    #[test]
    fn nonsense_is_refused_and_named() {
        assert!(refused(&["--agents", "0"]).contains("not 0"));
        assert!(refused(&["--agents", "many"]).contains("many"));
        assert!(refused(&["--agents", "-3"]).contains("-3"));
        assert!(refused(&["--agents", "200000"]).contains("200000"));
        assert!(refused(&["--agents", "5", "--kill", "5"]).contains("--kill 5"));
        assert!(refused(&["--kill"]).contains("--kill"));
        assert!(refused(&["--colour"]).contains("--colour"));
        assert!(refused(&["/", "/"]).contains('/'));
        assert!(refused(&["/no/such/folder"]).contains("/no/such/folder"));
        assert!(refused(&["/dev/null"]).contains("not a folder"));
        assert!(refused(&["--json", "/no/such/folder/out.json"]).contains("out.json"));
        assert!(refused(&["--quiet=yes"]).contains("yes"));
    }

    #[test]
    fn a_state_folder_inside_the_tree_is_refused_however_it_is_spelt() {
        let tree = tempfile::tempdir().expect("a folder");
        let root = tree.path().to_str().expect("ascii").to_owned();
        for inside in ["", "/state", "/a/b/../c"] {
            let state = format!("{root}{inside}");
            assert!(refused(&["--state", &state, &root]).contains("lies inside"), "{inside}");
        }
        let beside = format!("{root}/../beside-{}", std::process::id());
        assert!(parse_words(&["--state", &beside, &root]).is_ok());
    }
}
