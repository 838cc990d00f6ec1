//! The part of a representation that a request asks for (RFC 9110, section 14).

use std::ops::Range;

use hyper::HeaderMap;
use hyper::header::{IF_NONE_MATCH, IF_RANGE, RANGE};

/// What to send of a representation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Selection {
    /// All of it: no range was asked for, or one that a server may ignore.
    Whole,
    /// These bytes, at least one.
    Part(Range<u64>),
    /// None: the range lies beyond the end.
    Unsatisfiable,
}

impl Selection {
    /// What `headers` ask for of a representation of `length` bytes that has this entity tag.
    ///
    /// Several ranges in one request, other units and what cannot be parsed are ignored, as the RFC
    /// allows: the answer is then the whole.
    pub(super) fn of(headers: &HeaderMap, entity_tag: &str, length: u64) -> Self {
        let mut ranges = headers.get_all(RANGE).iter();
        let (Some(range), None) = (ranges.next(), ranges.next()) else { return Self::Whole };
        // A date in If-Range never matches: these representations have an entity tag and no date.
        if headers.get(IF_RANGE).is_some_and(|condition| condition.as_bytes() != entity_tag.as_bytes()) {
            return Self::Whole;
        }
        range.to_str().ok().and_then(|range| Self::parse(range, length)).unwrap_or(Self::Whole)
    }

    fn parse(range: &str, length: u64) -> Option<Self> {
        let (unit, range) = range.split_once('=')?;
        let (first, last) = range.trim().split_once('-')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let range = match (first, last) {
            ("", suffix) => length.saturating_sub(position(suffix)?)..length,
            (first, "") => position(first)?..length,
            (first, last) => {
                let (first, last) = (position(first)?, position(last)?);
                if last < first {
                    return None;
                }
                first..last.saturating_add(1).min(length)
            }
        };
        Some(if range.is_empty() { Self::Unsatisfiable } else { Self::Part(range) })
    }
}

/// Digits only; a number too large for u64 is as good as the largest.
fn position(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(u64::MAX))
}

/// Whether the client says that it has the representation with this entity tag already.
pub(super) fn is_held(headers: &HeaderMap, entity_tag: &str) -> bool {
    let lists = headers.get_all(IF_NONE_MATCH).iter().filter_map(|list| list.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|tag| {
        let tag = tag.trim();
        tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == entity_tag
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TAG: &str = "\"tag\"";

    fn headers(pairs: &[(hyper::header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    fn select(range: &str, length: u64) -> Selection {
        Selection::of(&headers(&[(RANGE, range)]), TAG, length)
    }

    #[test]
    fn single_ranges_are_taken() {
        assert_eq!(select("bytes=0-0", 10), Selection::Part(0..1));
        assert_eq!(select("bytes=9-9", 10), Selection::Part(9..10));
        assert_eq!(select("bytes=2-", 10), Selection::Part(2..10));
        assert_eq!(select("bytes=-3", 10), Selection::Part(7..10));
        assert_eq!(select("bytes=-30", 10), Selection::Part(0..10));
        assert_eq!(select("bytes=5-99999999999999999999999", 10), Selection::Part(5..10));
        assert_eq!(select("Bytes= 1-2", 10), Selection::Part(1..3));
    }

    #[test]
    fn a_range_beyond_the_end_cannot_be_satisfied() {
        for range in ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(select(range, 10), Selection::Unsatisfiable, "{range}");
        }
        assert_eq!(select("bytes=-5", 0), Selection::Unsatisfiable);
    }

    #[test]
    fn what_may_be_ignored_is_ignored() {
        for range in
            ["bytes=0-1,3-4", "lines=0-1", "bytes=4-2", "bytes=a-b", "bytes=-", "bytes=+1-2", "0-1", "bytes="]
        {
            assert_eq!(select(range, 10), Selection::Whole, "{range}");
        }
        assert_eq!(Selection::of(&HeaderMap::new(), TAG, 10), Selection::Whole);
    }

    #[test]
    fn a_range_of_another_version_is_not_taken() {
        let of = |condition| Selection::of(&headers(&[(RANGE, "bytes=1-2"), (IF_RANGE, condition)]), TAG, 10);
        assert_eq!(of(TAG), Selection::Part(1..3));
        assert_eq!(of("\"other\""), Selection::Whole);
        assert_eq!(of("W/\"tag\""), Selection::Whole);
        assert_eq!(of("Wed, 21 Oct 2015 07:28:00 GMT"), Selection::Whole);
    }

    #[test]
    fn a_held_representation_is_recognised() {
        for (list, held) in [
            (TAG, true),
            ("\"x\", \"tag\"", true),
            ("W/\"tag\"", true),
            ("*", true),
            ("\"x\"", false),
            ("tag", false),
        ] {
            assert_eq!(is_held(&headers(&[(IF_NONE_MATCH, list)]), TAG), held, "{list}");
        }
    }

    proptest! {
        #[test]
        fn a_part_is_never_empty_and_never_beyond_the_end(range in "bytes=[0-9]{0,21}-[0-9]{0,21}", length: u64) {
            if let Selection::Part(part) = select(&range, length) {
                prop_assert!(part.start < part.end && part.end <= length);
            }
        }
    }
}
