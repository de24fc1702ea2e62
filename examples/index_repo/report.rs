//! The summary as people like to read it.

use crate::summary::{Latency, Summary};
use std::collections::BTreeMap;
use std::fmt::{self, Display, Write};
use std::path::Path;

/// What one run shows at its end.
#[derive(Debug)]
pub struct Report<'a> {
    /// The figures.
    pub summary: &'a Summary,
    /// The tree.
    pub root: &'a Path,
    /// How many agents `--kill` asked to strike.
    pub kill: usize,
    /// What the user should know beyond the figures.
    pub notes: &'a [String],
}

impl Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { files, tasks, agents, events, cache, references, .. } = self.summary;
        let seconds = Duration(self.summary.elapsed_ms.saturating_mul(1_000_000));
        let spawned = Count(agents.spawned);
        writeln!(f, "{} in {seconds}, {spawned} agents\n", self.root.display())?;

        let (skipped, failed) = (files.skipped_total(), files.failed_total());
        row(
            f,
            "files",
            format_args!(
                "{} seen = {} indexed + {} unchanged + {} skipped + {} failed",
                Count(files.seen),
                Count(files.indexed),
                Count(files.unchanged),
                Count(skipped),
                Count(failed),
            ),
        )?;
        if skipped > 0 {
            row(f, "  skipped", Reasons(&files.skipped))?;
        }
        if failed > 0 {
            row(f, "  failed", Reasons(&files.failed))?;
        }
        row(f, "symbols", Count(self.summary.symbols))?;
        row(
            f,
            "cross-references",
            format_args!(
                "{} resolved, {} unresolved",
                Count(references.resolved),
                Count(references.unresolved),
            ),
        )?;
        row(f, "syntax errors", Count(self.summary.syntax_errors))?;

        row(
            f,
            "tasks",
            format_args!(
                "{} accepted = {} completed + {} failed + {} returned + {} cancelled",
                Count(tasks.accepted),
                Count(tasks.completed),
                Count(tasks.failed),
                Count(tasks.returned),
                Count(tasks.cancelled),
            ),
        )?;
        if tasks.rerun > 0 || self.kill > 0 {
            row(
                f,
                "  re-run",
                format_args!(
                    "{} attempts, {} of {} agents struck, {} late completions refused",
                    Count(tasks.rerun),
                    Count(agents.killed),
                    Count(self.kill as u64),
                    Count(tasks.late_completions_refused),
                ),
            )?;
        }
        if let Some(Latency { p50, p99, max }) = self.summary.allocation_ns {
            row(
                f,
                "allocation",
                format_args!("p50 {}, p99 {}, max {}", Duration(p50), Duration(p99), Duration(max),),
            )?;
        }
        row(
            f,
            "events",
            format_args!(
                "{} published ({:.0}/s), {} delivered, {} dropped",
                Count(events.published),
                events.per_second,
                Count(events.delivered),
                Count(events.dropped),
            ),
        )?;
        if cache.hits + cache.misses > 0 {
            let rate = 100.0 * cache.hits as f64 / (cache.hits + cache.misses) as f64;
            row(
                f,
                "cache",
                format_args!(
                    "{rate:.1} % hits ({} of {}), {}",
                    Count(cache.hits),
                    Count(cache.hits + cache.misses),
                    Bytes(cache.bytes),
                ),
            )?;
        }
        for (language, times) in &self.summary.parse_us {
            let us = |us: u64| Duration(us.saturating_mul(1000)).to_string();
            row(
                f,
                &format!("parse {language}"),
                format_args!(
                    "p50 {}, p95 {}, p99 {} over {}",
                    us(times.p50),
                    us(times.p95),
                    us(times.p99),
                    Count(times.count),
                ),
            )?;
        }
        if let Some(snapshot) = self.summary.snapshot {
            row(
                f,
                "snapshot",
                format_args!(
                    "version {}, {}, taken in {}",
                    Count(snapshot.version),
                    Bytes(snapshot.bytes),
                    Duration(snapshot.ns),
                ),
            )?;
        }
        row(f, "digest", &self.summary.state_digest)?;
        for note in self.notes {
            write!(f, "\nnote: {note}")?;
        }
        if !self.notes.is_empty() {
            writeln!(f)?;
        }
        Ok(())
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, value: impl Display) -> fmt::Result {
    writeln!(f, "{name:<17} {value}")
}

/// A count with its thousands set apart.
struct Count(u64);

impl Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (place, digit) in digits.chars().enumerate() {
            if place > 0 && (digits.len() - place).is_multiple_of(3) {
                f.write_char(',')?;
            }
            f.write_char(digit)?;
        }
        Ok(())
    }
}

/// Bytes in the largest decimal unit that leaves a whole number.
struct Bytes(u64);

impl Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        scaled(f, self.0, &["bytes", "kB", "MB", "GB"])
    }
}

/// Nanoseconds in the largest unit that leaves a whole number.
struct Duration(u64);

impl Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        scaled(f, self.0, &["ns", "us", "ms", "s"])
    }
}

fn scaled(f: &mut fmt::Formatter<'_>, value: u64, units: &[&str; 4]) -> fmt::Result {
    let [unit, ..] = units;
    if value < 1000 {
        return write!(f, "{value} {unit}");
    }
    let (mut value, mut unit) = (value as f64, unit);
    for larger in &units[1..] {
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = larger;
    }
    let decimals = usize::from(value < 99.5) + usize::from(value < 9.95);
    write!(f, "{value:.decimals$} {unit}")
}

/// Reasons with their counts, the most frequent first.
struct Reasons<'a>(&'a BTreeMap<&'static str, u64>);

impl Display for Reasons<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut reasons: Vec<_> = self.0.iter().collect();
        reasons.sort_by_key(|&(name, count)| (std::cmp::Reverse(count), name));
        for (place, (name, count)) in reasons.into_iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            write!(f, "{comma}{} {name}", Count(*count))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Skip;

    #[test]
    fn numbers_are_easy_to_read() {
        assert_eq!(Count(0).to_string(), "0");
        assert_eq!(Count(999).to_string(), "999");
        assert_eq!(Count(1_234_567).to_string(), "1,234,567");
        assert_eq!(Duration(17).to_string(), "17 ns");
        assert_eq!(Duration(1_500).to_string(), "1.50 us");
        assert_eq!(Duration(999_999).to_string(), "1.00 ms");
        assert_eq!(Duration(12_345_678_901).to_string(), "12.3 s");
        assert_eq!(Duration(5_000_000_000_000).to_string(), "5000 s");
        assert_eq!(Bytes(123_456_789).to_string(), "123 MB");
    }

    #[test]
    fn what_was_not_measured_is_not_shown() {
        let mut summary = Summary::default();
        summary.files.skip(Skip::Empty);
        let report =
            Report { summary: &summary, root: Path::new("/tree"), kill: 0, notes: &[] }.to_string();
        for absent in ["allocation", "parse", "cache ", "snapshot", "re-run", "failed   "] {
            assert!(!report.contains(absent), "{absent} in\n{report}");
        }
        assert!(report.contains("  skipped         1 empty\n"), "{report}");
    }
}
