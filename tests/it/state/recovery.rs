//! What the report of an opening says: from where, what, and how long it took.
//!
//! Clocks are driven by hand: by the calls and reads of the disk, by the code of the rows as they are decoded, and by
//! whoever serves a header that is a pipe.

use std::cell::RefCell;
use std::time::Duration;

use phalanx::state::{FaultDisk, Import, StateBuilder, StateManager, Version};
use phalanx::{ErrorKind, ManualClock};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const CALL: Duration = Duration::from_millis(1);
const ROW: Duration = Duration::from_secs(1);

fn times(one: Duration, count: u64) -> Duration {
    one * u32::try_from(count).expect("a test has fewer")
}

/// Opens it on a clock that each call and each read of the disk takes a millisecond of; also how many those were.
fn timed(builder: StateBuilder, disk: &FaultDisk) -> (StateManager, u64) {
    let (clock, hand) = ManualClock::new();
    hand.advance(ROW);
    disk.take_time(&hand, CALL);
    let before = disk.calls() + disk.reads();
    let state = builder.fault_disk(disk).clock(clock).open().unwrap();
    let taken = disk.calls() + disk.reads() - before;
    disk.take_time(&hand, Duration::ZERO);
    (state, taken)
}

#[test]
fn every_call_of_an_opening_is_in_the_time_that_its_report_tells() {
    let source = StateManager::in_memory();
    source.collection::<u8, u8>("a").unwrap().insert(1, 2).unwrap();
    let mut export = Vec::new();
    source.snapshot().export_to(&mut export, phalanx::state::Compression::None).unwrap();
    let import = Import::read(&export[..]).unwrap();

    let disk = FaultDisk::new();
    let (state, taken) = timed(StateManager::builder(), &disk);
    assert!(state.recovery().created && disk.syncs() > 0);
    assert_eq!(state.recovery().elapsed, times(CALL, taken));
    let rows = state.collection::<u8, u8>("a").unwrap();
    rows.insert(1, 2).unwrap();
    state.flush().unwrap();
    let wreck = disk.after_power_loss(|_, _| 0);
    state.close().unwrap();

    let (closed, taken) = timed(StateManager::builder(), &disk);
    assert!(disk.reads() > 0 && !closed.recovery().repaired);
    assert_eq!(closed.recovery().elapsed, times(CALL, taken));
    assert_eq!(closed.recovery().elapsed, closed.recovery().elapsed, "it is over");

    let (repaired, taken) = timed(StateManager::builder(), &wreck);
    assert!(repaired.recovery().repaired && wreck.calls() > 0, "it wrote while it opened");
    // Whatever is in use, so all that is not free.
    let again = repaired.recovery().rewritten_bytes;
    assert!(again > 4096 && again <= wreck.bytes().len() as u64, "{again}");
    assert!(repaired.stats().bytes_written > again);
    let others = [state, closed.clone(), StateManager::in_memory()];
    assert!(others.iter().all(|state| state.recovery().rewritten_bytes == 0));
    assert_eq!(repaired.recovery().elapsed, times(CALL, taken));

    let new = FaultDisk::new();
    let (imported, taken) = timed(StateManager::builder().import(import), &new);
    let report = imported.recovery();
    assert_eq!((report.imported, report.imported_rows), (Some(Version::from_u64(1)), 1));
    assert_eq!(report.elapsed, times(CALL, taken));
    for state in [&closed, &repaired, &imported] {
        assert_eq!(state.recovery().folder, None);
        assert_eq!(state.recovery().decoding, Duration::ZERO);
    }
}

#[cfg(unix)]
#[test]
fn the_time_of_an_opening_begins_before_its_folder_is_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let builder = || StateManager::builder().path(&path);
    builder().open().unwrap().close().unwrap();
    let header = path.join("state.header");
    let bytes = std::fs::read(&header).unwrap();
    std::fs::remove_file(&header).unwrap();
    // Who opens a pipe waits until both ends are held, and who reads it until what there is was written.
    let made = std::process::Command::new("mkfifo").arg(&header).status().unwrap();
    assert!(made.success());
    let (clock, hand) = ManualClock::new();
    let opened = std::thread::scope(|scope| {
        scope.spawn(|| {
            use std::io::Write as _;
            let mut pipe = std::fs::OpenOptions::new().write(true).open(&header).unwrap();
            hand.advance(Duration::from_secs(7));
            pipe.write_all(&bytes).unwrap();
        });
        let opened = builder().clock(clock).open();
        // Where it was refused before it came to its header, nobody else would let the thread end: who opens a pipe in both
        // ways does not wait.
        let both = std::fs::OpenOptions::new().read(true).write(true).open(&header);
        (opened, both)
    });
    let report = opened.0.unwrap().recovery();
    assert_eq!((report.elapsed, report.folder), (Duration::from_secs(7), Some(path)));
    assert!(!report.created);
}

#[test]
fn a_report_counts_the_bytes_of_the_blocks_that_were_verified() {
    // One group of one delta: 12 bytes of head, the version, the length of the delta, the delta, 32 of checksum.
    let delta = [1, 1, b'a', 1, 1, 1, 1, 1, 2].len() as u64;
    let group = 12 + 8 + 1 + delta + 32;
    // A chunk: its head, version, index, whether it is the last, rows, one section, its checksum.
    let chunk = 12 + 8 + 8 + 1 + 8 + [1, b'a', 1, 1, 1, 1, 2].len() as u64 + 32;
    let disk = FaultDisk::new();
    let open = || StateManager::builder().fault_disk(&disk).open().unwrap();
    let state = open();
    assert_eq!(state.recovery().bytes, 0);
    let rows = state.collection::<u8, u8>("a").unwrap();
    rows.insert(1, 2).unwrap();
    state.close().unwrap();
    let state = open();
    assert_eq!((state.recovery().bytes, state.recovery().groups), (group, 1));
    state.checkpoint().unwrap();
    while state.maintain().checkpoint_more {}
    state.close().unwrap();
    let state = open();
    assert_eq!((state.recovery().bytes, state.recovery().checkpoint_rows), (chunk, 1));
}

thread_local! {
    /// What each row takes a second of as it is decoded in this thread.
    static HAND: RefCell<Option<ManualClock>> = const { RefCell::new(None) };
}

/// A value that cannot be decoded where it is 13.
#[derive(Clone, Debug, PartialEq)]
struct Slow(u8);

impl Serialize for Slow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Slow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        HAND.with_borrow(|hand| hand.iter().for_each(|hand| hand.advance(ROW)));
        match u8::deserialize(deserializer)? {
            13 => Err(serde::de::Error::custom("it is 13")),
            value => Ok(Self(value)),
        }
    }
}

#[test]
fn a_report_tells_how_long_the_rows_took_that_were_decoded_since() {
    let disk = FaultDisk::new();
    let open = |clock| StateManager::builder().fault_disk(&disk).clock(clock).open().unwrap();
    let (clock, hand) = ManualClock::new();
    let state = open(clock);
    let made = state.collection::<u8, Slow>("one").unwrap();
    for key in 0..5 {
        made.insert(key, Slow(key)).unwrap();
    }
    let other = state.collection::<u8, Slow>("other").unwrap();
    for key in 0..3 {
        other.insert(key, Slow(13)).unwrap();
    }
    assert_eq!(state.recovery().decoded_rows, 0, "rows that were made here were never encoded");
    state.checkpoint().unwrap();
    // One comes from a group, not from the checkpoint.
    made.insert(5, Slow(5)).unwrap();
    state.close().unwrap();

    let (clock, again) = ManualClock::new();
    let state = open(clock);
    HAND.set(Some(again));
    let decoded = || (state.recovery().decoded_rows, state.recovery().decoding);
    assert_eq!(decoded(), (0, Duration::ZERO));
    let rows = state.collection::<u8, Slow>("one").unwrap();
    assert_eq!(decoded(), (6, 6 * ROW));
    // It is open now, and what is committed needs no decoding.
    state.collection::<u8, Slow>("one").unwrap();
    rows.insert(7, Slow(7)).unwrap();
    assert_eq!(decoded(), (6, 6 * ROW));
    // The first row ends it; another try takes its time too.
    for tries in 1..=2 {
        let error = state.collection::<u8, Slow>("other").unwrap_err();
        assert_eq!((error.kind(), decoded()), (ErrorKind::Codec, (6, (6 + tries) * ROW)));
    }
    // Types that can read it; these are no longer slow.
    let numbers = state.collection::<u8, u8>("other").unwrap();
    assert_eq!((numbers.get(&1), decoded()), (Some(13), (9, 8 * ROW)));
    assert_eq!(state.recovery().elapsed, Duration::ZERO, "opening decodes nothing");
    HAND.set(None);
    drop(hand);
}
