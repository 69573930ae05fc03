//! xl.cfg: lexer, parser, typed configuration, diagnostics with line and column.
//!
//! [`read_file`] and [`parse`] turn a configuration text and the overrides of a command line into a [`Config`]: the
//! typed [`DomainConfig`], the place of every setting, and warnings. All errors are collected in a [`Report`], which
//! prints them with source lines and carets, or serialises them.
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
//! The language is xl's. The same texts are accepted and refused, with these exceptions:
//!
//! - *A configuration is obeyed completely or not at all.* xl ignores some settings with a warning: `memory = "lots"`, a
//!   `disk` that is not a list, an unknown parameter of `vif`. It silently truncates some numbers. Such a configuration
//!   is refused. So are values that make libxl fail later (`vdev=vda`, two disks with one `vdev`), and names of domains
//!   that can be mistaken for something else ([`types::VmName`]). An empty setting, such as `vif = ""`, requests
//!   nothing and gives a warning.
//! - *Form alone is no reason to refuse.* CRLF line ends, a byte order mark and a comment without a line end are
//!   accepted, the first two with a warning. Numeric escapes (`"\x41"`) are resolved.
//! - Unknown settings, which xl ignores silently, give a warning. So do settings without an effect for the guest's type,
//!   and deprecated ones.
//!
//! Only [`read_file`] and [`Source::read_file`] do input or output.

mod config;
mod diag;
mod keys;
mod keyword;
mod number;
mod pool;
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
pub use pool::{PoolConfig, PoolCpus, PoolScheduler, parse_pool};
pub use source::{COMMAND_LINE, Location, Source, SourceError, Sources, Span};
pub use syntax::{Node, NodeKind, Value};
pub use xl_conf::{Autoballoon, DomidPolicy, OutputFormat, XlConf, parse_xl_conf};
