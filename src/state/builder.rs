//! How a state is opened.

#[cfg(feature = "durable")]
use std::path::PathBuf;

#[cfg(feature = "durable")]
use super::Import;
#[cfg(feature = "durable")]
use super::assemble;
use super::codec::Codec;
#[cfg(all(feature = "durable", feature = "test-util"))]
use super::disk::fault::FaultDisk;
use super::feed::Limits;
use super::{Durability, SnapshotPolicy, StateManager};
use crate::{Clock, Error, ErrorKind};

/// Where the store lies.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Memory,
    #[cfg(feature = "durable")]
    Folder(PathBuf),
    #[cfg(all(feature = "durable", feature = "test-util"))]
    Fault(FaultDisk),
}

/// The settings of a state, defaults included.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) codec: Option<Codec>,
    pub(super) schema_version: u32,
    pub(super) durability: Option<Durability>,
    pub(super) clock: Clock,
    pub(super) change_log: Limits,
    pub(super) snapshots: SnapshotPolicy,
    #[cfg(feature = "durable")]
    pub(super) import: Option<Import>,
    pub(super) max_pending_releases: usize,
    #[cfg(feature = "durable")]
    pub(super) checkpoint_every_bytes: u64,
    #[cfg(feature = "durable")]
    pub(super) checkpoint_every_commits: u64,
    #[cfg(feature = "durable")]
    pub(super) checkpoint_step_bytes: usize,
    #[cfg(feature = "durable")]
    pub(super) cache_bytes: usize,
    #[cfg(feature = "durable")]
    pub(super) max_pending_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            codec: None,
            schema_version: 0,
            durability: None,
            clock: Clock::default(),
            change_log: Limits::default(),
            snapshots: SnapshotPolicy::new(),
            #[cfg(feature = "durable")]
            import: None,
            max_pending_releases: 4,
            #[cfg(feature = "durable")]
            checkpoint_every_bytes: 16 << 20,
            #[cfg(feature = "durable")]
            checkpoint_every_commits: 100_000,
            #[cfg(feature = "durable")]
            checkpoint_step_bytes: 1 << 20,
            #[cfg(feature = "durable")]
            cache_bytes: 16 << 20,
            #[cfg(feature = "durable")]
            max_pending_bytes: 8 << 20,
        }
    }
}

/// Opens a [`StateManager`]; from [`StateManager::builder`].
///
/// ```
/// use phalanx::state::StateManager;
///
/// # #[cfg(all(feature = "durable", any(feature = "bincode", feature = "postcard")))]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// let state = StateManager::builder().path(folder).open()?;
/// let ages = state.collection::<String, u32>("ages")?;
/// let version = ages.insert("ada".to_owned(), 36)?;
/// state.wait_durable(version)?;
/// state.close()?;
///
/// let again = StateManager::builder().path(folder).open()?;
/// assert_eq!(again.recovery().version, version);
/// assert_eq!(again.collection::<String, u32>("ages")?.get(&"ada".to_owned()), Some(36));
/// # Ok(())
/// # }
/// # #[cfg(not(all(feature = "durable", any(feature = "bincode", feature = "postcard"))))]
/// # fn main() {}
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is opened"]
pub struct StateBuilder {
    place: Option<Place>,
    settings: Settings,
}

impl StateBuilder {
    pub(super) fn new() -> Self {
        Self { place: None, settings: Settings::default() }
    }

    /// No store: the state lives in memory alone and ends with its last handle, as that of
    /// [`StateManager::in_memory`]. This or a path has to be set.
    pub fn in_memory(mut self) -> Self {
        self.place = Some(Place::Memory);
        self
    }

    /// The folder of the store, which is made if it is missing. This or
    /// [`StateBuilder::in_memory`] has to be set; what is set last holds.
    ///
    /// Of what lies in it only `state.header`, `state.redb` and those two with `.new` behind them are the
    /// store's. On Unix the lock is one on the folder itself; elsewhere it is on a file `state.lock`.
    #[cfg(feature = "durable")]
    pub fn path(mut self, folder: impl Into<PathBuf>) -> Self {
        self.place = Some(Place::Folder(folder.into()));
        self
    }

    /// A disk in memory that fails when told to, in place of a folder.
    #[cfg(all(feature = "durable", feature = "test-util"))]
    pub fn fault_disk(mut self, disk: &FaultDisk) -> Self {
        self.place = Some(Place::Fault(disk.clone()));
        self
    }

    /// How many bytes the engine keeps in memory. Default: 16 MiB. With few, what is not synced yet reaches the disk
    /// early.
    #[cfg(all(feature = "durable", feature = "test-util"))]
    pub fn engine_cache_bytes(mut self, bytes: usize) -> Self {
        self.settings.cache_bytes = bytes;
        self
    }

    /// The codec of a new store. Default: [`Codec::preferred`] for a new one, and for an existing one that
    /// which it was written with; naming another than that is an error of opening.
    pub fn codec(mut self, codec: Codec) -> Self {
        self.settings.codec = Some(codec);
        self
    }

    /// The version of the host's schema, which is that of the forms in which its rows are stored. Default: 0,
    /// which is also that of whatever was written before there were such versions; any number. A host counts it up
    /// with each new form that its older builds cannot read.
    ///
    /// A store has the highest version that anything in it was written with, and an export that of the state that
    /// wrote it. What has a newer one than is given here is refused with [`ErrorKind::UnsupportedVersion`] and both
    /// numbers, before any row is decoded, and stays as it is. What has an older one is read, and
    /// [`RecoveryReport::schema_version`](super::RecoveryReport::schema_version) says which it was: its rows are of
    /// older forms, which the types of the host have to
    /// [read as the new](crate::docs::patterns#store-an-enum-of-forms-and-keep-one-of-them-in-memory).
    ///
    /// The version of an older store rises with the first group of commits, or checkpoint, that is written to it, in the same
    /// atomic step. So an older build is let in to nothing that has a row of a newer form; and where a new build finds
    /// rows that it cannot read, and has written nothing, the older one can be taken back. The header of the folder
    /// follows at the next opening.
    pub fn schema_version(mut self, version: u32) -> Self {
        self.settings.schema_version = version;
        self
    }

    /// The level of commits that ask for no other. Default: [`Durability::Buffered`] with a path, and in memory
    /// [`Durability::Memory`], which is the only one there.
    pub fn durability(mut self, level: Durability) -> Self {
        self.settings.durability = Some(level);
        self
    }

    /// The clock of every wait with a timeout, and that
    /// [`RecoveryReport::elapsed`](super::RecoveryReport::elapsed) and `decoding` are measured with. Default:
    /// [`Clock::real`].
    pub fn clock(mut self, clock: Clock) -> Self {
        self.settings.clock = clock;
        self
    }

    /// How many of the latest commits are kept in memory for who [watches](super::Watch). Default: 1,024; 0
    /// keeps none, and then every watch is told to start over at each commit.
    ///
    /// It costs nothing until somebody watches. From then on the values that these commits replaced stay in
    /// memory as long as the commits do.
    pub fn change_log_commits(mut self, commits: usize) -> Self {
        self.settings.change_log.commits = commits;
        self
    }

    /// How many changed rows are kept in memory for who [watches](super::Watch), over all kept commits.
    /// Default: 8,192. A commit that is larger by itself is not kept, nor is what came before it.
    pub fn change_log_rows(mut self, rows: usize) -> Self {
        self.settings.change_log.rows = rows;
        self
    }

    /// Which snapshots are kept automatically, and how many for how long. Default: none automatically, the
    /// last 16 that are kept by number, and up to 64 by name.
    pub fn snapshots(mut self, policy: SnapshotPolicy) -> Self {
        self.settings.snapshots = policy;
        self
    }

    /// Makes a new state of an export: its rows, at its version, in its codec. Default: an empty one. An export without
    /// rows makes an empty state too, which begins at version zero.
    ///
    /// On disk they are written as one checkpoint before [`StateBuilder::open`] returns, and survive from
    /// then on; a crash before that leaves an empty store, which takes the import again. A store that has
    /// commits is refused with [`ErrorKind::AlreadyExists`], and left as it is: open that one and use
    /// [`StateManager::import`]. No types are needed: rows are decoded as after a recovery, when their
    /// collection is opened.
    #[cfg(feature = "durable")]
    pub fn import(mut self, import: Import) -> Self {
        self.settings.import = Some(import);
        self
    }

    /// How many large old states may wait for [`StateManager::maintain`] to free them. Default: 4; up to
    /// 1024.
    ///
    /// A commit that is the last to hold a state of which more than 512 rows were replaced since leaves it there,
    /// because freeing it takes long: some 90 ms for 100 MB. Each keeps the memory of those rows until then.
    /// Where so many wait already the commit frees it itself, which
    /// [`StateStats::releases_on_writers`](super::StateStats::releases_on_writers) counts; 0 is right for
    /// a host that neither calls `maintain` nor has it called.
    pub fn max_pending_releases(mut self, states: usize) -> Self {
        self.settings.max_pending_releases = states;
        self
    }

    /// How many bytes of deltas may follow a checkpoint before the next one is due. Default: 16 MiB; at
    /// least 1.
    ///
    /// It bounds what a recovery replays. A checkpoint writes the whole state, so once the state is larger
    /// than this, the size of the last checkpoint counts instead: what checkpoints write is then at most
    /// as much again as the deltas.
    ///
    /// A checkpoint is written [step by step](StateBuilder::checkpoint_step_bytes), so deltas go on to come until
    /// it is done. For each group three times its bytes are done of it, or a step where that is more; and from twice
    /// this on it is overdue: whoever writes a group goes on until the checkpoint is done. So a recovery replays little
    /// more than twice this, or than twice the size of the last checkpoint where that is more, and one group for each
    /// thread that writes. While [`StateManager::maintain_every`] runs it is that thread which goes on, and whoever writes a
    /// group does so from four times this on.
    #[cfg(feature = "durable")]
    pub fn checkpoint_every_bytes(mut self, bytes: u64) -> Self {
        self.settings.checkpoint_every_bytes = bytes;
        self
    }

    /// How many commits may follow a checkpoint before the next one is due, whatever their size. Default:
    /// 100,000; at least 1.
    #[cfg(feature = "durable")]
    pub fn checkpoint_every_commits(mut self, commits: u64) -> Self {
        self.settings.checkpoint_every_commits = commits;
        self
    }

    /// How many bytes of a checkpoint are written or removed at once. Default: 1 MiB; from 1 byte to 1 GiB. A step
    /// goes on to the end of a row, so it may have the bytes of one row more.
    ///
    /// The state is encoded beside commits and groups, and each step is done between two groups: so who waits
    /// for durability is held up by one step. Whoever wrote a group does the steps, after all other threads were told:
    /// one, and encodes the next; or as many as have three times the bytes of the group, where that is more, with what
    /// is left undone of the groups that somebody wrote for others, up to 8 MiB and what one group owes (and where these
    /// go on to come faster than steps are done, as much again for them); or all that are left where the
    /// checkpoint is [overdue](StateBuilder::checkpoint_every_bytes) and no [`StateManager::maintain_every`] runs. The
    /// groups of others come in between. That is the
    /// time a commit takes that waits: one at [`Durability::Synced`](super::Durability::Synced), or one that found
    /// [no room](StateBuilder::max_pending_bytes).
    ///
    /// Where many threads write large groups, and more than 8 MiB of steps are left undone that nobody is at, steps
    /// come before groups until there are fewer, and who wrote a group waits for others that have the checkpoint,
    /// even for one that encodes: the `Serialize` of a row must not wait for a thread that waits for durability.
    ///
    /// A checkpoint goes on in [`StateManager::maintain`] where there are no groups, and
    /// [`StateManager::checkpoint`] does all of its steps. A step needs no sync, but for three cases: the one
    /// that makes the checkpoint valid; one of every 8 MiB, where no group is written meanwhile; and where the engine
    /// makes its file larger. What steps have written a group's own sync writes out, up to 8 MiB and a step.
    #[cfg(feature = "durable")]
    pub fn checkpoint_step_bytes(mut self, bytes: usize) -> Self {
        self.settings.checkpoint_step_bytes = bytes;
        self
    }

    /// How many bytes of deltas may wait in memory. Default: 8 MiB; from 1 byte to 1 GiB.
    ///
    /// A commit that finds so many there first makes those before it durable, which
    /// [`StateStats::stalls`](super::StateStats::stalls) counts. A commit of any size finds room where there
    /// are fewer, and what is pending fills again while a group is written. So what is not durable yet takes twice
    /// this at most and, for the largest delta and for the group as it is written, twice that delta and twice the group.
    #[cfg(feature = "durable")]
    pub fn max_pending_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_pending_bytes = bytes;
        self
    }

    /// Opens the store and recovers the newest state in it, or makes an empty one where there is nothing.
    ///
    /// Costs reading and verifying the whole store; where it has commits since it was closed, writing it again in place
    /// (what was read need not be on the disk, where a sync had failed), which takes
    /// [room](crate::docs::limitations#what-was-not-checked) where a file system writes elsewhere; a sync of each folder on
    /// the way to it; and memory for what it holds as it is encoded, with eight
    /// bytes a row of the checkpoint until it is open and some 60 a row that commits after it wrote. The first
    /// call of [`StateManager::collection`] for a name decodes its rows, and then gives their encoding up. That of
    /// a collection that nobody opens stays. An open that is refused leaves the folder as it was:
    /// what the engine would write while it opens is kept in memory until all is verified. (A folder that
    /// was missing may have been made.) One that the disk fails after that, with [`ErrorKind::Io`], may have written a
    /// part, which the next one goes on from. Damage can make the engine panic; that panic is caught and becomes
    /// an error, but a panic hook of the process sees it.
    ///
    /// # Errors
    /// [`ErrorKind::InUse`] where another handle or process holds the folder;
    /// [`ErrorKind::UnsupportedVersion`] for a newer format, a codec that this build lacks, or a newer
    /// [schema version](StateBuilder::schema_version), also of an import; [`ErrorKind::Corrupt`] where something is damaged or missing; [`ErrorKind::Io`];
    /// [`ErrorKind::InvalidArgument`] for settings out of range, no path, a level of durability that needs one, or a
    /// codec other than the store's; [`ErrorKind::Unsupported`] in a build without a codec.
    pub fn open(self) -> Result<StateManager, Error> {
        #[cfg(feature = "durable")]
        let started = self.settings.clock.now();
        #[cfg_attr(not(feature = "durable"), expect(unused_mut, reason = "there is no import"))]
        let Self { place, mut settings } = self;
        let invalid = |message: &str| Err(Error::new(ErrorKind::InvalidArgument, message));
        let Some(place) = place else {
            return invalid("a state is opened in memory or with the path of a folder; name one");
        };
        settings.snapshots.check()?;
        if matches!(place, Place::Memory)
            && settings.durability.is_some_and(|level| level > Durability::Memory)
        {
            return invalid("what lives in memory alone is not durable; name the path of a folder");
        }
        #[cfg(feature = "durable")]
        if let Some(import) = &settings.import {
            let codec = import.codec()?;
            if settings.codec.is_some_and(|asked| asked != codec) {
                let message = format!("the export has codec {}; name no other one", codec.name());
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
            settings.codec = Some(codec);
            import.check_schema(settings.schema_version)?;
        }
        if settings.max_pending_releases > 1024 {
            return invalid("at most 1024 old states wait to be freed");
        }
        #[cfg(feature = "durable")]
        if settings.checkpoint_every_bytes == 0 || settings.checkpoint_every_commits == 0 {
            return invalid("a checkpoint is due after at least 1 byte and 1 commit");
        }
        #[cfg(feature = "durable")]
        if settings.checkpoint_step_bytes == 0 || settings.checkpoint_step_bytes > 1 << 30 {
            return invalid("a step of a checkpoint writes from 1 byte to 1 GiB");
        }
        #[cfg(feature = "durable")]
        if settings.max_pending_bytes == 0 || settings.max_pending_bytes > 1 << 30 {
            return invalid("the pending bytes are limited to between 1 byte and 1 GiB");
        }
        match place {
            #[cfg(feature = "durable")]
            Place::Memory => match &settings.import {
                Some(import) => assemble::open_memory(import, &settings, started),
                None => Ok(StateManager::of_memory(&settings)),
            },
            #[cfg(not(feature = "durable"))]
            Place::Memory => Ok(StateManager::of_memory(&settings)),
            #[cfg(feature = "durable")]
            Place::Folder(path) => assemble::open_folder(&path, settings, started),
            #[cfg(all(feature = "durable", feature = "test-util"))]
            Place::Fault(disk) => assemble::open_fault(&disk, settings, started),
        }
    }
}
