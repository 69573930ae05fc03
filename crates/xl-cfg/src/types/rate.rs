//! Limits on a network interface's traffic: `10Mb/s`, `1MB/s@20ms`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::number;

/// A limit on a guest's outgoing traffic: so many bytes in each interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Bytes that the guest may send in one interval.
    pub bytes_per_interval: u64,
    /// Length of the interval in microseconds.
    pub interval_us: u32,
}

const DEFAULT_INTERVAL_US: u32 = 50_000;

impl Rate {
    /// Parses `RATE/s` or `RATE/s@INTERVAL`. The error is the reason.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let (rate, interval) = text
            .split_once('@')
            .map_or((text, None), |(rate, interval)| (rate, Some(interval)));
        let bytes_per_second = parse_rate(rate)?;
        let interval_us = interval.map_or(Ok(DEFAULT_INTERVAL_US), parse_interval)?;
        let scaled = bytes_per_second
            .checked_mul(u64::from(interval_us))
            .ok_or("the rate is too large")?;
        Ok(Self {
            bytes_per_interval: scaled / 1_000_000,
            interval_us,
        })
    }
}

/// The units of rates in bytes, each a multiple of the one before.
const UNITS: [(u64, &str); 7] = [
    (1, "B"),
    (125, "Kb"),
    (1_000, "KB"),
    (125_000, "Mb"),
    (1_000_000, "MB"),
    (125_000_000, "Gb"),
    (1_000_000_000, "GB"),
];

/// The text from which `Rate::parse` makes the same rate, in the smallest unit whose number has 32 bits.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let interval_us = u128::from(self.interval_us.max(1));
        let scaled = u128::from(self.bytes_per_interval) * 1_000_000;
        let bytes_per_second = scaled.div_ceil(interval_us).max(1);
        let number = |unit: u64| bytes_per_second.div_ceil(u128::from(unit));
        let mut units = UNITS.iter();
        let fitting = units.find(|(unit, _)| number(*unit) <= u128::from(u32::MAX));
        let (unit, word) = fitting.copied().unwrap_or((1_000_000_000, "GB"));
        write!(f, "{}{word}/s@{interval_us}us", number(unit))
    }
}

/// Digits, then `G`, `M`, `K` or nothing, then `B` for bytes or `b` for bits, then `/s`.
fn parse_rate(text: &str) -> Result<u64, &'static str> {
    let (number, unit) = leading_number(text)?;
    let (factor, unit) = match unit.chars().next() {
        Some('G') => (1_000_000_000, unit.strip_prefix('G')),
        Some('M') => (1_000_000, unit.strip_prefix('M')),
        Some('K') => (1_000, unit.strip_prefix('K')),
        _ => (1, Some(unit)),
    };
    // A number of 32 bits times 10^9 fits into 64 bits.
    match unit {
        Some("B/s") => Ok(number * factor),
        Some("b/s") => Ok(number * factor / 8),
        _ => Err("the rate has no unit, or one that is unknown"),
    }
}

fn parse_interval(text: &str) -> Result<u32, &'static str> {
    let (number, unit) = leading_number(text)?;
    let factor = match unit {
        "s" | "" => 1_000_000,
        "ms" | "m" => 1_000,
        "us" | "u" => 1,
        _ => return Err("the interval has a unit that is unknown"),
    };
    u32::try_from(number * factor).map_err(|_| "the interval is too long")
}

/// The number at the start, not 0 and at most 32 bits, and the text after it.
fn leading_number(text: &str) -> Result<(u64, &str), &'static str> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let number = number::parse(digits).map_err(|_| "there is no number")?;
    let number = u32::try_from(number).map_err(|_| "the number is too large")?;
    if number == 0 {
        Err("the number cannot be 0")
    } else {
        Ok((u64::from(number), unit))
    }
}

#[cfg(test)]
mod tests {
    use super::Rate;

    #[test]
    fn reads_rates() {
        for (text, bytes_per_interval, interval_us) in [
            ("10Mb/s", 62_500, 50_000),
            ("250KB/s", 12_500, 50_000),
            ("1MB/s@20ms", 20_000, 20_000),
            ("1GB/s@1s", 1_000_000_000, 1_000_000),
            ("100B/s@1", 100, 1_000_000),
            ("8b/s@500us", 0, 500),
            ("4294967295GB/s@1us", 4_294_967_295_000, 1),
        ] {
            assert_eq!(
                Rate::parse(text),
                Ok(Rate {
                    bytes_per_interval,
                    interval_us
                }),
                "{text}"
            );
        }
    }

    #[test]
    fn its_text_makes_the_same_rate_again() {
        for text in [
            "10Mb/s",
            "1MB/s@20ms",
            "1GB/s@1s",
            "3B/s@7us",
            "8b/s@500us",
            "4294967295GB/s@1us",
            "4294967295Kb/s@4s",
            "10GB/s@3s",
            "7b/s",
        ] {
            let rate = Rate::parse(text).unwrap();
            assert_eq!(Rate::parse(&rate.to_string()), Ok(rate), "{text}: {rate}");
        }
    }

    #[test]
    fn refuses_what_is_no_rate() {
        for text in [
            "",
            "@",
            "10",
            "10Mb",
            "10mb/s",
            "Mb/s",
            "0B/s",
            "-1B/s",
            "4294967296B/s",
            "1B/s@",
            "1B/s@0ms",
            "1B/s@1h",
            "1B/s@5000s",
            "4294967295GB/s@4000s",
            "10 Mb/s",
        ] {
            assert!(Rate::parse(text).is_err(), "{text}");
        }
    }
}
