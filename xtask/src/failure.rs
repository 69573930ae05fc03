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
}

impl Failure {
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            output: Vec::new(),
        }
    }
}

impl fmt::Display for Failure {
    /// The name, and the last lines of the output, indented.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)?;
        let skipped = self.output.len().saturating_sub(LINES);
        for line in self.output.iter().skip(skipped) {
            write!(formatter, "\n    {line}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_shown() {
        let failure = Failure {
            name: "a".to_owned(),
            output: (0..100).map(|number| number.to_string()).collect(),
        };
        let shown = failure.to_string();
        assert_eq!(shown.lines().count(), 1 + LINES);
        assert!(shown.starts_with("a\n    86\n") && shown.ends_with("\n    99"));
        assert_eq!(Failure::named("b").to_string(), "b");
    }
}
