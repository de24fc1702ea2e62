//! A fleet that runs the work itself: a handler that counts words, panics at a bad page, and is killed.
//!
//! Whatever happens to the agents, every accepted task ends exactly once, and the books say how.
//!
//! Run it with `cargo run --example fleet_with_handlers`.

use std::sync::Arc;
use std::time::Duration;

use phalanx::fleet::{
    Agent, AgentSpec, Attempt, Fleet, FleetEvent, Outcome, Task, TaskContext, TaskError, WeakFleet,
};

/// Counts words, and remembers how many pages it has read.
struct Reader {
    fleet: WeakFleet<String, usize>,
    pages: usize,
}

impl Agent<String, usize> for Reader {
    fn handle(
        &mut self,
        page: &Task<String>,
        cx: &mut TaskContext<'_>,
    ) -> Result<usize, TaskError> {
        self.pages += 1;
        match page.payload().as_str() {
            "" => Err(TaskError::permanent("the page is empty")),
            "burnt" => panic!("page {} cannot be read", self.pages),
            // Somebody ends this agent while it works: what it returns counts no more.
            "a deadly page" if cx.attempt() == Attempt::new(1) => {
                let fleet = self.fleet.upgrade().ok_or_else(|| TaskError::permanent("no fleet"))?;
                fleet.kill(cx.agent()).map_err(|error| TaskError::permanent(error.to_string()))?;
                Ok(usize::MAX)
            }
            text => Ok(text.split_whitespace().count()),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The panic is part of the show; its backtrace is not.
    std::panic::set_hook(Box::new(|_| {}));

    let fleet = Fleet::builder()
        .workers(2)
        .observer(Arc::new(|event: &FleetEvent| match event {
            FleetEvent::AgentKilled { agent, .. } => println!("  ! agent {agent} was killed"),
            FleetEvent::TaskRequeued { task, attempt, .. } => {
                println!("  ! task {task} lost attempt {attempt} and runs again");
            }
            FleetEvent::LateCompletionRefused { task, attempt, .. } => {
                println!("  ! task {task}: the result of attempt {attempt} came too late, refused");
            }
            _ => {}
        }))
        .build()?;
    let weak = fleet.downgrade();
    let reader = AgentSpec::new("reader")
        .capability("english")
        .handler(move || Reader { fleet: weak.clone(), pages: 0 });
    fleet.spawn_batch(&reader, 3)?;

    println!("five pages for three readers on two threads:");
    let mut tasks = Vec::new();
    for page in ["to be or not to be", "a deadly page", "", "burnt", "the rest is silence"] {
        let task = Task::new(page.to_owned()).capability("english");
        tasks.push((page, fleet.submit(task)?));
    }
    let report = fleet.drain(Duration::from_secs(10))?;

    println!("\nhow each ended:");
    for (page, task) in &tasks {
        let ending = match &*task.wait() {
            Outcome::Completed(words) => format!("{words} words"),
            Outcome::Failed(error) => format!("failed: {error}"),
            other => format!("{other:?}"),
        };
        println!("  {:<24} {ending}", format!("{page:?}"));
    }

    let stats = fleet.stats();
    println!(
        "\ntasks:  {} accepted = {} completed + {} failed; {} attempts were reruns",
        report.accepted, report.completed, report.failed, stats.reruns
    );
    println!(
        "agents: {} spawned, {} killed; {} panics caught, {} late result refused",
        stats.agents_spawned,
        stats.agents_killed,
        stats.handler_panics,
        stats.late_completions_refused
    );
    fleet.shutdown(Duration::from_secs(10))?;
    Ok(())
}
