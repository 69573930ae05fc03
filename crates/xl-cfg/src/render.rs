//! Prints diagnostics for users: the source line, a caret below the place, notes and help.

use std::fmt::Write;

use unicode_width::UnicodeWidthChar;

use crate::diag::{Diagnostic, Severity};
use crate::source::{Sources, Span};

/// Longest stretch of a source line that is shown, in columns.
const MAX_SHOWN_COLUMNS: usize = 120;
/// Number of columns of a long line that are shown before the place.
const CONTEXT_COLUMNS: usize = 40;
const TAB: &str = "    ";

/// The ANSI colours, or nothing.
struct Paint(bool);

impl Paint {
    fn wrap(&self, code: &str, text: &str) -> String {
        if self.0 {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn bold(&self, text: &str) -> String {
        self.wrap("1", text)
    }

    fn frame(&self, text: &str) -> String {
        self.wrap("1;34", text)
    }

    fn severity(&self, severity: Severity, text: &str) -> String {
        let code = match severity {
            Severity::Error => "1;31",
            Severity::Warning => "1;33",
        };
        self.wrap(code, text)
    }
}

pub(crate) fn diagnostic(diagnostic: &Diagnostic, sources: &Sources, color: bool) -> String {
    let paint = Paint(color);
    let mut out = String::new();
    let place = match diagnostic.span {
        Some(span) => sources.locate(span).to_string(),
        None => sources.main_name().to_owned(),
    };
    let severity = paint.severity(diagnostic.severity, &format!("{}:", diagnostic.severity));
    let _ = writeln!(
        out,
        "{} {severity} {}",
        paint.bold(&format!("{}:", clean(&place))),
        clean(&diagnostic.message)
    );
    let indent = match diagnostic.span {
        Some(span) => snippet(&mut out, span, diagnostic.severity, sources, &paint),
        None => 2,
    };
    for note in &diagnostic.notes {
        let text = match note.span {
            Some(span) => format!("{}: {}", sources.locate(span), note.text),
            None => note.text.clone(),
        };
        remark(&mut out, indent, "note", &text, &paint);
    }
    if let Some(help) = &diagnostic.help {
        remark(&mut out, indent, "help", help, &paint);
    }
    out
}

fn remark(out: &mut String, indent: usize, kind: &str, text: &str, paint: &Paint) {
    let _ = writeln!(
        out,
        "{:indent$}{} {} {}",
        "",
        paint.frame("="),
        paint.bold(&format!("{kind}:")),
        clean(text)
    );
}

/// Writes the source line and the caret line; returns the column of the bar.
fn snippet(
    out: &mut String,
    span: Span,
    severity: Severity,
    sources: &Sources,
    paint: &Paint,
) -> usize {
    let [before, inside, after] = sources.line_around(span);
    // A line can have a MiB. Only the shown part is examined.
    let before = shown(last_chars(before, MAX_SHOWN_COLUMNS));
    let inside = shown(first_chars(
        inside.trim_end_matches('\r'),
        MAX_SHOWN_COLUMNS + 1,
    ));
    let after = shown(first_chars(
        after.trim_end_matches('\r'),
        MAX_SHOWN_COLUMNS + 1,
    ));
    let (before, cut) = if width(&before) > MAX_SHOWN_COLUMNS - CONTEXT_COLUMNS {
        (last_columns(&before, CONTEXT_COLUMNS), "...")
    } else {
        (before.as_str(), "")
    };
    let room = MAX_SHOWN_COLUMNS.saturating_sub(width(before));
    let inside_shown = first_columns(&inside, room);
    let after_shown = first_columns(&after, room.saturating_sub(width(inside_shown)));
    let more = if inside_shown.len() < inside.len() || after_shown.len() < after.len() {
        "..."
    } else {
        ""
    };

    let line = sources.locate(span).line.to_string();
    let bar = paint.frame("|");
    let text = format!("{cut}{before}{inside_shown}{after_shown}{more}");
    let _ = writeln!(out, "  {} {bar} {}", paint.frame(&line), text.trim_end());
    let carets = "^".repeat(width(inside_shown).max(1));
    let indent = line.len() + 3;
    let lead = cut.len() + width(before);
    let _ = writeln!(
        out,
        "{:indent$}{bar} {:lead$}{}",
        "",
        "",
        paint.severity(severity, &carets)
    );
    indent
}

/// Text for a terminal: tabs as spaces, control characters replaced, so that a file cannot drive the terminal.
fn shown(text: &str) -> String {
    clean(&text.replace('\t', TAB))
}

pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() || is_deceptive(c) {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

/// Invisible characters that make a line look like another one: direction marks and the byte order mark.
fn is_deceptive(c: char) -> bool {
    matches!(c, '\u{feff}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

fn first_chars(text: &str, nr_chars: usize) -> &str {
    text.char_indices()
        .nth(nr_chars)
        .and_then(|(end, _)| text.get(..end))
        .unwrap_or(text)
}

fn last_chars(text: &str, nr_chars: usize) -> &str {
    text.char_indices()
        .nth_back(nr_chars - 1)
        .and_then(|(start, _)| text.get(start..))
        .unwrap_or(text)
}

fn width(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

fn first_columns(text: &str, columns: usize) -> &str {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += c.width().unwrap_or(0);
        if used > columns {
            return text.get(..at).unwrap_or(text);
        }
    }
    text
}

fn last_columns(text: &str, columns: usize) -> &str {
    let mut used = 0;
    for (at, c) in text.char_indices().rev() {
        used += c.width().unwrap_or(0);
        if used > columns {
            return text.get(at + c.len_utf8()..).unwrap_or(text);
        }
    }
    text
}
