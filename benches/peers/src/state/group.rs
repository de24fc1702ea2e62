//! Group commit over an engine of a peer, as a host would write it: whoever finds nobody writing writes all
//! that wait, as one transaction with one sync, and wakes them.

use std::sync::{Condvar, Mutex};

use super::engines::Engine;

pub struct Group<E> {
    pub engine: E,
    queue: Mutex<Queue>,
    done: Condvar,
}

#[derive(Default)]
struct Queue {
    rows: Vec<(u64, String)>,
    /// Rows that ever came, and that are durable.
    pushed: u64,
    durable: u64,
    writing: bool,
    groups: u64,
}

impl<E: Engine> Group<E> {
    pub fn of(engine: E) -> Self {
        Self { engine, queue: Mutex::default(), done: Condvar::new() }
    }

    pub fn rows_a_group(&self) -> f64 {
        let queue = self.queue.lock().expect("nobody panics");
        queue.durable as f64 / queue.groups as f64
    }

    /// Returns when the row is durable.
    pub fn put(&self, key: u64, value: String) {
        let mut queue = self.queue.lock().expect("nobody panics");
        queue.rows.push((key, value));
        queue.pushed += 1;
        let mine = queue.pushed;
        while queue.durable < mine {
            if queue.writing {
                queue = self.done.wait(queue).expect("nobody panics");
                continue;
            }
            queue.writing = true;
            let (rows, last) = (std::mem::take(&mut queue.rows), queue.pushed);
            drop(queue);
            self.engine.put(&rows);
            queue = self.queue.lock().expect("nobody panics");
            (queue.durable, queue.writing) = (last, false);
            queue.groups += 1;
            self.done.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<(u64, Vec<u8>)>>, AtomicUsize);

    impl Engine for Kept {
        fn open(_: &Path) -> Self {
            Self::default()
        }

        fn put(&self, rows: &[(u64, impl AsRef<[u8]>)]) {
            assert_eq!(self.1.fetch_add(1, Ordering::Relaxed), 0, "one writes at a time");
            let rows = rows.iter().map(|(key, value)| (*key, value.as_ref().to_vec()));
            self.0.lock().expect("nobody panics").extend(rows);
            self.1.fetch_sub(1, Ordering::Relaxed);
        }

        fn each(&self, _: impl FnMut(u64, &[u8])) {}
    }

    #[test]
    fn every_row_is_written_once_by_the_time_its_writer_goes_on() {
        let group = Group::of(Kept::default());
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let group = &group;
                scope.spawn(move || {
                    for row in 0..200 {
                        let key = writer * 200 + row;
                        group.put(key, key.to_string());
                        let written = group.engine.0.lock().expect("nobody panics");
                        assert!(written.iter().any(|(written, _)| *written == key));
                    }
                });
            }
        });
        let mut rows = group.engine.0.into_inner().expect("nobody panics");
        rows.sort();
        let expected: Vec<_> =
            (0..800).map(|key: u64| (key, key.to_string().into_bytes())).collect();
        assert_eq!(rows, expected);
    }
}
