//! Values of settings, with and without their places in the source.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::diag::Suggestion;
use crate::source::Span;

/// A value without its place. `Display` writes it as xl.cfg text; parsing that text gives the same value again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// A single value: a string, or a number as it was written. xl makes no difference between `1` and `"1"`.
    Atom(String),
    /// A list of values, possibly empty.
    List(Vec<Value>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Atom(text) if is_number(text) => f.write_str(text),
            Self::Atom(text) => write_quoted(f, text),
            Self::List(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        f.write_str(", ")?;
                    }
                    item.fmt(f)?;
                }
                f.write_str("]")
            }
        }
    }
}

impl Value {
    /// An atom as xl.cfg text in quotes, numbers too.
    pub(crate) fn to_quoted(&self) -> String {
        struct Quoted<'a>(&'a str);
        impl fmt::Display for Quoted<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_quoted(f, self.0)
            }
        }
        match self {
            Self::Atom(text) => Quoted(text).to_string(),
            Self::List(_) => self.to_string(),
        }
    }
}

/// Whether a text is a number as the grammar has it: a digit, then digits, `a` to `f` and `x`.
fn is_number(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(is_number_char)
}

pub(crate) fn is_number_char(c: char) -> bool {
    matches!(c, '0'..='9' | 'a'..='f' | 'x')
}

fn write_quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\x07' => f.write_str("\\a")?,
            '\x08' => f.write_str("\\b")?,
            '\x0c' => f.write_str("\\f")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            '\x0b' => f.write_str("\\v")?,
            other => write!(f, "{other}")?,
        }
    }
    f.write_str("\"")
}

/// A value with its place in the source.
#[derive(Debug, Clone)]
pub struct Node {
    /// The place: with the quotes or brackets.
    pub span: Span,
    /// The value without its place.
    pub kind: NodeKind,
}

/// The content of a [`Node`].
#[derive(Debug, Clone)]
pub enum NodeKind {
    /// A quoted string, escapes resolved.
    Text {
        /// The string after its escapes.
        text: String,
        /// Whether the source has the string letter by letter, so that places inside it can be shown.
        verbatim: bool,
    },
    /// A bare number, as written.
    Number(String),
    /// A list of values, each with its place.
    List(Vec<Node>),
}

impl Node {
    /// The value without places.
    #[must_use]
    pub fn to_value(&self) -> Value {
        match &self.kind {
            NodeKind::Text { text, .. } | NodeKind::Number(text) => Value::Atom(text.clone()),
            NodeKind::List(items) => Value::List(items.iter().map(Node::to_value).collect()),
        }
    }

    /// The single value as text; `None` for a list.
    pub(crate) fn atom(&self) -> Option<Text<'_>> {
        match &self.kind {
            NodeKind::Text {
                text,
                verbatim: true,
            } => {
                let inner = self.span.part(1..1 + text.len());
                Some(Text {
                    text,
                    whole: self.span,
                    verbatim: Some(inner),
                })
            }
            NodeKind::Text {
                text,
                verbatim: false,
            } => Some(Text {
                text,
                whole: self.span,
                verbatim: None,
            }),
            NodeKind::Number(text) => Some(Text {
                text,
                whole: self.span,
                verbatim: Some(self.span),
            }),
            NodeKind::List(_) => None,
        }
    }
}

/// A single value, or a part of one, with its place in the source.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text<'a> {
    pub(crate) text: &'a str,
    /// The whole value with its quotes.
    whole: Span,
    /// Place of `text`, if the source contains it without escapes.
    verbatim: Option<Span>,
}

impl<'a> Text<'a> {
    /// The best place to show: this very part, or the whole value when it is empty or has escapes.
    pub(crate) fn span(&self) -> Span {
        self.verbatim
            .filter(|_| !self.text.is_empty())
            .unwrap_or(self.whole)
    }

    /// The place of the whole value.
    pub(crate) fn whole(&self) -> Span {
        self.whole
    }

    /// The edit that writes `new` instead of this text. `None` if the source has escapes, or if `new` would need
    /// some.
    pub(crate) fn replaced(&self, new: &str) -> Option<Suggestion> {
        let span = self.verbatim?;
        if span == self.whole {
            // A bare number: there are no quotes around it.
            let replacement = Value::Atom(new.to_owned()).to_string();
            return Some(Suggestion { span, replacement });
        }
        let needs_escape = |c: char| matches!(c, '"' | '\'' | '\\') || c.is_control();
        (!new.contains(needs_escape)).then(|| Suggestion {
            span,
            replacement: new.to_owned(),
        })
    }

    /// The edit that replaces this text and all text up to the end of `last`.
    pub(crate) fn replaced_to(&self, last: &Text<'_>, new: &str) -> Option<Suggestion> {
        let span = last.verbatim?;
        let edit = self.replaced(new)?;
        Some(Suggestion {
            span: edit.span.to(span),
            ..edit
        })
    }

    /// The edit that writes `new` in place of the whole value, whichever way it is written.
    pub(crate) fn whole_replaced(&self, new: &str) -> Suggestion {
        Suggestion {
            span: self.whole,
            replacement: Value::Atom(new.to_owned()).to_string(),
        }
    }

    pub(crate) fn slice(&self, range: Range<usize>) -> Text<'a> {
        let range = range.start.min(self.text.len())..range.end.min(self.text.len());
        Text {
            text: self.text.get(range.clone()).unwrap_or(""),
            whole: self.whole,
            verbatim: self.verbatim.map(|span| span.part(range)),
        }
    }

    pub(crate) fn split(&self, at: char) -> impl Iterator<Item = Text<'a>> + use<'a> {
        let this = *self;
        let mut start = 0;
        this.text.split(at).map(move |piece| {
            let part = this.slice(start..start + piece.len());
            start += piece.len() + at.len_utf8();
            part
        })
    }

    pub(crate) fn split_once(&self, at: char) -> Option<(Text<'a>, Text<'a>)> {
        let position = self.text.find(at)?;
        Some((
            self.slice(0..position),
            self.slice(position + at.len_utf8()..self.text.len()),
        ))
    }

    pub(crate) fn trim(&self) -> Text<'a> {
        let end = self.text.trim_end().len();
        let start = self.text.len() - self.text.trim_start().len();
        self.slice(start.min(end)..end)
    }

    pub(crate) fn strip_prefix(&self, prefix: &str) -> Option<Text<'a>> {
        self.text
            .starts_with(prefix)
            .then(|| self.slice(prefix.len()..self.text.len()))
    }
}
