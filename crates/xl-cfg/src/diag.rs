//! Errors and warnings about a configuration: the fault, its place, and the text to write instead.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::render;
use crate::source::{Location, Sources, Span};

/// Severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// The configuration is accepted, but a part of it may have another meaning than intended.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// The kind of a finding: stable, for programs that read the JSON form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The text is not a list of `name = value` settings.
    Syntax,
    /// The text has bytes that it should not have: no UTF-8, NUL, carriage returns.
    Encoding,
    /// A list instead of a single value, or a single value instead of a list.
    WrongType,
    /// A value that is not one of those the setting takes.
    BadValue,
    /// A number outside the range of the setting.
    OutOfRange,
    /// A setting, parameter or flag that is not known.
    UnknownName,
    /// A setting or notation that has a better successor.
    Deprecated,
    /// Something that has no effect here.
    NoEffect,
    /// One setting given twice.
    Duplicate,
    /// Settings that contradict each other.
    Conflict,
    /// A required part is missing.
    Missing,
    /// A setting that is understood, but not supported by the program that reads it.
    Unsupported,
}

/// A remark that belongs to a diagnostic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The place in the source, if the note has one.
    pub span: Option<Span>,
    /// Text of the note.
    pub text: String,
}

/// An edit that applies a diagnostic's help: `replacement` replaces the text of `span`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suggestion {
    /// The place that is replaced.
    pub span: Span,
    /// The new text; empty to remove the place.
    pub replacement: String,
}

/// The remedy for an error: a sentence, and an edit if there is exactly one.
#[derive(Debug, Clone)]
pub(crate) struct Remedy {
    pub(crate) help: String,
    pub(crate) suggestion: Option<Suggestion>,
}

impl Remedy {
    /// A remedy with a help text and its edit.
    pub(crate) fn new(help: impl Into<String>, suggestion: impl Into<Option<Suggestion>>) -> Self {
        Self {
            help: help.into(),
            suggestion: suggestion.into(),
        }
    }
}

impl From<&str> for Remedy {
    fn from(help: &str) -> Self {
        Self::new(help, None)
    }
}

impl From<String> for Remedy {
    fn from(help: String) -> Self {
        Self::new(help, None)
    }
}

/// One error or warning about a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// The kind of finding.
    pub code: Code,
    /// Place of the finding; `None` for the configuration as a whole.
    pub span: Option<Span>,
    /// The error or warning as text.
    pub message: String,
    /// Remarks, some with places of their own.
    pub notes: Vec<Note>,
    /// The remedy as text.
    pub help: Option<String>,
    /// The remedy as an edit, if there is exactly one.
    pub suggestion: Option<Suggestion>,
}

impl Diagnostic {
    /// An error at a place.
    pub fn error(code: Code, span: impl Into<Option<Span>>, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, span.into(), message.into())
    }

    /// A warning at a place.
    pub fn warning(code: Code, span: impl Into<Option<Span>>, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, span.into(), message.into())
    }

    fn new(severity: Severity, code: Code, span: Option<Span>, message: String) -> Self {
        Self {
            severity,
            code,
            span,
            message: shorten(message),
            notes: Vec::new(),
            help: None,
            suggestion: None,
        }
    }

    /// Adds a help text.
    #[must_use]
    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.help = Some(shorten(text.into()));
        self
    }

    /// Adds the edit that applies the help.
    #[must_use]
    pub fn suggest(mut self, suggestion: impl Into<Option<Suggestion>>) -> Self {
        self.suggestion = suggestion.into();
        self
    }

    /// Adds a remedy.
    #[must_use]
    pub(crate) fn remedy(self, remedy: impl Into<Remedy>) -> Self {
        let Remedy { help, suggestion } = remedy.into();
        self.help(help).suggest(suggestion)
    }

    /// Adds a remark.
    #[must_use]
    pub fn note(mut self, text: impl Into<String>) -> Self {
        self.notes.push(Note {
            span: None,
            text: text.into(),
        });
        self
    }

    /// Adds a remark about another place.
    #[must_use]
    pub fn note_at(mut self, span: Span, text: impl Into<String>) -> Self {
        self.notes.push(Note {
            span: Some(span),
            text: text.into(),
        });
        self
    }
}

/// Cuts a text that quotes too much of the configuration.
fn shorten(mut text: String) -> String {
    const MAX_CHARS: usize = 400;
    if let Some((at, _)) = text.char_indices().nth(MAX_CHARS) {
        text.truncate(at);
        text.push_str("...");
    }
    text
}

/// Collects diagnostics while a configuration is read. Keeps a bounded number.
#[derive(Debug, Default)]
pub(crate) struct Diags {
    list: Vec<Diagnostic>,
    nr_dropped: usize,
    has_errors: bool,
}

impl Diags {
    /// Maximum number of diagnostics. A text of one mebibyte can have half a million errors; more than this many help
    /// no user.
    const MAX: usize = 100;

    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        self.has_errors |= diagnostic.severity == Severity::Error;
        if self.is_full() {
            self.nr_dropped += 1;
        } else {
            self.list.push(diagnostic);
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.list.len() >= Self::MAX
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.has_errors
    }

    /// Whether there is an error about something within this place.
    pub(crate) fn has_error_in(&self, place: Span) -> bool {
        self.list.iter().any(|diagnostic| {
            diagnostic.severity == Severity::Error
                && diagnostic.span.is_some_and(|span| place.contains(span))
        })
    }

    /// The findings since there were `before`.
    pub(crate) fn since(&mut self, before: usize) -> impl Iterator<Item = &mut Diagnostic> {
        self.list.iter_mut().skip(before)
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn into_report(mut self, sources: Sources) -> Report {
        self.list.sort_by_key(|diagnostic| diagnostic.span);
        Report {
            statements: Vec::new(),
            sources,
            diagnostics: self.list,
            nr_dropped: self.nr_dropped,
            has_errors: self.has_errors,
        }
    }
}

/// All diagnostics of one configuration, with the texts they speak of. Serialises as a list of located findings.
#[derive(Debug, Clone, Default)]
pub struct Report {
    sources: Sources,
    diagnostics: Vec<Diagnostic>,
    nr_dropped: usize,
    has_errors: bool,
    /// The places of the settings, with their names.
    statements: Vec<(Span, String)>,
}

impl Report {
    /// The same diagnostics, with the settings that they may be about.
    pub(crate) fn with_statements(mut self, statements: Vec<(Span, String)>) -> Self {
        self.statements = statements;
        self
    }

    /// The setting that contains a place. If its statement is invalid, the name before the `=` of the line.
    fn key_at(&self, span: Span) -> Option<&str> {
        let within = |(statement, _): &&(Span, String)| statement.contains(span);
        match self.statements.iter().find(within) {
            Some((_, key)) => Some(key),
            None => key_of_line(self.sources.line_around(span)),
        }
    }

    /// Whether the configuration is refused.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.has_errors
    }

    /// Whether there are no findings.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.diagnostics.is_empty()
    }

    /// The findings in the order of their places.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.diagnostics.iter()
    }

    /// Number of findings that were omitted because there were too many.
    #[must_use]
    pub fn nr_dropped(&self) -> usize {
        self.nr_dropped
    }

    /// The texts that the findings speak of.
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Adds a finding of the caller's own, at its place among the others.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.has_errors |= diagnostic.severity == Severity::Error;
        let at = self
            .diagnostics
            .partition_point(|other| other.span <= diagnostic.span);
        self.diagnostics.insert(at, diagnostic);
    }

    /// A short summary: `web.cfg cannot be used: 3 errors, 2 warnings`.
    #[must_use]
    pub fn summary(&self) -> String {
        let counted = |severity: Severity| {
            let found = self.diagnostics.iter();
            let count = found.filter(|one| one.severity == severity).count();
            match count {
                1 => format!("1 {severity}"),
                _ => format!("{count} {severity}s"),
            }
        };
        let (errors, warnings) = (counted(Severity::Error), counted(Severity::Warning));
        let name = render::clean(self.sources.main_name());
        if warnings.starts_with("0 ") {
            format!("{name} cannot be used: {errors}")
        } else {
            format!("{name} cannot be used: {errors}, {warnings}")
        }
    }

    /// The findings as text with source lines and carets, errors first, `color` with ANSI colours. Ends with a newline
    /// unless empty.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let mut out = String::new();
        let of = |severity| {
            let all = self.diagnostics.iter();
            all.filter(move |one| one.severity == severity)
        };
        for diagnostic in of(Severity::Error).chain(of(Severity::Warning)) {
            out.push_str(&render::diagnostic(diagnostic, &self.sources, color));
        }
        if self.nr_dropped > 0 {
            out.push_str(&format!(
                "{}: and {} more like these\n",
                self.sources.main_name(),
                self.nr_dropped
            ));
        }
        out
    }

    /// The diagnostics with line and column, for the JSON form.
    pub fn located(&self) -> impl Iterator<Item = Located<'_>> {
        self.diagnostics
            .iter()
            .map(|diagnostic| Located::new(diagnostic, self))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.located())
    }
}

/// The name with which a line starts, if a `=` or `+=` follows it.
fn key_of_line([before, within, _]: [&str; 3]) -> Option<&str> {
    let line = if before.trim().is_empty() {
        within
    } else {
        before
    };
    let end = line.find(|c: char| !matches!(c, ' ' | '\t' | '.' | '_' | '0'..='9' | 'a'..='z'))?;
    let (name, rest) = line.split_at_checked(end)?;
    let name = name.trim();
    let is_setting = rest.starts_with('=') || rest.starts_with("+=");
    (is_setting && !name.is_empty() && !name.contains(' ')).then_some(name)
}

/// A diagnostic with its place spelt out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Located<'a> {
    /// Error or warning.
    pub severity: Severity,
    /// The kind of finding.
    pub code: Code,
    /// The file or text.
    pub file: String,
    /// Line from 1; `None` without a place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// Column, from 1, in characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// Length of the place in characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<usize>,
    /// The setting that has the place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<&'a str>,
    /// Text of the finding.
    pub message: &'a str,
    /// Additional notes with their places.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<LocatedNote<'a>>,
    /// The remedy as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<&'a str>,
    /// The help as an edit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<LocatedSuggestion<'a>>,
}

/// A suggestion with its place spelt out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LocatedSuggestion<'a> {
    /// The file or text.
    pub file: String,
    /// Line of its first character, from 1.
    pub line: usize,
    /// Column of its first character, from 1, in characters.
    pub column: usize,
    /// Number of replaced characters, including line ends.
    pub length: usize,
    /// The new text.
    pub replacement: &'a str,
}

/// A note with its place spelt out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LocatedNote<'a> {
    /// Place as `file:line:column`; `None` without a place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Text of the note.
    pub text: &'a str,
}

impl<'a> Located<'a> {
    fn new(diagnostic: &'a Diagnostic, report: &'a Report) -> Self {
        let sources = &report.sources;
        let place: Option<Location> = diagnostic.span.map(|span| sources.locate(span));
        Self {
            severity: diagnostic.severity,
            code: diagnostic.code,
            file: place.as_ref().map_or_else(
                || sources.main_name().to_owned(),
                |place| place.file.clone(),
            ),
            line: place.as_ref().map(|place| place.line),
            column: place.as_ref().map(|place| place.column),
            length: diagnostic
                .span
                .map(|span| sources.text(span).chars().count()),
            key: diagnostic.span.and_then(|span| report.key_at(span)),
            message: &diagnostic.message,
            notes: diagnostic
                .notes
                .iter()
                .map(|note| LocatedNote::new(note, sources))
                .collect(),
            help: diagnostic.help.as_deref(),
            suggestion: diagnostic
                .suggestion
                .as_ref()
                .map(|suggestion| LocatedSuggestion::new(suggestion, sources)),
        }
    }
}

impl<'a> LocatedSuggestion<'a> {
    fn new(suggestion: &'a Suggestion, sources: &Sources) -> Self {
        let Location { file, line, column } = sources.locate(suggestion.span);
        Self {
            file,
            line,
            column,
            length: sources.text(suggestion.span).chars().count(),
            replacement: &suggestion.replacement,
        }
    }
}

impl<'a> LocatedNote<'a> {
    fn new(note: &'a Note, sources: &Sources) -> Self {
        Self {
            at: note.span.map(|span| sources.locate(span).to_string()),
            text: &note.text,
        }
    }
}
