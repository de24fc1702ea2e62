//! What the files of the kernel say, as pure functions of their text.
//!
//! Rules that hold here:
//!
//! 1. Any text is taken: it is understood or refused, and never panics.
//! 2. A number that overflows is refused; units are bytes, processors and ticks.
//! 3. A path from the kernel leads to nothing outside the folder of the control groups.

use crate::{Error, ErrorKind};

/// What the first line of `/proc/stat` counts since the machine came up, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ticks {
    pub(super) busy: u64,
    pub(super) all: u64,
}

/// What is taken from `/proc/self/status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) resident_bytes: u64,
    pub(super) cpus_allowed: u64,
}

/// What is taken from `/proc/meminfo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) total_bytes: u64,
    pub(super) available_bytes: u64,
}

/// Where this process is in the trees of control groups, as folders below their mounts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Membership {
    pub(super) unified: Option<String>,
    pub(super) cpu: Option<String>,
    pub(super) memory: Option<String>,
}

/// An error that quotes the beginning of what was found.
pub(super) fn refused(file: &str, expected: &str, found: &str) -> Error {
    let quote: String = found.chars().take(80).collect();
    Error::new(ErrorKind::Corrupt, format!("{file}: expected {expected}, found {quote:?}"))
}

pub(super) fn machine_ticks(text: &str) -> Result<Ticks, Error> {
    let line = text.lines().next().unwrap_or_default();
    let fault = || refused("/proc/stat", "a line \"cpu\" with four or more counts", line);
    let mut words = line.split_ascii_whitespace();
    if words.next() != Some("cpu") {
        return Err(fault());
    }
    // User, nice, system, idle, waiting for the disk, two kinds of interrupts, stolen by other guests of
    // the machine; what follows is contained in the first two.
    let counts: Vec<u64> =
        words.take(8).map(str::parse).collect::<Result<_, _>>().map_err(|_| fault())?;
    if counts.len() < 4 {
        return Err(fault());
    }
    let sum = |counts: &[u64]| counts.iter().try_fold(0_u64, |sum, one| sum.checked_add(*one));
    let all = sum(&counts).ok_or_else(fault)?;
    let idle = sum(&counts[3..counts.len().min(5)]).ok_or_else(fault)?;
    Ok(Ticks { busy: all - idle, all })
}

/// The value of a line `Name: value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim_ascii()))
}

/// The bytes of a line `Name: 12 kB`.
fn kilobytes(file: &str, text: &str, name: &str) -> Result<u64, Error> {
    let fault = |found| refused(file, &format!("{name} in kB"), found);
    let value = field(text, name).ok_or_else(|| fault("no such line"))?;
    let number = value.strip_suffix("kB").ok_or_else(|| fault(value))?.trim_ascii_end();
    let kilobytes: u64 = number.parse().map_err(|_| fault(value))?;
    kilobytes.checked_mul(1024).ok_or_else(|| fault(value))
}

pub(super) fn status(text: &str) -> Result<Status, Error> {
    const FILE: &str = "/proc/self/status";
    let resident_bytes = kilobytes(FILE, text, "VmRSS")?;
    let list = field(text, "Cpus_allowed_list").unwrap_or("no such line");
    let cpus_allowed = cpu_list(list)
        .ok_or_else(|| refused(FILE, "Cpus_allowed_list as ranges of numbers", list))?;
    Ok(Status { resident_bytes, cpus_allowed })
}

/// How many processors a list like `0-3,8` names.
fn cpu_list(list: &str) -> Option<u64> {
    let mut count = 0_u64;
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        count = count.checked_add(u64::from(last.checked_sub(first)?) + 1)?;
    }
    Some(count)
}

pub(super) fn memory(text: &str) -> Result<Memory, Error> {
    const FILE: &str = "/proc/meminfo";
    let total_bytes = kilobytes(FILE, text, "MemTotal")?;
    let available_bytes = kilobytes(FILE, text, "MemAvailable")?;
    if total_bytes == 0 {
        return Err(refused(FILE, "MemTotal above zero", "0 kB"));
    }
    Ok(Memory { total_bytes, available_bytes })
}

/// Reads `/proc/self/cgroup`: lines of a number, controllers and a path. Lines of other controllers, and
/// those that are no such lines, say nothing about CPU and memory.
pub(super) fn membership(text: &str) -> Membership {
    let mut found = Membership::default();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) =
            (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let Some(path) = inside(path) else { continue };
        if number == "0" && controllers.is_empty() {
            found.unified = Some(path);
            continue;
        }
        for controller in controllers.split(',') {
            match controller {
                "cpu" => found.cpu = Some(path.clone()),
                "memory" => found.memory = Some(path.clone()),
                _ => {}
            }
        }
    }
    found
}

/// The path without what makes it absolute. A group outside of what this process can see (`/../..`) counts as
/// the outermost that it can see.
fn inside(path: &str) -> Option<String> {
    if !path.starts_with('/') {
        return None;
    }
    let path = path.trim_start_matches('/');
    if path.split('/').any(|part| part == "..") || path.contains('\0') {
        return Some(String::new());
    }
    Some(path.to_owned())
}

/// A folder and all those around it, the innermost first, the outermost (empty) last.
pub(super) fn levels(path: &str) -> Vec<&str> {
    let mut levels: Vec<&str> = path
        .match_indices('/')
        .map(|(end, _)| &path[..end])
        .filter(|level| !level.is_empty())
        .collect();
    levels.reverse();
    if !path.is_empty() {
        levels.insert(0, path);
    }
    levels.push("");
    levels
}

/// The processors that `cpu.max` allows (`150000 100000`, or `max 100000`); `None` for no limit.
pub(super) fn cpu_max(text: &str) -> Result<Option<f64>, Error> {
    let fault = || refused("cpu.max", "a quota or \"max\", and a period", text);
    let mut words = text.split_ascii_whitespace();
    let (Some(quota), Some(period), None) = (words.next(), words.next(), words.next()) else {
        return Err(fault());
    };
    if quota == "max" {
        return Ok(None);
    }
    let (Ok(quota), Ok(period)) = (quota.parse::<u64>(), period.parse::<u64>()) else {
        return Err(fault());
    };
    share_of(quota, period).map(Some).ok_or_else(fault)
}

/// The same from the two files of the older control groups, where -1 is no limit.
pub(super) fn cpu_quota(quota: &str, period: &str) -> Result<Option<f64>, Error> {
    let fault = |found| refused("cpu.cfs_quota_us", "microseconds, or -1", found);
    if quota.trim_ascii() == "-1" {
        return Ok(None);
    }
    let quota_us = quota.trim_ascii().parse().map_err(|_| fault(quota))?;
    let period_us = period.trim_ascii().parse().map_err(|_| fault(period))?;
    share_of(quota_us, period_us).map(Some).ok_or_else(|| fault(period))
}

fn share_of(quota: u64, period: u64) -> Option<f64> {
    (quota > 0 && period > 0).then(|| quota as f64 / period as f64)
}

/// The bytes that a file of one number holds; `max` is no limit.
pub(super) fn bytes(file: &str, text: &str) -> Result<Option<u64>, Error> {
    match text.trim_ascii() {
        "max" => Ok(None),
        number => match number.parse() {
            Ok(bytes) => Ok(Some(bytes)),
            Err(_) => Err(refused(file, "a number of bytes, or \"max\"", text)),
        },
    }
}

/// The value of a line `name 123` of `memory.stat`; zero if there is no such line.
pub(super) fn counted(text: &str, name: &str) -> Result<u64, Error> {
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if words.next() == Some(name) {
            let number = words.next().and_then(|number| number.parse().ok());
            return number.ok_or_else(|| refused("memory.stat", "a count", line));
        }
    }
    Ok(0)
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests;
