//! Stored types that change: what is stored is an enum of its forms, and what is in memory is made of it.

use std::path::Path;

use phalanx::ErrorKind;
use phalanx::state::{Collection, StateManager};
use serde::{Deserialize, Serialize};

/// What an older build stores.
mod older {
    use super::{Deserialize, Serialize};

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    pub(super) enum Stored {
        V1 { name: String, done: bool },
    }
}

/// What this build stores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Stored {
    V1 { name: String, done: bool },
    V2 { name: String, tries: u32 },
}

/// What a newer build stores.
mod newer {
    use super::{Deserialize, Serialize};

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    pub(super) enum Stored {
        V1 { name: String, done: bool },
        V2 { name: String, tries: u32 },
        V3 { name: String },
    }
}

/// What this build has in memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
struct Task {
    name: String,
    tries: u32,
}

impl TryFrom<Stored> for Task {
    type Error = String;

    fn try_from(stored: Stored) -> Result<Self, String> {
        match stored {
            Stored::V1 { name, .. } if name.is_empty() => Err("a task has to have a name".into()),
            Stored::V1 { name, done } => Ok(Self { name, tries: u32::from(done) }),
            Stored::V2 { name, tries } => Ok(Self { name, tries }),
        }
    }
}

impl From<Task> for Stored {
    fn from(task: Task) -> Self {
        Self::V2 { name: task.name, tries: task.tries }
    }
}

fn open(folder: &Path) -> StateManager {
    StateManager::builder().path(folder).open().expect("the folder is sound")
}

/// Tasks as the older build leaves them: in a checkpoint, and in a commit after it.
fn written_before(folder: &Path, names: [&str; 2]) {
    let state = open(folder);
    let tasks = state.collection("tasks").expect("its types are these");
    for (number, name) in (1u32..).zip(names) {
        let task = older::Stored::V1 { name: name.to_owned(), done: number == 2 };
        tasks.insert(number, task).expect("it is open");
        if number == 1 {
            state.checkpoint().expect("the disk works");
        }
    }
    state.collection("other").expect("its types are these").insert(1u8, 1u8).expect("it is open");
    state.close().expect("the disk works");
}

fn forms(folder: &Path) -> Vec<(u32, Stored)> {
    let state = open(folder);
    let tasks: Collection<u32, Stored> = state.collection("tasks").expect("either form is one");
    let mut rows: Vec<_> = state.snapshot().iter(&tasks).map(|(k, v)| (*k, v.clone())).collect();
    rows.sort_by_key(|(number, _)| *number);
    rows
}

fn v1(number: u32, name: &str, done: bool) -> (u32, Stored) {
    (number, Stored::V1 { name: name.to_owned(), done })
}

fn v2(number: u32, name: &str, tries: u32) -> (u32, Stored) {
    (number, Stored::V2 { name: name.to_owned(), tries })
}

#[test]
fn rows_of_an_older_form_are_read_as_the_new_and_written_as_it_by_the_next_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    written_before(folder.path(), ["sow", "reap"]);
    let state = open(folder.path());
    let tasks = state.collection::<u32, Task>("tasks").unwrap();
    let read = |number: u32| tasks.get(&number).map(|task| (task.name, task.tries));
    assert_eq!((read(1), read(2)), (Some(("sow".into(), 0)), Some(("reap".into(), 1))));
    tasks.insert(3, Task { name: "eat".into(), tries: 7 }).unwrap();
    state.close().unwrap();
    let mixed = [v1(1, "sow", false), v1(2, "reap", true), v2(3, "eat", 7)];
    assert_eq!(forms(folder.path()), mixed, "only what is written is written anew");

    let state = open(folder.path());
    let tasks = state.collection::<u32, Task>("tasks").unwrap();
    assert_eq!(tasks.len(), 3);
    state.checkpoint().unwrap();
    state.close().unwrap();
    assert_eq!(forms(folder.path()), [v2(1, "sow", 0), v2(2, "reap", 1), v2(3, "eat", 7)]);
}

#[test]
fn a_row_that_has_no_new_form_is_named_with_the_reason_and_none_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    written_before(folder.path(), ["sow", ""]);
    for _ in 0..2 {
        let state = open(folder.path());
        let error = state.collection::<u32, Task>("tasks").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Codec);
        let message = error.to_string();
        for says in ["\"tasks\"", "key bytes 02", "a task has to have a name"] {
            assert!(message.contains(says), "{message}");
        }
        // What is not opened is kept as it is, through checkpoints too.
        state.collection::<u8, u8>("other").unwrap().insert(1, 2).unwrap();
        state.checkpoint().unwrap();
        state.close().unwrap();
    }
    assert_eq!(forms(folder.path()), [v1(1, "sow", false), v1(2, "", true)]);
}

#[test]
fn a_form_of_a_newer_build_is_refused_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    written_before(folder.path(), ["sow", "reap"]);
    let state = open(folder.path());
    let tasks = state.collection::<u32, newer::Stored>("tasks").unwrap();
    tasks.insert(3, newer::Stored::V3 { name: "eat".into() }).unwrap();
    state.close().unwrap();

    let state = open(folder.path());
    assert_eq!(state.collection::<u32, Task>("tasks").unwrap_err().kind(), ErrorKind::Codec);
    state.close().unwrap();
    let state = open(folder.path());
    assert_eq!(state.collection::<u32, newer::Stored>("tasks").unwrap().len(), 3);
}
