//! Turns tokens into statements. After an error it continues with the next statement.

use super::lexer::{Lexeme, Token, lex};
use super::value::{Node, NodeKind};
use super::words;
use crate::diag::{Code, Diagnostic, Diags, Remedy, Suggestion};
use crate::source::{Source, Span};

/// Maximum nesting of lists. vnuma and vsnd need two levels.
const MAX_DEPTH: usize = 16;

/// The operator of a statement: `=` or `+=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Assign,
    Append,
}

/// One `name = value`.
#[derive(Debug)]
pub(crate) struct Statement {
    pub(crate) key: String,
    pub(crate) key_span: Span,
    pub(crate) operation: Operation,
    pub(crate) value: Node,
}

/// Parses a text. Returns the valid statements. Errors go to `diags`.
pub(crate) fn parse(source: &Source, index: u32, diags: &mut Diags) -> Vec<Statement> {
    let nr_before = diags.len();
    let tokens = lex(source, index, diags);
    let mut parser = Parser {
        text: source.text(),
        tokens,
        at: 0,
        diags,
    };
    let mut statements = Vec::new();
    while !parser.is_at(&Token::End) {
        if parser.take_end_of_statement() {
            continue;
        }
        let before = parser.at;
        match parser.statement() {
            Ok(statement) => statements.push(statement),
            Err(Failed { in_list }) => parser.recover(in_list, before),
        }
    }
    if source.is_command_line() {
        quote_for_the_shell(source, diags, nr_before);
    }
    statements
}

/// On the command line the shell has taken quotes away: the whole setting is shown with those that keep them.
fn quote_for_the_shell(source: &Source, diags: &mut Diags, nr_before: usize) {
    for diagnostic in diags.since(nr_before) {
        let Some((key, value)) = diagnostic
            .span
            .and_then(|span| line_at(source.text(), span.range().start).split_once('='))
        else {
            continue;
        };
        let is_plain = !value.contains(['\'', '"', ';', '[', '=', '\\']);
        let wants_quotes = diagnostic
            .help
            .as_ref()
            .is_some_and(|help| help.contains('"'));
        if value.trim().is_empty() {
            diagnostic.help = Some(format!(
                "write '{}=\"...\"', with both kinds of quotes around a text: the shell takes the outer ones away",
                key.trim()
            ));
        } else if is_plain && wants_quotes {
            let (key, value) = (key.trim(), value.trim());
            diagnostic.help = Some(format!(
                "write '{key}=\"{value}\"' with both kinds of quotes: the shell takes the outer ones away"
            ));
        } else if wants_quotes && let Some(help) = &mut diagnostic.help {
            help.push_str(", and single quotes around it all: the shell takes those away");
        }
    }
}

/// The line of a text that has the byte at `offset`.
fn line_at(text: &str, offset: usize) -> &str {
    let (before, after) = text.split_at_checked(offset).unwrap_or((text, ""));
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let end = offset + after.find('\n').unwrap_or(after.len());
    text.get(start..end).unwrap_or("")
}

/// A statement that could not be parsed; the reason has been given.
struct Failed {
    in_list: bool,
}

impl Failed {
    const HERE: Self = Self { in_list: false };
    const IN_LIST: Self = Self { in_list: true };
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Lexeme>,
    at: usize,
    diags: &'a mut Diags,
}

const END: Token = Token::End;

impl Parser<'_> {
    fn token_at(&self, at: usize) -> &Token {
        self.tokens.get(at).map_or(&END, |lexeme| &lexeme.token)
    }

    fn token(&self) -> &Token {
        self.token_at(self.at)
    }

    fn is_at(&self, token: &Token) -> bool {
        self.token() == token
    }

    /// The place of the token here.
    fn span(&self) -> Span {
        self.tokens
            .get(self.at)
            .or(self.tokens.last())
            .map_or(Span::new(0, 0..0), |lexeme| lexeme.span)
    }

    fn source_text(&self, span: Span) -> &str {
        self.text.get(span.range()).unwrap_or("")
    }

    fn take(&mut self, token: &Token) -> bool {
        let found = self.is_at(token) && *token != END;
        self.at += usize::from(found);
        found
    }

    fn take_end_of_statement(&mut self) -> bool {
        self.take(&Token::Newline) || self.take(&Token::Semicolon)
    }

    fn is_end_of_statement(&self) -> bool {
        matches!(self.token(), Token::Newline | Token::Semicolon | Token::End)
    }

    /// Whether a statement seems to start at `at`.
    fn starts_statement(&self, at: usize) -> bool {
        *self.token_at(at) == Token::Name
            && matches!(self.token_at(at + 1), Token::Assign | Token::AddAssign)
    }

    /// Reports an error at this place, unless the lexer did.
    fn complain(&mut self, message: impl Into<String>, remedy: impl Into<Remedy>) {
        if !self.is_at(&Token::Bad) {
            let complaint = Diagnostic::error(Code::Syntax, self.span(), message).remedy(remedy);
            self.diags.push(complaint);
        }
    }

    /// Description of the present token for a message.
    fn found(&self) -> String {
        match self.token() {
            Token::Newline => "the end of the line".into(),
            Token::End => "the end of the file".into(),
            _ => {
                let text: String = self.source_text(self.span()).chars().take(40).collect();
                format!("`{text}`")
            }
        }
    }

    fn statement(&mut self) -> Result<Statement, Failed> {
        let key_span = self.span();
        if !self.take(&Token::Name) {
            self.complain(
                format!("expected a setting's name, found {}", self.found()),
                "a setting is written `name = value`",
            );
            return Err(Failed::HERE);
        }
        let key = self.source_text(key_span).to_owned();
        let operation = self.operation(&key)?;
        let value = self.value(0)?;
        if !self.is_end_of_statement() {
            let (span, word) = (self.span(), self.source_text(self.span()));
            if *self.token() == Token::Name
                && words::is_unit(word)
                && let NodeKind::Number(number) = &value.kind
            {
                let complaint = words::unit(number, word, value.span.to(span));
                self.diags.push(complaint);
                return Err(Failed::HERE);
            }
            self.complain(
                format!("unexpected {} after the value of `{key}`", self.found()),
                "one setting a line, or a `;` between settings",
            );
            return Err(Failed::HERE);
        }
        Ok(Statement {
            key,
            key_span,
            operation,
            value,
        })
    }

    fn operation(&mut self, key: &str) -> Result<Operation, Failed> {
        if self.take(&Token::Assign) {
            Ok(Operation::Assign)
        } else if self.take(&Token::AddAssign) {
            Ok(Operation::Append)
        } else {
            let python = matches!(
                key,
                "import" | "from" | "def" | "if" | "else" | "elif" | "for" | "print" | "exec"
            );
            let help = if python {
                "this looks like Python; xl.cfg has settings only".to_owned()
            } else {
                format!("a setting is written `{key} = value`")
            };
            let is_value = matches!(
                self.token(),
                Token::Text { .. } | Token::Number | Token::Open
            );
            let edit = is_value.then(|| Suggestion {
                span: self.span().part(0..0),
                replacement: "= ".to_owned(),
            });
            self.complain(
                format!("expected `=` after `{key}`, found {}", self.found()),
                Remedy::new(help, edit),
            );
            Err(Failed::HERE)
        }
    }

    fn value(&mut self, depth: usize) -> Result<Node, Failed> {
        let span = self.span();
        match self.token() {
            Token::Text { text, verbatim } => {
                let kind = NodeKind::Text {
                    text: text.clone(),
                    verbatim: *verbatim,
                };
                self.at += 1;
                Ok(Node { span, kind })
            }
            Token::Number => {
                self.at += 1;
                Ok(Node {
                    span,
                    kind: NodeKind::Number(self.source_text(span).to_owned()),
                })
            }
            Token::Open => self.list(depth),
            _ => {
                self.no_value();
                Err(if depth > 0 {
                    Failed::IN_LIST
                } else {
                    Failed::HERE
                })
            }
        }
    }

    fn no_value(&mut self) {
        let found = self.found();
        match self.token() {
            Token::Name => match found.as_str() {
                "`true`" | "`yes`" | "`on`" => self.complain(
                    format!("{found} is not a value"),
                    self.replace_here("write `1`", "1"),
                ),
                "`false`" | "`no`" | "`off`" => self.complain(
                    format!("{found} is not a value"),
                    self.replace_here("write `0`", "0"),
                ),
                _ => {
                    let word = self.source_text(self.span());
                    let remedy = words::quoted(word, self.span());
                    self.complain(format!("expected a value, found the name {found}"), remedy)
                }
            },
            Token::Assign => self.complain(
                "expected a value, found `=`",
                self.replace_here("a setting has one `=`", ""),
            ),
            _ => self.complain(
                format!("expected a value, found {found}"),
                "a value is \"a text\", a number, or a list in brackets",
            ),
        }
    }

    /// The remedy that writes `replacement` in place of the token here.
    fn replace_here(&self, help: &str, replacement: &str) -> Remedy {
        let edit = Suggestion {
            span: self.span(),
            replacement: replacement.to_owned(),
        };
        Remedy::new(help, edit)
    }

    fn list(&mut self, depth: usize) -> Result<Node, Failed> {
        let open = self.span();
        if depth >= MAX_DEPTH {
            self.complain(
                format!("lists nest more than {MAX_DEPTH} deep here"),
                "no setting needs that",
            );
            return Err(Failed::IN_LIST);
        }
        self.at += 1;
        let mut items = Vec::new();
        self.skip_newlines();
        while !self.is_at(&Token::Close) {
            self.check_list_goes_on(open)?;
            if self.is_at(&Token::Comma) {
                let remedy = self.replace_here("take the extra `,` out", "");
                self.complain("expected a value before this `,`", remedy);
                self.at += 1;
                self.skip_newlines();
                continue;
            }
            items.push(self.value(depth + 1).map_err(|_| Failed::IN_LIST)?);
            self.skip_newlines();
            self.separator(open)?;
        }
        let span = open.to(self.span());
        self.at += 1;
        Ok(Node {
            span,
            kind: NodeKind::List(items),
        })
    }

    /// After a list's item: a comma, or the end of the list.
    fn separator(&mut self, open: Span) -> Result<(), Failed> {
        match self.token() {
            Token::Close => {}
            Token::Comma => {
                self.at += 1;
                self.skip_newlines();
            }
            Token::Text { .. } | Token::Number | Token::Open => {
                let edit = Suggestion {
                    span: self.span().part(0..0),
                    replacement: ", ".to_owned(),
                };
                self.complain(
                    format!("expected `,` before {}", self.found()),
                    Remedy::new("list items are separated by `,`", edit),
                );
            }
            _ => {
                self.check_list_goes_on(open)?;
                self.complain(
                    format!("expected `,` or `]`, found {}", self.found()),
                    "list items are separated by `,`",
                );
                return Err(Failed::IN_LIST);
            }
        }
        Ok(())
    }

    /// Complains if the list cannot go on here: the file ends, or a new setting starts.
    fn check_list_goes_on(&mut self, open: Span) -> Result<(), Failed> {
        let ends = self.is_at(&Token::End)
            || self.is_at(&Token::Semicolon)
            || self.starts_statement(self.at);
        if !ends {
            return Ok(());
        }
        let complaint = Diagnostic::error(Code::Syntax, open, "this `[` is never closed")
            .note_at(
                self.span(),
                format!("the list would have to end before {}", self.found()),
            )
            .help("put a `]` behind the last item");
        self.diags.push(complaint);
        Err(Failed::IN_LIST)
    }

    fn skip_newlines(&mut self) {
        while self.take(&Token::Newline) {}
    }

    /// Skips to the probable start of the next statement: the next line, or, in a list, after the list.
    fn recover(&mut self, in_list: bool, before: usize) {
        self.at = self.at.max(before);
        let mut depth = usize::from(in_list);
        loop {
            match self.token() {
                Token::End => return,
                Token::Newline if depth == 0 || self.starts_statement(self.at + 1) => return,
                Token::Semicolon if depth == 0 => return,
                // The failed statement's own name does not start the next one.
                Token::Name if self.at > before && in_list && self.starts_statement(self.at) => {
                    return;
                }
                Token::Open => depth += 1,
                Token::Close => depth = depth.saturating_sub(1),
                _ => {}
            }
            self.at += 1;
        }
    }
}
