//! A folder that is damaged, newer or held is refused, and a refused open changes nothing in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use phalanx::state::{StateManager, Version};
use phalanx::{Error, ErrorKind};

use super::script::{Tables, check, commit_next, model_at};

fn open(folder: &Path) -> Result<StateManager, Error> {
    StateManager::builder().path(folder).checkpoint_every_commits(4).open()
}

/// A store of ten commits: a checkpoint, and deltas after it.
fn store(folder: &Path) {
    let state = open(folder).unwrap();
    let tables = Tables::open(&state).unwrap();
    for _ in 0..10 {
        let version = commit_next(&state, &tables).unwrap();
        state.wait_durable(version).unwrap();
    }
    assert!(state.stats().checkpoints > 0);
    state.close().unwrap();
}

fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
        })
        .collect()
}

/// Opens, expects a refusal, and checks that not a byte has changed.
fn refused(folder: &Path) -> Error {
    let before = contents(folder);
    let error = open(folder).unwrap_err();
    assert!(contents(folder) == before, "a refused open changed the folder: {error}");
    error
}

fn sealed_header(format: u16, codec: u8) -> Vec<u8> {
    let mut block = b"PHXS".to_vec();
    block.extend_from_slice(&format.to_le_bytes());
    block.extend_from_slice(&[codec, 1]);
    block.extend_from_slice(&4u32.to_le_bytes());
    block.extend_from_slice(b"what");
    let checksum = blake3::hash(&block);
    block.extend_from_slice(checksum.as_bytes());
    block
}

#[test]
fn a_newer_format_and_an_unknown_codec_are_named_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    store(folder.path());
    let header = folder.path().join("state.header");
    let good = fs::read(&header).unwrap();

    fs::write(&header, sealed_header(3, 1)).unwrap();
    let error = refused(folder.path());
    assert_eq!(error.kind(), ErrorKind::UnsupportedVersion);
    assert!(error.to_string().contains("format 3"), "{error}");

    fs::write(&header, sealed_header(1, 99)).unwrap();
    let error = refused(folder.path());
    assert_eq!(error.kind(), ErrorKind::UnsupportedVersion);
    assert!(error.to_string().contains("codec number 99"), "{error}");

    fs::write(&header, good).unwrap();
    let last = Version::from_u64(10);
    check(&open(folder.path()).unwrap(), last, last);
}

#[test]
fn a_damaged_header_is_refused_whichever_bit_it_is() {
    let folder = tempfile::tempdir().unwrap();
    store(folder.path());
    let header = folder.path().join("state.header");
    let good = fs::read(&header).unwrap();
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        fs::write(&header, bad).unwrap();
        assert_eq!(refused(folder.path()).kind(), ErrorKind::Corrupt, "bit {bit}");
    }
    for len in 0..good.len() {
        fs::write(&header, &good[..len]).unwrap();
        assert_eq!(refused(folder.path()).kind(), ErrorKind::Corrupt, "cut to {len}");
    }
}

#[test]
fn a_missing_half_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    store(folder.path());
    let (header, data) = (folder.path().join("state.header"), folder.path().join("state.redb"));
    let saved = (fs::read(&header).unwrap(), fs::read(&data).unwrap());

    fs::remove_file(&data).unwrap();
    assert_eq!(refused(folder.path()).kind(), ErrorKind::Corrupt);
    fs::write(&data, b"").unwrap();
    assert_eq!(refused(folder.path()).kind(), ErrorKind::Corrupt);
    fs::write(&data, saved.1).unwrap();
    fs::remove_file(&header).unwrap();
    assert_eq!(refused(folder.path()).kind(), ErrorKind::Corrupt);
    fs::write(&header, saved.0).unwrap();
    open(folder.path()).unwrap();
}

#[test]
fn a_creation_that_was_cut_short_is_begun_again() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path()).unwrap().close().unwrap();
    let (header, data) = (folder.path().join("state.header"), folder.path().join("state.redb"));

    // Between the two files; then before the first, with half of it left behind.
    fs::remove_file(&header).unwrap();
    fs::write(folder.path().join("state.header.new"), b"half").unwrap();
    assert!(!open(folder.path()).unwrap().recovery().created);
    assert!(header.exists());
    fs::remove_file(&header).unwrap();
    let half = fs::read(&data).unwrap();
    fs::remove_file(&data).unwrap();
    fs::write(folder.path().join("state.redb.new"), &half[..half.len() / 2]).unwrap();
    let state = open(folder.path()).unwrap();
    assert!(state.recovery().created);
    drop(state);
    store(folder.path());
}

#[test]
fn a_held_folder_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    store(folder.path());
    let state = open(folder.path()).unwrap();
    let tables = Tables::open(&state).unwrap();
    let version = commit_next(&state, &tables).unwrap();
    state.wait_durable(version).unwrap();
    assert_eq!(refused(folder.path()).kind(), ErrorKind::InUse);
    let next = commit_next(&state, &tables).unwrap();
    state.wait_durable(next).unwrap();
}

#[test]
fn the_wrong_types_or_codec_are_refused_and_nothing_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    store(folder.path());
    let state = open(folder.path()).unwrap();
    let error = state.collection::<u32, u64>("rows").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Codec);
    assert!(
        error.to_string().contains("rows") && error.to_string().contains("key bytes"),
        "{error}"
    );
    let version = state.version();
    check(&state, version, version);
    // The other collection stays as it is stored, and a checkpoint carries it along.
    drop(state);
    let state = open(folder.path()).unwrap();
    state.collection::<u32, String>("rows").unwrap().insert(77, "new".into()).unwrap();
    state.checkpoint().unwrap();
    state.close().unwrap();
    let state = open(folder.path()).unwrap();
    assert_eq!(state.recovery().checkpoint, Some(state.version()));
    let tables = Tables::open(&state).unwrap();
    let mut expected = model_at(version);
    expected.rows.insert(77, "new".into());
    assert_eq!(tables.read(&state.snapshot()), expected);

    #[cfg(feature = "postcard")]
    {
        use phalanx::state::Codec;
        drop((state, tables));
        let before = contents(folder.path());
        let other = StateManager::builder().path(folder.path()).codec(Codec::Postcard).open();
        assert_eq!(other.unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert!(contents(folder.path()) == before);
    }
}
