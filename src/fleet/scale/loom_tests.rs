//! Scaling down against allocation, in every interleaving.

use super::super::{AgentSpec, Fleet, LeaseOutcome, Request};
use crate::sync::{thread, weakened};

/// One thread retires the only agent while another one allocates it.
fn retire_against_allocate() {
    let fleet = Fleet::<(), ()>::builder().strict().build().expect("the values are valid");
    let agent = fleet.spawn(AgentSpec::new("only")).expect("there is room");
    let scaled = fleet.clone();
    let scaler = thread::spawn(move || scaled.retire(agent).is_ok());
    let lease = fleet.try_allocate(&Request::any()).ok();
    let retired = scaler.join().expect("a retirement does not panic");
    assert_ne!(retired, lease.is_some(), "it is retired or leased, and not both");
    if let Some(lease) = lease {
        lease.complete(LeaseOutcome::Succeeded).expect("the lease is good");
        fleet.retire(agent).expect("it is idle now");
    }
}

#[test]
fn loom_an_agent_is_retired_or_leased_and_never_both() {
    loom::model(retire_against_allocate);
}

#[test]
#[should_panic(expected = "it is retired or leased, and not both")]
fn loom_twin_an_agent_that_is_retired_without_a_look_takes_its_lease_along() {
    weakened("fleet.retire-the-busy", || loom::model(retire_against_allocate));
}
