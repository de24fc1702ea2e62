//! A process that acknowledges through a pipe and is killed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use phalanx::state::{StateManager, Version};

use super::script::{Tables, check, commit_next};

const FOLDER: &str = "PHALANX_TEST_STATE_FOLDER";
const ROUNDS: &str = "PHALANX_KILL_ROUNDS";

fn open(folder: &Path) -> StateManager {
    StateManager::builder().path(folder).checkpoint_every_commits(16).open().unwrap()
}

/// The child of the test below, which runs this binary again; without a folder it has nothing to do.
#[test]
fn child_of_the_kill_test() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let mut out = std::io::stdout().lock();
    writeln!(out, "\nopening").unwrap();
    out.flush().unwrap();
    let state = open(Path::new(&folder));
    let tables = Tables::open(&state).unwrap();
    loop {
        commit_next(&state, &tables).unwrap();
        let version = commit_next(&state, &tables).unwrap();
        state.wait_durable(version).unwrap();
        writeln!(out, "acknowledged {}", version.as_u64()).unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn a_killed_process_loses_nothing_that_it_acknowledged() {
    let rounds = std::env::var(ROUNDS).ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(12u64);
    let folder = tempfile::tempdir().unwrap();
    open(folder.path()).close().unwrap();
    let mut acknowledged = Version::ZERO;
    for round in 0..rounds {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "state::kill::child_of_the_kill_test", "--nocapture"])
            .args(["--test-threads", "1"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // From right after the start, in the middle of its recovery, to after a few checkpoints.
        let wanted = (round * 7919) % 23;
        let mut seen = 0;
        for line in lines.by_ref() {
            let line = line.unwrap();
            if line == "opening" && wanted == 0 {
                break;
            }
            if let Some(version) = parse(&line) {
                acknowledged = acknowledged.max(version);
                seen += 1;
                if seen >= wanted {
                    break;
                }
            }
        }
        assert!(wanted == 0 || seen == wanted, "the child ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had written into the pipe before it died counts.
        for line in lines {
            acknowledged = parse(&line.unwrap()).map_or(acknowledged, |v| acknowledged.max(v));
        }
        let state = open(folder.path());
        let committed = Version::from_u64(acknowledged.as_u64() + 2);
        check(&state, acknowledged, committed);
        // Sometimes the next child finds what a killed one left, sometimes what a closed one did.
        if round % 3 == 0 {
            state.close().unwrap();
        }
    }
    assert!(acknowledged > Version::from_u64(2 * rounds));
}

fn parse(line: &str) -> Option<Version> {
    // A kill can cut the last line short, but not in the middle: the write of a line is one call.
    line.strip_prefix("acknowledged ")?.parse().ok().map(Version::from_u64)
}
