//! Durations and sizes as people write them: "5s", "250ms", "16MiB".

use std::time::Duration;

const DURATIONS: [(&str, u64); 4] = [("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)];
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads a duration; the error says how one is written.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    scaled(text, &DURATIONS)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("\"{text}\" is no duration; write a whole number and ms, s, min or h, as in \"250ms\""))
}

/// Reads a size in bytes; the error says how one is written.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    scaled(text, &SIZES)
        .ok_or_else(|| format!("\"{text}\" is no size; write a whole number and B, KiB, MiB or GiB, as in \"16MiB\""))
}

/// Writes a duration with the largest unit that keeps it whole.
pub fn show_duration(duration: Duration) -> String {
    show(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), &DURATIONS, "s")
}

/// Writes a size with the largest unit that keeps it whole.
pub(super) fn show_size(bytes: u64) -> String {
    show(bytes, &SIZES, "B")
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let (_, scale) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*scale)
}

fn show(value: u64, units: &[(&str, u64)], zero: &str) -> String {
    let fits = |scale: &u64| value >= *scale && value.is_multiple_of(*scale);
    match units.iter().find(|(_, scale)| fits(scale)) {
        Some((unit, scale)) => format!("{}{unit}", value / scale),
        None => format!("0{zero}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn durations_are_read_and_shown() {
        for (text, millis) in [("5s", 5_000), ("250ms", 250), ("10min", 600_000), ("1h", 3_600_000), ("0s", 0)] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(duration, Duration::from_millis(millis));
            assert_eq!(show_duration(duration), text);
        }
    }

    #[test]
    fn sizes_are_read_and_shown() {
        for (text, bytes) in [("16MiB", 16 << 20), ("64KiB", 64 << 10), ("1GiB", 1 << 30), ("513B", 513)] {
            assert_eq!(parse_size(text), Ok(bytes));
            assert_eq!(show_size(bytes), text);
        }
    }

    #[test]
    fn other_texts_are_errors() {
        for text in ["", "5", "s", "-1s", "1.5s", "5 parsecs", "99999999999999999h", "5S"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        for text in ["", "16", "16MB", "99999999999999999GiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
