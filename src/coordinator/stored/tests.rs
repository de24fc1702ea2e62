//! The bytes of every form, pinned.

use super::*;

fn terms() -> Terms {
    let backoff = Backoff::exponential(Duration::from_millis(5), Duration::from_secs(2));
    Terms {
        agent: Some("ann".to_owned()),
        backoff: StoredBackoff::of(&backoff.factor(3).jitter_percent(25)),
        timeout: Some(Duration::from_secs(9)),
        key: Some(0x0102),
        dependencies: vec![
            StoredDependency { task: 3, outcome: None },
            StoredDependency { task: 4, outcome: Some(1) },
        ],
        released_by_failure: true,
        group: Some(77),
        costs: vec![(0, 9), (3, 300)],
    }
}

fn first() -> StoredTask<u64> {
    StoredTask::V1 {
        payload: 7,
        capabilities: vec!["rust".to_owned()],
        priority: 192,
        max_attempts: 3,
    }
}

fn second() -> StoredTask<u64> {
    StoredTask::V2 {
        payload: 7,
        capabilities: vec!["rust".to_owned()],
        priority: 192,
        max_attempts: 3,
        terms: terms(),
    }
}

fn outcomes() -> [StoredOutcome; 2] {
    let reason = Some("no".to_owned());
    let (sequence, task, attempt, kind) = (5, 6, 2, 1);
    let outcome = PlainOutcome { sequence, task, attempt, kind, reason: reason.clone() };
    [
        StoredOutcome::V1 { sequence, task, attempt, kind, reason },
        StoredOutcome::V2 { outcome, key: Some(9) },
    ]
}

#[cfg(feature = "bincode")]
#[track_caller]
fn pinned<V>(value: &V, bytes: &[u8])
where
    V: Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let config = bincode::config::standard();
    let encoded = bincode::serde::encode_to_vec(value, config).expect("it is encodable");
    assert_eq!(encoded, bytes, "the form of a row changed");
    let (decoded, read) = bincode::serde::decode_from_slice::<V, _>(bytes, config).expect("ours");
    assert_eq!((&decoded, read), (value, bytes.len()));
}

#[cfg(feature = "bincode")]
#[test]
fn the_bytes_of_every_stored_form_are_what_they_always_were() {
    pinned(&first(), &[0, 7, 1, 4, b'r', b'u', b's', b't', 192, 3]);
    let mut bytes = vec![1, 7, 1, 4, b'r', b'u', b's', b't', 192, 3];
    bytes.extend([1, 3, b'a', b'n', b'n']);
    // 5 ms and 2 s, factor 3, 25 percent.
    bytes.extend([0, 252, 0x40, 0x4b, 0x4c, 0, 2, 0, 3, 25]);
    bytes.extend([1, 9, 0]);
    bytes.extend([1, 251, 2, 1]);
    bytes.extend([2, 3, 0, 4, 1, 1]);
    bytes.push(1);
    bytes.extend([1, 77]);
    // 300 is 0x012c.
    bytes.extend([2, 0, 9, 3, 251, 0x2c, 1]);
    pinned(&second(), &bytes);
    let [first, second] = outcomes();
    pinned(&first, &[0, 5, 6, 2, 1, 1, 2, b'n', b'o']);
    pinned(&second, &[1, 5, 6, 2, 1, 1, 2, b'n', b'o', 1, 9]);
    pinned(&StoredKey::V1 { task: 3, ended: Some(4) }, &[0, 3, 1, 4]);
    pinned(&StoredDependants::V1 { tasks: vec![1, 2] }, &[0, 2, 1, 2]);
}

#[cfg(feature = "postcard")]
#[test]
fn postcard_reads_what_it_wrote() {
    let task = postcard::to_stdvec(&second()).expect("it is encodable");
    assert_eq!(postcard::from_bytes::<StoredTask<u64>>(&task), Ok(second()));
    for outcome in outcomes() {
        let bytes = postcard::to_stdvec(&outcome).expect("it is encodable");
        assert_eq!(postcard::from_bytes::<StoredOutcome>(&bytes), Ok(outcome));
    }
}

#[test]
fn the_first_form_asks_for_nothing_beyond_it_and_outcomes_read_alike() {
    assert_eq!(first().terms(), None);
    assert_eq!(second().terms(), Some(&terms()));
    let [first, second] = outcomes();
    assert_eq!((first.key(), second.key()), (None, Some(9)));
    assert_eq!((first.sequence(), first.task(), first.kind()), (5, 6, 1));
    assert_eq!(first.into_plain(), second.into_plain());
}

#[test]
fn every_kind_of_outcome_has_a_number_that_means_it() {
    use OutcomeKind::{Cancelled, Completed, Failed, Returned};
    let numbers = [Completed, Failed, Returned, Cancelled].map(code_of);
    assert_eq!(numbers, [0, 1, 2, 3]);
    assert_eq!(numbers.map(kind_of), [Completed, Failed, Returned, Cancelled].map(Some));
    assert_eq!(kind_of(4), None, "a later version's");
}
