//! The same runs without one of their syncs: the oracle has to notice each.
//!
//! Where the engine syncs several times in one step, and a later one of them covers an earlier one, leaving out a
//! single one does no harm, and nothing could notice it:
//!
//! - Creation: the file has no name yet, and one sync at the end covers all of them.
//! - Close: the engine writes down which pages are free, and then that it was closed; without the second the
//!   first is enough to open without a repair.
//! - Opening: the engine marks its file as open as it begins, looks whether it is sound, which syncs, and marks it
//!   again. The last covers those before, and the sync of the first append would cover all of them: nothing that was
//!   acknowledged depends on any. Rule 5 of the oracle asks for the last.
//!
//! - Shrinking: before a transaction the engine may cut off pages at the end that are free, where the order in which rows
//!   lie has it come to that, and syncs the new length. Until the next sync covers it there is either length, and what was
//!   cut off was free.
//!
//! But for shrinking, all syncs of the step are left out together. How many an opening has is counted, so that another one does not
//! go unnoticed.

use phalanx::state::AtRisk;

use super::loss::{survivors, went_on_with_zeros};
use super::run::Recorded;
use super::{at_rest, examine};

/// The syncs of redb 4.4 as it opens a file that was closed: as it marks it as open, before it looks whether all of it is
/// sound, after it has written its header anew for that, and as it marks it again.
const OF_OPENING: usize = 4;

/// A sync: its number, after which call it came, and in which step of the run.
struct Sync {
    number: u64,
    call: u64,
    doing: (&'static str, u64),
    /// Whether what it makes durable is a new length alone.
    shrinks: bool,
}

fn syncs(recorded: &Recorded) -> Vec<Sync> {
    let mut found: Vec<Sync> = Vec::new();
    for call in 1..=recorded.calls() {
        let number = recorded.disk.rewound(call, |_| false).syncs();
        if number > found.len() as u64 {
            let before = recorded.disk.rewound(call - 1, |_| false);
            let shrinks = matches!(before.at_risk()[..], [AtRisk::SetLen { .. }]);
            found.push(Sync { number, call, doing: recorded.promise(call).doing, shrinks });
        }
    }
    found
}

/// Leaves syncs out, and tells what broke before the next one, and where.
fn noticed(recorded: &Recorded, left_out: &[&Sync], until: u64) -> Option<String> {
    let [first, ..] = left_out else { return None };
    (first.call..until).find_map(|call| {
        let is_left_out = |number| left_out.iter().any(|sync| sync.number == number);
        let disk = recorded.disk.rewound(call, is_left_out);
        if went_on_with_zeros(&disk) {
            return None;
        }
        let promise = recorded.promise(call);
        if let Err(broken) = at_rest(&disk, &promise) {
            return Some(format!("after call {call}: {broken}"));
        }
        survivors(&disk, call, 24).iter().find_map(|survivor| {
            let broken = examine(&survivor.disk, &promise, recorded.width).err()?;
            Some(format!("after call {call}, {}: {broken}", survivor.what))
        })
    })
}

/// Leaves out each sync, or all of a step that covers its own, and returns those that nobody missed.
fn unnoticed(recorded: &Recorded, syncs: &[Sync]) -> Vec<&'static str> {
    let mut missed = Vec::new();
    let together = |sync: &Sync| !matches!(sync.doing.0, "append" | "checkpoint" | "import");
    let same = |a: &Sync, b: &Sync| together(a) && a.doing == b.doing;
    for group in syncs.chunk_by(same) {
        let last = group.last().map_or(0, |sync| sync.number as usize);
        let until = syncs.get(last).map_or(recorded.calls() + 1, |next| next.call);
        let doing = group[0].doing.0;
        match noticed(recorded, &group.iter().collect::<Vec<_>>(), until) {
            Some(how) => println!("{doing}: {} syncs are missed {how}", group.len()),
            None if group.iter().all(|sync| sync.shrinks) => {
                println!("{doing}: the sync from call {} shrinks the file", group[0].call);
            }
            None => {
                println!(
                    "{doing}: {} syncs from call {} are not missed",
                    group.len(),
                    group[0].call
                );
                missed.push(doing);
            }
        }
    }
    assert!(syncs.iter().any(|sync| !together(sync)));
    missed
}

#[test]
fn a_store_without_any_one_of_its_syncs_is_noticed() {
    let recorded = Recorded::run(0);
    let syncs = syncs(&recorded);
    assert_eq!(unnoticed(&recorded, &syncs), Vec::<&str>::new());
    let steps = syncs.chunk_by(|a, b| a.doing == b.doing);
    let openings = steps.filter(|step| step[0].doing.0 == "opening").map(<[_]>::len);
    assert_eq!(openings.collect::<Vec<_>>(), [OF_OPENING, OF_OPENING]);
}

/// It opens the store first, as above.
#[test]
fn an_import_without_any_one_of_its_syncs_is_noticed() {
    let recorded = Recorded::import();
    let syncs = syncs(&recorded);
    let of_import = syncs.iter().filter(|sync| sync.doing.0 == "import").count();
    assert!(of_import > OF_OPENING, "{of_import}");
    assert_eq!(unnoticed(&recorded, &syncs), ["import"; OF_OPENING]);
}
