//! The help texts for a word that the grammar does not allow.

use super::value::Value;
use crate::diag::{Code, Diagnostic, Remedy, Suggestion};
use crate::number::in_mib;
use crate::source::Span;

/// The expected part of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Position {
    /// The name of a setting.
    Name,
    /// The value of a setting.
    Value,
    /// Behind a name or a value.
    Behind,
}

/// The diagnostic for a word that starts as no token does, or runs on after one.
pub(super) fn explain(word: &str, span: Span, position: Position) -> Diagnostic {
    let error = |message: String| Diagnostic::error(Code::Syntax, span, message);
    let shown: String = word.chars().take(40).collect();
    let first = word.chars().next().unwrap_or(' ');
    match word {
        _ if word.contains('\0') => nul(span),
        _ if is_slashes(word, position) => slashes(span),
        "True" | "False" => {
            let digit = u8::from(word == "True").to_string();
            error(format!("`{word}` is Python; xl.cfg writes {digit}")).remedy(write(span, &digit))
        }
        "None" => error("`None` is Python; to leave a setting out, leave the line out".into()),
        _ if first.is_ascii_digit() => explain_number(word, &shown, span),
        _ if is_typographic(first) => typographic_quotes(word, first, span),
        _ if first == '(' || first == ')' || first == '{' || first == '}' => {
            error(format!("`{first}` has no meaning in xl.cfg"))
                .help("lists are written in brackets: [ \"a\", \"b\" ]")
        }
        _ if first == '\r' => {
            Diagnostic::error(Code::Encoding, span, "the file has a carriage return here")
        }
        "+" | "-" | "*" | "/" | "%" => error(format!(
            "`{word}` has no meaning in xl.cfg: values are not computed"
        ))
        .help("write the whole value"),
        _ if first.is_ascii_lowercase() && word.contains(['(', ')']) => error(format!(
            "`{shown}` looks like Python; xl.cfg has settings only"
        )),
        _ if position == Position::Value => {
            error(format!("`{shown}` has to be quoted")).remedy(quoted(word, span))
        }
        _ if first.is_ascii_lowercase() => explain_name(word, &shown, span),
        _ if first.is_ascii_uppercase() => {
            let lower = word.to_ascii_lowercase();
            let message = format!("`{shown}` is no setting's name: names are lower case");
            let remedy = if position == Position::Name && is_name(&lower) {
                write(span, &lower)
            } else {
                "a setting is written `name = value`".into()
            };
            error(message).remedy(remedy)
        }
        _ => error(format!("unexpected `{shown}`")),
    }
}

/// "Write this" in place of the word.
fn write(span: Span, replacement: &str) -> Remedy {
    let edit = Suggestion {
        span,
        replacement: replacement.to_owned(),
    };
    Remedy::new(format!("write `{replacement}`"), edit)
}

/// "Write the word in quotes".
pub(super) fn quoted(word: &str, span: Span) -> Remedy {
    write(span, &Value::Atom(word.to_owned()).to_quoted())
}

fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_lowercase())
        && word
            .chars()
            .all(|c| matches!(c, '.' | '_' | '0'..='9' | 'a'..='z'))
}

/// Whether a word starts a comment of other languages. As a value it is a path.
pub(super) fn is_slashes(word: &str, position: Position) -> bool {
    word.starts_with("//") && position != Position::Value
}

fn slashes(span: Span) -> Diagnostic {
    let edit = Suggestion {
        span: span.part(0..2),
        replacement: "#".to_owned(),
    };
    Diagnostic::error(Code::Syntax, span, "`//` does not start a comment")
        .help("write `#` before a comment")
        .suggest(edit)
}

fn is_typographic(c: char) -> bool {
    matches!(
        c,
        '\u{201c}' | '\u{201d}' | '\u{201e}' | '\u{2018}' | '\u{2019}' | '\u{ab}' | '\u{bb}'
    )
}

fn typographic_quotes(word: &str, first: char, span: Span) -> Diagnostic {
    let inside = word
        .strip_prefix(is_typographic)
        .and_then(|rest| rest.strip_suffix(is_typographic));
    let message = format!("`{first}` is a typographic quotation mark");
    let edit = inside.map(|inside| Suggestion {
        span,
        replacement: Value::Atom(inside.to_owned()).to_quoted(),
    });
    Diagnostic::error(Code::Syntax, span, message)
        .help("use plain quotes: \" or '")
        .suggest(edit)
}

pub(super) fn nul(span: Span) -> Diagnostic {
    Diagnostic::error(Code::Encoding, span, "the file has a NUL byte here")
        .help("is this a text file? one saved as UTF-16 has to be saved as UTF-8")
}

pub(super) fn not_utf8(span: Span) -> Diagnostic {
    Diagnostic::error(Code::Encoding, span, "this is not UTF-8")
        .help("save the file as UTF-8, or use plain ASCII")
}

fn explain_number(word: &str, shown: &str, span: Span) -> Diagnostic {
    let error = |message: String| Diagnostic::error(Code::Syntax, span, message);
    let digits = word
        .find(|c: char| !c.is_ascii_digit())
        .map_or(word, |at| word.get(..at).unwrap_or(word));
    let tail = word.get(digits.len()..).unwrap_or("");
    let lower = word.to_ascii_lowercase();
    let hex = lower.strip_prefix("0x").unwrap_or("");
    if !hex.is_empty() && hex.chars().all(|c| c.is_ascii_hexdigit()) {
        return error("hexadecimal digits have to be lower case".into())
            .remedy(write(span, &lower));
    }
    if tail.len() > 1 && tail.starts_with('.') && tail.chars().skip(1).all(|c| c.is_ascii_digit()) {
        return error("numbers have no decimal point".into())
            .help(format!("write a whole number, such as {digits}"));
    }
    if is_unit(tail) {
        return unit(digits, tail, span);
    }
    let is_text = word.contains(['-', ':', '/']) || word.matches('.').count() > 1;
    if is_text {
        return error(format!("`{shown}` has to be quoted")).remedy(quoted(word, span));
    }
    error(format!("`{shown}` is no number"))
        .help(format!("write it as \"{shown}\" if it is a text"))
}

/// Whether a word is a unit of memory.
pub(super) fn is_unit(word: &str) -> bool {
    matches!(
        word.to_ascii_lowercase().as_str(),
        "k" | "m" | "g" | "t" | "kb" | "mb" | "gb" | "tb" | "kib" | "mib" | "gib" | "tib"
    )
}

/// `digits` and a unit behind them; `span` is the place of both.
pub(super) fn unit(digits: &str, unit: &str, span: Span) -> Diagnostic {
    let message = format!("numbers have no unit: `{unit}` has no meaning here");
    let error = Diagnostic::error(Code::Syntax, span, message);
    match in_mib(&format!("{digits}{unit}")) {
        Some(mib) => {
            let Remedy { help, suggestion } = write(span, &mib.to_string());
            error
                .help(format!("{help}: sizes of memory are in MiB"))
                .suggest(suggestion)
        }
        None => error.help("sizes of memory are in MiB, without a unit"),
    }
}

pub(super) fn three_quotes(span: Span) -> Diagnostic {
    let message = "three quotes are Python: a text of xl.cfg has one quote at each end";
    Diagnostic::error(Code::Syntax, span, message)
        .help("write it on one line; `\\n` stands for a line break")
}

/// Explains a word that looks like a name, at a wrong place or with invalid characters.
fn explain_name(word: &str, shown: &str, span: Span) -> Diagnostic {
    let error = |message: String| Diagnostic::error(Code::Syntax, span, message);
    let fixed = word.replace('-', "_");
    if fixed != word && is_name(&fixed) {
        let message = format!("`{shown}` is no setting's name: `-` cannot be in one");
        return error(message).remedy(write(span, &fixed));
    }
    if let Some(name) = word.strip_suffix(':').filter(|name| is_name(name)) {
        return error("a setting is written with `=`, not with `:`".into())
            .remedy(write(span, &format!("{name} =")));
    }
    error(format!("`{shown}` is neither a name nor a quoted text"))
}
