//! What exports are made of: every byte as it ever was, and nothing of a row that fails midway.

use std::cell::Cell;

use phalanx::state::{Codec, Compression, FaultDisk, Import, StateManager};
use phalanx::{Error, ErrorKind};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Serialize};

use super::transfer::{compressions, encoded_by, exported};

fn codecs() -> Vec<Codec> {
    vec![
        Codec::Bincode,
        #[cfg(feature = "postcard")]
        Codec::Postcard,
    ]
}

thread_local! {
    static FAILS: Cell<bool> = const { Cell::new(false) };
}

/// While `FAILS` says so, one that is encoded has written most of itself when it fails.
#[derive(Clone, Deserialize)]
struct Halfway(String, u8);

impl Serialize for Halfway {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut both = serializer.serialize_tuple(2)?;
        both.serialize_element(&self.0)?;
        if FAILS.get() {
            return Err(serde::ser::Error::custom("it fails midway"));
        }
        both.serialize_element(&self.1)?;
        both.end()
    }
}

#[test]
fn a_row_that_fails_midway_fails_what_it_is_written_for_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("export");
    for codec in codecs() {
        let disk = FaultDisk::new();
        let state = encoded_by(codec, &disk);
        let numbers = state.collection::<u32, String>("numbers").unwrap();
        let rows = state.collection::<u32, Halfway>("rows").unwrap();
        numbers.insert(1, "one".into()).unwrap();
        rows.insert(1, Halfway("x".repeat(3000), 7)).unwrap();
        let good = exported(&state, Compression::None);
        let newest = state.version();

        FAILS.set(true);
        let failed = |result: Result<(), Error>| {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Codec, "{error}");
            #[cfg(not(feature = "postcard"))]
            assert!(error.to_string().contains("midway"), "{error}");
        };
        let snapshot = state.snapshot();
        failed(snapshot.export_to(&mut Vec::new(), Compression::None).map(drop));
        failed(snapshot.export_to_file(&path, Compression::None).map(drop));
        failed(snapshot.encoded_size_bytes().map(drop));
        failed(rows.insert(2, Halfway("y".repeat(5000), 8)).map(drop));
        // The other row of that commit goes with it.
        let both = state.transaction(|tx| {
            tx.insert(&numbers, 2, "two".into());
            tx.insert(&rows, 2, Halfway(String::new(), 8));
            Ok(())
        });
        failed(both.map(drop));
        assert_eq!(state.version(), newest);
        FAILS.set(false);

        assert!(exported(&state, Compression::None) == good);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        rows.insert(3, Halfway("z".repeat(10), 9)).unwrap();
        let newest = state.flush().unwrap();
        drop((state, numbers, rows));
        let state = StateManager::builder().fault_disk(&disk).open().unwrap();
        assert_eq!(state.version(), newest);
        let rows = state.collection::<u32, Halfway>("rows").unwrap();
        let found = |key| rows.get(&key).map(|row| (row.0.len(), row.1));
        assert_eq!([1, 2, 3].map(found), [Some((3000, 7)), None, Some((10, 9))]);
    }
}

/// One row in each of 130 collections, so that they have one order. The numbers of the last ones take two bytes; the
/// row of one fills a block of its own, which ends with it; the others share theirs.
fn one_row_each(codec: Codec) -> Vec<Vec<u8>> {
    let state = encoded_by(codec, &FaultDisk::new());
    let names = (0..130).map(|number| &*format!("collection {number:03}").leak());
    let all: Vec<_> = names.map(|name| state.collection::<u32, String>(name).unwrap()).collect();
    let written = state.transaction(|tx| {
        for (number, rows) in all.iter().enumerate() {
            let len = if number == 128 { 1 << 20 } else { number * 7 };
            tx.insert(rows, number as u32 * 1000, "lorem ipsum ".repeat(1 + len / 12));
        }
        Ok(())
    });
    written.unwrap();
    compressions().into_iter().map(|compression| exported(&state, compression)).collect()
}

/// Whatever changes a byte of what is written has to be looked at: would older builds read it? If it is a new release
/// of a library that packs otherwise they do, and the checksums here are to be those of the new one.
#[test]
fn exports_are_written_byte_by_byte_as_ever() {
    let mut found = Vec::new();
    for codec in codecs() {
        for (bytes, compression) in one_row_each(codec).iter().zip(compressions()) {
            assert_eq!(Import::read(&bytes[..]).unwrap().header().rows(), 130);
            let what = format!("{} {}", codec.name(), compression.name());
            found.push((what, bytes.len(), blake3::hash(bytes).to_hex().to_string()));
        }
    }
    let here = |what: &str| found.iter().any(|(name, ..)| name == what);
    let expected = WRITTEN.iter().filter(|(what, ..)| here(what));
    let expected: Vec<_> =
        expected.map(|(what, len, sum)| (what.to_string(), *len, sum.to_string())).collect();
    assert_eq!(found, expected);
}

/// Codec and compression, how many bytes such an export has, and their checksum.
const WRITTEN: [(&str, usize, &str); 6] = [
    ("bincode none", 1111010, "777bd8a95a0c31fb4e4ad797b99e9edc19bf0cef800aee1e26f25087c7fdb136"),
    ("bincode lz4", 8532, "5e52d77de6d136cac81a13169273b3b7e4dd1276f8debba0e79f89516de459c9"),
    ("bincode zstd", 3827, "56224fe068f26bcea9a27e3d554258d0c170dd4860058ceb40f8c5c38d234e8b"),
    ("postcard none", 1110787, "a728802b42d37ae491b5fed1b1eabc33e768f6495b0c926e0fc3a38916d0b34a"),
    ("postcard lz4", 8325, "38ab4f4832b38294774fd7123ee3ca726e16a16972b5e2f33a660573d4f232a7"),
    ("postcard zstd", 3692, "7637a91b21285ad1c89095537915c20f7a5915fd2a3c4ed57ff502b981ea93b0"),
];
