//! A histogram of durations with fixed buckets: two relaxed atomic additions a sample, no buffer that grows
//! between scrapes.
//!
//! The exporter's own histograms keep every sample until the next upkeep; at a hundred thousand statements a
//! second that is memory and time nobody asked for.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds in nanoseconds, with the text that Prometheus shows in seconds.
pub(crate) const BOUNDS: [(u64, &str); 18] = [
    (100_000, "0.0001"),
    (250_000, "0.00025"),
    (500_000, "0.0005"),
    (1_000_000, "0.001"),
    (2_500_000, "0.0025"),
    (5_000_000, "0.005"),
    (10_000_000, "0.01"),
    (25_000_000, "0.025"),
    (50_000_000, "0.05"),
    (100_000_000, "0.1"),
    (250_000_000, "0.25"),
    (500_000_000, "0.5"),
    (1_000_000_000, "1"),
    (2_500_000_000, "2.5"),
    (5_000_000_000, "5"),
    (10_000_000_000, "10"),
    (30_000_000_000, "30"),
    (60_000_000_000, "60"),
];

/// Counts of durations; aligned so that two of them never share a cache line.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Histogram {
    /// One for each of [`BOUNDS`], and one for what is longer. Not cumulative.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub(crate) fn record(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let at = BOUNDS.partition_point(|(bound, _)| *bound < nanos);
        if let Some(bucket) = self.buckets.get(at) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// How many durations were counted.
    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    /// Their sum in microseconds.
    pub(crate) fn micros(&self) -> u64 {
        self.nanos.load(Ordering::Relaxed) / 1000
    }

    /// The lines of one series, as in Prometheus' text format. `label` is `class="read"`, or empty.
    pub(crate) fn render(&self, out: &mut String, name: &str, label: &str) {
        let comma = if label.is_empty() { "" } else { "," };
        let mut total = 0;
        for (bucket, (_, bound)) in self.buckets.iter().zip(&BOUNDS) {
            total += bucket.load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}_bucket{{{label}{comma}le=\"{bound}\"}} {total}");
        }
        total += self.buckets.last().map_or(0, |rest| rest.load(Ordering::Relaxed));
        let braces = if label.is_empty() { String::new() } else { format!("{{{label}}}") };
        let _ = writeln!(out, "{name}_bucket{{{label}{comma}le=\"+Inf\"}} {total}");
        let _ = writeln!(out, "{name}_sum{braces} {}", self.nanos.load(Ordering::Relaxed) as f64 / 1e9);
        let _ = writeln!(out, "{name}_count{braces} {total}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_inclusive() {
        let histogram = Histogram::default();
        for micros in [1, 100, 101, 90_000_000] {
            histogram.record(Duration::from_micros(micros));
        }
        let mut text = String::new();
        histogram.render(&mut text, "t", "class=\"read\"");
        assert!(text.contains("t_bucket{class=\"read\",le=\"0.0001\"} 2\n"), "{text}");
        assert!(text.contains("t_bucket{class=\"read\",le=\"0.00025\"} 3\n"), "{text}");
        assert!(text.contains("t_bucket{class=\"read\",le=\"60\"} 3\n"), "{text}");
        assert!(text.contains("t_bucket{class=\"read\",le=\"+Inf\"} 4\n"), "{text}");
        assert!(text.contains("t_count{class=\"read\"} 4\n"), "{text}");
        assert_eq!(histogram.count(), 4);
    }

    #[test]
    fn unlabelled_series_have_no_empty_braces() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_millis(2));
        let mut text = String::new();
        histogram.render(&mut text, "t", "");
        assert!(text.contains("t_bucket{le=\"0.0025\"} 1\n"), "{text}");
        assert!(text.contains("t_sum 0.002\n"), "{text}");
    }
}
