//! What a keeper asks of its store, over one that only takes notes.

use std::sync::{Arc, Mutex};

use super::*;
use crate::state::StateManager;
use crate::state::journal::Draft as _;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Append,
    Put { chunks: usize, sync: bool },
    Finish { chunks: usize },
    Sweep { sync: bool },
}

/// A store that has so much to sweep left.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<(Vec<Call>, Swept, usize)>>);

impl Notes {
    fn note(&self, call: Call) {
        self.0.lock().expect("nothing panics under it").0.push(call);
    }

    fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.0.lock().expect("nothing panics under it").0)
    }

    /// The next sweeps take so many steps, of so many rows and bytes each.
    fn to_sweep(&self, steps: usize, rows: u64, bytes: u64) {
        let mut notes = self.0.lock().expect("nothing panics under it");
        (notes.1, notes.2) = (Swept { rows, bytes, more: true }, steps);
    }
}

impl Store for Notes {
    fn identity(&self) -> Result<Option<Vec<u8>>, Error> {
        Ok(None)
    }

    fn load(&self, _: &mut dyn Load) -> Result<(), Error> {
        Ok(())
    }

    fn append(&mut self, _: Version, _: &[u8]) -> Result<(), Error> {
        self.note(Call::Append);
        Ok(())
    }

    fn put(&mut self, _: Version, part: &Part, sync: bool) -> Result<(), Error> {
        self.note(Call::Put { chunks: part.len(), sync });
        Ok(())
    }

    fn finish(&mut self, _: Version, part: &Part) -> Result<(), Error> {
        self.note(Call::Finish { chunks: part.len() });
        Ok(())
    }

    fn sweep(&mut self, _: Version, _: usize, sync: bool) -> Result<Swept, Error> {
        self.note(Call::Sweep { sync });
        let mut notes = self.0.lock().expect("nothing panics under it");
        notes.2 = notes.2.saturating_sub(1);
        Ok(Swept { more: notes.2 > 0, ..notes.1 })
    }
}

fn keeper(notes: &Notes, settings: &Settings) -> Keeper {
    let codec = Codec::preferred().expect("this build has one");
    let store = Box::new(notes.clone());
    Keeper::new(store, None, codec, Arc::default(), settings, Progress::default())
}

/// A state of so many rows of 1 MiB.
fn rows_of_a_mebibyte(rows: u32) -> Held {
    let state = StateManager::in_memory();
    let table = state.collection::<u32, Vec<u8>>("rows").expect("it has one type");
    for key in 0..rows {
        table.insert(key, vec![0; 1 << 20]).expect("nothing refuses it");
    }
    Held::new(state.inner.current())
}

/// All of one checkpoint; what becomes of each part.
fn checkpoint(keeper: &mut Keeper, image: &Held) {
    let mut draft = keeper.begin(image).expect("there is none of this version");
    loop {
        while !draft.is_ready() {
            let image = draft.prepare(keeper.step_bytes()).expect("they can be encoded");
            drop(image);
        }
        let (step, _) = keeper.step(&mut draft).expect("the store takes it");
        if step == Step::Done {
            return;
        }
    }
}

#[test]
fn every_eight_mebibytes_a_step_syncs_where_no_group_comes() {
    let notes = Notes::default();
    let mut keeper = keeper(&notes, &Settings::default());
    notes.to_sweep(1, 1, 1);
    checkpoint(&mut keeper, &rows_of_a_mebibyte(20));
    let calls = notes.take();
    let syncs = calls.iter().enumerate().filter_map(|(at, call)| match call {
        Call::Put { chunks: 1, sync } => sync.then_some(at),
        Call::Put { .. } | Call::Append => panic!("{call:?} among {calls:?}"),
        Call::Finish { .. } | Call::Sweep { .. } => None,
    });
    assert_eq!(syncs.collect::<Vec<_>>(), [7, 15], "{calls:?}");
    assert_eq!(calls[20..], [Call::Finish { chunks: 1 }, Call::Sweep { sync: false }]);
}

#[test]
fn what_is_removed_counts_like_what_is_written_and_a_row_for_a_page() {
    // So many steps of so many rows and bytes each; every how many of them one syncs.
    for (rows, bytes, every) in [(1, 1 << 20, 9), (256, 256, 9), (256, 4 << 20, 3)] {
        let notes = Notes::default();
        let mut keeper = keeper(&notes, &Settings::default());
        notes.to_sweep(30, rows, bytes);
        let mut draft = Draft::sweep(Version::ZERO);
        while keeper.step(&mut draft).expect("the store takes it").0 != Step::Done {}
        let calls = notes.take();
        for (at, call) in calls.iter().enumerate() {
            let sync = (at + 1).is_multiple_of(every);
            assert_eq!(*call, Call::Sweep { sync }, "step {at} of {rows} rows and {bytes} bytes");
        }
        assert_eq!(calls.len(), 30);
        // A group syncs all that was done before it.
        notes.to_sweep(99, rows, bytes);
        let mut draft = Draft::sweep(Version::ZERO);
        for version in 1..99 {
            keeper.step(&mut draft).expect("the store takes it");
            keeper.append(Version::from_u64(version), &[vec![0]]).expect("the store takes it");
        }
        let calls = notes.take();
        let synced = calls.iter().filter(|call| **call == Call::Sweep { sync: true }).count();
        assert!(synced <= 1, "but for what was there before: {calls:?}");
    }
}

#[test]
fn a_checkpoint_that_was_given_up_is_due_again_after_as_much_again() {
    let notes = Notes::default();
    let settings = Settings { checkpoint_every_commits: 4, ..Settings::default() };
    let mut keeper = keeper(&notes, &settings);
    let due_after = |keeper: &mut Keeper, first: u64| {
        let append = |keeper: &mut Keeper, version| {
            keeper.append(Version::from_u64(version), &[vec![0]]).expect("the store takes it");
        };
        let mut version = first;
        while !keeper.is_due() {
            append(keeper, version);
            version += 1;
        }
        version
    };
    let mut next = due_after(&mut keeper, 1);
    assert_eq!(next, 5);
    for _ in 0..3 {
        let mut draft = keeper.begin(&rows_of_a_mebibyte(1)).expect("it is due");
        draft.abandon();
        assert!(draft.is_ready() && !draft.has_image());
        assert_eq!(keeper.step(&mut draft).expect("the store takes it").0, Step::Done);
        let again = due_after(&mut keeper, next);
        assert_eq!(again, next + 4);
        next = again;
    }
    assert!(!notes.take().contains(&Call::Finish { chunks: 1 }));
    checkpoint(&mut keeper, &rows_of_a_mebibyte(1));
    assert!(!keeper.is_due());
}

fn append(keeper: &mut Keeper, version: u64, delta: Vec<u8>) {
    keeper.append(Version::from_u64(version), &[delta]).expect("the store takes it");
}

#[test]
fn what_is_appended_beside_a_checkpoint_counts_towards_the_next_one() {
    let notes = Notes::default();
    let settings = Settings { checkpoint_every_commits: 4, ..Settings::default() };
    let mut keeper = keeper(&notes, &settings);
    (1..=4).for_each(|version| append(&mut keeper, version, vec![0]));
    assert!(keeper.is_due());
    let mut draft = keeper.begin(&rows_of_a_mebibyte(1)).expect("it is due");
    for version in 5..=7 {
        append(&mut keeper, version, vec![0]);
        if !draft.is_ready() {
            drop(draft.prepare(keeper.step_bytes()).expect("they can be encoded"));
        }
        keeper.step(&mut draft).expect("the store takes it");
    }
    assert!(notes.take().contains(&Call::Finish { chunks: 1 }));
    assert!(!keeper.is_due(), "three of four");
    append(&mut keeper, 8, vec![0]);
    assert!(keeper.is_due() && !keeper.is_past(2));
}

#[test]
fn a_checkpoint_larger_than_the_setting_is_due_after_as_many_bytes_as_it_has() {
    let notes = Notes::default();
    let settings = Settings { checkpoint_every_bytes: 1 << 20, ..Settings::default() };
    let mut keeper = keeper(&notes, &settings);
    append(&mut keeper, 1, vec![0; 1 << 20]);
    assert!(keeper.is_due());
    checkpoint(&mut keeper, &rows_of_a_mebibyte(3));
    for (version, due) in [(2, false), (3, false), (4, false), (5, true)] {
        append(&mut keeper, version, vec![0; 900 << 10]);
        assert_eq!(keeper.is_due(), due, "at {version}");
    }
}

#[test]
fn an_import_is_written_in_steps_of_a_mebibyte() {
    let mut notes = Notes::default();
    fill(&mut notes, Version::from_u64(1), &mut |sink| {
        (0..25).try_for_each(|index| sink(index, vec![0; 100 << 10]))
    })
    .expect("the store takes it");
    let put = Call::Put { chunks: 11, sync: false };
    assert_eq!(notes.take(), [Call::Sweep { sync: false }, put, put, Call::Finish { chunks: 3 }]);
}

#[test]
fn a_leader_waits_for_half_of_an_append_and_never_for_long() {
    let patience_us = |append_us| patience(Duration::from_micros(append_us)).as_micros();
    assert_eq!(patience_us(99), 0);
    assert_eq!(patience_us(100), 50);
    assert_eq!(patience_us(4000), 2000);
    assert_eq!(patience(Duration::MAX), Duration::from_millis(5));
}
