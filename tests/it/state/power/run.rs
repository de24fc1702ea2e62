//! The recorded runs, and what they were told.

use phalanx::Error;
use phalanx::state::{Compression, FaultDisk, Import, StateBuilder, StateManager, Version};

use crate::state::script::{Tables, commit_next, commit_wide};

/// Checkpoints are written a row at a time, so parts of them are there between the groups.
fn builder(disk: &FaultDisk, cache_bytes: usize) -> StateBuilder {
    let builder = StateManager::builder().fault_disk(disk).checkpoint_every_commits(4);
    builder.checkpoint_step_bytes(20).engine_cache_bytes(cache_bytes)
}

pub(super) fn open(disk: &FaultDisk) -> Result<StateManager, Error> {
    builder(disk, 16 << 20).open()
}

/// What a run learned or was about to do.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mark {
    /// What follows is this.
    Doing(&'static str),
    Opened,
    Committing(Version),
    Acknowledged(Version),
    Checkpointed(Version),
    Closed,
}

/// A run with the number of calls after which it came to each mark.
pub(super) struct Recorded {
    pub(super) disk: FaultDisk,
    pub(super) width: usize,
    /// How many of them went ahead of what was written.
    pub(super) zeros: u64,
    cache_bytes: usize,
    marks: Vec<(u64, Mark)>,
}

/// What holds if the power goes after some call.
#[derive(Debug)]
pub(super) struct Promise {
    pub(super) exists: bool,
    /// It was opened by that call, and nothing was done since.
    pub(super) opened: bool,
    pub(super) acknowledged: Version,
    pub(super) committed: Version,
    pub(super) checkpointed: Option<Version>,
    pub(super) closed: bool,
    /// What the call was part of, and after which one that began.
    pub(super) doing: (&'static str, u64),
}

impl Recorded {
    fn new(width: usize) -> Self {
        let disk = FaultDisk::new();
        disk.record();
        Self { disk, width, zeros: 0, cache_bytes: 16 << 20, marks: Vec::new() }
    }

    pub(super) fn calls(&self) -> u64 {
        self.disk.calls()
    }

    /// How often something was acknowledged while the disk had got what was not synced: of a step of a checkpoint.
    pub(super) fn unsynced_steps(&self) -> usize {
        let acknowledged =
            self.marks.iter().filter(|(_, mark)| matches!(mark, Mark::Acknowledged(_)));
        let unsynced = |call| self.disk.rewound(call, |_| false).unsynced() > 0;
        acknowledged.filter(|(call, _)| unsynced(*call)).count()
    }

    fn mark(&mut self, mark: Mark) {
        self.marks.push((self.disk.calls(), mark));
    }

    /// What the marks up to this call come to.
    pub(super) fn promise(&self, call: u64) -> Promise {
        let mut promise = Promise {
            exists: false,
            opened: false,
            acknowledged: Version::ZERO,
            committed: Version::ZERO,
            checkpointed: None,
            closed: false,
            doing: ("nothing", 0),
        };
        for (at, mark) in self.marks.iter().filter(|(at, _)| *at <= call) {
            match mark {
                // What goes on at call 7 is what was begun after at most 6.
                Mark::Doing(what) if *at < call => promise.doing = (what, *at),
                Mark::Doing(_) => {}
                Mark::Opened => (promise.exists, promise.opened) = (true, *at == call),
                Mark::Committing(version) => promise.committed = promise.committed.max(*version),
                Mark::Acknowledged(version) => promise.acknowledged = *version,
                Mark::Checkpointed(version) => promise.checkpointed = Some(*version),
                Mark::Closed => promise.closed = *at == call,
            }
        }
        promise
    }

    /// A creation; groups of one and of two commits, checkpoints that come by themselves and one that is asked
    /// for; an orderly end, one without a close, and the openings after them.
    pub(super) fn run(width: usize) -> Self {
        Self::new(width).record()
    }

    /// The same where the engine writes to the disk what is not synced yet, as it has no room for it.
    pub(super) fn crowded(width: usize) -> Self {
        Self { cache_bytes: 0, ..Self::new(width) }.record()
    }

    fn record(mut self) -> Self {
        let run = &mut self;
        run.mark(Mark::Doing("creation"));
        let state = run.open();
        run.commits(&state, 7);
        run.mark(Mark::Doing("checkpoint"));
        let version = state.checkpoint().expect("the disk works");
        run.mark(Mark::Checkpointed(version));
        run.commits(&state, 3);
        run.close(&state);
        run.mark(Mark::Doing("opening"));
        let state = run.open();
        run.commits(&state, 4);
        run.mark(Mark::Doing("drop"));
        drop(state);
        run.mark(Mark::Doing("opening"));
        let state = run.open();
        run.commits(&state, 2);
        run.close(&state);
        self
    }

    /// A new store, an import into it, a few commits, and its end.
    pub(super) fn import() -> Self {
        let mut run = Self::new(0);
        let here = StateManager::in_memory();
        let tables = Tables::open(&here).expect("they have one type each");
        while here.version() < Version::from_u64(10) {
            commit_next(&here, &tables).expect("nothing refuses it");
        }
        let mut export = Vec::new();
        here.snapshot().export_to(&mut export, Compression::None).expect("it is written to memory");
        let import = Import::read(&export[..]).expect("it is whole");

        run.mark(Mark::Doing("creation"));
        let state = run.open();
        run.close(&state);
        run.mark(Mark::Doing("import"));
        run.mark(Mark::Committing(Version::from_u64(10)));
        let builder = builder(&run.disk, run.cache_bytes);
        let state = builder.import(import).open().expect("the store is empty");
        run.mark(Mark::Opened);
        run.mark(Mark::Acknowledged(state.version()));
        run.commits(&state, 2);
        run.close(&state);
        run
    }

    fn open(&mut self) -> StateManager {
        let state = builder(&self.disk, self.cache_bytes).open().expect("the disk works");
        self.mark(Mark::Opened);
        state
    }

    fn close(&mut self, state: &StateManager) {
        self.mark(Mark::Doing("close"));
        state.close().expect("the disk works");
        self.zeros += state.stats().zeros_written;
        self.mark(Mark::Closed);
    }

    /// So many commits, alternately one and two of them in a group.
    fn commits(&mut self, state: &StateManager, commits: u64) {
        self.mark(Mark::Doing("append"));
        let tables = Tables::open(state).expect("they have one type each");
        for number in 0..commits {
            let next = Version::from_u64(state.version().as_u64() + 1);
            self.mark(Mark::Committing(next));
            let version = commit_wide(state, &tables, self.width).expect("the disk works");
            assert_eq!(version, next);
            if number % 3 != 1 {
                state.wait_durable(version).expect("the disk works");
                self.mark(Mark::Acknowledged(version));
            }
        }
        let version = state.flush().expect("the disk works");
        self.mark(Mark::Acknowledged(version));
    }
}
