//! Exports: what another machine reads, what it refuses, and what an import does.

use std::path::{Path, PathBuf};

use phalanx::state::{
    Codec, Compression, ExportHeader, FaultDisk, Import, StateManager, Version, WatchEvent,
};
use phalanx::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

use super::stored::{self, Stored, row};

pub(super) fn compressions() -> Vec<Compression> {
    vec![
        Compression::None,
        #[cfg(feature = "lz4")]
        Compression::Lz4,
        #[cfg(feature = "zstd")]
        Compression::Zstd,
    ]
}

/// A small state: two collections with rows and one without.
fn small() -> StateManager {
    let state = StateManager::in_memory();
    let agents = state.collection::<u64, Stored>("agents").unwrap();
    let leaders = state.collection::<String, u64>("leaders").unwrap();
    state.collection::<u8, u8>("empty").unwrap();
    for number in 1..=6 {
        agents.insert(number, row(number)).unwrap();
    }
    leaders.insert("north".into(), 6).unwrap();
    agents.remove(&6).unwrap();
    state
}

fn expect(state: &StateManager) {
    let snapshot = stored::expect(state, 1..=5);
    assert_eq!(snapshot.total_len(), 6);
}

pub(super) fn encoded_by(codec: Codec, disk: &FaultDisk) -> StateManager {
    StateManager::builder().fault_disk(disk).codec(codec).open().unwrap()
}

pub(super) fn exported(state: &StateManager, compression: Compression) -> Vec<u8> {
    let mut bytes = Vec::new();
    let written = state.snapshot().export_to(&mut bytes, compression).unwrap();
    assert_eq!(written, bytes.len() as u64);
    bytes
}

/// A state with the same collections and other rows.
fn other() -> StateManager {
    let state = StateManager::in_memory();
    let agents = state.collection::<u64, Stored>("agents").unwrap();
    agents.insert(2, row(22)).unwrap();
    agents.insert(9, row(9)).unwrap();
    state.collection::<String, u64>("leaders").unwrap();
    state.collection::<u8, u8>("empty").unwrap().insert(1, 1).unwrap();
    state
}

#[test]
fn what_was_exported_is_what_is_imported() {
    for compression in compressions() {
        let bytes = exported(&small(), compression);
        let import = Import::read(&bytes[..]).unwrap();
        let header = import.header();
        assert_eq!(header, &ExportHeader::read(&bytes[..]).unwrap());
        assert_eq!((header.format(), header.version()), (1, Version::from_u64(8)));
        assert_eq!(header.codec_name(), "bincode");
        assert_eq!(header.compression_name(), compression.name());
        assert_eq!(header.collections(), [("agents".to_owned(), 5), ("leaders".to_owned(), 1)]);
        assert_eq!(header.rows(), 6);
        header.check().unwrap();
        let state = other();
        assert_eq!(state.import(&import).unwrap(), Version::from_u64(4));
        expect(&state);
        // Nothing differs any more, so nothing is committed.
        assert_eq!(state.import(&import).unwrap(), Version::from_u64(4));
        assert_eq!(state.version(), Version::from_u64(4));
    }
}

#[test]
fn a_large_state_is_many_blocks_and_smaller_where_it_is_compressed() {
    let state = StateManager::in_memory();
    let texts = state.collection::<u32, String>("texts").unwrap();
    let text = |key: u32| format!("row {key} {}", "lorem ipsum ".repeat(key as usize % 400));
    state
        .transaction(|tx| {
            (0..3000).for_each(|key| tx.insert(&texts, key, text(key)));
            // Larger than a block by itself.
            tx.insert(&texts, 3000, "y".repeat(3 << 20));
            Ok(())
        })
        .unwrap();
    let plain = exported(&state, Compression::None);
    assert_eq!(plain.len() as u64, state.snapshot().encoded_size_bytes().unwrap());
    for compression in compressions() {
        let bytes = exported(&state, compression);
        if compression != Compression::None {
            assert!(bytes.len() * 4 < plain.len(), "{} of {}", bytes.len(), plain.len());
        }
        let there = StateManager::in_memory();
        let texts = there.collection::<u32, String>("texts").unwrap();
        there.import(&Import::read(&bytes[..]).unwrap()).unwrap();
        assert_eq!(texts.len(), 3001);
        assert!((0..3000).all(|key| texts.get(&key) == Some(text(key))));
        assert_eq!(texts.get(&3000).map(|text| text.len()), Some(3 << 20));
    }
}

/// Neither reading it alone nor importing it may take it for an export; what the header says may be read
/// only where the damage is behind it.
fn refused(bytes: &[u8], header_bytes: usize, damaged_at: usize) {
    let kind = |error: Error| error.kind();
    let read = Import::read(bytes).map(|_| ()).map_err(kind);
    assert_eq!(read, Err(ErrorKind::Corrupt), "at {damaged_at}");
    let header = ExportHeader::read(bytes).map(|_| ()).map_err(kind);
    let expected = if damaged_at < header_bytes { Err(ErrorKind::Corrupt) } else { Ok(()) };
    assert_eq!(header, expected, "at {damaged_at}");
}

fn header_bytes(export: &[u8]) -> usize {
    16 + u32::from_le_bytes(export[12..16].try_into().unwrap()) as usize + 32
}

#[test]
fn an_export_that_is_cut_off_anywhere_or_goes_on_is_refused() {
    for compression in compressions() {
        let good = exported(&small(), compression);
        for len in 0..good.len() {
            refused(&good[..len], header_bytes(&good), len);
        }
        let mut more = good.clone();
        more.push(0);
        refused(&more, header_bytes(&good), good.len());
        refused(&[&good[..], &good[..]].concat(), header_bytes(&good), good.len());
    }
}

#[test]
fn an_export_with_a_damaged_bit_is_refused_whichever_it_is() {
    for compression in compressions() {
        let good = exported(&small(), compression);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            refused(&bad, header_bytes(&good), bit / 8);
        }
    }
    // With no more allowed than it takes, a length that is damaged may be beyond that before it is known to be.
    let good = exported(&small(), Compression::None);
    let read =
        |max: u64, bytes: &[u8]| Import::options().max_bytes(max).read(bytes).map_err(|e| e.kind());
    let exact =
        (0..).find(|max| read(*max, &good).is_ok()).expect("there is a limit that is enough");
    let mut kinds = Vec::new();
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        kinds.push(read(exact, &bad).expect_err("it is damaged"));
    }
    let of = |kind| kinds.iter().filter(|found| **found == kind).count();
    let (corrupt, limit) = (of(ErrorKind::Corrupt), of(ErrorKind::LimitReached));
    assert_eq!(corrupt + limit, kinds.len(), "{kinds:?}");
    assert!((1..32).contains(&limit), "{limit} bits of one length");
}

#[test]
fn blocks_that_are_whole_but_missing_or_in_another_order_are_refused() {
    let state = StateManager::in_memory();
    let texts = state.collection::<u32, String>("texts").unwrap();
    for key in 0..3 {
        texts.insert(key, "x".repeat(1 << 20)).unwrap();
    }
    let good = exported(&state, Compression::None);
    let head = header_bytes(&good);
    let block = (1 << 20) + 9 + 32 + 9;
    let blocks: Vec<_> = good[head..].chunks(block).collect();
    assert_eq!(blocks.len(), 4, "three blocks and the end, in {} bytes", good.len());
    let bytes = |order: &[usize]| {
        let order: Vec<_> = order.iter().map(|at| blocks[*at]).collect();
        [&good[..head], &order.concat()].concat()
    };
    assert!(bytes(&[0, 1, 2, 3]) == good);
    Import::read(&good[..]).unwrap();
    for order in [&[0, 1, 3][..], &[1, 0, 2, 3], &[0, 1, 1, 3], &[0, 1, 2, 2, 3], &[3], &[0, 1, 2]]
    {
        refused(&bytes(order), head, head);
    }
}

/// An export made by hand: frames with their checksums.
struct ByHand {
    bytes: Vec<u8>,
    sums: Vec<u8>,
}

impl ByHand {
    fn new(format: u16, codec: u8, compression: u8, payload: &[u8]) -> Self {
        let mut hand = Self { bytes: Vec::new(), sums: Vec::new() };
        let head = [format.to_le_bytes()[0], format.to_le_bytes()[1], codec, compression];
        let len = (payload.len() as u32).to_le_bytes();
        hand.frame(&[b"\x89PHXE\r\n\x1a", &head, &len, payload]);
        hand
    }

    /// One collection `a` of so many rows.
    fn of_rows(compression: u8, rows: u8) -> Self {
        Self::new(1, 1, compression, &[8, 0, 0, 0, 0, 0, 0, 0, 1, 1, b'a', rows])
    }

    fn frame(&mut self, parts: &[&[u8]]) {
        let frame = parts.concat();
        let sum = blake3::hash(&frame);
        self.sums.extend_from_slice(sum.as_bytes());
        self.bytes.extend_from_slice(&frame);
        self.bytes.extend_from_slice(sum.as_bytes());
    }

    fn block(&mut self, raw_len: u32, stored: &[u8]) -> &mut Self {
        let len = (stored.len() as u32).to_le_bytes();
        self.frame(&[b"R", &raw_len.to_le_bytes(), &len, stored]);
        self
    }

    fn end(&mut self, blocks: u64, rows: u64, bytes: u64) -> &mut Self {
        let sums = blake3::hash(&self.sums);
        let totals = [blocks, rows, bytes].map(u64::to_le_bytes).concat();
        self.frame(&[b"E", &totals, sums.as_bytes()]);
        self
    }

    #[track_caller]
    fn is(&self, expected: ErrorKind, said: &str) {
        let error = Import::read(&self.bytes[..]).unwrap_err();
        assert_eq!(error.kind(), expected, "{error}");
        assert!(error.to_string().contains(said), "{error}");
    }
}

/// The row of key 1 with value 2, as a section.
const ONE_ROW: &[u8] = &[0, 1, 1, 1, 1, 2];

#[test]
fn what_does_not_add_up_is_refused_though_every_checksum_is_right() {
    let mut good = ByHand::of_rows(0, 1);
    good.block(6, ONE_ROW).end(1, 1, 6);
    Import::read(&good.bytes[..]).unwrap();
    let corrupt = |export: &mut ByHand, said: &str| export.is(ErrorKind::Corrupt, said);
    corrupt(ByHand::of_rows(0, 1).block(6, ONE_ROW).end(2, 1, 6), "totals");
    corrupt(ByHand::of_rows(0, 1).block(6, ONE_ROW).end(1, 2, 6), "totals");
    corrupt(ByHand::of_rows(0, 1).block(6, ONE_ROW).end(1, 1, 7), "totals");
    corrupt(ByHand::of_rows(0, 2).block(6, ONE_ROW).end(1, 1, 6), "announces 2 rows");
    corrupt(ByHand::of_rows(0, 0).block(6, ONE_ROW).end(1, 1, 6), "more rows");
    corrupt(ByHand::of_rows(0, 2).block(6, ONE_ROW).block(6, ONE_ROW).end(2, 2, 12), "one key");
    corrupt(ByHand::of_rows(0, 1).block(6, &[1, 1, 1, 1, 1, 2]).end(1, 1, 6), "unknown collection");
    corrupt(ByHand::of_rows(0, 1).block(5, &ONE_ROW[..5]).end(1, 1, 5), "ends before");
    corrupt(ByHand::of_rows(0, 1).block(7, ONE_ROW).end(1, 1, 7), "names no compression");
    corrupt(ByHand::of_rows(0, 1).block(5, ONE_ROW).end(1, 1, 6), "6 bytes for 5");
    corrupt(ByHand::of_rows(0, 1).block(u32::MAX, ONE_ROW).end(1, 1, 6), "for 4294967295");
    // More rows than there are bytes; then more names than there may be, a name twice, and none.
    let claims = [&[0], &[0xff; 9][..], &[1, 1, 1, 1, 2]].concat();
    corrupt(ByHand::of_rows(0, 1).block(15, &claims).end(1, 1, 15), "");
    let names = |names: &[u8]| ByHand::new(1, 1, 0, &[&[8, 0, 0, 0, 0, 0, 0, 0], names].concat());
    corrupt(&mut names(&[0xff, 0xff, 0x7f]), "names 2097151 collections");
    corrupt(&mut names(&[2, 1, b'a', 1, 1, b'a', 1]), "twice");
    corrupt(&mut names(&[1, 0, 1]), "name");
    corrupt(&mut names(&[1, 1, b'a', 1, 7]), "left over");
    corrupt(&mut names(&[1, 1, 0xff, 1]), "UTF-8");
    // A version after which there is none.
    let last = [&[0xff; 8][..], &[1, 1, b'a', 1]].concat();
    corrupt(ByHand::new(1, 1, 0, &last).block(6, ONE_ROW).end(1, 1, 6), "impossible version");
}

#[test]
fn what_this_build_lacks_is_named_and_the_header_is_read_all_the_same() {
    let named = |format, codec, compression, said: &str| {
        let export = ByHand::new(format, codec, compression, &[8, 0, 0, 0, 0, 0, 0, 0, 0]);
        export.is(ErrorKind::UnsupportedVersion, said);
        export
    };
    let newer = named(3, 1, 0, "format 3");
    assert_eq!(
        ExportHeader::read(&newer.bytes[..]).unwrap_err().kind(),
        ErrorKind::UnsupportedVersion
    );
    for (export, codec, compression) in [
        (named(1, 77, 0, "codec number 77"), "number 77", "none"),
        (named(1, 1, 99, "compression number 99"), "bincode", "number 99"),
        #[cfg(not(feature = "lz4"))]
        (named(1, 1, 1, "enable the feature `lz4`"), "bincode", "lz4"),
        #[cfg(not(feature = "zstd"))]
        (named(1, 1, 2, "enable the feature `zstd`"), "bincode", "zstd"),
        #[cfg(not(feature = "postcard"))]
        (named(1, 2, 0, "enable the feature `postcard`"), "postcard", "none"),
    ] {
        let header = ExportHeader::read(&export.bytes[..]).unwrap();
        assert_eq!(header.version(), Version::from_u64(8));
        assert_eq!((&*header.codec_name(), &*header.compression_name()), (codec, compression));
        assert_eq!(header.check().unwrap_err().kind(), ErrorKind::UnsupportedVersion);
    }
    let error = Import::read(&b"#!/bin/sh this is no export at all"[..]).unwrap_err();
    assert!(error.to_string().contains("not an export"), "{error}");
}

#[test]
fn an_export_never_takes_more_memory_than_allowed() {
    let bytes = exported(&small(), Compression::None);
    let read = |max: u64| Import::options().max_bytes(max).read(&bytes[..]).map_err(|e| e.kind());
    // Six rows of 64 beside their bytes.
    assert_eq!(read(6 * 64).unwrap_err(), ErrorKind::LimitReached);
    assert_eq!(read(6 * 64 + 100).unwrap_err(), ErrorKind::LimitReached);
    read(6 * 64 + 300).unwrap();
    // What goes beyond it is not even read.
    let head = header_bytes(&bytes);
    let mut rest = &bytes[..];
    let error = Import::options().max_bytes(100).read(&mut rest).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    assert_eq!(bytes.len() - rest.len(), head + 9, "the header, and the head of a block");
    // Every block announces a megabyte and is tiny: the second one is one too many.
    #[cfg(feature = "zstd")]
    {
        let (raw_len, packed) = zeros_by_zstd();
        assert!(raw_len > 1 << 20 && packed.len() < 200);
        let mut state = ByHand::of_rows(2, 2);
        state.block(raw_len, &packed).block(raw_len, &packed);
        let read = Import::options().max_bytes(3 << 19).read(&state.bytes[..]);
        assert_eq!(read.unwrap_err().kind(), ErrorKind::LimitReached);
        state.is(ErrorKind::Corrupt, "one key");
        // And such that hold more or less than they announce.
        for wrong in [raw_len - 1, raw_len + 1, 1000] {
            ByHand::of_rows(2, 1).block(wrong, &packed).is(ErrorKind::Corrupt, "and announces");
        }
    }
    #[cfg(feature = "lz4")]
    {
        let mut bomb = ByHand::of_rows(1, 1);
        bomb.block(100 << 20, &[0x1f, 0, 1, 0, 255, 255, 255, 255]);
        bomb.is(ErrorKind::Corrupt, "than so few bytes can hold");
    }
}

/// A block of one row of a megabyte of zeros: how long it is, and its packed form.
#[cfg(feature = "zstd")]
fn zeros_by_zstd() -> (u32, Vec<u8>) {
    let state = StateManager::in_memory();
    let rows = state.collection::<u8, Vec<u8>>("a").unwrap();
    rows.insert(1, vec![0; 1 << 20]).unwrap();
    let export = exported(&state, Compression::Zstd);
    let head = header_bytes(&export);
    let len = |at: usize| u32::from_le_bytes(export[head + at..head + at + 4].try_into().unwrap());
    (len(1), export[head + 9..head + 9 + len(5) as usize].to_vec())
}

#[test]
fn an_import_writes_only_the_rows_that_differ() {
    let state = StateManager::builder().fault_disk(&FaultDisk::new()).open().unwrap();
    let texts = state.collection::<u32, String>("texts").unwrap();
    state
        .transaction(|tx| {
            (0..1000).for_each(|key| tx.insert(&texts, key, "x".repeat(100)));
            Ok(())
        })
        .unwrap();
    let bytes = exported(&state, Compression::None);
    texts.insert(500, "other".into()).unwrap();
    texts.remove(&501).unwrap();
    texts.insert(1000, "more".into()).unwrap();
    // Written again with an equal value.
    texts.insert(7, "x".repeat(100)).unwrap();
    state.flush().unwrap();
    let before = state.snapshot();
    assert_eq!(state.import(&Import::read(&bytes[..]).unwrap()).unwrap(), Version::from_u64(6));
    let pending = state.stats().pending_bytes;
    assert!((200..400).contains(&pending), "{pending} bytes for two rows of 100, and one removed");
    assert_eq!(before.diff(&state.snapshot()).unwrap().rows(&texts).count(), 3);
    assert_eq!((texts.len(), texts.get(&500)), (1000, Some("x".repeat(100))));
}

#[test]
fn an_import_is_watched_in_every_collection_in_whatever_order_they_were_opened() {
    let bytes = exported(&small(), Compression::None);
    let state = StateManager::in_memory();
    let more = state.collection::<u8, u8>("more").unwrap();
    more.insert(1, 1).unwrap();
    let leaders = state.collection::<String, u64>("leaders").unwrap();
    let agents = state.collection::<u64, Stored>("agents").unwrap();
    let (mut of_agents, mut of_leaders, mut of_more) =
        (agents.watch(), leaders.watch(), more.watch());
    let mut all = state.watch();
    let version = state.import(&Import::read(&bytes[..]).unwrap()).unwrap();
    let Ok(WatchEvent::Changed(changes)) = of_agents.try_recv() else { panic!("missed") };
    assert_eq!((changes.version(), changes.rows().len()), (version, 5));
    let Ok(WatchEvent::Changed(changes)) = of_leaders.try_recv() else { panic!("missed") };
    assert_eq!((changes.version(), changes.rows().len()), (version, 1));
    let Ok(WatchEvent::Changed(changes)) = of_more.try_recv() else { panic!("missed") };
    assert_eq!((changes.version(), changes.rows().len()), (version, 1), "it is emptied");
    let Ok(WatchEvent::Changed(commit)) = all.try_recv() else { panic!("missed") };
    let told = [
        commit.changes(&agents).len(),
        commit.changes(&leaders).len(),
        commit.changes(&more).len(),
    ];
    assert_eq!((told, commit.rows()), ([5, 1, 1], 7));
}

#[test]
fn an_import_that_cannot_be_typed_is_refused_and_changes_nothing() {
    let bytes = exported(&small(), Compression::None);
    let import = Import::read(&bytes[..]).unwrap();
    let state = StateManager::in_memory();
    state.collection::<u64, Stored>("agents").unwrap();
    let error = state.import(&import).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("\"leaders\""), "{error}");
    state.collection::<String, String>("leaders").unwrap();
    let error = state.import(&import).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Codec);
    assert!(error.to_string().contains("leaders"), "{error}");
    assert_eq!((state.version(), state.snapshot().total_len()), (Version::ZERO, 0));

    // A stored collection that is not in the export would have to be emptied, and nobody knows its types.
    let disk = FaultDisk::new();
    let state = StateManager::builder().fault_disk(&disk).open().unwrap();
    state.collection::<u8, u8>("asleep").unwrap().insert(1, 1).unwrap();
    state.flush().unwrap();
    drop(state);
    let state = StateManager::builder().fault_disk(&disk).open().unwrap();
    state.collection::<u64, Stored>("agents").unwrap();
    state.collection::<String, u64>("leaders").unwrap();
    let error = state.import(&import).unwrap_err();
    assert!(error.to_string().contains("\"asleep\""), "{error}");
    state.collection::<u8, u8>("asleep").unwrap();
    state.import(&import).unwrap();
    expect(&state);
}

/// Two keys that are one to the host, and differ in their bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
struct Folded(String);

impl<'de> Deserialize<'de> for Folded {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(String::deserialize(deserializer)?.to_lowercase()))
    }
}

#[test]
fn two_rows_that_decode_to_one_key_are_refused() {
    let state = StateManager::in_memory();
    let names = state.collection::<String, u32>("names").unwrap();
    names.insert("a".into(), 1).unwrap();
    names.insert("A".into(), 2).unwrap();
    let import = Import::read(&exported(&state, Compression::None)[..]).unwrap();
    let there = StateManager::in_memory();
    there.collection::<Folded, u32>("names").unwrap();
    assert_eq!(there.import(&import).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_file_is_read_as_it_was_written_and_what_had_its_name_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("export");
    std::fs::write(&path, b"something else").unwrap();
    let missing = folder.path().join("none").join("export");
    let snapshot = small().snapshot();
    for compression in compressions() {
        let bytes = snapshot.export_to_file(&path, compression).unwrap();
        assert_eq!(bytes, std::fs::metadata(&path).unwrap().len());
        assert_eq!(ExportHeader::read_file(&path).unwrap().rows(), 6);
        let state = other();
        state.import(&Import::read_file(&path).unwrap()).unwrap();
        expect(&state);
        let error = snapshot.export_to_file(&missing, compression).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    assert_eq!(Import::read_file(&missing).unwrap_err().kind(), ErrorKind::Io);
}

#[cfg(feature = "postcard")]
#[test]
fn an_export_of_another_codec_is_imported_by_its_types() {
    let disk = FaultDisk::new();
    let state = encoded_by(Codec::Postcard, &disk);
    state.collection::<u64, Stored>("agents").unwrap();
    state.collection::<String, u64>("leaders").unwrap();
    state.import(&Import::read(&exported(&small(), Compression::None)[..]).unwrap()).unwrap();
    state.flush().unwrap();
    let back = exported(&state, Compression::None);
    drop(state);
    expect(&StateManager::builder().fault_disk(&disk).open().unwrap());
    let import = Import::read(&back[..]).unwrap();
    assert_eq!(import.header().codec_name(), "postcard");
    let state = other();
    state.import(&import).unwrap();
    expect(&state);
}

#[test]
fn a_new_state_is_made_of_an_export_at_its_version_and_goes_on_from_there() {
    let import = Import::read(&exported(&small(), Compression::None)[..]).unwrap();
    let eighth = Version::from_u64(8);
    let memory = StateManager::builder().in_memory().import(import.clone()).open().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let builder = || StateManager::builder().path(&path);
    let disk = builder().import(import.clone()).open().unwrap();
    assert_eq!((disk.durable_version(), disk.recovery().folder), (eighth, Some(path.clone())));
    assert_eq!(memory.recovery().folder, None);
    for state in [&memory, &disk] {
        let report = state.recovery();
        assert_eq!((state.version(), report.version, report.created), (eighth, eighth, true));
        assert_eq!(report.collections, import.header().collections());
        assert_eq!((report.imported, report.imported_rows), (Some(eighth), 6));
        assert_eq!((report.checkpoint, report.checkpoint_rows, report.bytes), (None, 0, 0));
        assert_eq!(state.snapshot().total_len(), 6, "before anything is opened");
        expect(state);
        let leaders = state.collection::<String, u64>("leaders").unwrap();
        assert_eq!(leaders.insert("south".into(), 1).unwrap(), Version::from_u64(9));
    }
    // Without a close: the import was there before `open` returned, and the commit after it goes on.
    disk.flush().unwrap();
    drop(disk);
    let again = builder().open().unwrap();
    assert_eq!((again.version(), again.snapshot().total_len()), (Version::from_u64(9), 7));
    let report = again.recovery();
    assert_eq!((report.imported, report.imported_rows), (None, 0), "it is a store like any");
    assert_eq!((report.checkpoint, report.checkpoint_rows), (Some(eighth), 6));
    again.close().unwrap();
    // It has commits now, and stays as it is.
    let error = builder().import(import.clone()).open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(builder().open().unwrap().snapshot().total_len(), 7);
}

#[test]
fn a_store_that_is_empty_takes_an_import_and_one_that_fails_midway_stays_empty() {
    let import = Import::read(&exported(&small(), Compression::None)[..]).unwrap();
    let empty = FaultDisk::new();
    StateManager::builder().fault_disk(&empty).open().unwrap().close().unwrap();
    let state = StateManager::builder().fault_disk(&empty).import(import.clone()).open().unwrap();
    expect(&state);
    drop(state);
    expect(&StateManager::builder().fault_disk(&empty).open().unwrap());

    let nothing =
        Import::read(&exported(&StateManager::in_memory(), Compression::None)[..]).unwrap();
    let disk = FaultDisk::new();
    let state = StateManager::builder().fault_disk(&disk).import(nothing).open().unwrap();
    assert_eq!((state.version(), state.snapshot().total_len()), (Version::ZERO, 0));
    state.close().unwrap();

    // Whatever was not synced is lost: the import is there in whole or not at all.
    let lost = disk.after_power_loss(|_, _| 0);
    let state = StateManager::builder().fault_disk(&lost).import(import).open().unwrap();
    let lost = lost.after_power_loss(|_, _| 0);
    drop(state);
    expect(&StateManager::builder().fault_disk(&lost).open().unwrap());
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/state/export-1").join(name)
}

/// Run with the variable `PHALANX_WRITE_GOLDEN` set, this writes them; they are never written again.
#[test]
fn exports_of_format_1_are_read() {
    for compression in compressions() {
        let path = golden(compression.name());
        if std::env::var_os("PHALANX_WRITE_GOLDEN").is_some() {
            small().snapshot().export_to_file(&path, compression).unwrap();
        }
        let import = Import::read_file(&path).unwrap();
        assert_eq!(import.header().version(), Version::from_u64(8));
        let state = other();
        state.import(&import).unwrap();
        expect(&state);
    }
    #[cfg(feature = "postcard")]
    {
        let path = golden("postcard");
        if std::env::var_os("PHALANX_WRITE_GOLDEN").is_some() {
            let state = encoded_by(Codec::Postcard, &FaultDisk::new());
            state.collection::<u64, Stored>("agents").unwrap();
            state.collection::<String, u64>("leaders").unwrap();
            let small = Import::read(&exported(&small(), Compression::None)[..]).unwrap();
            state.import(&small).unwrap();
            state.snapshot().export_to_file(&path, Compression::None).unwrap();
        }
        let import = Import::read_file(&path).unwrap();
        assert_eq!(import.header().version(), Version::from_u64(1));
        let state = other();
        state.import(&import).unwrap();
        expect(&state);
    }
    assert_eq!(ExportHeader::read_file(golden("postcard")).unwrap().codec_name(), "postcard");
    // Those that this build cannot unpack say what they are.
    for name in ["none", "lz4", "zstd"] {
        assert_eq!(ExportHeader::read_file(golden(name)).unwrap().compression_name(), name);
    }
}
