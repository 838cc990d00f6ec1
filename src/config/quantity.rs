//! Sizes and times as people write them: `20G`, `1.5M`, `30s`. Config files and the command line share them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes; written with K, M, G or T for powers of 1024 (`20G`, `512K`, `100`). For a rate: bytes a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A text that is no size or time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// It is no size.
    #[error("a size is a number with K, M, G or T, such as 20G")]
    Size,
    /// It is no time.
    #[error("a time is a number with ms, s, m or h, such as 30s")]
    Duration,
    /// It is too large for this machine to count.
    #[error("the number is too large")]
    TooLarge,
}

/// The letters of 1024, 1024 squared, and so on.
const POWERS: [&str; 4] = ["K", "M", "G", "T"];

impl Size {
    /// As a size in memory; what is more than this machine can address is cut to that.
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for Size {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (number, unit) = split(text).ok_or(QuantityError::Size)?;
        // `G`, `GB` and `GiB` mean the same here; so do small letters.
        let unit = unit.to_ascii_uppercase();
        let letter = unit.strip_suffix("IB").or(unit.strip_suffix('B')).unwrap_or(&unit);
        let power = match letter {
            "" => 0,
            letter => 1 + POWERS.iter().position(|known| *known == letter).ok_or(QuantityError::Size)?,
        };
        let bytes = scaled(number, (1u64 << (10 * power)) as f64)?;
        Ok(Size(bytes))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut power = 0;
        while power < POWERS.len() && self.0 >= 1 << (10 * (power + 1)) {
            power += 1;
        }
        let Some(letter) = power.checked_sub(1).map(|at| POWERS[at]) else { return write!(f, "{}", self.0) };
        let unit = 1u64 << (10 * power);
        match self.0.is_multiple_of(unit) {
            true => write!(f, "{}{letter}", self.0 / unit),
            false => write!(f, "{:.1}{letter}", self.0 as f64 / unit as f64),
        }
    }
}

/// Reads a time: `250ms`, `30s`, `5m`, `2h`; a number alone is seconds.
pub fn parse_duration(text: &str) -> Result<Duration, QuantityError> {
    let (number, unit) = split(text).ok_or(QuantityError::Duration)?;
    let millis = match unit {
        "ms" => 1.0,
        "" | "s" => 1e3,
        "m" => 60e3,
        "h" => 3600e3,
        _ => return Err(QuantityError::Duration),
    };
    scaled(number, millis).map(Duration::from_millis)
}

/// The number and what follows it.
fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim_start()))
}

fn scaled(number: f64, unit: f64) -> Result<u64, QuantityError> {
    let scaled = number * unit;
    // 2^53: from there on a float no longer tells one from the next.
    if scaled > (1u64 << 53) as f64 { Err(QuantityError::TooLarge) } else { Ok(scaled.round() as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("100", 100),
            ("1K", 1024),
            ("1.5k", 1536),
            ("32M", 32 << 20),
            ("20 GiB", 20 << 30),
            ("2TB", 2 << 40),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn times_have_units() {
        for (text, millis) in
            [("250ms", 250), ("30s", 30_000), ("30", 30_000), ("1.5m", 90_000), ("2h", 7_200_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_neither_is_refused() {
        for text in ["", "G", "-1", "1X", "1 2", "1..2", "1Kx", "ten", "∞"] {
            assert_eq!(text.parse::<Size>(), Err(QuantityError::Size), "{text}");
            assert_eq!(parse_duration(text), Err(QuantityError::Duration), "{text}");
        }
        assert_eq!("9999999999T".parse::<Size>(), Err(QuantityError::TooLarge));
    }

    #[test]
    fn a_size_is_shown_as_it_may_be_written() {
        for text in ["0", "100", "1K", "32M", "20G", "1.5G", "2T"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
    }
}
