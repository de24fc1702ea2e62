//! Who published an event.

/// Who published an event, as a number that the host gives out: an agent, a component, a tenant.
///
/// A publisher stamps its source on what it publishes (see [`Publisher::with_source`]), a reader finds it in
/// [`Event::source`], and [`Filter::from_sources`] goes by it.
///
/// [`Publisher::with_source`]: super::Publisher::with_source
/// [`Event::source`]: super::Event::source
/// [`Filter::from_sources`]: super::Filter::from_sources
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(u32);

impl Source {
    /// The source of a publisher that was given none: number zero.
    pub const UNNAMED: Self = Self(0);

    /// The source of this number.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl From<u32> for Source {
    fn from(number: u32) -> Self {
        Self(number)
    }
}
