//! A contestant in a process of its own: what others left behind is not counted there, and what it does can
//! be watched from outside.

use std::path::Path;
use std::process::{Command, Output};

use crate::measure::{Contestant, Sample};

/// One whose value is what a process of its own says, in units of so many.
pub fn measured<'a>(
    row: &'static str,
    name: &'static str,
    unit: f64,
    folder: &'a Path,
) -> Contestant<'a> {
    Contestant::timeless(name, move || {
        let (value, seen) = run(&mut this(row, name, None), folder);
        Sample {
            value: Some(value as f64 / unit),
            ..Sample::new(std::time::Duration::ZERO, 1, Some(seen))
        }
    })
}

/// This program as the contestant of a row, by the means of a program that runs others if one is given.
pub fn this(row: &str, name: &str, by: Option<Command>) -> Command {
    let this = std::env::current_exe().expect("this program has a path");
    let mut command = match by {
        Some(mut by) => {
            by.arg(this);
            by
        }
        None => Command::new(this),
    };
    command.args(["--child", "state", row, name]);
    command
}

/// Runs it in a folder of its own; returns what it measured and what it saw in the end.
pub fn run(command: &mut Command, folder: &Path) -> (u64, u64) {
    let folder = folder.join("process");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("the folder can be written");
    let Output { status, stdout, stderr } =
        command.current_dir(&folder).output().expect("this program starts once more");
    let _ = std::fs::remove_dir_all(&folder);
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    let text = String::from_utf8_lossy(&stdout);
    let numbers = text.trim().split_once(' ');
    let numbers = numbers.and_then(|(value, seen)| Some((value.parse().ok()?, seen.parse().ok()?)));
    numbers.expect("it says two numbers")
}
