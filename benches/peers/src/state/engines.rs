//! The peers that keep rows on disk, each with the least that its documentation calls durable.

use std::path::Path;
use std::sync::Mutex;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use rusqlite::{Connection, TransactionBehavior};

/// Rows of bytes behind numbers, on disk.
pub trait Engine: Send + Sync + Sized {
    /// Opens what is at the path, or makes it.
    fn open(path: &Path) -> Self;

    /// Writes rows in one transaction; they survive a power loss when it returns.
    fn put(&self, rows: &[(u64, impl AsRef<[u8]>)]);

    /// All rows, in the order of their keys.
    fn each(&self, row: impl FnMut(u64, &[u8]));
}

/// Its rows in place in its tree, with its defaults: one phase, one sync.
pub struct Redb(redb::Database);

const ROWS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("rows");

impl Engine for Redb {
    fn open(path: &Path) -> Self {
        if path.exists() {
            return Self(redb::Database::open(path).expect("the file is whole"));
        }
        let database = redb::Database::create(path).expect("the folder can be written");
        let write = database.begin_write().expect("the disk works");
        write.open_table(ROWS).expect("the name is new");
        write.commit().expect("the disk works");
        Self(database)
    }

    fn put(&self, rows: &[(u64, impl AsRef<[u8]>)]) {
        let write = self.0.begin_write().expect("the disk works");
        let mut table = write.open_table(ROWS).expect("the types are the same");
        for (key, value) in rows {
            table.insert(key, value.as_ref()).expect("the disk works");
        }
        drop(table);
        write.commit().expect("the disk works");
    }

    fn each(&self, mut row: impl FnMut(u64, &[u8])) {
        let read = self.0.begin_read().expect("the disk works");
        let table = read.open_table(ROWS).expect("it was made when the file was");
        for entry in table.iter().expect("the disk works") {
            let (key, value) = entry.expect("the disk works");
            row(key.value(), value.value());
        }
    }
}

/// A batch and a sync of its journal's data for each transaction.
pub struct Fjall {
    rows: Keyspace,
    database: Database,
}

impl Engine for Fjall {
    fn open(path: &Path) -> Self {
        let database = Database::builder(path).open().expect("the folder is new or whole");
        let rows = database.keyspace("rows", KeyspaceCreateOptions::default);
        Self { rows: rows.expect("the name is valid"), database }
    }

    fn put(&self, rows: &[(u64, impl AsRef<[u8]>)]) {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for (key, value) in rows {
            batch.insert(&self.rows, key.to_be_bytes(), value.as_ref());
        }
        batch.commit().expect("the disk works");
    }

    fn each(&self, mut row: impl FnMut(u64, &[u8])) {
        for entry in self.rows.iter() {
            let (key, value) = entry.into_inner().expect("the disk works");
            let key = key.as_ref().try_into().expect("a key has eight bytes");
            row(u64::from_be_bytes(key), &value);
        }
    }
}

/// One connection with a write-ahead log that is synced at every commit (FULL), and prepared statements.
pub struct Sqlite(Mutex<Connection>);

impl Engine for Sqlite {
    fn open(path: &Path) -> Self {
        let connection = Connection::open(path).expect("the file is new or whole");
        connection.pragma_update(None, "journal_mode", "WAL").expect("it is a file");
        connection.pragma_update(None, "synchronous", "FULL").expect("it has that mode");
        connection
            .execute("CREATE TABLE IF NOT EXISTS rows (key INTEGER PRIMARY KEY, value BLOB)", [])
            .expect("the disk works");
        Self(Mutex::new(connection))
    }

    fn put(&self, rows: &[(u64, impl AsRef<[u8]>)]) {
        let mut connection = self.0.lock().expect("nobody panics");
        let write = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .expect("nobody else writes");
        let mut insert = write
            .prepare_cached("INSERT OR REPLACE INTO rows (key, value) VALUES (?1, ?2)")
            .expect("the table is there");
        for (key, value) in rows {
            insert.execute((key.cast_signed(), value.as_ref())).expect("the disk works");
        }
        drop(insert);
        write.commit().expect("the disk works");
    }

    fn each(&self, mut row: impl FnMut(u64, &[u8])) {
        let connection = self.0.lock().expect("nobody panics");
        let mut select = connection
            .prepare_cached("SELECT key, value FROM rows ORDER BY key")
            .expect("the table is there");
        let mut rows = select.query([]).expect("the disk works");
        while let Some(entry) = rows.next().expect("the disk works") {
            let key = entry.get::<_, i64>(0).expect("a key is a number");
            let value = entry.get_ref(1).expect("a value is there");
            row(key.cast_unsigned(), value.as_blob().expect("a value is bytes"));
        }
    }
}
