//! A failed check with its output. A run's report repeats the output's end, since the run's log may be too long to be kept whole.

use std::fmt;

/// So many lines of a failure's output are repeated.
const LINES: usize = 14;

/// One check that failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    pub name: String,
    /// Its output; empty if that is not known.
    pub output: Vec<String>,
    /// Output of its first run, if it ran twice.
    pub first_output: Vec<String>,
}

impl Failure {
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// The same failure, of a check that had failed before.
    pub fn after(self, first: Option<Self>) -> Self {
        Self {
            first_output: first.map(|first| first.output).unwrap_or_default(),
            ..self
        }
    }
}

impl fmt::Display for Failure {
    /// The name, and the last lines of the output of each run, indented.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)?;
        if !self.first_output.is_empty() {
            formatter.write_str("\n  first run:")?;
            write_end(formatter, &self.first_output)?;
            formatter.write_str("\n  second run:")?;
        }
        write_end(formatter, &self.output)
    }
}

fn write_end(formatter: &mut fmt::Formatter<'_>, output: &[String]) -> fmt::Result {
    let skipped = output.len().saturating_sub(LINES);
    let mut lines = output.iter().skip(skipped);
    lines.try_for_each(|line| write!(formatter, "\n    {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_shown() {
        let failure = Failure {
            name: "a".to_owned(),
            output: (0..100).map(|number| number.to_string()).collect(),
            ..Failure::default()
        };
        let shown = failure.to_string();
        assert_eq!(shown.lines().count(), 1 + LINES);
        assert!(shown.starts_with("a\n    86\n") && shown.ends_with("\n    99"));
        assert_eq!(Failure::named("b").to_string(), "b");
    }

    #[test]
    fn both_runs_are_shown() {
        let run = |line: &str| Failure {
            output: vec![line.to_owned()],
            ..Failure::named("a")
        };
        let shown = run("now").after(Some(run("before"))).to_string();
        let lines: Vec<&str> = shown.lines().map(str::trim).collect();
        assert_eq!(lines, ["a", "first run:", "before", "second run:", "now"]);
        assert_eq!(run("now").after(None), run("now"));
    }
}
