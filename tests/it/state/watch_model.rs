//! Random commits and readers against a naive model of what each of them is to be told.

use std::collections::BTreeMap;

use phalanx::state::{
    Changes, Collection, Commit, StateManager, Version, Watch, WatchError, WatchEvent,
};
use proptest::collection::vec;
use proptest::prelude::*;

use super::long::cases;

/// Which collection, which key, what value or none to remove.
type Write = (bool, u8, Option<u16>);
/// Which collection, which key, what it was and what it is.
type Row = (bool, u8, Option<u16>, Option<u16>);

#[derive(Clone, Copy, Debug)]
enum Scope {
    All,
    Collection(bool),
    Key(bool, u8),
    /// The keys from here on.
    From(bool, u8),
}

impl Scope {
    fn has(self, row: &Row) -> bool {
        match self {
            Self::All => true,
            Self::Collection(which) => row.0 == which,
            Self::Key(which, key) => (row.0, row.1) == (which, key),
            Self::From(which, key) => row.0 == which && row.1 >= key,
        }
    }

    /// Whether a commit with this row matters to it: it knows no more than the collection.
    fn concerns(self, row: &Row) -> bool {
        match self {
            Self::All => true,
            Self::Collection(which) | Self::Key(which, _) | Self::From(which, _) => row.0 == which,
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Commit(Vec<Write>),
    /// From now on, or from a version: so many before or beyond the newest.
    Watch(Scope, Option<(bool, u8)>),
    Clone(usize),
    Seek(usize, bool, u8),
    /// Receives so often.
    Recv(usize, u8),
    Drop(usize),
}

fn scope() -> impl Strategy<Value = Scope> {
    prop_oneof![
        Just(Scope::All),
        any::<bool>().prop_map(Scope::Collection),
        (any::<bool>(), 0..6u8).prop_map(|(which, key)| Scope::Key(which, key)),
        (any::<bool>(), 0..6u8).prop_map(|(which, key)| Scope::From(which, key)),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let write = (any::<bool>(), 0..6u8, proptest::option::weighted(0.7, any::<u16>()));
    let back = (proptest::bool::weighted(0.1), 0..8u8);
    prop_oneof![
        12 => vec(write, 1..5).prop_map(Op::Commit),
        3 => (scope(), proptest::option::of(back.clone())).prop_map(|(s, b)| Op::Watch(s, b)),
        1 => any::<usize>().prop_map(Op::Clone),
        1 => (any::<usize>(), back).prop_map(|(which, (ahead, by))| Op::Seek(which, ahead, by)),
        8 => (any::<usize>(), 1..6u8).prop_map(|(which, times)| Op::Recv(which, times)),
        1 => any::<usize>().prop_map(Op::Drop),
    ]
}

enum Reader {
    Commits(Watch<Commit>),
    Rows(bool, Watch<Changes<u8, u16>>),
}

#[derive(Clone, Copy, Debug)]
struct Place {
    scope: Scope,
    after: u64,
    astray: bool,
}

#[derive(Debug, PartialEq)]
enum Told {
    Changed(u64, Vec<Row>),
    Resync(u64),
    Nothing,
    End,
}

struct Run {
    state: StateManager,
    collections: [Collection<u8, u16>; 2],
    limits: (usize, usize),
    rows: BTreeMap<(bool, u8), u16>,
    /// What every version changed; the first is version 1.
    history: Vec<Vec<Row>>,
    /// The version at which somebody first watched.
    begun: Option<u64>,
    readers: Vec<(Reader, Place)>,
    closed: bool,
}

impl Run {
    fn new(limits: (usize, usize)) -> Self {
        let builder = StateManager::builder().in_memory();
        let builder = builder.change_log_commits(limits.0).change_log_rows(limits.1);
        let state = builder.open().unwrap();
        let collections = ["a", "b"].map(|name| state.collection(name).unwrap());
        Self {
            state,
            collections,
            limits,
            rows: BTreeMap::new(),
            history: Vec::new(),
            begun: None,
            readers: Vec::new(),
            closed: false,
        }
    }

    fn newest(&self) -> u64 {
        self.history.len() as u64
    }

    fn collection(&self, which: bool) -> &Collection<u8, u16> {
        &self.collections[usize::from(which)]
    }

    /// The last version that the log no longer has.
    fn evicted(&self) -> u64 {
        let (mut commits, mut rows) = (0, 0);
        let mut first = self.newest() + 1;
        while let Some(begun) = self.begun
            && first > begun + 1
        {
            rows += self.history[first as usize - 2].len().max(1);
            commits += 1;
            if commits > self.limits.0 || rows > self.limits.1 {
                break;
            }
            first -= 1;
        }
        first - 1
    }

    /// What the naive reader is told.
    fn expect(&self, place: &mut Place) -> Told {
        let newest = self.newest();
        let known = |version: u64| self.begun.is_some_and(|begun| version > begun);
        let missing = (place.after + 1..=self.evicted()).any(|version| {
            let rows = &self.history[version as usize - 1];
            !known(version) || rows.iter().any(|row| place.scope.concerns(row))
        });
        if place.astray || missing {
            (place.after, place.astray) = (newest, false);
            return Told::Resync(newest);
        }
        for version in place.after + 1..=newest {
            let rows = self.history[version as usize - 1].iter();
            let rows: Vec<Row> = rows.filter(|row| place.scope.has(row)).copied().collect();
            if !rows.is_empty() {
                place.after = version;
                return Told::Changed(version, rows);
            }
        }
        // It has looked at all of them.
        place.after = newest;
        if self.closed { Told::End } else { Told::Nothing }
    }

    fn changed(which: bool, changes: &[phalanx::state::Change<u8, u16>]) -> Vec<Row> {
        let value = |value: &Option<std::sync::Arc<u16>>| value.as_deref().copied();
        let rows = changes.iter().map(|it| (which, it.key, value(&it.old), value(&it.new)));
        let mut rows: Vec<Row> = rows.collect();
        rows.sort_unstable();
        rows
    }

    fn told(&self, reader: &mut Reader) -> Told {
        fn told<E>(
            event: Result<WatchEvent<E>, WatchError>,
            rows: impl Fn(E) -> (Version, Vec<Row>),
        ) -> Told {
            match event {
                Ok(WatchEvent::Changed(changes)) => {
                    let (version, rows) = rows(changes);
                    Told::Changed(version.as_u64(), rows)
                }
                Ok(WatchEvent::Resync { version }) => Told::Resync(version.as_u64()),
                Err(WatchError::Closed) => Told::End,
                Err(_) => Told::Nothing,
            }
        }
        match reader {
            Reader::Commits(watch) => told(watch.try_recv(), |commit| {
                let parts = [false, true];
                let rows =
                    parts.map(|which| Self::changed(which, commit.changes(self.collection(which))));
                assert_eq!(commit.rows(), rows[0].len() + rows[1].len());
                (commit.version(), rows.concat())
            }),
            Reader::Rows(which, watch) => {
                told(watch.try_recv(), |it| (it.version(), Self::changed(*which, it.rows())))
            }
        }
    }

    fn watch(&mut self, scope: Scope, from: Option<u64>) {
        let mut reader = match scope {
            Scope::All => Reader::Commits(self.state.watch()),
            Scope::Collection(which) => Reader::Rows(which, self.collection(which).watch()),
            Scope::Key(which, key) => Reader::Rows(which, self.collection(which).watch_key(key)),
            Scope::From(which, key) => {
                let watch = self.collection(which).watch_where(move |other| *other >= key);
                Reader::Rows(which, watch)
            }
        };
        let newest = self.newest();
        self.begun.get_or_insert(newest);
        let mut place = Place { scope, after: newest, astray: false };
        if let Some(from) = from {
            self.seek(&mut reader, &mut place, from);
        }
        self.readers.push((reader, place));
    }

    fn seek(&self, reader: &mut Reader, place: &mut Place, version: u64) {
        match reader {
            Reader::Commits(watch) => watch.seek(Version::from_u64(version)),
            Reader::Rows(_, watch) => watch.seek(Version::from_u64(version)),
        }
        (place.after, place.astray) = (version, version > self.newest());
    }

    fn somewhere(&self, ahead: bool, by: u8) -> u64 {
        let by = u64::from(by);
        if ahead { self.newest() + by } else { self.newest().saturating_sub(by) }
    }

    fn commit(&mut self, writes: &[Write]) {
        let collections = &self.collections;
        let result = self.state.transaction(|tx| {
            for &(which, key, value) in writes {
                let collection = &collections[usize::from(which)];
                match value {
                    Some(value) => tx.insert(collection, key, value),
                    None => drop(tx.remove(collection, &key)),
                }
            }
            Ok(())
        });
        let before = self.rows.clone();
        let mut touched = false;
        for &(which, key, value) in writes {
            touched |= match value {
                Some(value) => {
                    self.rows.insert((which, key), value);
                    true
                }
                None => self.rows.remove(&(which, key)).is_some(),
            };
        }
        if touched {
            // A row that is written with the value that it has was written all the same.
            let mut keys: Vec<_> = writes.iter().map(|(which, key, _)| (*which, *key)).collect();
            keys.sort_unstable();
            keys.dedup();
            let mut rows: Vec<Row> = Vec::new();
            for key in keys {
                let (old, new) = (before.get(&key).copied(), self.rows.get(&key).copied());
                if old.is_some() || new.is_some() {
                    rows.push((key.0, key.1, old, new));
                }
            }
            self.history.push(rows);
        }
        assert_eq!(result.unwrap().1.as_u64(), self.newest());
    }

    fn apply(&mut self, op: &Op) {
        let place = |which: &usize, len: usize| (len > 0).then(|| which % len);
        match op {
            Op::Commit(writes) => self.commit(writes),
            Op::Watch(scope, from) => {
                let from = from.map(|(ahead, by)| self.somewhere(ahead, by));
                self.watch(*scope, from);
            }
            Op::Clone(which) => {
                if let Some(which) = place(which, self.readers.len()) {
                    let (reader, place) = &self.readers[which];
                    let reader = match reader {
                        Reader::Commits(watch) => Reader::Commits(watch.clone()),
                        Reader::Rows(which, watch) => Reader::Rows(*which, watch.clone()),
                    };
                    let place = *place;
                    self.readers.push((reader, place));
                }
            }
            Op::Seek(which, ahead, by) => {
                if let Some(which) = place(which, self.readers.len()) {
                    let (mut reader, mut place) = self.readers.swap_remove(which);
                    self.seek(&mut reader, &mut place, self.somewhere(*ahead, *by));
                    self.readers.push((reader, place));
                }
            }
            Op::Recv(which, times) => {
                if let Some(which) = place(which, self.readers.len()) {
                    self.recv(which, *times);
                }
            }
            Op::Drop(which) => {
                if let Some(which) = place(which, self.readers.len()) {
                    self.readers.swap_remove(which);
                }
            }
        }
    }

    fn recv(&mut self, which: usize, times: u8) {
        let (mut reader, mut place) = self.readers.swap_remove(which);
        for _ in 0..times {
            let expected = self.expect(&mut place);
            assert_eq!(self.told(&mut reader), expected, "{place:?}");
        }
        self.readers.push((reader, place));
    }

    fn validate(&self) {
        let stats = self.state.stats();
        let kept = &self.history[self.evicted() as usize..];
        assert_eq!(stats.change_log_commits, kept.len() as u64);
        assert_eq!(stats.change_log_rows, kept.iter().map(|rows| rows.len() as u64).sum::<u64>());
        assert_eq!(stats.watchers, self.readers.len() as u64);
        assert!(kept.len() <= self.limits.0 && stats.change_log_rows <= self.limits.1 as u64);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(256), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_reader_is_told_each_version_once_in_order_or_to_start_over(
        limits in (0..12usize, 0..30usize),
        ops in vec(op(), 1..80),
    ) {
        let mut run = Run::new(limits);
        for op in &ops {
            run.apply(op);
            run.validate();
        }
        run.state.close().unwrap();
        run.closed = true;
        while !run.readers.is_empty() {
            run.recv(0, u8::MAX);
            run.readers.pop();
        }
        run.validate();
    }
}
