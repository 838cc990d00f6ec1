//! `Retry-After` (RFC 9110, 10.2.3): seconds, or a date, which is read by the server's own clock.

use std::time::Duration;

use reqwest::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};

/// No server can send us away for longer: it may be well again before it thought, and some say a day.
const LONGEST: Duration = Duration::from_secs(300);

/// How long the server asks to be left alone, at most [`LONGEST`]; `None` if it does not say so in a way that is understood.
///
/// A date counts from the `Date` of the same answer, so that no clock of this machine is looked at; without one it says nothing.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name)?.to_str().ok().map(str::trim);
    let wanted = text(RETRY_AFTER)?;
    let wait = match wanted.bytes().all(|byte| byte.is_ascii_digit()) {
        // What is too large for a number is longer than the longest.
        true if !wanted.is_empty() => Duration::from_secs(wanted.parse().unwrap_or(u64::MAX)),
        _ => {
            let then = httpdate::parse_http_date(wanted).ok()?;
            let now = httpdate::parse_http_date(text(DATE)?).ok()?;
            then.duration_since(now).unwrap_or_default()
        }
    };
    Some(wait.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    fn read(wanted: &[u8], date: Option<&'static str>) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_bytes(wanted).expect("a value"));
        if let Some(date) = date {
            headers.insert(DATE, HeaderValue::from_static(date));
        }
        retry_after(&headers).map(|wait| wait.as_secs())
    }

    #[test]
    fn seconds_are_taken_up_to_a_bound() {
        for (wanted, seconds) in
            [("0", 0), ("2", 2), (" 120 ", 120), ("301", 300), ("99999999999999999999999", 300)]
        {
            assert_eq!(read(wanted.as_bytes(), None), Some(seconds), "{wanted}");
        }
    }

    #[test]
    fn a_date_counts_from_that_of_the_answer() {
        let now = Some("Sat, 21 Nov 2026 15:00:00 GMT");
        assert_eq!(read(b"Sat, 21 Nov 2026 15:00:07 GMT", now), Some(7));
        assert_eq!(read(b"Saturday, 21-Nov-26 15:01:00 GMT", now), Some(60));
        assert_eq!(read(b"Sat Nov 21 16:00:00 2026", now), Some(300));
        assert_eq!(read(b"Sat, 21 Nov 2026 14:00:00 GMT", now), Some(0), "what is past is now");
        assert_eq!(read(b"Sat, 21 Nov 2026 15:00:07 GMT", None), None);
        assert_eq!(read(b"Sat, 21 Nov 2026 15:00:07 GMT", Some("today")), None);
    }

    #[test]
    fn what_is_not_understood_says_nothing() {
        for wanted in [&b""[..], b"soon", b"-1", b"1.5", b"+3", b"\xff", b"Sat, 99 Nov 2026 15:00:07 GMT"] {
            assert_eq!(read(wanted, Some("Sat, 21 Nov 2026 15:00:00 GMT")), None, "{wanted:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
