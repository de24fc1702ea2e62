//! What is reported of a row, and when a target is met.

use serde_json::{Map, Value, json};

use crate::Settings;
use crate::measure::Calmness;

/// The name under which this crate competes.
pub const OURS: &str = "ours";

/// What the values of a row are. All values of a row are in its one unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// `operations/s`, higher is better.
    PerSecond,
    /// `ns` an operation, lower is better.
    Nanoseconds,
    /// `ns` an operation where they are so many that people count in `ms`, lower is better.
    Milliseconds,
    /// Processor cores in use on average, lower is better.
    Cores,
    /// `bytes` of memory or of a disk, lower is better.
    Bytes,
    /// Millions of `bytes` of memory, lower is better.
    Megabytes,
    /// A plain number, such as a quotient, higher is better.
    Number,
    /// Syncs of files, lower is better.
    Syncs,
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Self::PerSecond => "operations/s",
            Self::Nanoseconds => "ns",
            Self::Milliseconds => "ms",
            Self::Cores => "cores",
            Self::Bytes => "bytes",
            Self::Megabytes => "MB",
            Self::Number => "ratio",
            Self::Syncs => "syncs",
        }
    }

    pub fn better(self) -> &'static str {
        match self {
            Self::PerSecond | Self::Number => "higher",
            _ => "lower",
        }
    }

    /// How many times better `ours` is than `theirs`.
    pub fn ratio(self, ours: f64, theirs: f64) -> f64 {
        match self.better() {
            "higher" => ours / theirs,
            _ => theirs / ours,
        }
    }
}

/// Which time the figures are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    Wall,
    /// Of all threads of the process, which run nothing else meanwhile.
    Cpu,
    /// What is measured is no time.
    None,
}

impl Time {
    pub fn name(self) -> &'static str {
        match self {
            Self::Wall => "wall time",
            Self::Cpu => "CPU time of the process",
            Self::None => "no time",
        }
    }
}

/// What a row is about, before it is measured.
#[derive(Debug)]
pub struct Spec {
    pub part: &'static str,
    pub id: &'static str,
    pub what: &'static str,
    pub unit: Unit,
    pub time: Time,
    /// What was done, the same for everybody.
    pub work: Map<String, Value>,
    /// Against whom, and how many times as good as them we are to be: a name, or the best of a group of the
    /// peers, which is `best` (of all), `best-CRATE` (of the modes of one crate) or `best-other` (of all but
    /// the disruptor).
    pub targets: &'static [(&'static str, f64)],
}

/// The samples of one contestant, in the order of the rounds.
#[derive(Clone, Debug)]
pub struct Samples {
    pub name: &'static str,
    pub values: Vec<f64>,
}

impl Samples {
    pub fn median(&self) -> f64 {
        median(&self.values)
    }

    /// The least and the greatest.
    pub fn spread(&self) -> (f64, f64) {
        extremes(&self.values)
    }

    /// Whether it is a peer, rather than a reference of our own, a probe or a limit.
    fn is_peer(&self) -> bool {
        !["self-", "probe-", "limit-"].iter().any(|prefix| self.name.starts_with(prefix))
    }

    /// Whether a target against this one, or this group, means it.
    fn is_meant(&self, against: &str) -> bool {
        self.is_of(against).unwrap_or(self.name == against)
    }

    /// Whether it is one of those that a target against a group means; nothing if `against` is no group.
    fn is_of(&self, against: &str) -> Option<bool> {
        let of = |one: &str| {
            self.name.strip_prefix(one).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        match against {
            "best" => Some(self.is_peer()),
            "best-other" => Some(self.is_peer() && !of("disruptor")),
            _ => against.strip_prefix("best-").map(of),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    Fail,
    /// The spread straddles the reach, or the machine was not calm for long enough.
    Inconclusive,
}

impl Verdict {
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Inconclusive => "inconclusive",
        }
    }
}

/// How we stand against one target.
#[derive(Debug)]
pub struct Target {
    pub against: &'static str,
    /// The peer that the best of a group turned out to be, or `against` itself; nothing in a row that did not run.
    pub peer: Option<&'static str>,
    /// Of the medians; more than 1 is better than them.
    pub ratio: Option<f64>,
    pub reach: f64,
    pub verdict: Verdict,
    /// Why it is inconclusive, if that is not because of its spread.
    pub why: Option<String>,
}

/// A row with its result.
#[derive(Debug)]
pub struct Row {
    pub spec: Spec,
    pub ours: Vec<f64>,
    pub peers: Vec<Samples>,
    pub targets: Vec<Target>,
    /// Why there are no samples.
    pub reason: Option<String>,
    /// How calm the machine was, where that was looked at.
    pub calmness: Option<Calmness>,
}

impl Row {
    pub fn measured(
        spec: Spec,
        ours: Vec<f64>,
        peers: Vec<Samples>,
        calmness: Option<Calmness>,
    ) -> Self {
        let lacks = |name| calmness.as_ref().and_then(|calmness| calmness.lacks(name));
        let targets = spec
            .targets
            .iter()
            .map(|(against, reach)| {
                let target = judge(spec.unit, &ours, &peers, against, *reach);
                // Of a group, whoever lacks laps might have been the best.
                let theirs = peers.iter().filter(|peer| peer.is_meant(against)).map(|one| one.name);
                match std::iter::once(OURS).chain(theirs).find_map(lacks) {
                    Some(why) => {
                        Target { verdict: Verdict::Inconclusive, why: Some(why), ..target }
                    }
                    None => target,
                }
            })
            .collect();
        Self { spec, ours, peers, targets, reason: None, calmness }
    }

    /// A row that only others ran: it fails, and says why.
    pub fn without_ours(spec: Spec, peers: Vec<Samples>, reason: impl Into<String>) -> Self {
        Self { peers, ..Self::not_run(spec, reason) }
    }

    /// A row that did not run: it fails, and says why.
    pub fn not_run(spec: Spec, reason: impl Into<String>) -> Self {
        let targets = spec.targets.iter().map(|(against, reach)| missed(against, *reach)).collect();
        Self {
            spec,
            ours: Vec::new(),
            peers: Vec::new(),
            targets,
            reason: Some(reason.into()),
            calmness: None,
        }
    }

    pub fn to_json(&self, settings: &Settings) -> Value {
        let peers: Map<_, _> =
            self.peers.iter().map(|peer| (peer.name.to_owned(), json!(peer.values))).collect();
        let targets: Vec<_> = self
            .targets
            .iter()
            .map(|target| {
                json!({
                    "against": target.against,
                    "ratio": target.ratio,
                    "reach": target.reach,
                    "verdict": target.verdict.name(),
                    "why": target.why,
                })
            })
            .collect();
        let mut work = self.spec.work.clone();
        work.insert("time".to_owned(), json!(self.spec.time.name()));
        let mut row = json!({
            "part": self.spec.part,
            "id": self.spec.id,
            "what": self.spec.what,
            "unit": self.spec.unit.name(),
            "better": self.spec.unit.better(),
            "ours": self.ours,
            "peers": peers,
            "work": work,
            "quick": settings.quick,
            "commit": settings.commit,
            "targets": targets,
        });
        if let (Some(reason), Some(row)) = (&self.reason, row.as_object_mut()) {
            row.insert("reason".to_owned(), json!(reason));
        }
        if let (Some(calmness), Some(row)) = (&self.calmness, row.as_object_mut()) {
            row.insert("calmness".to_owned(), calmness.to_json());
        }
        row
    }
}

fn judge(unit: Unit, ours: &[f64], peers: &[Samples], against: &'static str, reach: f64) -> Target {
    let peer = peers
        .iter()
        .filter(|peer| peer.is_meant(against))
        .reduce(|a, b| if unit.ratio(a.median(), b.median()) >= 1.0 { a } else { b });
    let Some(peer) = peer else { return missed(against, reach) };
    let rounds: Vec<_> =
        ours.iter().zip(&peer.values).map(|(ours, theirs)| unit.ratio(*ours, *theirs)).collect();
    // The least and the greatest ratio of a round.
    let (low, high) = extremes(&rounds);
    let verdict = if low >= reach {
        Verdict::Pass
    } else if high < reach {
        Verdict::Fail
    } else {
        Verdict::Inconclusive
    };
    Target {
        against,
        peer: Some(peer.name),
        ratio: Some(unit.ratio(median(ours), peer.median())),
        reach,
        verdict,
        why: None,
    }
}

fn missed(against: &'static str, reach: f64) -> Target {
    Target { against, peer: None, ratio: None, reach, verdict: Verdict::Fail, why: None }
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
    }
}

fn extremes(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(*value), high.max(*value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Laps;

    fn spec(unit: Unit, targets: &'static [(&'static str, f64)]) -> Spec {
        Spec {
            part: "part",
            id: "id",
            what: "what",
            unit,
            time: Time::Wall,
            work: Map::new(),
            targets,
        }
    }

    fn peer(name: &'static str, values: [f64; 3]) -> Samples {
        Samples { name, values: values.to_vec() }
    }

    #[test]
    fn a_ratio_above_one_is_better_whichever_way_the_unit_goes() {
        let targets = &[("peer", 1.0)];
        let faster = Row::measured(
            spec(Unit::PerSecond, targets),
            vec![20.0, 22.0, 21.0],
            vec![peer("peer", [10.0, 11.0, 10.5])],
            None,
        );
        let slower = Row::measured(
            spec(Unit::Nanoseconds, targets),
            vec![20.0, 22.0, 21.0],
            vec![peer("peer", [10.0, 11.0, 10.5])],
            None,
        );
        assert_eq!(faster.targets[0].ratio, Some(2.0));
        assert_eq!(faster.targets[0].verdict, Verdict::Pass);
        assert_eq!(slower.targets[0].ratio, Some(0.5));
        assert_eq!(slower.targets[0].verdict, Verdict::Fail);
    }

    #[test]
    fn a_spread_on_both_sides_of_the_reach_decides_nothing() {
        let row = Row::measured(
            spec(Unit::PerSecond, &[("peer", 1.0)]),
            vec![9.0, 12.0, 11.0],
            vec![peer("peer", [10.0, 10.0, 10.0])],
            None,
        );
        assert_eq!(row.targets[0].verdict, Verdict::Inconclusive);
    }

    #[test]
    fn who_has_too_few_calm_laps_decides_nothing_for_anybody() {
        let judged = |short: &'static str| {
            let of =
                |name| Laps { name, laps: Vec::new(), kept: usize::from(name != short), wanted: 1 };
            let laps = [OURS, "tokio-a", "tokio-b", "other"].map(of).into();
            let row = Row::measured(
                spec(Unit::PerSecond, &[("best-tokio", 1.0), ("other", 1.0)]),
                vec![20.0; 3],
                vec![
                    peer("tokio-a", [9.0; 3]),
                    peer("tokio-b", [5.0; 3]),
                    peer("other", [90.0; 3]),
                ],
                Some(Calmness { cores: 1, best: 1.0, laps }),
            );
            let why = row.targets.iter().map(|target| target.why.is_some()).collect::<Vec<_>>();
            (row.targets[0].verdict, row.targets[1].verdict, why)
        };
        use Verdict::{Fail, Inconclusive, Pass};
        assert_eq!(judged("nobody"), (Pass, Fail, vec![false, false]));
        // Neither a pass nor a failure stands; the slower one of a group might have been its best.
        assert_eq!(judged(OURS), (Inconclusive, Inconclusive, vec![true, true]));
        assert_eq!(judged("tokio-b"), (Inconclusive, Fail, vec![true, false]));
        assert_eq!(judged("other"), (Pass, Inconclusive, vec![false, true]));
    }

    #[test]
    fn the_best_peer_is_no_probe_and_no_reference_of_our_own() {
        let peers = vec![
            peer("probe-cas", [1.0, 1.0, 1.0]),
            peer("self-1k", [2.0, 2.0, 2.0]),
            peer("slow", [8.0, 8.0, 8.0]),
            peer("fast", [4.0, 4.0, 4.0]),
        ];
        let row =
            Row::measured(spec(Unit::Nanoseconds, &[("best", 1.0)]), vec![2.0; 3], peers, None);
        assert_eq!((row.targets[0].peer, row.targets[0].ratio), (Some("fast"), Some(2.0)));
    }

    #[test]
    fn a_group_is_of_peers_alone_and_its_best_is_judged() {
        let peers = vec![
            peer("self-1to4", [90.0, 90.0, 90.0]),
            peer("disruptor-yield", [40.0, 40.0, 40.0]),
            peer("rtrb-x4", [20.0, 20.0, 20.0]),
            peer("disruptor-sleep", [50.0, 50.0, 50.0]),
            peer("bus", [10.0, 10.0, 10.0]),
        ];
        let targets = &[("best", 1.0), ("best-disruptor", 1.0), ("best-other", 6.0), ("bus", 10.0)];
        let row = Row::measured(spec(Unit::PerSecond, targets), vec![100.0; 3], peers, None);
        let judged: Vec<_> = row.targets.iter().map(|t| (t.peer, t.ratio, t.verdict)).collect();
        assert_eq!(
            judged,
            [
                (Some("disruptor-sleep"), Some(2.0), Verdict::Pass),
                (Some("disruptor-sleep"), Some(2.0), Verdict::Pass),
                (Some("rtrb-x4"), Some(5.0), Verdict::Fail),
                (Some("bus"), Some(10.0), Verdict::Pass),
            ]
        );
    }

    #[test]
    fn a_group_of_a_crate_is_of_its_modes_alone() {
        let peers = vec![
            peer("tokio", [20.0, 20.0, 20.0]),
            peer("tokio-bounded", [50.0, 50.0, 50.0]),
            peer("tokiosan", [90.0, 90.0, 90.0]),
        ];
        let row =
            Row::measured(spec(Unit::Number, &[("best-tokio", 1.0)]), vec![100.0; 3], peers, None);
        assert_eq!((row.targets[0].peer, row.targets[0].ratio), (Some("tokio-bounded"), Some(2.0)));
    }

    #[test]
    fn a_row_that_only_others_ran_has_their_samples_and_fails() {
        let spec = spec(Unit::Megabytes, &[("peer", 1.0)]);
        let row = Row::without_ours(spec, vec![peer("peer", [1.0, 2.0, 3.0])], "not there yet");
        let json =
            row.to_json(&Settings { quick: true, commit: "c".to_owned(), ..Settings::default() });
        assert_eq!((&json["reason"], &json["ours"]), (&json!("not there yet"), &json!([])));
        assert_eq!(json["peers"]["peer"], json!([1.0, 2.0, 3.0]));
        assert_eq!(json["targets"][0]["verdict"], "fail");
    }

    #[test]
    fn a_target_against_a_group_that_nobody_is_of_fails() {
        let row = Row::measured(
            spec(Unit::PerSecond, &[("best-disruptor", 1.0)]),
            vec![100.0; 3],
            vec![peer("bus", [10.0, 10.0, 10.0])],
            None,
        );
        assert_eq!((row.targets[0].peer, row.targets[0].verdict), (None, Verdict::Fail));
    }

    #[test]
    fn fewer_cores_are_better() {
        let row = Row::measured(
            spec(Unit::Cores, &[("limit-idle", 1.0)]),
            vec![0.001; 3],
            vec![peer("limit-idle", [0.01, 0.01, 0.01])],
            None,
        );
        assert_eq!((row.targets[0].ratio, row.targets[0].verdict), (Some(10.0), Verdict::Pass));
    }

    #[test]
    fn a_row_that_did_not_run_fails_every_target_and_says_why() {
        let row = Row::not_run(spec(Unit::PerSecond, &[("peer", 1.0)]), "no such luck");
        let settings = Settings { quick: true, commit: "c".to_owned(), ..Settings::default() };
        let json = row.to_json(&settings);
        assert_eq!(json["reason"], "no such luck");
        assert_eq!(json["ours"], json!([]));
        assert_eq!(json["targets"][0]["verdict"], "fail");
        assert_eq!(json["targets"][0]["ratio"], Value::Null);
    }
}
