//! xl.cfg: lexer, parser, typed configuration, diagnostics with line and column.
//!
//! [`read_file`] and [`parse`] turn a configuration text and the overrides of a command line into a [`Config`]: the
//! typed [`DomainConfig`], the place of every setting, and warnings. What is wrong is collected, not only the first
//! fault, and comes back as a [`Report`] that renders with source lines and carets, or serialises.
//!
//! ```
//! use xl_cfg::{Source, parse};
//!
//! let text = b"name = 'web'\nkernel = '/boot/vmlinuz'\nmemory = 512\n";
//! let config = parse(Source::from_bytes("web.cfg", text)?, &["vcpus=2"])?;
//! assert_eq!(config.domain.memory.target_mib, 512);
//! assert_eq!(config.location_of("vcpus").map(|place| place.to_string()).as_deref(), Some("<command line>:1:1"));
//!
//! let wrong = Source::from_bytes("web.cfg", b"name = 'web'\nmemory = '512M'\n")?;
//! let error = parse::<&str>(wrong, &[]).unwrap_err();
//! assert!(error.to_string().contains("web.cfg:2:10: error: `memory` wants a number of MiB, not `512M`"));
//! # Ok::<(), xl_cfg::Error>(())
//! ```
//!
//! # How it differs from xl
//!
//! The language is xl's: what xl accepts is accepted, what xl refuses is refused, but for this:
//!
//! - *Half a configuration obeyed is worse than none.* Where xl drops a setting with a mere warning, such as
//!   `memory = "lots"`, a `disk` that is no list or a parameter of `vif` that nobody knows, or cuts a number short without
//!   a word, the configuration is refused. A setting that is empty, such as `vif = ""`, asks for nothing: a warning.
//!   So are things that libxl would trip over later (`vdev=vda`, two disks of one `vdev`), and names of domains that
//!   can be taken for something else ([`types::VmName`]).
//! - *Form alone is no reason to refuse.* CRLF line ends, a byte order mark and a comment without a line end are
//!   accepted, the first two with a warning. Numeric escapes (`"\x41"`) mean what they say.
//! - Unknown settings, which xl passes over silently, are warned of, as are settings that mean nothing to the guest's
//!   type, and deprecated ones.
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

pub use config::{
    Config, DomainConfig, Error, Rejected, SetKey, parse, parse_record, parse_refusing,
    parse_value, read_file,
};
pub use diag::{
    Code, Diagnostic, Located, LocatedNote, LocatedSuggestion, Note, Report, Severity, Suggestion,
};
pub use keys::{DomainType, KeyClass, KeyInfo, all as all_keys, class_of, lookup as lookup_key};
pub use source::{COMMAND_LINE, Location, Source, SourceError, Sources, Span};
pub use syntax::{Node, NodeKind, Value};
pub use xl_conf::{Autoballoon, DomidPolicy, OutputFormat, XlConf, parse_xl_conf};
