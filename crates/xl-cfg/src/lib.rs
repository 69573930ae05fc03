//! xl.cfg: lexer, parser, typed configuration, diagnostics with line and column.
//!
//! [`read_file`] and [`parse`] turn a configuration text and the overrides of a command line into a [`Config`]: the
//! typed [`DomainConfig`], the place of every setting, and warnings. What is wrong is collected, not only the first
//! fault, and comes back as a [`Report`] that renders with source lines and carets, or serialises.
//!
//! The language is xl's: what xl accepts is accepted, what xl refuses is refused. Where xl drops a setting with a mere
//! warning, or cuts a number short without a word, this crate refuses the configuration: half a configuration obeyed is
//! worse than none. Unknown settings, which xl passes over silently, are warned of.
//!
//! The crate does no input or output but in [`read_file`] and [`Source::read_file`].

mod config;
mod diag;
mod keys;
mod keyword;
mod number;
mod reader;
mod render;
mod settings;
mod source;
mod syntax;
pub mod types;
mod xl_conf;

pub use config::{Config, DomainConfig, Error, Rejected, SetKey, parse, parse_value, read_file};
pub use diag::{Code, Diagnostic, Located, LocatedNote, Note, Report, Severity};
pub use keys::{DomainType, KeyClass, KeyInfo, all as all_keys, class_of, lookup as lookup_key};
pub use source::{COMMAND_LINE, Location, Source, SourceError, Sources, Span};
pub use syntax::{Node, NodeKind, Value};
pub use xl_conf::{Autoballoon, DomidPolicy, OutputFormat, XlConf, parse_xl_conf};
