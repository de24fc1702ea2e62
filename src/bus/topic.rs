//! Topics: hierarchical names, interned to a compact number.
//!
//! 1. A name is interned once; its number never changes and is never reused.
//! 2. There are at most as many topics as the bus was built for.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::sync::RwLock;
use crate::{Error, ErrorKind};

/// The longest name of a topic, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// What an event is about: the number of a name such as `task/completed`.
///
/// Four bytes, made by [`EventBus::topic`](super::EventBus::topic), and read back as a name by
/// [`EventBus::topic_name`](super::EventBus::topic_name). A topic means something only on the bus that made
/// it: another bus takes it for whichever name it gave the same number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(u32);

impl Topic {
    #[inline]
    pub(super) const fn from_id(id: u32) -> Self {
        Self(id)
    }

    /// The number of the topic: topics of a bus are numbered from zero in the order of their making.
    #[inline]
    #[must_use]
    pub const fn id(self) -> u32 {
        self.0
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({})", self.0)
    }
}

/// The names of one bus.
#[derive(Debug)]
pub(super) struct Topics {
    names: RwLock<Names>,
    max: usize,
}

#[derive(Debug, Default)]
struct Names {
    by_name: HashMap<Arc<str>, u32>,
    by_id: Vec<Arc<str>>,
}

impl Topics {
    pub(super) fn new(max: usize) -> Self {
        Self { names: RwLock::new(Names::default()), max }
    }

    /// The topic of a name, and whether it is new.
    pub(super) fn intern(&self, name: &str) -> Result<(Topic, bool), Error> {
        if let Some(&id) = self.names.read().by_name.get(name) {
            return Ok((Topic(id), false));
        }
        check_name(name)?;
        let mut names = self.names.write();
        if let Some(&id) = names.by_name.get(name) {
            return Ok((Topic(id), false));
        }
        let full = || {
            Error::new(
                ErrorKind::LimitReached,
                format!("cannot make topic {name:?}: the bus was built for {} topics", self.max),
            )
        };
        if names.by_id.len() >= self.max {
            return Err(full());
        }
        let id = u32::try_from(names.by_id.len()).map_err(|_| full())?;
        let name: Arc<str> = name.into();
        names.by_id.push(Arc::clone(&name));
        names.by_name.insert(name, id);
        Ok((Topic(id), true))
    }

    pub(super) fn name(&self, topic: Topic) -> Option<Arc<str>> {
        self.names.read().by_id.get(topic.0 as usize).cloned()
    }

    pub(super) fn len(&self) -> usize {
        self.names.read().by_id.len()
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    check_segments(name)?;
    if name.contains('*') {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("topic {name:?} has a wildcard: only filters take `*` and `**`"),
        ));
    }
    Ok(())
}

/// What names and patterns have in common.
pub(super) fn check_segments(name: &str) -> Result<(), Error> {
    let problem = if name.is_empty() {
        "is empty"
    } else if name.len() > NAME_BYTES_MAX {
        "is longer than 255 bytes"
    } else if name.split('/').any(str::is_empty) {
        "has an empty segment: expected segments parted by single slashes, as in `task/completed`"
    } else {
        return Ok(());
    };
    // The name may be of any length, so a message quotes only its beginning.
    let shown: String = name.chars().take(64).collect();
    Err(Error::new(ErrorKind::InvalidArgument, format!("topic {shown:?} {problem}")))
}

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_number_and_a_number_its_name() {
        let topics = Topics::new(8);
        let (a, _) = topics.intern("task/completed").expect("valid");
        let (b, new) = topics.intern("task/failed").expect("valid");
        assert!(new && a != b);
        assert_eq!(topics.intern("task/completed").expect("valid"), (a, false));
        assert_eq!(topics.name(b).as_deref(), Some("task/failed"));
        assert_eq!(topics.name(Topic(2)), None);
    }

    #[test]
    fn a_malformed_name_is_refused_with_the_reason() {
        let topics = Topics::new(8);
        let long = "x".repeat(256);
        for name in ["", "/a", "a/", "a//b", "a/*", "**", long.as_str()] {
            let error = topics.intern(name).expect_err(name);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        }
        assert_eq!(topics.len(), 0);
    }

    #[test]
    fn the_limit_of_topics_is_kept() {
        let topics = Topics::new(1);
        topics.intern("a").expect("the first fits");
        assert_eq!(topics.intern("b").expect_err("the second").kind(), ErrorKind::LimitReached);
        topics.intern("a").expect("a known one needs no room");
    }
}
