//! Numbers as xl reads them: C's `strtol` with base 0, over the whole text.

/// The reasons why a text is not a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NumberError {
    NotANumber,
    /// It starts with `0`, which means octal, but has a digit 8 or 9.
    BadOctal,
    TooLarge,
}

/// Parses decimal, `0x` hexadecimal and `0` octal numbers, with a sign.
pub(crate) fn parse(text: &str) -> Result<i64, NumberError> {
    let text = text.trim_start();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let magnitude = i128::from(parse_magnitude(digits)?);
    i64::try_from(if negative { -magnitude } else { magnitude }).map_err(|_| NumberError::TooLarge)
}

fn parse_magnitude(digits: &str) -> Result<u64, NumberError> {
    let hexadecimal = digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"));
    let (digits, radix) = match (hexadecimal, digits) {
        (Some(digits), _) => (digits, 16),
        (None, "0") => (digits, 10),
        (None, _) if digits.starts_with('0') => (digits, 8),
        _ => (digits, 10),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        let bad_octal = radix == 8 && digits.chars().all(|c| c.is_ascii_digit());
        return Err(if bad_octal {
            NumberError::BadOctal
        } else {
            NumberError::NotANumber
        });
    }
    u64::from_str_radix(digits, radix).map_err(|_| NumberError::TooLarge)
}

/// A size with a unit (`2g`, `512 MiB`) in MiB; `None` for smaller units and for texts that are not a size.
pub(crate) fn in_mib(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let unit = lower.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = lower.get(..lower.len() - unit.len())?;
    let factor: u64 = match unit.trim() {
        "m" | "mb" | "mib" => 1,
        "g" | "gb" | "gib" => 1 << 10,
        "t" | "tb" | "tib" => 1 << 20,
        _ => return None,
    };
    parse_digits(digits, 10)?.checked_mul(factor)
}

/// Parses digits of the given base and nothing else.
pub(crate) fn parse_digits(text: &str, radix: u32) -> Option<u64> {
    let all_digits = !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
    all_digits
        .then(|| u64::from_str_radix(text, radix).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::{NumberError::*, parse};

    #[test]
    fn reads_what_strtol_reads() {
        for (text, expected) in [
            ("0", 0),
            ("00", 0),
            ("12", 12),
            ("+12", 12),
            ("-12", -12),
            (" 12", 12),
            ("0x10", 16),
            ("0XfF", 255),
            ("010", 8),
            ("-010", -8),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for (text, expected) in [
            ("", NotANumber),
            ("-", NotANumber),
            ("0x", NotANumber),
            ("12 ", NotANumber),
            ("1a", NotANumber),
            ("--1", NotANumber),
            ("09", BadOctal),
            ("9223372036854775808", TooLarge),
            ("99999999999999999999", TooLarge),
        ] {
            assert_eq!(parse(text), Err(expected), "{text}");
        }
    }
}
