//! Runs commands, and summarises their durations.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Outcome;

/// Runs a command to its end and returns its duration. Its output is shown only after a failure.
pub fn timed(arguments: &[String]) -> Outcome<Duration> {
    let (program, rest) = arguments.split_first().ok_or("an empty command")?;
    let started = Instant::now();
    let output = Command::new(program)
        .args(rest)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        // A tool's monitor keeps what it inherits: a pipe here would never end.
        .stderr(Stdio::null())
        .status()?;
    let took = started.elapsed();
    if !output.success() {
        return Err(format!("{}: {output}", arguments.join(" ")).into());
    }
    Ok(took)
}

/// Minimum, median and maximum of some durations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Minimum in milliseconds.
    pub min_ms: f64,
    /// Median in milliseconds.
    pub median_ms: f64,
    /// Maximum in milliseconds.
    pub max_ms: f64,
}

impl Spread {
    /// Of at least one duration.
    pub fn of(mut times: Vec<Duration>) -> Outcome<Spread> {
        times.sort_unstable();
        let at = |index: usize| times.get(index).map(|time| time.as_secs_f64() * 1000.0);
        let (Some(min_ms), Some(median_ms), Some(max_ms)) = (
            at(0),
            at(times.len() / 2),
            at(times.len().saturating_sub(1)),
        ) else {
            return Err("nothing was measured".into());
        };
        Ok(Spread {
            min_ms,
            median_ms,
            max_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_one_counts() {
        let times = [5, 1, 9].map(Duration::from_millis).to_vec();
        let spread = Spread::of(times).unwrap();
        assert_eq!(
            spread,
            Spread {
                min_ms: 1.0,
                median_ms: 5.0,
                max_ms: 9.0
            }
        );
        assert!(Spread::of(Vec::new()).is_err());
    }
}
