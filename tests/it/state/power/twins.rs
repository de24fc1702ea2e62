//! The same runs without one of their syncs: the oracle has to notice each.
//!
//! Where the engine syncs several times in one step, and a later one of them covers an earlier one, leaving out a
//! single one does no harm, and nothing could notice it:
//!
//! - Creation: the file has no name yet, and one sync at the end covers all of them.
//! - Close: the engine writes down which pages are free, and then that it was closed; without the second the
//!   first is enough to open without a repair.
//! - Opening: the engine marks its file as open. That mark only has to be there before the next sync returns,
//!   which is the same one's.
//!
//! There all syncs of the step are left out together. Without those of an opening nothing is lost: they order
//! what the first append writes anyway, and are listed here so that this stays known.

use super::examine;
use super::loss::survivors;
use super::run::Recorded;

/// A sync: its number, after which call it came, and in which step of the run.
struct Sync {
    number: u64,
    call: u64,
    doing: (&'static str, u64),
}

fn syncs(recorded: &Recorded) -> Vec<Sync> {
    let mut found: Vec<Sync> = Vec::new();
    for call in 1..=recorded.calls() {
        let number = recorded.disk.rewound(call, |_| false).syncs();
        if number > found.len() as u64 {
            found.push(Sync { number, call, doing: recorded.promise(call).doing });
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
        let promise = recorded.promise(call);
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
    assert_eq!(unnoticed(&recorded, &syncs(&recorded)), ["opening", "opening"]);
}

/// It opens the store first, as above.
#[test]
fn an_import_without_any_one_of_its_syncs_is_noticed() {
    let of_opening = syncs(&Recorded::run(0))
        .chunk_by(|a, b| a.doing == b.doing)
        .find_map(|step| (step[0].doing.0 == "opening").then_some(step.len()));
    let of_opening = of_opening.expect("a run opens the store twice more");
    let recorded = Recorded::import();
    let syncs = syncs(&recorded);
    let of_import = syncs.iter().filter(|sync| sync.doing.0 == "import").count();
    assert!(of_import > of_opening, "{of_import}");
    assert_eq!(unnoticed(&recorded, &syncs), vec!["import"; of_opening]);
}
