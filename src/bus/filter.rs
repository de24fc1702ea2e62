//! Filters: which events a subscription is for.
//!
//! 1. Topic and source are decided by the header of an event, and read nothing of the payload.
//! 2. A pattern is held against a name once a topic and subscription; after that the verdict is a byte.
//! 3. A predicate is asked last, of events whose header matches.

use std::fmt;
use std::sync::Arc;

use super::header::Header;
use super::lane::{PARKED, interest};
use super::pattern::{check_pattern, matches};
use super::source::Source;
use super::topic::{Topic, Topics};
use super::wait::EVERYTHING;
use crate::Error;

type Predicate<E> = Arc<dyn Fn(&E) -> bool + Send + Sync>;

/// Which events a subscription receives: those of some topics, of some sources, that satisfy a predicate.
///
/// ```
/// use phalanx::bus::{Filter, Source};
///
/// let everything: Filter<u64> = Filter::all();
/// let large: Filter<u64> = Filter::topics(["task/*", "agent/**"])?
///     .from_sources([Source::new(7), Source::new(8)])
///     .matching(|size| *size > 1_000);
/// # Ok::<(), phalanx::Error>(())
/// ```
pub struct Filter<E> {
    /// `None` is everything.
    patterns: Option<Arc<[Box<str>]>>,
    /// In order; `None` is everybody.
    sources: Option<Arc<[Source]>>,
    predicate: Option<Predicate<E>>,
}

impl<E> Filter<E> {
    /// Every event.
    #[must_use]
    pub fn all() -> Self {
        Self { patterns: None, sources: None, predicate: None }
    }

    /// The events whose topic matches any of the patterns.
    ///
    /// A pattern is the name of a topic in which a segment may be a wildcard: `*` stands for exactly one
    /// segment, `**` for any number of them, none included (`task/**` matches `task` and `task/a/b`). A
    /// topic need not exist yet. No patterns at all match nothing.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if a pattern is empty, is longer than 255
    /// bytes, has an empty segment, or has a star within a segment (`task/a*`).
    pub fn topics<I>(patterns: I) -> Result<Self, Error>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let patterns = patterns
            .into_iter()
            .map(|pattern| {
                let pattern = pattern.as_ref();
                check_pattern(pattern)?;
                Ok(pattern.into())
            })
            .collect::<Result<_, Error>>()?;
        Ok(Self { patterns: Some(patterns), ..Self::all() })
    }

    /// Of those, the events of these sources; none if there are no sources. Asked again, the last call counts.
    #[must_use]
    pub fn from_sources<I>(mut self, sources: I) -> Self
    where
        I: IntoIterator<Item = Source>,
    {
        let mut sources: Vec<_> = sources.into_iter().collect();
        sources.sort_unstable();
        sources.dedup();
        self.sources = Some(sources.into());
        self
    }

    /// Of those, the events whose payload satisfies `predicate`. Asked again, both have to be satisfied.
    ///
    /// The predicate runs on the thread of the reader: in place, for a subscription that publishers wait for,
    /// and on the clone for a drop-oldest one, which so clones what it then may not want. If it panics,
    /// the event is passed, and the panic passes through.
    #[must_use]
    pub fn matching(mut self, predicate: impl Fn(&E) -> bool + Send + Sync + 'static) -> Self
    where
        E: 'static,
    {
        self.predicate = Some(match self.predicate.take() {
            None => Arc::new(predicate),
            Some(first) => Arc::new(move |payload: &E| first(payload) && predicate(payload)),
        });
        self
    }

    pub(super) fn into_matcher(self) -> Matcher<E> {
        let Self { patterns, sources, predicate } = self;
        let everything = patterns.is_none() && sources.is_none() && predicate.is_none();
        let (verdicts, interests) = (Vec::new(), (PARKED, 0));
        Matcher { everything, patterns, sources, predicate, verdicts, interests }
    }
}

impl<E> Clone for Filter<E> {
    fn clone(&self) -> Self {
        Self {
            patterns: self.patterns.clone(),
            sources: self.sources.clone(),
            predicate: self.predicate.clone(),
        }
    }
}

impl<E> fmt::Debug for Filter<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter")
            .field("patterns", &self.patterns)
            .field("sources", &self.sources)
            .field("has_predicate", &self.predicate.is_some())
            .finish()
    }
}

/// A filter at work in one subscription.
pub(super) struct Matcher<E> {
    /// Whether nothing has to be decided.
    everything: bool,
    patterns: Option<Arc<[Box<str>]>>,
    sources: Option<Arc<[Source]>>,
    predicate: Option<Predicate<E>>,
    /// By the number of the topic.
    verdicts: Vec<Verdict>,
    /// The interests in topics, and how many topics went into them: the first so many.
    interests: (u64, usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Unknown,
    No,
    Yes,
}

impl<E> Matcher<E> {
    /// Whether every event matches.
    #[inline]
    pub(super) fn accepts_all(&self) -> bool {
        self.everything
    }

    /// Whether the header decides, and it alone.
    #[inline]
    pub(super) fn goes_by_header(&self) -> bool {
        !self.everything && self.predicate.is_none()
    }

    /// Whether the header matches.
    #[inline]
    pub(super) fn accepts(&mut self, header: Header, topics: &Topics) -> bool {
        self.everything || self.decide(header, topics)
    }

    /// Whether the header matches, if the verdict on its topic is known and says so.
    #[inline(always)]
    pub(super) fn accepts_topic(&self, header: Header) -> Option<bool> {
        match self.verdicts.get(header.topic_id() as usize) {
            Some(Verdict::No) => Some(false),
            Some(Verdict::Yes) if self.sources.is_none() => Some(true),
            _ => None,
        }
    }

    pub(super) fn predicate(&self) -> Option<&(dyn Fn(&E) -> bool + Send + Sync)> {
        self.predicate.as_deref()
    }

    #[inline]
    fn decide(&mut self, header: Header, topics: &Topics) -> bool {
        if let Some(sources) = &self.sources
            && sources.binary_search(&Source::new(header.source())).is_err()
        {
            return false;
        }
        self.patterns.is_none()
            || match self.verdicts.get(header.topic_id() as usize) {
                Some(Verdict::Yes) => true,
                Some(Verdict::No) => false,
                _ => self.decide_topic(header.topic(), topics),
            }
    }

    #[cold]
    fn decide_topic(&mut self, topic: Topic, topics: &Topics) -> bool {
        // A topic of another bus may have no name here: it matches no pattern, and is not remembered.
        let (Some(name), Some(patterns)) = (topics.name(topic), &self.patterns) else {
            return false;
        };
        let yes = patterns.iter().any(|pattern| matches(pattern, &name));
        let index = topic.id() as usize;
        if self.verdicts.len() <= index {
            self.verdicts.resize(topics.len().max(index + 1), Verdict::Unknown);
        }
        self.verdicts[index] = if yes { Verdict::Yes } else { Verdict::No };
        yes
    }

    /// The interests of this filter in the topics that there are now, and how many those are.
    ///
    /// A topic is looked at once, so that who parks often does not pay for every topic each time.
    pub(super) fn interests(&mut self, topics: &Topics) -> (u64, usize) {
        if self.patterns.is_none() {
            return (EVERYTHING, 0);
        }
        let (mut interests, known) = self.interests;
        let now = topics.len();
        for id in known as u32..now as u32 {
            let topic = Topic::from_id(id);
            let yes = match self.verdicts.get(id as usize) {
                Some(Verdict::Yes) => true,
                Some(Verdict::No) => false,
                _ => self.decide_topic(topic, topics),
            };
            if yes {
                interests |= interest(topic);
            }
        }
        self.interests = (interests, now);
        self.interests
    }

    /// Whether there are other topics by now than when its interests were asked.
    pub(super) fn knows(&self, known: usize, topics: &Topics) -> bool {
        self.patterns.is_none() || topics.len() == known
    }
}

impl<E> fmt::Debug for Matcher<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Matcher")
            .field("patterns", &self.patterns)
            .field("sources", &self.sources)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::super::lane::{PARKED, interest};
    use super::super::position::Position;
    use super::*;

    fn header(topic: Topic, source: u32) -> Header {
        let lap = super::super::header::Lap::of(Position::from_sequence(0), 3);
        Header::new(lap, topic.id(), source)
    }

    fn topic(topics: &Topics, name: &str) -> Topic {
        topics.intern(name).expect("valid").0
    }

    #[test]
    fn a_topic_made_after_the_filter_is_matched_too() {
        let topics = Topics::new(100);
        let filter = Filter::<()>::topics(["task/*"]).expect("valid");
        let mut matcher = filter.into_matcher();
        let late = topic(&topics, "task/late");
        let other = topic(&topics, "other");
        assert!(!matcher.accepts(header(Topic::from_id(99), 0), &topics));
        for _ in 0..2 {
            assert!(matcher.accepts(header(late, 0), &topics));
            assert!(!matcher.accepts(header(other, 0), &topics));
        }
    }

    #[test]
    fn a_source_is_asked_beside_the_topic() {
        let topics = Topics::new(100);
        let (task, other) = (topic(&topics, "task"), topic(&topics, "other"));
        let sources = [9, 7, 9].map(Source::new);
        let filter = Filter::<()>::topics(["task"]).expect("valid").from_sources(sources);
        let mut matcher = filter.into_matcher();
        for (topic, source, expected) in
            [(task, 7, true), (task, 9, true), (task, 8, false), (other, 7, false)]
        {
            assert_eq!(matcher.accepts(header(topic, source), &topics), expected);
        }
        let mut nobody = Filter::<()>::all().from_sources([]).into_matcher();
        assert!(!nobody.accepts(header(task, 0), &topics));
    }

    #[test]
    fn who_parks_is_always_interested_in_something() {
        let topics = Topics::new(100);
        let mut matcher = Filter::<()>::topics(["b"]).expect("valid").into_matcher();
        assert_eq!(matcher.interests(&topics), (PARKED, 0));
        assert!(matcher.knows(0, &topics));
        topic(&topics, "a");
        let b = topic(&topics, "b");
        assert!(!matcher.knows(0, &topics), "topics are new");
        assert_eq!(matcher.interests(&topics), (PARKED | interest(b), 2));
        let mut all = Filter::<()>::all().into_matcher();
        assert_eq!(all.interests(&topics).0, EVERYTHING);
        assert!(all.knows(0, &topics), "a new topic is nothing new to it");
    }
}
