//! The rows as people read them.

use std::fmt::Write;

use crate::Settings;
use crate::measure::{BOUND, Calmness};
use crate::row::{OURS, Row, Samples, Unit, Verdict};

pub fn header(part: &str, settings: &Settings) -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let quick = if settings.quick { ", quick" } else { "" };
    let commit: String = settings.commit.chars().take(12).collect();
    let dirty = if settings.commit.ends_with("-dirty") { " with changes" } else { "" };
    format!("{part} and its peers: {cores} cores, commit {commit}{dirty}{quick}")
}

pub fn row(row: &Row) -> String {
    let spec = &row.spec;
    let mut text = format!("\n{} / {}: {}\n", spec.part, spec.id, spec.what);
    let unit = match spec.unit {
        Unit::PerSecond => "operations/s, higher is better",
        Unit::Nanoseconds | Unit::Milliseconds => "time an operation, lower is better",
        Unit::Cores => "cores in use, lower is better",
        Unit::Bytes | Unit::Megabytes => "bytes, lower is better",
        Unit::Syncs => "syncs, lower is better",
        Unit::Number => "a plain number, higher is better",
    };
    let samples =
        row.ours.len().max(row.peers.iter().map(|peer| peer.values.len()).max().unwrap_or(0));
    let time = spec.time.name();
    if let Some(reason) = &row.reason {
        let _ = writeln!(text, "  did not run: {reason}");
        if row.peers.is_empty() {
            return text;
        }
    }
    let _ = write!(text, "  {unit}; {time}; median and range of {samples} samples");
    if let Some(Calmness { cores, best, .. }) = &row.calmness {
        let cores = if *cores == 1 { "" } else { " on two cores at once" };
        let _ = write!(text, " of calm laps (probes{cores} within {BOUND} of {best:.3} ns)");
    }
    text.push_str("\n\n");
    let ours = Samples { name: OURS, values: row.ours.clone() };
    let mut best_first: Vec<_> = row.peers.iter().collect();
    best_first.sort_by(|a, b| {
        let (a, b) = (a.median(), b.median());
        if spec.unit.better() == "higher" { b.total_cmp(&a) } else { a.total_cmp(&b) }
    });
    let calm = if row.calmness.is_some() { "calm laps" } else { "" };
    let heads = ["", "median", "range", calm, "ours is", "reach", ""];
    let mut lines = vec![heads.map(str::to_owned)];
    let ours_first = (!row.ours.is_empty()).then_some(&ours);
    for one in ours_first.into_iter().chain(best_first) {
        let name = if one.name == OURS { "phalanx" } else { one.name };
        let (low, high) = one.spread();
        let range = format!("{} .. {}", human(spec.unit, low), human(spec.unit, high));
        let ratio = if one.name == OURS || row.ours.is_empty() {
            String::new()
        } else {
            format!("{} x", short(spec.unit.ratio(ours.median(), one.median())))
        };
        // One line for each target against it, one without for a peer that is no target.
        let mut targets: Vec<_> = row
            .targets
            .iter()
            .filter(|target| target.peer == Some(one.name))
            .map(|target| {
                let verdict = match target.verdict {
                    Verdict::Fail => "FAIL",
                    verdict => verdict.name(),
                };
                let group = if target.against == one.name {
                    String::new()
                } else {
                    format!(" ({})", target.against)
                };
                (format!("{} x", short(target.reach)), format!("{verdict}{group}"))
            })
            .collect();
        if targets.is_empty() {
            targets.push(Default::default());
        }
        let laps = row.calmness.as_ref().and_then(|calmness| calmness.of(one.name));
        let laps = laps.map(|one| format!("{} of {}", one.kept, one.laps.len()));
        let laps = laps.unwrap_or_default();
        let mut cells = [name.to_owned(), human(spec.unit, one.median()), range, laps, ratio];
        for (reach, verdict) in targets {
            let [name, median, range, laps, ratio] = std::mem::take(&mut cells);
            lines.push([name, median, range, laps, ratio, reach, verdict]);
        }
    }
    let width: Vec<_> =
        (0..7).map(|at| lines.iter().map(|line| line[at].len()).max().unwrap_or(0)).collect();
    for line in lines {
        let mut padded = format!("  {:<1$}", line[0], width[0]);
        for at in 1..6 {
            let _ = write!(padded, "  {:>1$}", line[at], width[at]);
        }
        let _ = writeln!(text, "{}", format!("{padded}  {}", line[6]).trim_end());
    }
    for target in row.targets.iter().filter(|target| target.peer.is_none()) {
        let _ = writeln!(
            text,
            "  {}: not measured, reach {} x  FAIL",
            target.against,
            short(target.reach)
        );
    }
    for target in &row.targets {
        if let Some(why) = &target.why {
            let _ = writeln!(text, "  {}: inconclusive, as {why}", target.against);
        }
    }
    text
}

pub fn summary(rows: &[Row]) -> String {
    let count = |wanted| {
        rows.iter().flat_map(|row| &row.targets).filter(|target| target.verdict == wanted).count()
    };
    format!(
        "{} rows, {} targets: {} pass, {} fail, {} inconclusive; {} rows did not run",
        rows.len(),
        rows.iter().map(|row| row.targets.len()).sum::<usize>(),
        count(Verdict::Pass),
        count(Verdict::Fail),
        count(Verdict::Inconclusive),
        rows.iter().filter(|row| row.reason.is_some()).count(),
    )
}

/// Three digits and a unit that fits.
fn human(unit: Unit, value: f64) -> String {
    let steps = match unit {
        Unit::PerSecond => ["/s", " k/s", " M/s", " G/s"],
        Unit::Nanoseconds => [" ns", " us", " ms", " s"],
        Unit::Bytes => [" bytes", " kB", " MB", " GB"],
        Unit::Milliseconds => return format!("{value:.3} ms"),
        Unit::Megabytes => return format!("{} MB", short(value)),
        Unit::Cores | Unit::Number | Unit::Syncs => return format!("{value:.4}"),
    };
    let step = if value >= 1e9 {
        3
    } else if value >= 1e6 {
        2
    } else {
        usize::from(value >= 1e3)
    };
    format!("{}{}", short(value / 1000_f64.powi(step as i32)), steps[step])
}

fn short(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::{Spec, Time};

    #[test]
    fn the_best_peer_comes_first_and_says_which_targets_it_is() {
        let spec = Spec {
            part: "part",
            id: "id",
            what: "what",
            unit: Unit::Nanoseconds,
            time: Time::Wall,
            work: serde_json::Map::new(),
            targets: &[("best", 1.0), ("quick", 2.0), ("absent", 1.0)],
        };
        let peer = |name, value| Samples { name, values: vec![value; 3] };
        let peers = vec![peer("slow", 900.0), peer("quick", 20.0), peer("middling", 30.0)];
        let text = row(&Row::measured(spec, vec![10.0; 3], peers, None));
        let lines: Vec<_> = text.lines().skip(4).map(str::split_whitespace).collect();
        let lines: Vec<Vec<_>> = lines.into_iter().map(Iterator::collect).collect();
        let names: Vec<_> = lines[1..].iter().map(|line| line[0]).collect();
        assert_eq!(names, ["phalanx", "quick", "2.00", "middling", "slow", "absent:"]);
        assert!(lines[2].ends_with(&["1.00", "x", "pass", "(best)"]), "{:?}", lines[2]);
        assert!(lines[3].ends_with(&["2.00", "x", "pass"]), "{:?}", lines[3]);
        assert!(lines[6].ends_with(&["FAIL"]), "{:?}", lines[6]);
    }
}
