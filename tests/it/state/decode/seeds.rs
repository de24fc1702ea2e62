//! What mutants are made of: the golden files, as the checks take them.

use std::fs;
use std::path::PathBuf;

use phalanx::state::{Codec, Compression, StateManager};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::rows::Stored;
use super::{export, store};

fn golden(name: &str) -> PathBuf {
    let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    // The fuzz targets are a package of their own, beside this folder.
    let tests = if package.ends_with("fuzz") { package.join("..") } else { package.join("tests") };
    tests.join("it/state").join(name)
}

const SUM: usize = 32;

/// An export without its checksums, behind its flags.
fn stripped(bytes: &[u8]) -> Vec<u8> {
    let number = |at: usize| {
        let four = bytes[at..].first_chunk::<4>().expect("it is whole");
        u32::from_le_bytes(*four) as usize
    };
    let mut end = 16 + number(12);
    let mut seed = vec![0];
    seed.extend_from_slice(&bytes[..end]);
    end += SUM;
    while bytes[end] == b'R' {
        let from = end;
        end += 9 + number(from + 5);
        seed.extend_from_slice(&bytes[from..end]);
        end += SUM;
    }
    seed.extend_from_slice(&bytes[end..end + 25]);
    seed
}

pub(crate) fn exports() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for name in ["none", "lz4", "zstd"] {
        if name == "lz4" && !cfg!(feature = "lz4") || name == "zstd" && !cfg!(feature = "zstd") {
            continue;
        }
        let bytes = fs::read(golden("export-1").join(name)).expect("it is in the repository");
        seeds.push(stripped(&bytes));
        seeds.push([&[export::RAW][..], &bytes].concat());
        let mut totals = stripped(&bytes);
        totals[0] = export::RAW_TOTALS;
        seeds.push(totals);
    }
    // Of a host that names the version of its schema.
    let builder = StateManager::builder().in_memory().schema_version(7);
    let state = builder.codec(Codec::Bincode).open().expect("it is in memory");
    let leaders = state.collection::<String, u64>("leaders").expect("it has one type");
    leaders.insert("north".to_owned(), 6).expect("nothing refuses it");
    let mut bytes = Vec::new();
    state.snapshot().export_to(&mut bytes, Compression::None).expect("it is written to memory");
    seeds.push(stripped(&bytes));
    seeds
}

/// The blocks of the golden store, its checkpoint and its groups, together and without the groups.
pub(crate) fn stores() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join("copy");
    fs::copy(golden("format-1").join("state.redb"), &copy).expect("it is in the repository");
    let db = Database::open(copy).expect("it is sound");
    let tx = db.begin_read().expect("it is sound");
    let deltas: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("deltas");
    let chunks: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("checkpoint");
    let mut seed = Vec::new();
    for row in tx.open_table(chunks).expect("it is there").iter().expect("it is sound") {
        let (key, block) = row.expect("it is sound");
        let (version, index) = key.value();
        entry(&mut seed, store::CHUNK, version, index, block.value());
    }
    let checkpoint = seed.clone();
    for row in tx.open_table(deltas).expect("it is there").iter().expect("it is sound") {
        let (first, block) = row.expect("it is sound");
        entry(&mut seed, store::GROUP, first.value(), 0, block.value());
    }
    let mut identity = vec![];
    let head = [b"PHXS\x01\0\x01\x01".as_slice(), &7u32.to_le_bytes(), b"bincode"].concat();
    entry(&mut identity, store::IDENTITY, 0, 0, &[&head[..], &[0; SUM]].concat());
    let mut named = vec![];
    let body =
        [b"PHXS\x02\0\x01\x01".as_slice(), &11u32.to_le_bytes(), b"\0\0\0\0bincode"].concat();
    let len = (body.len() as u16).to_le_bytes();
    named.extend_from_slice(&[store::IDENTITY | store::RAW_HEAD, 0, 0, len[0], len[1]]);
    named.extend_from_slice(&body);
    vec![[identity, seed.clone()].concat(), [named, seed.clone()].concat(), seed, checkpoint]
}

/// The payload of a block, as the check takes it.
fn entry(seed: &mut Vec<u8>, what: u8, key: u64, index: u64, block: &[u8]) {
    let payload = &block[12..block.len() - SUM];
    seed.extend_from_slice(&[what, key as u8, index as u8]);
    seed.extend_from_slice(&(payload.len() as u16).to_le_bytes());
    seed.extend_from_slice(payload);
}

pub(crate) fn rows() -> Vec<Vec<u8>> {
    let stored = Stored::V1 { name: "agent 1".into(), score: 0.5, tags: vec!["tag".into()] };
    let mut seeds = Vec::new();
    for (number, codec) in [
        Codec::Bincode,
        #[cfg(feature = "postcard")]
        Codec::Postcard,
    ]
    .into_iter()
    .enumerate()
    {
        let number = number as u8;
        seeds.push(row(codec, number, 0, &7u64, &stored));
        seeds.push(row(codec, number, 1, &"north".to_owned(), &300u64));
        seeds.push(row(
            codec,
            number,
            3,
            &(-5i32, Some('x')),
            &vec!["one".to_owned(), String::new()],
        ));
        let map: std::collections::BTreeMap<u64, Option<Vec<u32>>> =
            [(1, None), (1 << 40, Some(vec![1, 1 << 30]))].into();
        seeds.push(row(codec, number, 4, &9u8, &map));
    }
    seeds
}

/// The bytes of a row are those that an export of it has.
fn row<K, V>(codec: Codec, number: u8, types: u8, key: &K, value: &V) -> Vec<u8>
where
    K: phalanx::state::Key,
    V: phalanx::state::Value,
{
    let state = StateManager::builder().in_memory().codec(codec).open().expect("it is in memory");
    let rows = state.collection::<K, V>("a").expect("it has one type");
    rows.insert(key.clone(), value.clone()).expect("nothing refuses it");
    let mut bytes = Vec::new();
    state.snapshot().export_to(&mut bytes, Compression::None).expect("it is written to memory");
    // Behind the header and the head of the block: the collection, one row, and the lengths are a byte each.
    let block = &bytes[16 + 12 + SUM + 9..];
    let key_len = block[2];
    let value_at = 3 + key_len as usize;
    let value_len = block[value_at] as usize;
    let mut seed = vec![number, types, key_len];
    seed.extend_from_slice(&block[3..value_at]);
    seed.extend_from_slice(&block[value_at + 1..][..value_len]);
    seed
}
