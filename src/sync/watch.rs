//! The moment for which a thread looks for what it waits for, before it sleeps.
//!
//! What comes while it looks costs neither a sleep nor a wake-up, each of them a call of the system and, on a
//! core that has gone idle, some microseconds more. What does not come has cost about as much as they do: no more
//! than twice what the best choice would have (Karlin, Li, Manasse and Owicki, "Empirical studies of competitive
//! spinning for a shared-memory multiprocessor", 1991).

use super::hint;

/// How often it looks. A model need not look twice.
const LOOKS: usize = if cfg!(any(phalanx_loom, phalanx_shuttle)) { 0 } else { 50 };
/// Pauses between two looks.
const PAUSES: usize = 8;

/// Watches for a moment; whether it came. The look is to be a load.
pub(crate) fn watch(came: impl Fn() -> bool) -> bool {
    for _ in 0..LOOKS {
        if came() {
            return true;
        }
        // Each look takes the line from whoever is about to write to it.
        for _ in 0..PAUSES {
            hint::spin_loop();
        }
    }
    false
}
