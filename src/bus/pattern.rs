//! Patterns of topics: names in which whole segments may be wildcards.

use super::topic::check_segments;
use crate::{Error, ErrorKind};

/// Refuses what is no pattern.
pub(super) fn check_pattern(pattern: &str) -> Result<(), Error> {
    check_segments(pattern)?;
    if pattern.split('/').any(|part| part.contains('*') && part != "*" && part != "**") {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("pattern {pattern:?} has a star within a segment: expected `*` or `**` alone"),
        ));
    }
    Ok(())
}

/// Whether a name matches a pattern, both of valid segments.
///
/// Each `**` takes as few segments as it can, and one more when the rest fails: the product of both
/// lengths at worst.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
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
    use super::super::filter::Filter;
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
