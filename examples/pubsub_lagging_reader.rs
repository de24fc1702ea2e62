//! Publish and subscribe: one reader keeps up and loses nothing, the other lags and is told what it missed.
//!
//! `cargo run --example pubsub_lagging_reader`

use std::error::Error;
use std::sync::mpsc;
use std::thread;

use phalanx::bus::{EventBus, Filter, Overflow, RecvError};

const EVENTS: u64 = 1_000;

fn main() -> Result<(), Box<dyn Error>> {
    let bus = EventBus::builder().capacity(64).build()?;
    let completed = bus.topic("task/completed")?;
    let failed = bus.topic("task/failed")?;
    println!("A ring of {} events; {EVENTS} will be published.\n", bus.capacity());

    // This one must see every failure: publishers wait for it, should it ever fall a full ring behind.
    let mut auditor = bus.subscribe(Filter::topics(["task/failed"])?, Overflow::Block);
    let auditor = thread::spawn(move || {
        let mut failures = Vec::new();
        while let Ok(event) = auditor.recv() {
            failures.push(event.payload);
        }
        (failures, auditor.stats())
    });

    // This one draws a progress bar, say: better to lose events than to hold anybody up. It is busy elsewhere
    // until all is over.
    let mut display = bus.subscribe(Filter::topics(["task/*"])?, Overflow::DropOldest);
    let (wake_up, busy) = mpsc::channel::<()>();
    let display = thread::spawn(move || {
        let _ = busy.recv();
        let mut lines = Vec::new();
        let mut seen = 0;
        loop {
            match display.recv() {
                Ok(event) => {
                    if seen == 0 {
                        lines.push(format!("went on with event {}", event.sequence));
                    }
                    seen += 1;
                }
                Err(RecvError::Lagged { missed, from, .. }) => {
                    lines.push(format!("missed {missed} events, from number {from} on"));
                }
                Err(_) => break,
            }
        }
        lines.push(format!("saw {seen} events to the end"));
        (lines, display.stats())
    });

    let publisher = bus.publisher();
    for task in 0..EVENTS {
        let topic = if task % 250 == 7 { failed } else { completed };
        publisher.publish(topic, format!("task {task}"))?;
    }
    bus.close();
    drop(wake_up);

    let (failures, audited) = auditor.join().expect("the auditor does not panic");
    println!("The auditor waits for every failure and lost nothing:");
    println!("  {}", failures.join(", "));
    println!(
        "  delivered {}, skipped {}, lagged {}\n",
        audited.delivered, audited.skipped, audited.lagged
    );

    let (lines, displayed) = display.join().expect("the display does not panic");
    println!("The display was asleep; nobody waited for it:");
    for line in lines {
        println!("  {line}");
    }
    println!(
        "  delivered {} + lagged {} = {EVENTS} published",
        displayed.delivered, displayed.lagged
    );
    assert_eq!(displayed.delivered + displayed.lagged, EVENTS);
    Ok(())
}
