//! Escapes in quoted strings.

use crate::diag::{Code, Diagnostic, Diags, Suggestion};
use crate::source::Span;

/// Resolves the escapes of a string's inside. `span` covers `raw`.
///
/// xl knows the one-letter escapes and quotes. Its numeric escapes are broken (hexadecimal ones are refused, octal
/// ones vanish), so they work here as meant, with a warning.
pub(super) fn resolve(raw: &str, span: Span, diags: &mut Diags) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let offset = raw.len() - escape.len();
        let (resolved, length) = one(escape);
        let place = span.part(offset..offset + length);
        match resolved {
            Ok(Resolved::Plain(c)) => out.push(c),
            Ok(Resolved::Numeric(c)) => {
                diags.push(numeric_warning(place, c));
                out.push(c);
            }
            Err(message) => diags.push(
                Diagnostic::error(Code::Syntax, place, message)
                    .help("a backslash itself is written `\\\\`")
                    .suggest(Suggestion {
                        span: place.part(0..1),
                        replacement: "\\\\".to_owned(),
                    }),
            ),
        }
        rest = escape.get(length..).unwrap_or("");
    }
    out.push_str(rest);
    out
}

enum Resolved {
    Plain(char),
    Numeric(char),
}

/// Resolves the escape at the start of `text`. Returns its length too.
fn one(text: &str) -> (Result<Resolved, String>, usize) {
    let Some(letter) = text.chars().nth(1) else {
        return (
            Err("a backslash at the end of a string escapes nothing".into()),
            text.len(),
        );
    };
    let plain = match letter {
        '"' | '\'' | '\\' => letter,
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        'x' => return numeric(text, 2, 2, 16),
        '0'..='7' => return numeric(text, 1, 3, 8),
        other => {
            return (
                Err(format!("unknown escape `\\{other}`")),
                1 + other.len_utf8(),
            );
        }
    };
    (Ok(Resolved::Plain(plain)), 2)
}

fn numeric(
    text: &str,
    prefix: usize,
    max_digits: usize,
    radix: u32,
) -> (Result<Resolved, String>, usize) {
    let digits: String = text
        .chars()
        .skip(prefix)
        .take(max_digits)
        .take_while(|c| c.is_digit(radix))
        .collect();
    let length = prefix + digits.len();
    if radix == 16 && digits.len() < max_digits {
        return (Err("`\\x` wants two hexadecimal digits".into()), length);
    }
    let character = u8::from_str_radix(&digits, radix)
        .ok()
        .filter(|byte| (1..0x80).contains(byte))
        .map(char::from);
    match character {
        Some(c) => (Ok(Resolved::Numeric(c)), length),
        None => (
            Err("a numeric escape can stand for an ASCII character only, and not for NUL".into()),
            length,
        ),
    }
}

fn numeric_warning(place: Span, c: char) -> Diagnostic {
    let is_plain = !c.is_control() && !matches!(c, '"' | '\'' | '\\');
    Diagnostic::warning(
        Code::Deprecated,
        place,
        "xl does not read numeric escapes as they are meant",
    )
    .help("write the character itself")
    .suggest(is_plain.then(|| Suggestion {
        span: place,
        replacement: c.to_string(),
    }))
}
