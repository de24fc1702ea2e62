//! The program as a child process.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;
use tempfile::TempDir;

/// Where the program is, built with the features of these tests.
pub(super) static PROGRAM: LazyLock<PathBuf> = LazyLock::new(build);

fn build() -> PathBuf {
    // target/<profile>/deps/it-<hash>
    let tests = std::env::current_exe().expect("this program has a path");
    let profile = tests.ancestors().nth(2).expect("cargo put it two folders down").to_owned();
    let name = profile.file_name().and_then(|name| name.to_str()).expect("cargo's own name");
    // Exactly the features of these tests, so that nothing but the program itself is built anew.
    let features: Vec<&str> = [
        ("default", cfg!(feature = "default")),
        ("full", cfg!(feature = "full")),
        ("wasm", cfg!(feature = "wasm")),
        ("durable", cfg!(feature = "durable")),
        ("bincode", cfg!(feature = "bincode")),
        ("postcard", cfg!(feature = "postcard")),
        ("tracing", cfg!(feature = "tracing")),
        ("test-util", cfg!(feature = "test-util")),
    ]
    .into_iter()
    .filter_map(|(name, on)| on.then_some(name))
    .collect();
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--no-default-features", "--example", "index_repo"])
        .args(["--features", &features.join(",")])
        .args(["--profile", if name == "debug" { "dev" } else { name }])
        .arg("--manifest-path")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(profile.parent().expect("the target folder"))
        .status()
        .expect("cargo runs");
    assert!(built.success(), "the main job does not build");
    let program = profile.join("examples").join("index_repo");
    assert!(program.exists(), "no program at {}", program.display());
    program
}

/// How a run ended.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) code: Option<i32>,
    pub(super) stdout: String,
    pub(super) stderr: String,
    /// What `--json` wrote.
    pub(super) summary: Value,
}

impl Run {
    pub(super) fn new(output: &Output, json: &Path) -> Self {
        let summary = std::fs::read(json).ok();
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout.clone()).expect("it prints UTF-8"),
            stderr: String::from_utf8(output.stderr.clone()).expect("it prints UTF-8"),
            summary: summary.map_or(Value::Null, |text| {
                serde_json::from_slice(&text).expect("the summary is JSON")
            }),
        }
    }

    /// A number of the summary, by its path; reasons that did not occur are 0.
    #[track_caller]
    pub(super) fn count(&self, path: &str) -> u64 {
        let found = path.split('.').fold(&self.summary, |value, key| &value[key]);
        found.as_u64().unwrap_or_else(|| {
            assert!(found.is_null() && path.matches('.').count() == 2, "{path} in {self:?}");
            0
        })
    }

    pub(super) fn digest(&self) -> &str {
        self.summary["state_digest"].as_str().expect("a run that ended has a digest")
    }

    pub(super) fn acks(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }

    /// A run that did its work and accounts for every file and task.
    #[track_caller]
    pub(super) fn expect_sound(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        let sum = |of: &str| -> u64 {
            let reasons = self.summary["files"][of].as_object().expect("reasons with counts");
            reasons.values().map(|count| count.as_u64().expect("a count")).sum()
        };
        let accounted = self.count("files.indexed")
            + self.count("files.unchanged")
            + sum("skipped")
            + sum("failed");
        assert_eq!(self.count("files.seen"), accounted, "{self:?}");
        let ended: u64 = ["completed", "failed", "returned", "cancelled"]
            .map(|how| self.count(&format!("tasks.{how}")))
            .iter()
            .sum();
        assert_eq!(self.count("tasks.accepted"), ended, "{self:?}");
        self
    }
}

/// A folder for the state of a tree, and the runs over it.
pub(super) struct Job {
    pub(super) folder: TempDir,
}

impl Job {
    pub(super) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    pub(super) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub(super) fn json(&self) -> PathBuf {
        self.folder.path().join("summary.json")
    }

    /// The command for a quiet run over `root` that prints acknowledgements.
    pub(super) fn command(&self, root: &Path) -> Command {
        let mut command = Command::new(&*PROGRAM);
        command
            .arg(root)
            .arg("--state")
            .arg(self.state())
            .arg("--json")
            .arg(self.json())
            .args(["--quiet", "--print-acks"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs to the end.
    pub(super) fn run(&self, root: &Path, more: &[&str]) -> Run {
        // What an earlier run wrote is no answer to this one.
        let _ = std::fs::remove_file(self.json());
        let output = self.command(root).args(more).output().expect("the program starts");
        Run::new(&output, &self.json())
    }
}
