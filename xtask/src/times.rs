//! The durations of a run's parts, printed at its end, slowest first.

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The parts of one run with their times. Threads share it.
#[derive(Default)]
pub struct Times {
    parts: Mutex<Vec<(String, Duration)>>,
}

impl Times {
    /// Notes that the part `name` took so long.
    pub fn note(&self, name: &str, took: Duration) {
        self.parts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((name.to_owned(), took));
    }

    /// The parts, slowest first.
    fn sorted(&self) -> Vec<(String, Duration)> {
        let mut parts = self
            .parts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        parts.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
        parts
    }

    /// One line with the slowest `count` parts.
    pub fn slowest(&self, count: usize) -> String {
        let parts = self.sorted();
        let named = parts
            .iter()
            .take(count)
            .map(|(name, took)| format!("{name} {} s", took.as_secs()));
        named.collect::<Vec<_>>().join(", ")
    }

    /// A line for each part below a title, slowest first; nothing if there are no parts.
    pub fn table(&self, title: &str) -> String {
        let parts = self.sorted();
        if parts.is_empty() {
            return String::new();
        }
        let sum: Duration = parts.iter().map(|(_, took)| *took).sum();
        let mut table = format!("{title}, slowest first ({:.0} s):\n", sum.as_secs_f32());
        for (name, took) in parts {
            let _ = writeln!(table, "{:8.1} s  {name}", took.as_secs_f32());
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_part_stands_first() {
        let times = Times::default();
        times.note("quick", Duration::from_millis(1500));
        times.note("slow", Duration::from_secs(70));
        assert_eq!(
            times.table("parts"),
            "parts, slowest first (72 s):\n    70.0 s  slow\n     1.5 s  quick\n"
        );
        assert_eq!(Times::default().table("parts"), "");
        assert_eq!(times.slowest(1), "slow 70 s");
    }
}
