//! This crate and its peers doing the same work, interleaved, in one process.
//!
//! `cargo run --release --manifest-path benches/peers/Cargo.toml --features PART -- PART [--quick] [--row ID].. [--json FILE]
//! [--folder DIR] [--calm on|off]`
//!
//! Cores that are shared with strangers run our kind of code up to twice as slowly while a neighbour works, and other
//! kinds as fast as ever: a ratio of such moments says more about the neighbour than about either side. So work is
//! timed in laps between two probes of the machine, and only laps between good ones count ([`measure::Lap`]).
//!
//! Where things are: [`row`] is what is reported, [`measure`] how it is sampled, [`table`] how it is shown;
//! each part has a module, with a function for each row of it.

#![cfg_attr(
    not(all(
        feature = "ast",
        feature = "bus",
        feature = "cache",
        feature = "fleet",
        feature = "state"
    )),
    allow(
        dead_code,
        reason = "a build measures one part, and needs a part of what all of them need"
    )
)]

mod measure;
mod row;
mod table;

#[cfg(feature = "ast")]
mod ast;
#[cfg(feature = "bus")]
mod bus;
#[cfg(feature = "cache")]
mod cache;
#[cfg(feature = "fleet")]
mod fleet;
#[cfg(feature = "state")]
mod state;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use measure::Probes;
use row::Row;

/// How this run measures.
#[derive(Default)]
pub struct Settings {
    /// Fewer samples, and no peers but those that a row's reach names.
    pub quick: bool,
    /// What was measured, as the working tree says now.
    pub commit: String,
    /// Where files go, into folders of their own that are gone afterwards.
    pub folder: PathBuf,
    /// How many units this crate does of each row, alone and not timed; none if the rows are measured.
    pub units: Option<u64>,
    /// What says whether the machine is calm; nothing where that does not matter.
    pub probes: Option<Probes>,
}

/// One row of a part: measures it and says what came out.
type RowFn = fn(&Settings) -> Row;

const USAGE: &str = "usage: phalanx-peers PART [--quick] [--row ID].. [--json FILE] [--folder DIR] [--units N] [--calm on|off]
  PART         ast, bus, cache, fleet or state; build with the feature of the same name
  --quick      3 samples a row instead of 5, and only the peers that its reach names
  --row ID     only this row; may be given more than once
  --json FILE  write the rows there as well
  --folder DIR where the rows with files keep them, which should be on a disk; the system's temporary folder
  --units N    no times: this crate alone does N units of each row, for whoever counts its instructions; they are
               those of the difference between two runs
  --calm off   count all work, also what was done while a neighbour had a share of the core; on unless said";

const PARTS: [&str; 5] = ["ast", "bus", "cache", "fleet", "state"];

/// The rows of a part by their ids; none if it was not built.
fn rows(part: &str) -> &'static [(&'static str, RowFn)] {
    match part {
        #[cfg(feature = "ast")]
        "ast" => ast::ROWS,
        #[cfg(feature = "bus")]
        "bus" => bus::ROWS,
        #[cfg(feature = "cache")]
        "cache" => cache::ROWS,
        #[cfg(feature = "fleet")]
        "fleet" => fleet::ROWS,
        #[cfg(feature = "state")]
        "state" => state::ROWS,
        _ => &[],
    }
}

/// What a row has measured in a process of its own: two numbers, what it is worth and what was received.
fn child(part: &str, row: &str, name: &str) -> Result<(u64, u64), String> {
    match part {
        #[cfg(feature = "fleet")]
        "fleet" => fleet::child(row, name),
        #[cfg(feature = "state")]
        "state" => state::child(row, name),
        _ => Err(format!("{name} of the row {row} of {part} has no process of its own")),
    }
}

fn main() -> ExitCode {
    let given: Vec<_> = std::env::args().skip(1).collect();
    if let [flag, part, row, name] = given.as_slice()
        && flag == "--child"
    {
        return match child(part, row, name) {
            Ok((value, received)) => {
                println!("{value} {received}");
                ExitCode::SUCCESS
            }
            Err(problem) => usage(&problem),
        };
    }
    let Arguments { part, quick, only, json, folder, units, calm } = match arguments() {
        Ok(Some(parsed)) => parsed,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(problem) => return usage(&problem),
    };
    if !PARTS.contains(&part.as_str()) {
        return usage(&format!("there is no part {part}"));
    }
    let rows = rows(&part);
    if rows.is_empty() {
        return usage(&format!("this binary has no {part} in it: build with --features {part}"));
    }
    if let Some(unknown) = only.iter().find(|only| rows.iter().all(|(id, _)| id != only)) {
        let ids: Vec<_> = rows.iter().map(|(id, _)| *id).collect();
        return usage(&format!("there is no row {unknown} of {part}, but {}", ids.join(", ")));
    }
    let probes = (calm && units.is_none()).then(Probes::new);
    let settings = Settings { quick, commit: commit(), folder, units, probes };
    println!("{}", table::header(&part, &settings));
    let mut done = Vec::new();
    for (id, row) in rows.iter().filter(|(id, _)| only.is_empty() || only.iter().any(|o| o == id)) {
        let row = row(&settings);
        assert_eq!(row.spec.id, *id, "a row is listed by another id than it has");
        println!("{}", table::row(&row));
        done.push(row);
    }
    println!("{}", table::summary(&done));
    if let Some(file) = json {
        // A line each, as laps are many.
        let rows: Vec<_> = done.iter().map(|row| row.to_json(&settings).to_string()).collect();
        let text = format!("[\n{}\n]\n", rows.join(",\n"));
        if let Err(error) = std::fs::write(&file, text) {
            eprintln!("could not write {file}: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

struct Arguments {
    part: String,
    quick: bool,
    /// The rows asked for; all of them if none is named.
    only: Vec<String>,
    json: Option<String>,
    folder: PathBuf,
    units: Option<u64>,
    calm: bool,
}

/// `None` when help was asked for.
fn arguments() -> Result<Option<Arguments>, String> {
    let (mut part, mut quick, mut only, mut json) = (None, false, Vec::new(), None);
    let mut folder = std::env::temp_dir();
    let (mut units, mut calm) = (None, true);
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--help" | "-h" => return Ok(None),
            "--quick" => quick = true,
            "--row" => only.push(given.next().ok_or("--row needs an id")?),
            "--json" => json = Some(given.next().ok_or("--json needs a file")?),
            "--folder" => folder = given.next().ok_or("--folder needs a folder")?.into(),
            "--units" => {
                let number = given.next().and_then(|number| number.parse().ok());
                units = Some(number.ok_or("--units needs a number")?);
            }
            "--calm" => {
                calm = match given.next().as_deref() {
                    Some("on") => true,
                    Some("off") => false,
                    _ => return Err("--calm needs on or off".to_owned()),
                }
            }
            flag if flag.starts_with('-') => return Err(format!("there is no option {flag}")),
            name if part.is_none() => part = Some(name.to_owned()),
            more => return Err(format!("one part at a time: {more} is one too many")),
        }
    }
    let part = part.ok_or("which part?")?;
    Ok(Some(Arguments { part, quick, only, json, folder, units, calm }))
}

fn usage(problem: &str) -> ExitCode {
    eprintln!("{problem}\n{USAGE}");
    ExitCode::from(2)
}

/// The commit of the tree that this package lies in, marked when files differ from it.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .args(["-C", env!("CARGO_MANIFEST_DIR")])
            .args(arguments)
            .output()
            .ok()
            .filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok()
    };
    match (git(&["rev-parse", "HEAD"]), git(&["status", "--porcelain"])) {
        (Some(head), Some(changes)) if changes.trim().is_empty() => head.trim().to_owned(),
        (Some(head), _) => format!("{}-dirty", head.trim()),
        (None, _) => "unknown".to_owned(),
    }
}
