//! The grammar of xl.cfg: settings `name = value`, separated by newlines or `;`.
//!
//! A value is a quoted string, an unsigned number, or a list of values in brackets. `name += value` appends to
//! what the name has so far. A `#` outside quotes starts a comment.

mod escape;
mod lexer;
mod parser;
mod value;
mod words;

pub(crate) use parser::{Operation, Statement, parse};
pub(crate) use value::Text;
pub use value::{Node, NodeKind, Value};
