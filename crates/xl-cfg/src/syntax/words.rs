//! What to say about a word that the grammar has no place for.

use crate::diag::{Code, Diagnostic};
use crate::source::Span;

/// The diagnostic for a word that starts as no token does, or runs on after one.
pub(super) fn explain(word: &str, span: Span) -> Diagnostic {
    let error = |message: String| Diagnostic::error(Code::Syntax, span, message);
    let shown: String = word.chars().take(40).collect();
    let first = word.chars().next().unwrap_or(' ');
    match word {
        _ if word.contains('\0') => nul(span),
        "True" | "False" => {
            let digit = u8::from(word == "True");
            error(format!("`{word}` is Python; xl.cfg writes {digit}"))
                .help(format!("write `{digit}`"))
        }
        "None" => error("`None` is Python; to leave a setting out, leave the line out".into()),
        _ if first.is_ascii_digit() => explain_number(word, &shown, span),
        _ if matches!(
            first,
            '\u{201c}' | '\u{201d}' | '\u{201e}' | '\u{2018}' | '\u{2019}' | '\u{ab}' | '\u{bb}'
        ) =>
        {
            error(format!("`{first}` is a typographic quotation mark"))
                .help("use plain quotes: \" or '")
        }
        _ if first == '(' || first == ')' || first == '{' || first == '}' => {
            error(format!("`{first}` has no meaning in xl.cfg"))
                .help("lists are written in brackets: [ \"a\", \"b\" ]")
        }
        _ if first == '\r' => {
            Diagnostic::error(Code::Encoding, span, "the file has a carriage return here")
        }
        _ if word.len() > 1 && (first == '.' || first == '/' || first == '~') => {
            error(format!("`{shown}` has to be quoted")).help(format!("write `\"{shown}\"`"))
        }
        "+" | "-" | "*" | "/" | "%" => error(format!(
            "`{word}` has no meaning in xl.cfg: values are not computed"
        ))
        .help("write the whole value"),
        _ if first.is_ascii_lowercase() && word.contains(['(', ')']) => error(format!(
            "`{shown}` looks like Python; xl.cfg has settings only"
        )),
        _ if first.is_ascii_lowercase() => explain_name(word, &shown, span),
        _ if first.is_ascii_uppercase() => {
            let lower = word.to_ascii_lowercase();
            error(format!(
                "unexpected `{shown}`: setting names are lower case, texts are quoted"
            ))
            .help(format!(
                "write `{lower}` if it is a name, `\"{shown}\"` if it is a text"
            ))
        }
        _ => error(format!("unexpected `{shown}`")),
    }
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
            .help(format!("write `{lower}`"));
    }
    if tail.len() > 1 && tail.starts_with('.') && tail.chars().skip(1).all(|c| c.is_ascii_digit()) {
        return error("numbers have no decimal point".into())
            .help(format!("write a whole number, such as {digits}"));
    }
    if is_unit(tail) {
        return unit(tail, span);
    }
    error(format!("`{shown}` is no number")).help(format!("write `\"{shown}\"` if it is a text"))
}

/// Whether a word is a unit of memory.
pub(super) fn is_unit(word: &str) -> bool {
    matches!(
        word.to_ascii_lowercase().as_str(),
        "k" | "m" | "g" | "t" | "kb" | "mb" | "gb" | "tb" | "kib" | "mib" | "gib" | "tib"
    )
}

pub(super) fn unit(word: &str, span: Span) -> Diagnostic {
    let message = format!("numbers have no unit: `{word}` has no meaning here");
    Diagnostic::error(Code::Syntax, span, message)
        .help("sizes of memory are in MiB: write 2048 for 2 GiB")
}

pub(super) fn three_quotes(span: Span) -> Diagnostic {
    let message = "three quotes are Python: a text of xl.cfg has one quote at each end";
    Diagnostic::error(Code::Syntax, span, message)
        .help("write it on one line; `\\n` stands for a line break")
}

fn explain_name(word: &str, shown: &str, span: Span) -> Diagnostic {
    let error = |message: String| Diagnostic::error(Code::Syntax, span, message);
    if word.contains('-')
        && word
            .chars()
            .all(|c| c == '-' || c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit())
    {
        let fixed = word.replace('-', "_");
        return error(format!(
            "`{shown}` is no setting's name: `-` cannot be in one"
        ))
        .help(format!(
            "write `{fixed}` if it is a name, `\"{shown}\"` if it is a text"
        ));
    }
    if word.ends_with(':') {
        let name = word.trim_end_matches(':');
        return error("a setting is written with `=`, not with `:`".into())
            .help(format!("write `{name} = ...`"));
    }
    error(format!("`{shown}` is neither a name nor a quoted text"))
        .help(format!("write `\"{shown}\"` if it is a text"))
}
