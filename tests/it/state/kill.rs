//! A process that says through a pipe what it begins and what it has done, and is killed in the middle of it.
//!
//! Each round aims at one phase: opening (a recovery, where the round before ended in anything but a close),
//! appending a group, a checkpoint, a close. It kills the process some turns of a loop after it said that it
//! begins. Which phase was hit is read off the last line in the pipe, not guessed. The process itself compares
//! what it recovered with the model, and says what it found of checkpoints that were under way.
//!
//! `PHALANX_KILL_ROUNDS` sets how many rounds there are (12); from 100 on every phase has to be hit, and from 200 on
//! a part of a checkpoint, which one opening in thirty meets, and groups that one covers have to be found after a kill.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use phalanx::state::{StateManager, Version};

use super::script::{Tables, check, commit_also, commit_next};

const FOLDER: &str = "PHALANX_TEST_STATE_FOLDER";
const ROUNDS: &str = "PHALANX_KILL_ROUNDS";
const PHASES: [&str; 4] = ["opening", "appending", "checkpointing", "closing"];

fn open(folder: &Path) -> StateManager {
    // Checkpoints come by themselves, a row a step, and the sync of a group takes along what steps have done: so a kill
    // finds parts of one, or of what one replaces.
    let builder = StateManager::builder().path(folder).checkpoint_every_commits(4);
    let builder = builder.checkpoint_step_bytes(20);
    builder.open().expect("a store that was opened once opens again")
}

/// The child of the test below, which runs this binary again; without a folder it has nothing to do.
#[test]
fn child_of_the_kill_test() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let mut out = std::io::stdout().lock();
    // One call writes a line, so that a kill does not cut it.
    let mut say = |line: String| {
        out.write_all(line.as_bytes()).unwrap();
        out.flush().unwrap();
    };
    say("\n".into());
    loop {
        say("opening\n".into());
        let state = open(Path::new(&folder));
        let report = state.recovery();
        let unfinished = u8::from(report.unfinished_checkpoint.is_some());
        let version = state.version().as_u64();
        say(format!("opened {version} {unfinished} {}\n", report.covered_groups));
        check(&state, Version::ZERO, state.version());
        let tables = Tables::open(&state).unwrap();
        // So that a checkpoint is much larger than the groups beside it, and takes several of them.
        let ballast = state.collection::<u32, Vec<u8>>("ballast").unwrap();
        let rows = 0..if ballast.is_empty() { 20 } else { 0 };
        for group in 0..9 {
            say("appending\n".into());
            let mut version = commit_also(&state, &tables, 0, |tx| {
                rows.clone().for_each(|row| tx.insert(&ballast, row, vec![7; 1000]));
            })
            .unwrap();
            if group % 4 == 0 {
                version = commit_next(&state, &tables).unwrap();
            }
            state.wait_durable(version).unwrap();
            say(format!("appended {}\n", version.as_u64()));
        }
        say("checkpointing\n".into());
        let version = state.checkpoint().unwrap();
        say(format!("checkpointed {}\n", version.as_u64()));
        say("closing\n".into());
        state.close().unwrap();
        say(format!("closed {}\n", state.version().as_u64()));
    }
}

fn spawn(folder: &Path) -> Child {
    Command::new(std::env::current_exe().expect("it runs"))
        .args(["--exact", "state::kill::child_of_the_kill_test", "--nocapture"])
        .args(["--test-threads", "1"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("this binary runs again")
}

/// What the children said, over all rounds.
#[derive(Default)]
struct Heard {
    acknowledged: u64,
    /// Whether the store was opened since it was closed.
    unclosed: bool,
    last: String,
    /// How often an opening after a kill found a part of a checkpoint, and groups that one covers.
    unfinished: u64,
    covered: u64,
}

impl Heard {
    fn line(&mut self, line: String) {
        let was_killed = self.unclosed;
        self.unclosed |= line.starts_with("opened");
        self.unclosed &= !line.starts_with("closed");
        let mut words = line.split(' ');
        let what = words.next();
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        let version = number();
        if what == Some("opened") && was_killed {
            self.unfinished += u64::from(number().is_some_and(|found| found > 0));
            self.covered += u64::from(number().is_some_and(|found| found > 0));
        }
        match (what, version) {
            (Some("opened"), Some(version)) => {
                let before = self.acknowledged;
                assert!(version >= before, "{before} was acknowledged and {version} recovered");
                assert!(
                    version <= before + 2,
                    "{} was committed and {version} recovered",
                    before + 2
                );
                self.acknowledged = version;
            }
            (Some("appended" | "checkpointed" | "closed"), Some(version)) => {
                self.acknowledged = self.acknowledged.max(version);
            }
            (Some(what), None) if PHASES.contains(&what) => {}
            // The harness speaks as well.
            _ => return,
        }
        self.last = line;
    }
}

#[test]
fn a_killed_process_loses_nothing_that_it_acknowledged() {
    let rounds = std::env::var(ROUNDS).ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(12u64);
    let folder = tempfile::tempdir().unwrap();
    open(folder.path()).close().unwrap();
    let mut heard = Heard::default();
    let (mut hit, mut recoveries) = (BTreeMap::<String, u64>::new(), 0);
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut draw = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 16) % below
    };
    for round in 0..rounds {
        let phase = PHASES[(round % 4) as usize];
        heard.last.clear();
        // The second opening is after a close; a process appends nine times between two.
        let mut wanted = draw(if phase == "appending" { 9 } else { 2 });
        let mut child = spawn(folder.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reached = lines.by_ref().any(|line| {
            heard.line(line.unwrap());
            let begins = heard.last == phase;
            let now = begins && wanted == 0;
            wanted -= u64::from(begins && !now);
            now
        });
        assert!(
            reached,
            "round {round}: the child ended by itself before {phase}: {:?}",
            heard.last
        );
        for _ in 0..draw(4) * draw(100_000) {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had written into the pipe before it died counts.
        lines.for_each(|line| heard.line(line.unwrap()));
        recoveries += u64::from(heard.last == "opening" && heard.unclosed);
        *hit.entry(heard.last.split(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
        if round % 16 == 15 {
            let state = open(folder.path());
            let acknowledged = Version::from_u64(heard.acknowledged);
            let found = check(&state, acknowledged, Version::from_u64(heard.acknowledged + 2));
            (heard.acknowledged, heard.unclosed) = (found.as_u64(), false);
        }
    }
    let last = check(
        &open(folder.path()),
        Version::from_u64(heard.acknowledged),
        Version::from_u64(heard.acknowledged + 2),
    );
    let Heard { unfinished, covered, .. } = heard;
    println!(
        "{rounds} rounds, up to {last}; killed while or after {hit:?}; {recoveries} recoveries; \
         {unfinished} found a part of a checkpoint, {covered} groups that one covers"
    );
    assert!(last > Version::from_u64(rounds));
    for phase in PHASES.iter().filter(|_| rounds >= 100) {
        let met = hit.get(*phase).copied().unwrap_or(0);
        assert!(met >= rounds / 50, "{phase} was hit {met} times in {rounds}");
    }
    assert!(rounds < 100 || recoveries >= rounds / 50, "{recoveries} recoveries were hit");
    assert!(rounds < 200 || unfinished.min(covered) > 0, "{unfinished} and {covered} were found");
}
