//! Splits a text into tokens. It refuses what xl's lexer refuses, reports why, and continues after the error.

use std::ops::Range;

use super::value::is_number_char;
use super::words::Position;
use super::{escape, words};
use crate::diag::{Code, Diagnostic, Diags, Suggestion};
use crate::source::{Source, Span};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Name,
    Number,
    Text {
        text: String,
        verbatim: bool,
    },
    Comma,
    Open,
    Close,
    Assign,
    AddAssign,
    Semicolon,
    Newline,
    /// Something that has been complained about already.
    Bad,
    End,
}

#[derive(Debug, Clone)]
pub(super) struct Lexeme {
    pub(super) token: Token,
    pub(super) span: Span,
}

/// Splits a text into tokens; the last one is [`Token::End`].
pub(super) fn lex(source: &Source, index: u32, diags: &mut Diags) -> Vec<Lexeme> {
    let mut lexer = Lexer {
        source,
        index,
        at: 0,
        diags,
        out: Vec::new(),
        told_of_crlf: false,
    };
    lexer.byte_order_mark();
    while lexer.next_token() {}
    lexer.push(Token::End, lexer.at..lexer.at);
    lexer.out
}

struct Lexer<'a> {
    source: &'a Source,
    index: u32,
    at: usize,
    diags: &'a mut Diags,
    out: Vec<Lexeme>,
    told_of_crlf: bool,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.source.text().get(self.at..).unwrap_or("")
    }

    fn span(&self, range: Range<usize>) -> Span {
        Span::new(self.index, range)
    }

    fn push(&mut self, token: Token, range: Range<usize>) {
        let span = self.span(range.clone());
        self.out.push(Lexeme { token, span });
        self.at = range.end;
    }

    fn push_next(&mut self, token: Token, length: usize) {
        self.push(token, self.at..self.at + length);
    }

    fn byte_order_mark(&mut self) {
        if self.source.starts_with_bom() {
            let range = 0..'\u{feff}'.len_utf8();
            self.at = range.end;
            let span = self.span(range);
            self.diags.push(
                Diagnostic::warning(
                    Code::Encoding,
                    span,
                    "the file starts with a byte order mark, which xl refuses",
                )
                .help("save the file as plain UTF-8, without the mark")
                .suggest(Suggestion {
                    span,
                    replacement: String::new(),
                }),
            );
        }
    }

    /// Takes one token or some blank space. False at the end.
    fn next_token(&mut self) -> bool {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else {
            return false;
        };
        match first {
            ' ' | '\t' => self.at += rest.len() - rest.trim_start_matches([' ', '\t']).len(),
            '#' => self.at += rest.find('\n').unwrap_or(rest.len()),
            '\n' => self.push_next(Token::Newline, 1),
            '\r' if rest.starts_with("\r\n") => self.carriage_return_newline(),
            ',' => self.push_next(Token::Comma, 1),
            '[' => self.push_next(Token::Open, 1),
            ']' => self.push_next(Token::Close, 1),
            '=' => self.push_next(Token::Assign, 1),
            '+' if rest.starts_with("+=") => self.push_next(Token::AddAssign, 2),
            ';' => self.push_next(Token::Semicolon, 1),
            '"' if rest.starts_with(r#"""""#) => self.three_quotes(r#"""""#),
            '\'' if rest.starts_with("'''") => self.three_quotes("'''"),
            '"' | '\'' => self.quoted(first),
            '-' if is_negative_number(rest) => {
                let digits = rest.get(1..).unwrap_or("");
                let length = digits.find(|c: char| !c.is_ascii_digit());
                self.push_next(Token::Number, 1 + length.unwrap_or(digits.len()));
            }
            'a'..='z' => self.word_or(
                Token::Name,
                |c| matches!(c, '.' | '_' | '0'..='9' | 'a'..='z'),
            ),
            '0'..='9' => self.word_or(Token::Number, is_number_char),
            _ => self.bad_word(0),
        }
        true
    }

    fn carriage_return_newline(&mut self) {
        if !self.told_of_crlf {
            self.told_of_crlf = true;
            let span = self.span(self.at..self.at + 1);
            self.diags.push(
                Diagnostic::warning(
                    Code::Encoding,
                    span,
                    "lines end with carriage returns (CRLF), which xl refuses",
                )
                .help("save the file with Unix line ends"),
            );
        }
        self.push_next(Token::Newline, 2);
    }

    /// A name or number, unless the word runs on with characters that it cannot have.
    fn word_or(&mut self, token: Token, belongs: impl Fn(char) -> bool) {
        let rest = self.rest();
        let length = rest.find(|c| !belongs(c)).unwrap_or(rest.len());
        let next = rest.get(length..).and_then(|rest| rest.chars().next());
        if next.is_some_and(|c| !ends_word(c) && c != '+') {
            self.bad_word(length);
        } else {
            self.push_next(token, length);
        }
    }

    /// Complains of the word here; its first `start` bytes are part of it in any case.
    fn bad_word(&mut self, start: usize) {
        let rest = self.rest();
        let first_length = rest.chars().next().map_or(0, char::len_utf8);
        let tail = rest.get(start.max(first_length)..).unwrap_or("");
        let length = rest.len() - tail.len() + tail.find(ends_word).unwrap_or(tail.len());
        let word = rest.get(..length).unwrap_or(rest);
        let range = self.at..self.at + length;
        let span = self.span(range.clone());
        let position = self.position();
        let complaint = match self.source.bad_byte_in(&range) {
            Some(bad) => words::not_utf8(self.span(bad)),
            None => match self.number_before().filter(|_| words::is_unit(word)) {
                Some((digits, place)) => words::unit(digits, word, place.to(span)),
                None => words::explain(word, span, position),
            },
        };
        self.diags.push(complaint);
        if words::is_slashes(word, position) {
            // The rest of the line was probably intended as a comment.
            let end = rest.find('\n').unwrap_or(rest.len());
            return self.push_next(Token::Bad, end);
        }
        self.push(Token::Bad, range);
    }

    /// The kind of token that may follow the token before.
    fn position(&self) -> Position {
        match self.out.last().map(|last| &last.token) {
            None | Some(Token::Newline | Token::Semicolon) => Position::Name,
            Some(Token::Assign | Token::AddAssign | Token::Open | Token::Comma) => Position::Value,
            Some(_) => Position::Behind,
        }
    }

    /// The number before, if the token before is one, and its place.
    fn number_before(&self) -> Option<(&'a str, Span)> {
        let last = self.out.last().filter(|last| last.token == Token::Number)?;
        Some((self.source.text().get(last.span.range())?, last.span))
    }

    /// Complains of Python's text over several lines, and skips it.
    fn three_quotes(&mut self, quotes: &str) {
        let rest = self.rest();
        let inside = rest.get(quotes.len()..).unwrap_or("");
        let length = match inside.find(quotes) {
            Some(at) => at + 2 * quotes.len(),
            None => rest.find('\n').unwrap_or(rest.len()),
        };
        let opening = self.span(self.at..self.at + quotes.len());
        self.diags.push(words::three_quotes(opening));
        self.push_next(Token::Bad, length);
    }

    fn quoted(&mut self, quote: char) {
        let rest = self.rest();
        let Some(length) = quoted_length(rest, quote) else {
            return self.unterminated(quote);
        };
        let whole = self.at..self.at + length;
        let inside = whole.start + 1..whole.end - 1;
        let raw = self.source.text().get(inside.clone()).unwrap_or("");
        let span = self.span(inside.clone());
        if let Some(bad) = self.source.bad_byte_in(&inside) {
            self.diags.push(words::not_utf8(self.span(bad)));
        } else if let Some(at) = raw.find('\0') {
            self.diags.push(words::nul(span.part(at..at + 1)));
        }
        let text = escape::resolve(raw, span, self.diags);
        let verbatim = text == raw;
        self.push(Token::Text { text, verbatim }, whole);
    }

    fn unterminated(&mut self, quote: char) {
        let rest = self.rest();
        let line = rest
            .find('\n')
            .and_then(|at| rest.get(..at))
            .unwrap_or(rest)
            .trim_end();
        let range = self.at..self.at + line.len();
        let span = self.span(range.clone());
        let mut complaint = Diagnostic::error(
            Code::Syntax,
            span,
            "this text has no closing quote on its line",
        );
        complaint = if line.ends_with('\\') {
            complaint.help("a text cannot go on on the next line; `\\n` stands for a line break")
        } else {
            complaint.help(format!(
                "close it with {quote}; a {quote} inside is written \\{quote}"
            ))
        };
        self.diags.push(complaint);
        self.push(Token::Bad, range);
    }
}

/// Length of the quoted string that `text` starts with, quotes included; `None` if it does not end on its line.
fn quoted_length(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '\n' => return None,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// Whether a text starts with `-`, digits, and the end of a word.
fn is_negative_number(text: &str) -> bool {
    let digits = text.get(1..).unwrap_or("");
    let rest = digits.trim_start_matches(|c: char| c.is_ascii_digit());
    rest.len() < digits.len() && rest.chars().next().is_none_or(ends_word)
}

fn ends_word(c: char) -> bool {
    matches!(
        c,
        ' ' | '\t' | '\n' | '\r' | ',' | '[' | ']' | ';' | '=' | '#' | '"' | '\''
    )
}
