//! Which collections there are, and with which types.
//!
//! Rules that hold here:
//!
//! 1. A name has one number and, once opened in this process, one pair of types. Only who has the turn
//!    adds one.
//! 2. The rows of a recovered collection are decoded outside the locks, all of them or the opening fails;
//!    where two open it at once, the first to finish decides and the other is checked against it.

use std::any::TypeId;
use std::collections::HashSet;
use std::sync::Arc;

use super::manager::Inner;
use super::release::Held;
use super::root::{Content, Root, Slot, Table};
use super::snapshot::no_codec;
use super::stored::StoredRows;
use super::{Key, Value};
use crate::sync::atomic::Ordering;
use crate::{Error, ErrorKind};

/// The most collections that a manager holds.
pub(super) const COLLECTIONS_MAX: usize = 4096;
/// The most bytes that the name of a collection has.
pub(super) const NAME_BYTES_MAX: usize = 255;

pub(super) struct Entry {
    pub(super) id: usize,
    /// None for a recovered collection that nobody has opened yet.
    pub(super) types: Option<Types>,
}

#[derive(Clone, Copy)]
pub(super) struct Types {
    key: (TypeId, &'static str),
    value: (TypeId, &'static str),
}

impl Types {
    fn of<K: 'static, V: 'static>() -> Self {
        Self {
            key: (TypeId::of::<K>(), std::any::type_name::<K>()),
            value: (TypeId::of::<V>(), std::any::type_name::<V>()),
        }
    }

    fn is(&self, other: &Self) -> bool {
        self.key.0 == other.key.0 && self.value.0 == other.value.0
    }
}

impl Inner {
    pub(super) fn register<K: Key, V: Value>(&self, name: &'static str) -> Result<usize, Error> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("the name of a collection has 1 to {NAME_BYTES_MAX} bytes, not {name:?}"),
            ));
        }
        let types = Types::of::<K, V>();
        let (id, known) = match self.known(name, types)? {
            Some(known) => known,
            None => self.make::<K, V>(name, types)?,
        };
        if known {
            return Ok(id);
        }

        // Recovered, and nobody has named its types yet: decode outside the locks.
        let now = Held::new(self.current());
        let recovered = match now.slots.get(id).map(|slot| &slot.content) {
            Some(Content::Recovered(recovered)) => Some(Arc::clone(recovered)),
            _ => None,
        };
        drop(now);
        // Somebody else opened it and has committed to it since.
        let Some(recovered) = recovered else { return self.register::<K, V>(name) };
        let Some(raw) = recovered.raw() else { return self.register::<K, V>(name) };
        let clock = self.kept.clock();
        let started = clock.now();
        let table = self.decode::<K, V>(name, &raw);
        let took = (clock.now() - started).as_nanos();
        self.decoding_ns.fetch_add(u64::try_from(took).unwrap_or(u64::MAX), Ordering::Relaxed);
        let table = table?;
        let mut registry = self.registry.lock();
        let Some(entry) = registry.get_mut(name) else {
            return Err(Error::new(ErrorKind::Internal, "a registered collection went away"));
        };
        let encoded = if entry.types.is_none() {
            entry.types = Some(types);
            self.decoded_rows.fetch_add(raw.len() as u64, Ordering::Relaxed);
            recovered.resolve(Arc::new(table))
        } else {
            None
        };
        drop(registry);
        drop(encoded);
        // Checks the types against whoever was first.
        self.register::<K, V>(name)
    }

    /// The number of a collection and whether its types are known, or none where there is no such name.
    fn known(&self, name: &str, types: Types) -> Result<Option<(usize, bool)>, Error> {
        let registry = self.registry.lock();
        let Some(entry) = registry.get(name) else { return Ok(None) };
        match entry.types {
            Some(known) if !known.is(&types) => Err(Error::new(
                ErrorKind::AlreadyExists,
                format!(
                    "the collection {name:?} is open with key {} and value {}; it was asked for \
                     with key {} and value {}",
                    known.key.1, known.value.1, types.key.1, types.value.1
                ),
            )),
            known => Ok(Some((entry.id, known.is_some()))),
        }
    }

    /// Makes a new collection, unless somebody else did first.
    fn make<K: Key, V: Value>(
        &self,
        name: &'static str,
        types: Types,
    ) -> Result<(usize, bool), Error> {
        // It outlives the turn: another commit may make it the last to hold what it shows.
        let _old;
        // A commit in progress has seen the root without this collection, and would take it away again.
        let _turn = self.turn.take()?;
        if let Some(known) = self.known(name, types)? {
            return Ok(known);
        }
        let mut registry = self.registry.lock();
        let id = registry.len();
        if id >= COLLECTIONS_MAX {
            return Err(Error::new(
                ErrorKind::LimitReached,
                format!("a state manager holds at most {COLLECTIONS_MAX} collections"),
            ));
        }
        let name: Arc<str> = Arc::from(name);
        let content = Content::Typed(Arc::new(Table::<K, V>::new()));
        registry.insert(Arc::clone(&name), Entry { id, types: Some(types) });
        let mut root = self.root.write();
        let mut next = Root::clone(&root);
        next.slots.push(Slot { name, content });
        _old = Held::new(std::mem::replace(&mut *root, Arc::new(next)));
        Ok((id, true))
    }

    /// Decodes all rows, in the order in which the table keeps them: who reads the table then goes through
    /// memory from its start to its end, and so does the building. Takes a word, a key and two pointers a row
    /// beside the table.
    fn decode<K: Key, V: Value>(
        &self,
        name: &str,
        rows: &StoredRows,
    ) -> Result<Table<K, V>, Error> {
        let codec = self.codec.ok_or_else(no_codec)?;
        let mut table = Table::<K, V>::new();
        let mut ordered = Vec::with_capacity(rows.len());
        rows.each(|key, value| {
            let decoded =
                codec.decode::<K>(key).map_err(|error| undecodable("key", name, key, error))?;
            ordered.push((table.place_of(&decoded), decoded, value));
            Ok(())
        })?;
        ordered.sort_unstable_by_key(|(place, ..)| *place);
        for (_, key, value) in ordered {
            let value = codec.decode::<V>(value).map_err(|error| {
                let mut bytes = Vec::new();
                // It was decoded from these; one that cannot be encoded again is shown without.
                let _ = codec.encode(&key, &mut bytes);
                undecodable("value", name, &bytes, error)
            })?;
            table.map.insert(key, Arc::new(value));
        }
        if table.map.len() != rows.len() {
            let mut keys = HashSet::new();
            rows.each(|key, _| match keys.insert(codec.decode::<K>(key)?) {
                true => Ok(()),
                false => Err(two_rows(name, key)),
            })?;
            let message = format!("rows of {name:?} are lost to the map: do equal keys differ?");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(table)
    }
}

/// What a stored row gets that is not of the types of its collection.
pub(super) fn undecodable(part: &str, name: &str, key: &[u8], error: Error) -> Error {
    let message = format!(
        "the {part} of the row with key bytes {} in the collection {name:?} does not decode: {error}",
        hex(key)
    );
    Error::with_source(ErrorKind::Codec, message, error)
}

/// What two stored rows get whose keys decode to equal ones.
pub(super) fn two_rows(name: &str, key: &[u8]) -> Error {
    let key = hex(key);
    let message =
        format!("two rows of the collection {name:?} have one key, one with key bytes {key}");
    Error::new(ErrorKind::Corrupt, message)
}

/// The first bytes of a key, for a message.
fn hex(bytes: &[u8]) -> String {
    const SHOWN: usize = 32;
    let mut text: String = bytes.iter().take(SHOWN).map(|byte| format!("{byte:02x}")).collect();
    if bytes.len() > SHOWN {
        text.push_str("...");
    }
    text
}
