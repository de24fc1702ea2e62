//! Leases from a tokio host: phalanx decides *which* agent, the host's own futures do the work.
//!
//! The fleet has no workers, so it starts no thread. Ten downloads share three agents; one agent dies
//! while it is held, and the lease says so instead of letting the work count twice.
//!
//! Run it with `cargo run --example lease_from_tokio`.

use std::time::Duration;

use phalanx::fleet::{AgentSpec, Fleet, LeaseOutcome, Priority, Request};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let fleet = Fleet::<(), ()>::builder().build()?;
    fleet.spawn_batch(&AgentSpec::new("crawler").capability("http"), 3)?;

    println!("ten pages, three crawlers:");
    let mut pages = tokio::task::JoinSet::new();
    for page in 1..=10 {
        let fleet = fleet.clone();
        pages.spawn(async move {
            let urgent = if page == 10 { Priority::HIGH } else { Priority::NORMAL };
            let request = Request::any().capability("http").priority(urgent);
            // Waits without a thread; dropping this future would pass its turn on.
            let lease = fleet.allocate_async(&request).await?;
            let agent = lease.agent();
            download(page).await;
            lease.complete(LeaseOutcome::Succeeded)?;
            println!("  page {page:>2}  by agent {agent}");
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        });
    }
    for result in pages.join_all().await {
        result.map_err(|error| error.to_string())?;
    }

    println!("\nan agent dies while it is held:");
    let lease = fleet.allocate_async(&Request::any()).await?;
    let killed = fleet.kill(lease.agent())?;
    println!("  killed agent {}, {} lease revoked", killed.agent, killed.leases_revoked);
    match lease.complete(LeaseOutcome::Succeeded) {
        Ok(()) => println!("  completed (this must not happen)"),
        Err(stale) => println!("  refused: {stale}"),
    }

    let stats = fleet.stats();
    println!(
        "\nleases: {} granted, {} succeeded, {} stale, {} still held",
        stats.leases_granted, stats.leases_succeeded, stats.leases_stale, stats.leases_live
    );
    println!("agents: {} live of {}", stats.agents_live, stats.agents_spawned);
    Ok(())
}

/// Stands for whatever the host awaits.
async fn download(page: u64) {
    tokio::time::sleep(Duration::from_millis(5 * (page % 3 + 1))).await;
}
