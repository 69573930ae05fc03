//! Prometheus's text format, version 0.0.4.
//!
//! A [`Family`] is a metric with its samples. [`text`] writes families, and [`as_json`] makes JSON of them. Values of labels may come from
//! a guest's configuration: all bytes that the format gives a meaning are escaped.
//!
//! Facts: <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::fmt::Write;

use serde_json::{Value, json};

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A value that can go up and down.
    Gauge,
    /// A sum that only grows, until its object ends.
    Counter,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        }
    }
}

/// The value of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// A whole number, such as bytes.
    Whole(u64),
    /// A time, which is written in seconds.
    Nanoseconds(u64),
}

/// Names and values of a sample's labels.
pub type Labels = Vec<(&'static str, String)>;

/// A metric with its samples.
#[derive(Clone, Debug)]
pub struct Family {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    samples: Vec<(Labels, Number)>,
}

impl Family {
    /// A metric without samples.
    pub fn new(name: &'static str, kind: Kind, help: &'static str) -> Family {
        Family {
            name,
            kind,
            help,
            samples: Vec::new(),
        }
    }

    /// Adds a sample. A second one with the same labels takes the place of the first: Prometheus refuses two.
    pub fn add(&mut self, labels: Labels, number: Number) {
        match self.samples.iter_mut().find(|(known, _)| *known == labels) {
            Some((_, known)) => *known = number,
            None => self.samples.push((labels, number)),
        }
    }
}

/// All families in Prometheus's text format. A family without samples is left out.
pub fn text(families: &[Family]) -> String {
    let mut text = String::new();
    for family in families.iter().filter(|family| !family.samples.is_empty()) {
        let Family {
            name, kind, help, ..
        } = family;
        let _ = writeln!(text, "# HELP {name} {help}");
        let _ = writeln!(text, "# TYPE {name} {}", kind.word());
        for (labels, number) in &family.samples {
            text += name;
            write_labels(&mut text, labels);
            let _ = writeln!(text, " {}", shown(*number));
        }
    }
    text
}

fn write_labels(text: &mut String, labels: &Labels) {
    for (at, (name, value)) in labels.iter().enumerate() {
        let before = if at == 0 { '{' } else { ',' };
        let _ = write!(text, "{before}{name}=\"{}\"", escaped(value));
    }
    if !labels.is_empty() {
        text.push('}');
    }
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn shown(number: Number) -> String {
    match number {
        Number::Whole(whole) => whole.to_string(),
        Number::Nanoseconds(ns) => format!("{}", ns as f64 / 1e9),
    }
}

/// All families as JSON: an array of {name, kind, help, samples: [{labels, value}]}.
pub fn as_json(families: &[Family]) -> Value {
    let value = |number: Number| match number {
        Number::Whole(whole) => json!(whole),
        Number::Nanoseconds(ns) => json!(ns as f64 / 1e9),
    };
    let sample = |(labels, number): &(Labels, Number)| {
        let labels = labels.iter().map(|(name, value)| (*name, value.as_str()));
        json!({"labels": labels.collect::<std::collections::BTreeMap<_, _>>(), "value": value(*number)})
    };
    let family = |family: &Family| {
        json!({
            "name": family.name,
            "kind": family.kind.word(),
            "help": family.help,
            "samples": family.samples.iter().map(sample).collect::<Vec<_>>(),
        })
    };
    families.iter().map(family).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_cannot_break_the_format_and_a_series_is_there_once() {
        let mut family = Family::new("xen_domain_info", Kind::Gauge, "A domain.");
        let hostile = "a\"b\\c\nxen_domain_info 7".to_owned();
        family.add(vec![("name", hostile.clone())], Number::Whole(1));
        family.add(vec![("name", hostile)], Number::Whole(2));
        let mut time = Family::new("xen_domain_cpu_seconds_total", Kind::Counter, "CPU time.");
        time.add(Vec::new(), Number::Nanoseconds(1_500_000_000));
        let none = Family::new("xyl_none", Kind::Gauge, "Nothing.");
        assert_eq!(
            text(&[family, time, none]),
            "# HELP xen_domain_info A domain.\n\
             # TYPE xen_domain_info gauge\n\
             xen_domain_info{name=\"a\\\"b\\\\c\\nxen_domain_info 7\"} 2\n\
             # HELP xen_domain_cpu_seconds_total CPU time.\n\
             # TYPE xen_domain_cpu_seconds_total counter\n\
             xen_domain_cpu_seconds_total 1.5\n"
        );
    }
}
