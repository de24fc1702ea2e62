//! The version of the host's schema: what a newer build has written no older one opens, and nothing else shuts it out.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use phalanx::state::{
    Codec, Compression, ExportHeader, FaultDisk, Import, StateBuilder, StateManager, Version,
};
use phalanx::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

use super::power::loss::survivors;

/// What builds of version 1 store.
mod older {
    use super::{Deserialize, Serialize};

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    pub(super) enum Stored {
        V1(String),
    }
}

/// What builds of version 2 and later store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Stored {
    V1(String),
    V2(String, u32),
}

/// What they have in memory: what is stored of it is always the newest form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
struct Task(String, u32);

impl From<Stored> for Task {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::V1(name) => Self(name, 0),
            Stored::V2(name, tries) => Self(name, tries),
        }
    }
}

impl From<Task> for Stored {
    fn from(Task(name, tries): Task) -> Self {
        Self::V2(name, tries)
    }
}

fn codecs() -> Vec<Codec> {
    vec![
        Codec::Bincode,
        #[cfg(feature = "postcard")]
        Codec::Postcard,
    ]
}

fn of(version: u32) -> StateBuilder {
    StateManager::builder().schema_version(version)
}

fn in_folder(folder: &Path, version: u32) -> Result<StateManager, Error> {
    of(version).path(folder).open()
}

fn found(state: &StateManager) -> u32 {
    state.recovery().schema_version
}

fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(folder).expect("it is there").map(|entry| entry.expect("it is"));
    let name = |entry: &fs::DirEntry| entry.file_name().into_string().expect("it is ours");
    files.map(|entry| (name(&entry), fs::read(entry.path()).expect("it is there"))).collect()
}

/// Both versions are named.
#[track_caller]
fn is_newer(error: &Error, found: u32, asked: u32) {
    assert_eq!(error.kind(), ErrorKind::UnsupportedVersion, "{error}");
    let (found, asked) =
        (format!("has schema version {found};"), format!("up to schema version {asked}:"));
    assert!(error.to_string().contains(&found), "{error}");
    assert!(error.to_string().contains(&asked), "{error}");
}

/// A build of this version is refused, and not a byte has changed.
#[track_caller]
fn refused(folder: &Path, found: u32, asked: u32) {
    let before = contents(folder);
    is_newer(&in_folder(folder, asked).expect_err("it is newer"), found, asked);
    assert!(contents(folder) == before, "a refused open changed the folder");
}

#[test]
fn a_store_of_a_newer_schema_is_refused_with_both_numbers_and_left_as_it_is() {
    for codec in codecs() {
        let folder = tempfile::tempdir().unwrap();
        let state = of(7).codec(codec).path(folder.path()).open().unwrap();
        assert_eq!(found(&state), 7, "a new one is the host's");
        state.collection("tasks").unwrap().insert(1u8, Task("sow".into(), 3)).unwrap();
        state.close().unwrap();
        for asked in [0, 1, 6] {
            refused(folder.path(), 7, asked);
        }
        // What the header does not tell the data does.
        let header = folder.path().join("state.header");
        let good = fs::read(&header).unwrap();
        fs::write(&header, identity(codec, 1, &[])).unwrap();
        refused(folder.path(), 7, 6);
        fs::write(&header, identity(codec, 2, &6u32.to_le_bytes())).unwrap();
        refused(folder.path(), 7, 6);
        for asked in [7, 8, u32::MAX] {
            let state = in_folder(folder.path(), asked).unwrap();
            assert_eq!(found(&state), 7);
            let tasks = state.collection::<u8, Task>("tasks").unwrap();
            assert_eq!(tasks.get(&1), Some(Task("sow".into(), 3)));
            state.close().unwrap();
        }
        assert_eq!(fs::read(&header).unwrap(), good, "it followed what the data says");
    }
}

/// A header, or the identity of a store.
fn identity(codec: Codec, format: u16, schema: &[u8]) -> Vec<u8> {
    let (id, name) = match codec {
        #[cfg(feature = "postcard")]
        Codec::Postcard => (2, "postcard"),
        _ => (1, "bincode"),
    };
    let mut block = b"PHXS".to_vec();
    block.extend_from_slice(&format.to_le_bytes());
    block.extend_from_slice(&[id, 1]);
    block.extend_from_slice(&((schema.len() + name.len()) as u32).to_le_bytes());
    block.extend_from_slice(schema);
    block.extend_from_slice(name.as_bytes());
    let sum = blake3::hash(&block);
    block.extend_from_slice(sum.as_bytes());
    block
}

/// Rows of version 1, in a checkpoint and in a commit after it.
fn written_before(builder: StateBuilder) {
    let state = builder.open().expect("it is sound");
    let tasks = state.collection("tasks").expect("its types are these");
    tasks.insert(1u8, older::Stored::V1("sow".into())).expect("it is open");
    state.checkpoint().expect("the disk works");
    tasks.insert(2u8, older::Stored::V1("reap".into())).expect("it is open");
    state.close().expect("the disk works");
}

/// What a build of version 1 finds in all rows, if it is let in.
fn read_as_before(state: &StateManager) -> Result<Vec<(u8, older::Stored)>, Error> {
    let tasks = state.collection::<u8, older::Stored>("tasks")?;
    let snapshot = state.snapshot();
    let mut rows: Vec<_> = snapshot.iter(&tasks).map(|(key, row)| (*key, row.clone())).collect();
    rows.sort_by_key(|(key, _)| *key);
    Ok(rows)
}

fn before() -> Vec<(u8, older::Stored)> {
    vec![(1, older::Stored::V1("sow".into())), (2, older::Stored::V1("reap".into()))]
}

#[test]
fn an_older_store_rises_with_the_first_thing_written_to_it_and_not_before() {
    // From nothing, as every store of before, and from a version.
    for (codec, from) in codecs().into_iter().flat_map(|codec| [(codec, 0), (codec, 1)]) {
        for by_checkpoint in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path();
            written_before(of(from).codec(codec).path(path));
            let newer = || {
                let state = in_folder(path, 2).unwrap();
                let tasks = state.collection::<u8, Task>("tasks").unwrap();
                assert_eq!(tasks.get(&2), Some(Task("reap".into(), 0)));
                (state, tasks)
            };
            // Whoever has written nothing can be taken back.
            let (state, _) = newer();
            assert_eq!(found(&state), from);
            state.close().unwrap();
            let state = in_folder(path, from).unwrap();
            assert_eq!(read_as_before(&state).unwrap(), before());
            state.close().unwrap();

            let (state, tasks) = newer();
            if by_checkpoint {
                state.checkpoint().unwrap();
            } else {
                let version = tasks.insert(3, Task("eat".into(), 5)).unwrap();
                state.wait_durable(version).unwrap();
            }
            state.close().unwrap();
            // The header is as it was; what the store says counts, and goes into it at the next opening.
            let header = || fs::read(path.join("state.header")).unwrap();
            assert!(!header().windows(4).any(|bytes| bytes == 2u32.to_le_bytes()));
            refused(path, 2, from);
            let (state, _) = newer();
            assert_eq!(found(&state), 2);
            state.close().unwrap();
            assert_eq!(header(), identity(codec, 2, &2u32.to_le_bytes()));
            refused(path, 2, from);
        }
    }
}

#[test]
fn the_version_rises_with_the_sync_of_a_group_and_no_other() {
    let syncs = |version| {
        let disk = FaultDisk::new();
        written_before(of(1).fault_disk(&disk));
        let state = of(version).fault_disk(&disk).open().unwrap();
        let tasks = state.collection::<u8, Task>("tasks").unwrap();
        let before = disk.syncs();
        state.wait_durable(tasks.insert(3, Task("eat".into(), 5)).unwrap()).unwrap();
        disk.syncs() - before
    };
    // Whatever the engine needs for its file to grow again.
    assert_eq!(syncs(2), syncs(1));
}

/// A newer build at work: groups, and a checkpoint of all. After which call which of its rows was acknowledged.
fn newer_at_work(disk: &FaultDisk, checkpoint_first: bool) -> Vec<(u64, Version)> {
    let mut acknowledged = Vec::new();
    let state = of(2).fault_disk(disk).checkpoint_step_bytes(20).open().expect("it is sound");
    let tasks = state.collection::<u8, Task>("tasks").expect("its types are these");
    if checkpoint_first {
        state.checkpoint().expect("the disk works");
    }
    for key in 3..6 {
        let version = tasks.insert(key, Task("eat".into(), 5)).expect("it is open");
        state.wait_durable(version).expect("the disk works");
        acknowledged.push((disk.calls(), version));
    }
    state.checkpoint().expect("the disk works");
    state.close().expect("the disk works");
    acknowledged
}

#[test]
fn whatever_a_power_loss_leaves_an_older_build_is_let_in_to_no_row_of_a_newer_form() {
    for checkpoint_first in [false, true] {
        let prepared = FaultDisk::new();
        written_before(of(1).fault_disk(&prepared));
        let disk = FaultDisk::with_bytes(prepared.bytes());
        disk.record();
        let acknowledged = newer_at_work(&disk, checkpoint_first);
        let (mut let_in, mut shut_out) = (0, 0);
        for call in 0..=disk.calls() {
            let told = acknowledged.iter().filter(|(after, _)| *after <= call);
            let told = told.map(|(_, version)| *version).max();
            for survivor in survivors(&disk.rewound(call, |_| false), call, 6) {
                let what = format!("after call {call}, {}", survivor.what);
                let bytes = survivor.disk.bytes();
                match of(1).fault_disk(&survivor.disk).open() {
                    Ok(state) => {
                        let rows = read_as_before(&state);
                        assert_eq!(
                            rows.unwrap_or_else(|error| panic!("{what}: {error}")),
                            before()
                        );
                        assert!(told.is_none(), "{what}: {told:?} was acknowledged");
                        assert_eq!(found(&state), 1);
                        let_in += 1;
                    }
                    Err(error) => {
                        is_newer(&error, 2, 1);
                        assert!(survivor.disk.bytes() == bytes, "{what}: it was written to");
                        shut_out += 1;
                    }
                }
                // The newer one opens it whatever was left.
                let again = FaultDisk::with_bytes(bytes);
                let state = of(2).fault_disk(&again).open();
                let state = state.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(state.version() >= told.unwrap_or_default(), "{what}");
                let tasks = state.collection::<u8, Task>("tasks").unwrap();
                assert_eq!(tasks.get(&1), Some(Task("sow".into(), 0)));
            }
        }
        assert!(let_in > 0 && shut_out > 0, "{let_in} let in, {shut_out} shut out");
    }
}

#[test]
fn a_header_that_names_a_schema_is_refused_whichever_bit_of_it_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let open = || in_folder(folder.path(), 9).map(drop);
    in_folder(folder.path(), 5).unwrap().close().unwrap();
    let header = folder.path().join("state.header");
    let good = fs::read(&header).unwrap();
    assert_eq!(good, identity(Codec::Bincode, 2, &5u32.to_le_bytes()));
    let refused = |bad: &[u8], what: &str| {
        fs::write(&header, bad).unwrap();
        let before = contents(folder.path());
        assert_eq!(open().unwrap_err().kind(), ErrorKind::Corrupt, "{what}");
        assert!(contents(folder.path()) == before, "{what}: it was written to");
    };
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        refused(&bad, &format!("bit {bit}"));
    }
    for len in 0..good.len() {
        refused(&good[..len], &format!("cut to {len}"));
    }
    // Never newer than the data: what it belongs to is not there.
    refused(&identity(Codec::Bincode, 2, &6u32.to_le_bytes()), "newer than the data");
    fs::write(&header, good).unwrap();
    open().unwrap();
}

/// An export of one row, by a host of this version.
fn export(version: u32) -> Vec<u8> {
    let state = of(version).in_memory().open().expect("it is in memory");
    let tasks = state.collection("tasks").expect("its types are these");
    if version < 2 {
        tasks.insert(1u8, Stored::V1("sow".into())).expect("it is open");
    } else {
        tasks.insert(1u8, Stored::V2("sow".into(), 4)).expect("it is open");
    }
    let mut bytes = Vec::new();
    state.snapshot().export_to(&mut bytes, Compression::None).expect("it is written to memory");
    bytes
}

#[test]
fn an_export_of_a_newer_schema_is_refused_and_changes_nothing() {
    let bytes = export(3);
    let header = ExportHeader::read(&bytes[..]).unwrap();
    assert_eq!((header.format(), header.schema_version()), (2, 3));
    // It can be read and looked at; what it says of itself stands.
    let import = Import::read(&bytes[..]).unwrap();
    assert_eq!(import.header(), &header);
    header.check().unwrap();

    for place in [of(2).in_memory(), of(2).fault_disk(&FaultDisk::new())] {
        let state = place.clone().open().unwrap();
        let tasks = state.collection::<u8, Task>("tasks").unwrap();
        let version = tasks.insert(9, Task("eat".into(), 1)).unwrap();
        is_newer(&state.import(&import).unwrap_err(), 3, 2);
        assert_eq!((state.version(), tasks.len()), (version, 1));
        state.close().unwrap();
    }
    let disk = FaultDisk::new();
    is_newer(&of(2).fault_disk(&disk).import(import.clone()).open().unwrap_err(), 3, 2);
    assert_eq!(disk.calls(), 0);
    is_newer(&of(0).in_memory().import(import.clone()).open().unwrap_err(), 3, 0);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none");
    is_newer(&of(1).path(&path).import(import.clone()).open().unwrap_err(), 3, 1);
    assert!(!path.exists());

    for asked in [3, 4] {
        let state = of(asked).in_memory().import(import.clone()).open().unwrap();
        let tasks = state.collection::<u8, Task>("tasks").unwrap();
        assert_eq!((tasks.get(&1), found(&state)), (Some(Task("sow".into(), 4)), 3));
    }
}

#[test]
fn an_export_of_an_older_schema_is_read_in_its_forms() {
    let bytes = [export(0), export(1)];
    for (version, bytes) in (0..).zip(&bytes) {
        let import = Import::read(&bytes[..]).unwrap();
        let header = import.header();
        assert_eq!((header.format(), header.schema_version()), (1 + version as u16, version));
        let state = of(2).in_memory().open().unwrap();
        let tasks = state.collection::<u8, Task>("tasks").unwrap();
        state.import(&import).unwrap();
        assert_eq!(tasks.get(&1), Some(Task("sow".into(), 0)));

        let disk = FaultDisk::new();
        let state = of(2).fault_disk(&disk).import(import.clone()).open().unwrap();
        assert_eq!(found(&state), version, "of what was imported");
        let tasks = state.collection::<u8, Task>("tasks").unwrap();
        assert_eq!(tasks.get(&1), Some(Task("sow".into(), 0)));
        state.close().unwrap();
        // The new store is of the host that made it, and what it exports too.
        is_newer(&of(1).fault_disk(&disk).open().unwrap_err(), 2, 1);
        let state = of(2).fault_disk(&disk).open().unwrap();
        assert_eq!(found(&state), 2);
        let mut again = Vec::new();
        state.keep();
        let kept = state.kept_snapshot(state.version()).unwrap();
        kept.export_to(&mut again, Compression::None).unwrap();
        assert_eq!(ExportHeader::read(&again[..]).unwrap().schema_version(), 2);
    }
    // But for the version nothing differs.
    let payload = |bytes: &[u8]| bytes[16..24].to_vec();
    assert_eq!(payload(&bytes[0]), payload(&bytes[1]));
    assert_eq!(bytes[0][24..32], bytes[1][28..36]);
    assert_eq!(bytes[1][24..28], 1u32.to_le_bytes());
}

#[test]
fn an_export_that_names_a_schema_is_refused_whichever_bit_of_it_is_damaged() {
    let good = export(3);
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Import::read(&bad[..]).unwrap_err().kind(), ErrorKind::Corrupt, "bit {bit}");
    }
    for len in 0..good.len() {
        let error = Import::read(&good[..len]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "cut to {len}");
    }
}

#[test]
fn what_was_written_before_there_were_schema_versions_has_version_0() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/state");
    let mut stores = vec!["format-1", "format-2", "format-2-swept"];
    stores.extend(cfg!(feature = "postcard").then_some("format-1-postcard"));
    for name in stores {
        let folder = tempfile::tempdir().unwrap();
        for file in ["state.header", "state.redb"] {
            fs::copy(golden.join(name).join(file), folder.path().join(file)).unwrap();
        }
        let header = fs::read(folder.path().join("state.header")).unwrap();
        let state = in_folder(folder.path(), 0).unwrap();
        assert_eq!(found(&state), 0, "{name}");
        let version = super::stored::expect(&state, 3..=6).version();
        state.collection("more").unwrap().insert(1u8, 1u8).unwrap();
        assert!(state.checkpoint().unwrap() > version);
        state.close().unwrap();
        let now = fs::read(folder.path().join("state.header")).unwrap();
        assert_eq!(now, header, "{name}: who names no version changes nothing");
        assert_eq!(found(&in_folder(folder.path(), 0).unwrap()), 0);
    }
    for name in ["none", "lz4", "zstd", "postcard"] {
        let header = ExportHeader::read_file(golden.join("export-1").join(name)).unwrap();
        assert_eq!((header.format(), header.schema_version()), (1, 0));
    }
}
