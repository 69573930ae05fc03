//! What a diagnostic says to do helps: each suggestion is applied, alone and with the others, and the text read again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod corpus;

use corpus::{THEMES, completed};
use xl_cfg::{Code, DomainConfig, Report, Severity, Source, Suggestion, parse};

/// How often suggestions are applied before none may be left.
const ROUNDS_MAX: usize = 4;

/// What a text says, and what is said about it.
fn read(text: &str) -> (Report, Option<DomainConfig>) {
    let source = Source::from_bytes("guest.cfg", text.as_bytes()).unwrap();
    match parse::<&str>(source, &[]) {
        Ok(config) => (config.report().clone(), Some(config.domain)),
        Err(error) => (error.report().unwrap().clone(), None),
    }
}

fn apply(text: &str, edit: &Suggestion) -> String {
    let (start, end) = (edit.span.start as usize, edit.span.end as usize);
    format!("{}{}{}", &text[..start], edit.replacement, &text[end..])
}

/// The text with all edits that do not touch each other.
fn apply_all(text: &str, report: &Report) -> String {
    let mut edits: Vec<&Suggestion> = report
        .iter()
        .filter_map(|one| one.suggestion.as_ref())
        .collect();
    edits.sort_by_key(|edit| (edit.span.end, edit.span.start));
    let mut text = text.to_owned();
    let mut start_of_last = u32::MAX;
    for edit in edits.into_iter().rev() {
        if edit.span.end <= start_of_last {
            start_of_last = edit.span.start;
            text = apply(&text, edit);
        }
    }
    text
}

fn errors(report: &Report) -> Vec<String> {
    report
        .iter()
        .filter(|one| one.severity == Severity::Error)
        .map(|one| one.message.clone())
        .collect()
}

/// What a configuration means, whatever its words.
fn meaning(domain: Option<DomainConfig>) -> Option<DomainConfig> {
    domain.map(|domain| DomainConfig {
        raw: Default::default(),
        ..domain
    })
}

/// One suggestion ends its finding and brings no error. Behind a fault of the form, the value is read only then.
fn check_alone(text: &str, problems: &mut Vec<String>) {
    let (before, domain) = read(text);
    for finding in before.iter() {
        let Some(edit) = &finding.suggestion else {
            continue;
        };
        let edited = apply(text, edit);
        let (after, domain_after) = read(&edited);
        let is_same = |other: &&xl_cfg::Diagnostic| {
            (other.code, &other.message) == (finding.code, &finding.message)
        };
        let (nr_before, nr_after) = (
            before.iter().filter(is_same).count(),
            after.iter().filter(is_same).count(),
        );
        if nr_after >= nr_before {
            problems.push(format!("`{}` stays in\n{edited}{after}", finding.message));
        }
        if !matches!(finding.code, Code::Syntax | Code::WrongType) {
            let old = errors(&before);
            let new = errors(&after)
                .into_iter()
                .find(|error| !old.contains(error));
            problems.extend(new.map(|new| format!("`{new}` is new in\n{edited}")));
        }
        let keeps_meaning = matches!(
            finding.code,
            Code::Deprecated | Code::NoEffect | Code::Duplicate
        );
        if keeps_meaning && domain.is_some() && meaning(domain_after) != meaning(domain.clone()) {
            problems.push(format!("another meaning:\n{text}{edited}"));
        }
    }
}

/// All suggestions together, round by round, leave nothing that another one would mend.
fn check_together(text: &str, problems: &mut Vec<String>) {
    let mut text = text.to_owned();
    for _ in 0..ROUNDS_MAX {
        let (report, _) = read(&text);
        if report.iter().all(|one| one.suggestion.is_none()) {
            return;
        }
        text = apply_all(&text, &report);
    }
    problems.push(format!("suggestions without end:\n{text}{}", read(&text).0));
}

/// Whether a help names one definite text to write, or one place to take out.
fn names_an_edit(help: &str) -> bool {
    let is_open = [" as in ", " such as ", " like ", " or ", " if ", "..."];
    help.starts_with("write `") && !is_open.iter().any(|words| help.contains(words))
        || help.starts_with("take it out")
        || help.starts_with("take the line out")
}

#[test]
fn each_suggestion_helps() {
    let mut problems = Vec::new();
    for text in THEMES.iter().flat_map(|(_, texts)| *texts) {
        let text = completed(text);
        for finding in read(&text).0.iter() {
            let help = finding.help.as_deref().unwrap_or("");
            if finding.suggestion.is_none() && names_an_edit(help) {
                problems.push(format!("no edit for `{help}`:\n{text}"));
            }
        }
        check_alone(&text, &mut problems);
        check_together(&text, &mut problems);
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
