//! Behaviour of `state`.

mod basics;
#[cfg(all(feature = "durable", feature = "bincode", feature = "test-util"))]
mod bomb;
#[cfg(all(feature = "durable", feature = "bincode", feature = "test-util"))]
mod checkpoint;
mod compare;
#[cfg(all(feature = "durable", feature = "bincode"))]
mod damage;
#[cfg(all(feature = "durable", feature = "bincode", feature = "test-util"))]
mod decode;
#[cfg(all(feature = "durable", feature = "bincode", feature = "test-util"))]
mod diff;
#[cfg(all(feature = "durable", feature = "bincode", feature = "test-util"))]
mod drops;
#[cfg(all(feature = "durable", feature = "bincode", feature = "test-util"))]
mod durability;
#[cfg(all(feature = "durable", feature = "bincode"))]
mod durable;
#[cfg(all(feature = "durable", feature = "bincode", feature = "test-util"))]
mod failing;
#[cfg(all(feature = "durable", feature = "bincode", feature = "test-util"))]
mod faults;
#[cfg(all(feature = "durable", feature = "bincode"))]
mod golden;
#[cfg(all(feature = "durable", feature = "bincode", feature = "test-util"))]
mod growing;
#[cfg(all(feature = "durable", feature = "bincode", feature = "test-util"))]
mod hostile;
mod keep;
#[cfg(all(feature = "durable", feature = "bincode", unix))]
mod kill;
#[cfg(all(feature = "durable", feature = "bincode", feature = "test-util"))]
mod linear;
mod long;
#[cfg(all(feature = "durable", feature = "bincode", feature = "test-util"))]
mod maintainer;
#[cfg(all(feature = "durable", feature = "bincode"))]
mod migrate;
#[cfg(all(feature = "durable", feature = "bincode", feature = "test-util"))]
mod model;
#[cfg(all(feature = "durable", feature = "bincode", feature = "test-util"))]
mod power;
#[cfg(all(feature = "durable", feature = "bincode", feature = "test-util"))]
mod recovery;
mod release;
#[cfg(all(feature = "durable", feature = "bincode", feature = "test-util"))]
mod schema;
#[cfg(all(feature = "durable", feature = "bincode"))]
mod script;
#[cfg(all(feature = "durable", feature = "bincode"))]
mod stored;
#[cfg(all(feature = "durable", feature = "bincode", feature = "test-util"))]
mod sums;
#[cfg(all(feature = "durable", feature = "bincode", unix))]
mod synced;
#[cfg(all(feature = "durable", feature = "bincode", feature = "test-util"))]
mod transfer;
mod turn;
#[cfg(all(feature = "durable", feature = "bincode", feature = "test-util"))]
mod unclosed;
mod validate;
#[cfg(all(feature = "durable", feature = "bincode", feature = "test-util"))]
mod votes;
mod watch;
#[cfg(all(feature = "durable", feature = "bincode", feature = "test-util"))]
mod watch_hostile;
mod watch_model;
#[cfg(all(feature = "durable", feature = "bincode", feature = "test-util"))]
mod written;
