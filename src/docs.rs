//! Pages about the crate as a whole, compiled with it so that they cannot rot unseen.

#[doc = include_str!("docs/architecture.md")]
pub mod architecture {}

#[doc = include_str!("docs/guarantees.md")]
pub mod guarantees {}

#[doc = include_str!("docs/limitations.md")]
pub mod limitations {}

#[doc = include_str!("docs/patterns.md")]
pub mod patterns {}

#[doc = include_str!("docs/performance.md")]
pub mod performance {}

/// The README's example is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
