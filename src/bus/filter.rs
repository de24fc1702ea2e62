//! Filters: which events a subscription is for, decided by the topic alone.
//!
//! 1. Deciding reads the topic's number and nothing of the payload.
//! 2. A pattern is held against a name once a topic and subscription; after that the verdict is a byte.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use super::topic::{Topic, Topics, check_segments};
use crate::Error;

/// Which events a subscription receives.
///
/// ```
/// use phalanx::bus::Filter;
///
/// let everything: Filter<u64> = Filter::all();
/// let tasks: Filter<u64> = Filter::topics(["task/*", "agent/**"])?;
/// # Ok::<(), phalanx::Error>(())
/// ```
pub struct Filter<E> {
    /// `None` is everything.
    patterns: Option<Arc<[Box<str>]>>,
    /// A filter looks at payloads; it owns none.
    payload: PhantomData<fn(&E)>,
}

impl<E> Filter<E> {
    /// Every event.
    #[must_use]
    pub fn all() -> Self {
        Self { patterns: None, payload: PhantomData }
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
        Ok(Self { patterns: Some(patterns), payload: PhantomData })
    }

    pub(super) fn into_matcher(self) -> Matcher {
        Matcher { patterns: self.patterns, verdicts: Vec::new() }
    }
}

impl<E> Clone for Filter<E> {
    fn clone(&self) -> Self {
        Self { patterns: self.patterns.clone(), payload: PhantomData }
    }
}

impl<E> fmt::Debug for Filter<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.patterns {
            None => f.write_str("Filter::all"),
            Some(patterns) => f.debug_tuple("Filter::topics").field(patterns).finish(),
        }
    }
}

fn check_pattern(pattern: &str) -> Result<(), Error> {
    check_segments(pattern)?;
    if pattern.split('/').any(|part| part.contains('*') && part != "*" && part != "**") {
        return Err(Error::new(
            crate::ErrorKind::InvalidArgument,
            format!("pattern {pattern:?} has a star within a segment: expected `*` or `**` alone"),
        ));
    }
    Ok(())
}

/// A filter at work in one subscription.
#[derive(Debug)]
pub(super) struct Matcher {
    patterns: Option<Arc<[Box<str>]>>,
    /// By the number of the topic.
    verdicts: Vec<Verdict>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Unknown,
    No,
    Yes,
}

impl Matcher {
    #[inline]
    pub(super) fn accepts(&mut self, topic: Topic, topics: &Topics) -> bool {
        if self.patterns.is_none() {
            return true;
        }
        match self.verdicts.get(topic.id() as usize) {
            Some(Verdict::Yes) => true,
            Some(Verdict::No) => false,
            _ => self.decide(topic, topics),
        }
    }

    #[cold]
    fn decide(&mut self, topic: Topic, topics: &Topics) -> bool {
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
}

/// Whether a name matches a pattern, both of valid segments.
///
/// Each `**` takes as few segments as it can, and one more when the rest fails: the product of both
/// lengths at worst.
fn matches(pattern: &str, name: &str) -> bool {
    let mut pattern = pattern.split('/');
    let mut name = name.split('/');
    let mut retry = None;
    loop {
        let name_before = name.clone();
        match (pattern.next(), name.next()) {
            (None, None) => return true,
            (Some("**"), _) => {
                retry = Some((pattern.clone(), name_before.clone()));
                name = name_before;
                continue;
            }
            (Some(part), Some(segment)) if part == "*" || part == segment => continue,
            _ => {}
        }
        let Some((after_stars, mut taken)) = retry.take() else { return false };
        if taken.next().is_none() {
            return false;
        }
        pattern = after_stars.clone();
        name = taken.clone();
        retry = Some((after_stars, taken));
    }
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wildcards_match_whole_segments() {
        for (pattern, name, expected) in [
            ("task/completed", "task/completed", true),
            ("task/completed", "task/failed", false),
            ("task", "task/failed", false),
            ("task/failed", "task", false),
            ("*", "task", true),
            ("*", "task/a", false),
            ("task/*", "task/a", true),
            ("task/*", "task", false),
            ("task/*", "task/a/b", false),
            ("*/a", "task/a", true),
            ("task/**", "task", true),
            ("task/**", "task/a/b", true),
            ("task/**", "tasks/a", false),
            ("**", "a/b/c", true),
            ("**/c", "a/b/c", true),
            ("**/c", "c", true),
            ("**/b", "a/b/c", false),
            ("a/**/d", "a/b/c/d", true),
            ("a/**/d", "a/d", true),
            ("a/**/d", "a/d/e", false),
            ("a/**/b/**/c", "a/b/x/b/y/c", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} against {name}");
        }
    }

    #[test]
    fn a_malformed_pattern_is_refused() {
        for pattern in ["", "a//b", "a/b*", "***", "a/"] {
            assert!(Filter::<()>::topics([pattern]).is_err(), "{pattern}");
        }
    }

    #[test]
    fn a_topic_made_after_the_filter_is_matched_too() {
        let topics = Topics::new(100);
        let filter = Filter::<()>::topics(["task/*"]).expect("valid");
        let mut matcher = filter.into_matcher();
        let late = topics.intern("task/late").expect("valid");
        let other = topics.intern("other").expect("valid");
        assert!(!matcher.accepts(Topic::from_id(99), &topics));
        for _ in 0..2 {
            assert!(matcher.accepts(late, &topics));
            assert!(!matcher.accepts(other, &topics));
        }
    }

    /// The definition, by recursion.
    fn naive(pattern: &[&str], name: &[&str]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((&"**", rest)), _) => (0..=name.len()).any(|n| naive(rest, &name[n..])),
            (Some((&part, rest)), Some((&segment, left))) => {
                (part == "*" || part == segment) && naive(rest, left)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_its_definition(
            pattern in proptest::collection::vec(prop_oneof!["a", "b", Just("*".to_owned()), Just("**".to_owned())], 1..6),
            name in proptest::collection::vec("[ab]", 1..6),
        ) {
            let expected = naive(
                &pattern.iter().map(String::as_str).collect::<Vec<_>>(),
                &name.iter().map(String::as_str).collect::<Vec<_>>(),
            );
            prop_assert_eq!(matches(&pattern.join("/"), &name.join("/")), expected);
        }
    }
}
