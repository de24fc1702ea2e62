//! The long form of tests, for whoever has the time: with the variable `PHALANX_LONG_TESTS` set.

/// Whether it was asked for.
pub(super) fn long() -> bool {
    std::env::var_os("PHALANX_LONG_TESTS").is_some()
}

/// How many cases a property is tried on: so many, or in the long form two hundred times as many; in either form the
/// variable `PROPTEST_CASES` of the library goes before.
pub(super) fn cases(short: u32) -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    asked.unwrap_or(if long() { 200 * short } else { short })
}
