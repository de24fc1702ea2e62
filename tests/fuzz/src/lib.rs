//! What the targets check, which is what the tests check.

#[path = "../../it/state/decode/export.rs"]
pub(crate) mod export;
#[path = "../../it/state/decode/rows.rs"]
pub(crate) mod rows;
#[path = "../../it/state/decode/seeds.rs"]
pub(crate) mod seeds;
#[path = "../../it/state/decode/store.rs"]
pub(crate) mod store;

/// The decoder of exports.
pub fn export(input: &[u8]) {
    export::check(input);
}

/// The decoders of stored rows.
pub fn rows(input: &[u8]) {
    rows::check(input);
}

/// The decoders of the blocks of a store: its identity, groups of deltas, chunks of checkpoints.
pub fn store(input: &[u8]) {
    store::check(input);
}

/// The seeds of each target.
#[must_use]
pub fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    vec![("export", seeds::exports()), ("rows", seeds::rows()), ("store", seeds::stores())]
}
