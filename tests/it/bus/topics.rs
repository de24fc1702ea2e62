//! Topics and filters from outside.

use phalanx::bus::{Event, EventBus, Filter, Overflow, TryRecvError};

#[test]
fn a_subscription_sees_the_topics_of_its_filter_in_order() {
    let bus = EventBus::builder().capacity(64).build().expect("valid");
    let names = ["task/accepted", "task/completed", "agent/spawned", "agent/host/lost"];
    let topics = names.map(|name| bus.topic(name).expect("valid"));
    let filter = |patterns: &[&str]| Filter::topics(patterns).expect("valid");
    let mut readers = [
        (filter(&["task/completed"]), vec![1]),
        (filter(&["task/*"]), vec![0, 1]),
        (filter(&["agent/**", "task/accepted"]), vec![0, 2, 3]),
        (filter(&["*"]), vec![]),
        (filter(&[]), vec![]),
        (Filter::all(), vec![0, 1, 2, 3]),
    ]
    .map(|(filter, expected)| (bus.subscribe(filter, Overflow::Block), expected));
    for (i, topic) in topics.into_iter().enumerate() {
        bus.publisher().publish(topic, i).expect("room");
    }
    for (reader, expected) in &mut readers {
        let seen: Vec<usize> =
            std::iter::from_fn(|| reader.try_recv().ok()).map(|event| event.payload).collect();
        assert_eq!(&seen, expected);
        let stats = reader.stats();
        assert_eq!(stats.delivered + stats.skipped, 4);
    }
}

#[test]
fn a_topic_has_its_name_on_its_bus() {
    let bus = EventBus::<()>::builder().build().expect("valid");
    let topic = bus.topic("task/completed").expect("valid");
    assert_eq!(bus.topic("task/completed").expect("valid"), topic);
    assert_eq!(bus.topic_name(topic).as_deref(), Some("task/completed"));
    assert!(bus.topic("task/*").is_err());
}

#[test]
fn a_topic_of_another_bus_does_no_harm() {
    let other = EventBus::<()>::builder().build().expect("valid");
    other.topic("a").expect("valid");
    let foreign = other.topic("b").expect("valid");
    let bus = EventBus::builder().capacity(4).build().expect("valid");
    bus.topic("a").expect("valid");
    let mut all = bus.subscribe(Filter::all(), Overflow::Block);
    let mut some = bus.subscribe(Filter::topics(["**"]).expect("valid"), Overflow::Block);
    bus.publisher().publish(foreign, ()).expect("room");
    assert_eq!(bus.topic_name(foreign), None);
    assert_eq!(all.try_recv().map(|event: Event<()>| event.topic), Ok(foreign));
    assert_eq!(
        some.try_recv(),
        Err(TryRecvError::Empty),
        "a name that is not there matches nothing"
    );
}

#[test]
fn what_does_not_match_does_not_hold_up_publishers_for_ever() {
    let bus = EventBus::builder().capacity(4).build().expect("valid");
    let noise = bus.topic("noise").expect("valid");
    let signal = bus.topic("signal").expect("valid");
    let mut reader = bus.subscribe(Filter::topics(["signal"]).expect("valid"), Overflow::Block);
    let publisher = bus.publisher();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for i in 0..1000 {
                publisher.publish(noise, i).expect("open");
            }
            publisher.publish(signal, 1000).expect("open");
        });
        assert_eq!(reader.recv().expect("the one").payload, 1000);
    });
    assert_eq!(reader.stats().skipped, 1000);
}
