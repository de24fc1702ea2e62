//! A snapshot stays as it is while writers go on; what was acknowledged survives a killed process.
//!
//! `cargo run --example snapshot_crash_recover`
//!
//! The program starts itself once more as a child. The child moves money between accounts, says on its
//! standard output which versions are durable, and is killed in the middle of it.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use phalanx::state::{Collection, Snapshot, StateManager, Version};

const ACCOUNTS: u32 = 10;
const OPENING_BALANCE: i64 = 100;

fn main() -> Result<(), Box<dyn Error>> {
    if let Some(folder) = std::env::args_os().nth(1) {
        return child(Path::new(&folder));
    }
    let folder = tempfile::tempdir()?;

    // 1. Fill a store and take a snapshot.
    let state = StateManager::builder().path(folder.path()).open()?;
    let accounts = state.collection::<u32, i64>("accounts")?;
    let ((), version) = state.transaction(|tx| {
        (0..ACCOUNTS).for_each(|account| tx.insert(&accounts, account, OPENING_BALANCE));
        Ok(())
    })?;
    let snapshot = state.snapshot();
    println!("{version}: {ACCOUNTS} accounts with {OPENING_BALANCE} each, and a snapshot of them");

    // 2. Go on writing: the snapshot does not move.
    for step in 0..1000 {
        transfer(&state, &accounts, step)?;
    }
    let now = state.snapshot();
    let shown = (snapshot.get(&accounts, &1), now.get(&accounts, &1));
    println!(
        "{}: account 1 has {:?}; in the snapshot it has {:?}",
        now.version(),
        shown.1,
        shown.0
    );
    println!(
        "both sums are {} = {}; the newest state encodes to {} bytes",
        sum(&snapshot, &accounts),
        sum(&now, &accounts),
        now.encoded_size_bytes()?
    );
    state.close()?;

    // 3. Let a child go on, and kill it once it has acknowledged some of its work.
    let mut child =
        Command::new(std::env::current_exe()?).arg(folder.path()).stdout(Stdio::piped()).spawn()?;
    let mut acknowledged = Version::ZERO;
    let mut lines = BufReader::new(child.stdout.take().ok_or("the child has no output")?).lines();
    for line in lines.by_ref().take(50) {
        acknowledged = Version::from_u64(line?.parse()?);
    }
    child.kill()?;
    child.wait()?;
    // What was in the pipe when it died counts: it had been acknowledged.
    for line in lines {
        acknowledged = Version::from_u64(line?.parse()?);
    }
    println!("the child was killed; the last version that it acknowledged is {acknowledged}");

    // 4. Recover.
    let state = StateManager::builder().path(folder.path()).open()?;
    let report = state.recovery();
    println!(
        "recovered {} in {:?}: {} rows from a checkpoint, {} commits replayed from {} groups",
        report.version, report.elapsed, report.checkpoint_rows, report.commits, report.groups
    );
    let accounts = state.collection::<u32, i64>("accounts")?;
    let sum = sum(&state.snapshot(), &accounts);
    println!("nothing acknowledged is lost: {}", report.version >= acknowledged);
    println!("the sum is still {sum}: {}", sum == i64::from(ACCOUNTS) * OPENING_BALANCE);
    Ok(())
}

/// Commits a few transfers at a time, waits until they survive anything, and only then says so.
fn child(folder: &Path) -> Result<(), Box<dyn Error>> {
    let state = StateManager::builder().path(folder).open()?;
    let accounts = state.collection::<u32, i64>("accounts")?;
    let mut out = std::io::stdout().lock();
    for step in (0..ACCOUNTS).cycle() {
        let version = transfer(&state, &accounts, step)?;
        if step % 5 == 0 {
            state.wait_durable(version)?;
            writeln!(out, "{}", version.as_u64())?;
            out.flush()?;
        }
    }
    Ok(())
}

fn transfer(
    state: &StateManager,
    accounts: &Collection<u32, i64>,
    step: u32,
) -> Result<Version, phalanx::Error> {
    // Squares: some accounts pay more often than others.
    let (from, to) = (step * step % ACCOUNTS, (step * 7 + 3) % ACCOUNTS);
    let ((), version) = state.transaction(|tx| {
        let left = tx.get(accounts, &from).unwrap_or(0) - 1;
        tx.insert(accounts, from, left);
        let more = tx.get(accounts, &to).unwrap_or(0) + 1;
        tx.insert(accounts, to, more);
        Ok(())
    })?;
    Ok(version)
}

fn sum(snapshot: &Snapshot, accounts: &Collection<u32, i64>) -> i64 {
    snapshot.iter(accounts).map(|(_, balance)| balance).sum()
}
